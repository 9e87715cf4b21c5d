"""
A Python handler that does what the body of the job says, and notes every run before it begins.

    body = WORD [ARGUMENT] [free text]; runs are lines ``id attempt pid word text`` in $RUNS_FILE
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
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


def _close_standard(job: Any, rest: str) -> None:
    os.closerange(0, 3)


def _push(job: Any, rest: str) -> None:
    """QUEUE BODY: push it, and note the id."""
    queue, _, body = rest.partition(" ")
    print("pushed", job.push(queue, body, dedupe=f"after {job.id}", key="k", delay_s=0.01))


def _push_everywhere(job: Any, rest: str) -> None:
    """From here, from a thread, from a forked process, and once more from here."""
    job.push(rest, "here")
    thread = threading.Thread(target=job.push, args=(rest, "thread"))
    thread.start()
    thread.join()
    if (child := os.fork()) == 0:
        job.push(rest, "fork")
        os._exit(0)
    os.waitpid(child, 0)
    job.push(rest, {"from": "here again"})


def _push_refused(job: Any, rest: str) -> None:
    try:
        job.push(rest, "x")
    except pbus.PushRefused as refused:
        print("refused", refused.code, refused.temporary)


def _fork_return(job: Any, rest: str) -> None:
    """The child comes back as if it were a consumer."""
    if os.fork() == 0:
        return
    time.sleep(0.1)


def _fork_exit(job: Any, rest: str) -> None:
    """What people write; the child ends by itself."""
    if (child := os.fork()) == 0:
        sys.exit(3)
    _, status = os.waitpid(child, 0)
    print("the child ended with", os.waitstatus_to_exitcode(status))


def _shout(job: Any, rest: str) -> None:
    """Print *rest* MiB, as lines and past Python."""
    block = ("x" * 99 + "\n") * 10_486
    for _ in range(int(rest.split()[0])):
        sys.stdout.write(block)
        os.write(1, block.encode())


def _leave_thread(job: Any, rest: str) -> None:
    threading.Thread(target=time.sleep, args=(float(rest),)).start()


def _leak(job: Any, rest: str) -> None:
    """Keep *rest* MiB for ever."""
    KEPT.append(bytearray(os.urandom(1 << 20) * int(rest.split()[0])))


def _daemon(job: Any, rest: str) -> None:
    """A grandchild that holds our standard output for *rest* seconds, in a session of its own."""
    subprocess.Popen(["sleep", rest], start_new_session=True)


def _spin(job: Any, rest: str) -> None:
    """Busy for *rest* seconds, without ever giving up the processor."""
    until_s = time.monotonic() + float(rest.split()[0])
    while time.monotonic() < until_s:
        pass


def _wait_for_signal(job: Any, rest: str) -> None:
    """A long job that gives up when it is told that the process is to stop."""
    STOPPING.wait(float(rest.split()[0]))
    if STOPPING.is_set():
        raise pbus.Retry(after_s=0, reason="asked to stop")


def setup() -> None:
    """What the name of a signal in the environment asks for."""
    name = os.environ.get("TELL_BY", "")
    if name:
        signal.signal(signal.Signals[name], lambda *_: STOPPING.set())


KEPT: list[bytearray] = []
STOPPING = threading.Event()
ACTS = {
    "ok": lambda job, rest: None, "fail": _fail, "fail-once": _fail_once, "retry-once": _retry_once, "dead": _dead,
    "kill-once": _kill_once, "daemon-kill-once": _daemon_kill_once, "kill": _kill, "exit-once": _exit_once,
    "sys-exit-once": _sys_exit_once,
    "sleep": _sleep, "sleep-once": _sleep_once, "say": _say, "close": _close_descriptors,
    "close-standard": _close_standard, "push": _push, "push-everywhere": _push_everywhere,
    "push-refused": _push_refused, "fork-return": _fork_return, "fork-exit": _fork_exit, "shout": _shout,
    "leave-thread": _leave_thread, "leak": _leak, "daemon": _daemon, "spin": _spin, "wait-for-signal": _wait_for_signal,
}
