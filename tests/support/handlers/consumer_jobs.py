"""
A Python handler that does what the body of the job says, and notes every run before it begins.

    body = WORD [ARGUMENT] [free text]; runs are lines ``id attempt pid word text`` in $RUNS_FILE
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

import pbus


def _note(job: Any, word: str) -> None:
    line = f"{job.id} {job.attempt} {os.getpid()} {int(job.redelivered)} {word} {job.text}\n"
    fd = os.open(os.environ["RUNS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode())
    os.close(fd)


def act(job: Any) -> None:
    """Obey."""
    _note(job, "begin")
    word, _, rest = job.text.partition(" ")
    ACTS[word](job, rest)
    _note(job, "end")


async def act_async(job: Any) -> None:
    """Obey, as a coroutine."""
    await asyncio.sleep(0.001)
    act(job)


def _fail(job: Any, rest: str) -> None:
    raise ValueError(rest)


def _fail_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        raise ValueError(rest)


def _retry_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        raise pbus.Retry(after_s=float(rest), reason="not yet")


def _dead(job: Any, rest: str) -> None:
    raise pbus.Dead(rest)


def _kill_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _daemon_kill_once(job: Any, rest: str) -> None:
    """Die, and leave a daemon behind that has every descriptor of ours for *rest* seconds."""
    if job.attempt > 1:
        return
    if os.fork() == 0:
        os.setsid()
        time.sleep(float(rest))
        os._exit(0)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill(job: Any, rest: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        os._exit(int(rest))


def _sys_exit_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        sys.exit(int(rest))


def _sleep(job: Any, rest: str) -> None:
    time.sleep(float(rest.split()[0]))


def _sleep_once(job: Any, rest: str) -> None:
    if job.attempt == 1:
        time.sleep(float(rest))


def _say(job: Any, rest: str) -> None:
    print("printed", rest)
    print("complained", rest, file=sys.stderr)
    job.log.warning("logged %s", rest)
    os.write(1, b"written past Python\n")


def _close_descriptors(job: Any, rest: str) -> None:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


ACTS = {
    "ok": lambda job, rest: None, "fail": _fail, "fail-once": _fail_once, "retry-once": _retry_once, "dead": _dead,
    "kill-once": _kill_once, "daemon-kill-once": _daemon_kill_once, "kill": _kill, "exit-once": _exit_once,
    "sys-exit-once": _sys_exit_once,
    "sleep": _sleep, "sleep-once": _sleep_once, "say": _say, "close": _close_descriptors,
}
