"""
Where a job is at this moment, for people: the lines of user code that the main thread stands in.

Rule: asked by another thread, in the middle of anything: it never waits, never raises and is bounded. Frames of pbus
and of the event loop are left out; where the loop waits, the tasks tell.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from pbus.consumer import python_handler

STACK_BYTES: Final = 4096
TASKS: Final = 10
DEEPEST: Final = 200
_LOOP: Final = ("/asyncio/runners.py", "/asyncio/base_events.py", "/asyncio/events.py", "/selectors.py")


def of_job(loop: asyncio.AbstractEventLoop | None) -> str:
    """
    The stack of the job that runs, outermost line first, the last STACK_BYTES of it.

    Args:
        loop: The event loop that coroutines of the handler run in, if there is one.
    """
    try:
        text = _main_thread() or (_tasks(loop) if loop is not None else "")
    except Exception as error:  # noqa: BLE001 it changes while it is looked at; nothing depends on it
        text = f"(its stack cannot be shown: {type(error).__name__})"
    data = text.encode("utf-8", "replace")
    if len(data) <= STACK_BYTES:
        return data.decode()
    return "..." + data[-STACK_BYTES + 3 :].decode("utf-8", "ignore")


def _main_thread() -> str:
    """User code in the main thread; empty when it is in none."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames = list(_outwards(frame))[::-1]
    ours = [number for number, each in enumerate(frames) if each.f_code.co_filename == python_handler.__file__]
    theirs = frames[ours[-1] + 1 :] if ours else []
    while theirs and theirs[0].f_code.co_filename.endswith(_LOOP):
        del theirs[0]
    return _shown(theirs)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _tasks(loop: asyncio.AbstractEventLoop) -> str:
    """Where each task waits."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())[:TASKS]
    stacks = [(task.get_name(), _shown(_awaited(task.get_coro()))) for task in tasks]
    return "\n".join(f"{name}:\n{stack}" for name, stack in stacks if stack)


def _awaited(coroutine: Any) -> list[FrameType]:
    """Frames of a coroutine and of what it waits for, outermost first; without ours."""
    frames = []
    for _ in range(DEEPEST):
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        if frame.f_code.co_filename != python_handler.__file__:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames


def _shown(frames: list[FrameType]) -> str:
    lines = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(lines.format()).rstrip()
