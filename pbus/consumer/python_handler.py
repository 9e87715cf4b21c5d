"""
A user's Python function: found, prepared, called, and what its end means.

Rule: nothing that user code does gets out of here but as an ``Answer``. Whatever it raises is the
end of one attempt; only ``sys.exit`` also ends the process, after the answer has been handed on.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import pbus
from pbus.consumer.job import Job

ERROR_BYTES: Final = 2000
"""A traceback is kept from its end: the exception is there, and the frames nearest to it."""


LONGEST_WAIT_S: Final = 366 * 86_400
"""A handler cannot ask for more; a mistake in a unit must not hide a job for ever."""


class LoadError(Exception):
    """The handler cannot be used as configured; the text says why, with the end of the traceback."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    How one attempt ended.

    Attributes:
        verdict: ``done``, ``failed``, ``retry``, ``permanent`` or ``busy`` (what it pushed was refused for now).
        error: Text for people, at most ERROR_BYTES.
        delay_s: What the handler asked to wait before the next attempt; None: the policy decides.
        exit_status: The handler called ``sys.exit``: the process ends with this.
    """

    verdict: str
    error: str = ""
    delay_s: float | None = None
    exit_status: int | None = None


_DONE: Final = Answer("done")
_ASYNCIO: Final = ("/asyncio/runners.py", "/asyncio/base_events.py")


class PythonHandler:
    """``module:function`` with the module's ``setup()`` and ``teardown()``, each sync or async."""

    def __init__(self, module: ModuleType, function: Callable[[Job], Any]) -> None:
        self._module = module
        self._function = function
        self._runner: asyncio.Runner | None = None  # one event loop a process, made for the first coroutine

    @classmethod
    def load(cls, call: str, path: str) -> PythonHandler:
        """
        Import the handler.

        Args:
            call: ``MODULE:FUNCTION``; the function may be dotted (``Class.method``).
            path: Directory put in front of ``sys.path``, or empty. Its real place is: a symlink that a deploy switches
                leads new processes to the new code, while old ones load what they still lack from the old one.

        Raises:
            LoadError: no such module or function, or the import itself fails.
        """
        place = os.path.realpath(path) if path else ""
        if place and place not in sys.path[:1]:
            sys.path.insert(0, place)
        name, _, attribute = call.partition(":")
        try:
            module = importlib.import_module(name)
            function: Any = module
            for part in attribute.split("."):
                function = getattr(function, part)
        except (Exception, SystemExit) as error:
            where = f" from {path}" if path else ""
            if path and not os.path.isdir(path):
                where += " (there is no such folder)"
            raise LoadError(f"python handler {call!r} cannot be imported{where}: {error_text(error)}") from error
        if not callable(function):
            raise LoadError(f"python handler {call!r} is of type {type(function).__name__}, not a function")
        return cls(module, function)

    def setup(self) -> None:
        """
        Call the module's ``setup()``, if it has one.

        Raises:
            LoadError: it failed.
        """
        try:
            self._call_hook("setup")
        except (Exception, SystemExit) as error:
            raise LoadError(f"setup() of {self._module.__name__} failed: {error_text(error)}") from error

    def teardown(self) -> None:
        """Call the module's ``teardown()``, if it has one; whatever it raises goes to the topic's log."""
        try:
            self._call_hook("teardown")
        except BaseException:  # noqa: BLE001 the process ends now in any case, its jobs are accounted for
            traceback.print_exc()
        if self._runner is not None:
            self._runner.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that its coroutines run in; None before the first one."""
        return self._runner.get_loop() if self._runner is not None else None

    def run(self, job: Job) -> Answer:
        """One attempt. Never raises."""
        try:
            result = self._function(job)
            if result is not None and inspect.isawaitable(result):
                self._finish(result)
        except pbus.Retry as retry:
            return Answer("retry", _said(retry.reason), _seconds(retry.after_s))
        except pbus.Dead as dead:
            return Answer("permanent", _said(dead.reason))
        except pbus.PushRefused as refused:
            return Answer("busy" if refused.temporary else "failed", error_text(refused))
        except SystemExit as leave:
            status = _exit_status(leave)
            return Answer("failed", f"handler called sys.exit({_said(leave.code)})", exit_status=status)
        except BaseException as error:  # noqa: BLE001 KeyboardInterrupt, CancelledError.. end an attempt, not us
            return Answer("failed", error_text(error))
        return _DONE

    def _call_hook(self, name: str) -> None:
        hook = getattr(self._module, name, None)
        if callable(hook):
            result = hook()
            if inspect.isawaitable(result):
                self._finish(result)

    def _finish(self, awaitable: Any) -> None:
        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(_awaited(awaitable))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def error_text(error: BaseException) -> str:
    """The traceback of *error* below pbus' own frames, cut to its last ERROR_BYTES."""
    try:
        trace = error.__traceback__
        while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace)).strip()
    except BaseException as broken:  # noqa: BLE001 an exception whose __str__ raises is still a failure with a text
        text = f"{type(error).__name__} (its text cannot be shown: {type(broken).__name__})"
    cut = text.encode("utf-8", "replace")
    if len(cut) <= ERROR_BYTES:
        return cut.decode()
    return "..." + cut[-ERROR_BYTES + 3 :].decode("utf-8", "ignore")


def _is_ours(filename: str) -> bool:
    return filename == __file__ or "importlib" in filename or filename.endswith(_ASYNCIO)


def _exit_status(leave: SystemExit) -> int:
    """What the interpreter would end with."""
    if leave.code is None:
        return 0
    return leave.code & 0xFF if isinstance(leave.code, int) else 1


def _said(text: Any) -> str:
    """What user code gave as a text, whatever it is, as at most ERROR_BYTES of UTF-8."""
    try:
        said = str(text)
    except BaseException as broken:  # noqa: BLE001 as for any exception that cannot be shown
        said = f"a {type(text).__name__} that cannot be shown: {type(broken).__name__}"
    return said.encode("utf-8", "replace")[:ERROR_BYTES].decode("utf-8", "ignore")


def _seconds(after_s: Any) -> float | None:
    """What was asked for, if it is a time; a handler's mistake must not fail more than its wish."""
    if isinstance(after_s, bool) or not isinstance(after_s, int | float) or not after_s >= 0:
        return None
    return float(min(after_s, LONGEST_WAIT_S))
