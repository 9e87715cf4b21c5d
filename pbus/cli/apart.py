"""
User code in a process of its own that is thrown away: what it prints is caught, how it ends is told.

    this process --fork--> a session of its own: stdout, stderr into files; the result through a pipe
         |                    |
         +-- waits for: the result, its death, the time --> SIGKILL to all of the session's group

Rule: whatever the code does, this process goes on, and nothing of it is left behind that did not hide on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Final, NoReturn

from pbus.cli.attempts import Result
from pbus.clock import SystemClock
from pbus.consumer.running import signal_name
from pbus.errors import PbusError

EXCERPT_BYTES: Final = 64 * 1024
_ENDED: Final = 70
_PIECE: Final = 64 * 1024


def run_apart(run: Callable[[], Result], timeout_s: float) -> Result:
    """
    What *run* answers, with what it printed.

    Args:
        timeout_s: Then it is killed; 0: never.

    Raises:
        PbusError: *run* raised one.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        receive, send = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_the_child(run, send, out, err)
        os.close(send)
        try:
            result = _result(pid, receive, timeout_s)
        finally:
            os.close(receive)
        if "raised" in result:
            raise PbusError(str(result["raised"]))
        return replace(Result(**result), output=_excerpt(out), stderr=_excerpt(err))  # type: ignore[arg-type]


def _be_the_child(run: Callable[[], Result], send: int, out: IO[bytes], err: IO[bytes]) -> NoReturn:
    try:
        os.setsid()
        with open(os.devnull, "rb") as nothing:
            for file, fd in ((nothing, 0), (out, 1), (err, 2)):
                os.dup2(file.fileno(), fd)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed process loses no line
        try:
            result = run()
            told = {"verdict": result.verdict, "error": result.error, "delay_s": result.delay_s}
        except PbusError as error:
            told = {"raised": str(error)}
        sys.stdout.flush()
        sys.stderr.flush()
        with open(send, "wb") as pipe:
            pipe.write(json.dumps(told).encode() + b"\n")
    finally:
        os._exit(_ended())


def _ended() -> int:
    """The status of a process that should have told a result before; an exception on its way is shown first."""
    if sys.exc_info()[0] is not None:
        sys.excepthook(*sys.exc_info())
    return _ENDED


def _result(pid: int, receive: int, timeout_s: float) -> dict[str, object]:
    """What it said, or how it ended; the process and its group are gone then."""
    told = b""
    late = False
    process = os.pidfd_open(pid)
    try:
        told, late = _heard(process, receive, timeout_s)
    finally:
        os.close(process)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not have become a leader yet
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if told.endswith(b"\n"):
        result: dict[str, object] = json.loads(told)
        return result
    if late:
        return {"verdict": "timeout", "error": f"no answer within {timeout_s:g} s, it was killed"}
    if status < 0:
        return {"verdict": "crashed", "error": f"its process died of {signal_name(-status)}"}
    return {"verdict": "failed", "error": f"its process exited with status {status} and gave no answer"}


def _heard(process: int, receive: int, timeout_s: float) -> tuple[bytes, bool]:
    """The line that it told, as far as it came, and whether its time is over."""
    clock = SystemClock()
    until_s = clock.monotonic_s() + timeout_s if timeout_s else float("inf")
    told = b""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(receive, select.POLLIN)
    while not told.endswith(b"\n"):
        left_s = until_s - clock.monotonic_s()
        if left_s <= 0:
            return told, True
        ready = dict(poll.poll(None if timeout_s == 0 else 1000 * left_s + 1))
        if receive in ready:
            piece = os.read(receive, _PIECE)
            told += piece
            if not piece:
                poll.unregister(receive)  # it closed it without a word: how it ends says the rest
        elif process in ready:
            break
    return told, False


def _excerpt(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(EXCERPT_BYTES).decode("utf-8", "replace")
