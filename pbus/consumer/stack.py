"""
Where a job is at this moment, for people: the lines of user code that the main thread stands in.

Rule: asked by another thread, in the middle of anything: it never waits, never raises and is bounded. Frames of pbus
and of the event loop are left out; where the loop waits, the tasks tell.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from pbus.consumer import python_handler
from pbus.consumer.origin import is_users

STACK_BYTES: Final = 4096
TASKS: Final = 10
DEEPEST: Final = 200
_LOOP: Final = ("/asyncio/runners.py", "/asyncio/base_events.py", "/asyncio/events.py", "/selectors.py")


def of_job(loop: asyncio.AbstractEventLoop | None) -> tuple[str, str]:
    """
    Where the job stands that runs.

    Args:
        loop: The event loop that coroutines of the handler run in, if there is one.

    Returns:
        The innermost line of the user's own code (``credit (jobs.py:4)``; empty: none), and the stack, outermost line
        first, the last STACK_BYTES of it.
    """
    try:
        frames = _main_thread()
        tasks = _tasks(loop) if loop is not None and not frames else []
        place = _place(frames or [frame for _, stack in tasks for frame in stack])
        text = _shown(frames) or "\n".join(f"{name}:\n{_shown(stack)}" for name, stack in tasks)
    except Exception as error:  # noqa: BLE001 it changes while it is looked at; nothing depends on it
        place, text = "", f"(its stack cannot be shown: {type(error).__name__})"
    data = text.encode("utf-8", "replace")
    if len(data) <= STACK_BYTES:
        return place, data.decode()
    return place, "..." + data[-STACK_BYTES + 3 :].decode("utf-8", "ignore")


def _place(frames: list[FrameType]) -> str:
    """The innermost of *frames* that is the user's own code."""
    for frame in reversed(frames):
        path = os.path.realpath(frame.f_code.co_filename)
        if not frame.f_code.co_filename.startswith("<") and is_users(path):  # "<string>", "<frozen ..>"
            return f"{frame.f_code.co_name} ({os.path.basename(path)}:{frame.f_lineno})"
    return ""


def _main_thread() -> list[FrameType]:
    """User code in the main thread, outermost first; nothing when it is in none."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames = list(_outwards(frame))[::-1]
    ours = [number for number, each in enumerate(frames) if each.f_code.co_filename == python_handler.__file__]
    theirs = frames[ours[-1] + 1 :] if ours else []
    while theirs and theirs[0].f_code.co_filename.endswith(_LOOP):
        del theirs[0]
    return theirs


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _tasks(loop: asyncio.AbstractEventLoop) -> list[tuple[str, list[FrameType]]]:
    """The name of each task, and where it waits."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())[:TASKS]
    stacks = [(task.get_name(), _awaited(task.get_coro())) for task in tasks]
    return [(name, stack) for name, stack in stacks if stack]


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
