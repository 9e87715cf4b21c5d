"""
A program of the protocol ``lines``, the other one of ``lines_jobs.php``: without anything of pbus', as users write it.

    body = WORD [ARGUMENT] [free text]; runs are lines ``id attempt pid redelivered word text`` in $RUNS_FILE
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any


def note(job: dict[str, Any], word: str) -> None:
    line = f"{job['id']} {job['attempt']} {os.getpid()} {int(job['redelivered'])} {word} {job['body']}\n"
    fd = os.open(os.environ["RUNS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode())
    os.close(fd)


def answer(job: dict[str, Any], ok: bool = True, **more: Any) -> None:
    print(json.dumps({"id": job["id"], "ok": ok, **more}), flush=True)


def fail(job: dict[str, Any], rest: str) -> None:
    answer(job, False, error=rest)


def retry(job: dict[str, Any], rest: str) -> None:
    answer(job, False, error="not yet", retry_after=float(rest))


def dead(job: dict[str, Any], rest: str) -> None:
    answer(job, False, error=rest, dead=True)


def kill(job: dict[str, Any], rest: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(job: dict[str, Any], rest: str) -> None:
    print(f"no {rest}", file=sys.stderr)
    sys.exit(int(rest))


def stranger(job: dict[str, Any], rest: str) -> None:
    answer({"id": "4711-0"})


def broken(job: dict[str, Any], rest: str) -> None:
    print({"id": job["id"], "ok": True}, flush=True)


def mute(job: dict[str, Any], rest: str) -> None:
    os.close(1)
    time.sleep(60)


def daemon(job: dict[str, Any], rest: str) -> None:
    """Exit, and leave somebody behind who has all our pipes, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(float(rest))
        os._exit(0)
    sys.exit(4)


def leaver(job: dict[str, Any], rest: str) -> None:
    subprocess.Popen(["sleep", rest])


def sleep(job: dict[str, Any], rest: str) -> None:
    time.sleep(float(rest.split()[0]))


def spill(job: dict[str, Any], rest: str) -> None:
    """Print so many MB."""
    for _ in range(int(rest) * 10):
        sys.stdout.write(("x" * 99 + "\n") * 1000)


def grow(job: dict[str, Any], rest: str) -> None:
    """Keep so many MiB."""
    HOARD.append(bytearray(os.urandom(int(rest) * 1024 * 1024)))


def hoard(job: dict[str, Any], rest: str) -> None:
    """Grow to so many MiB, step by step, and stay there."""
    for _ in range(int(rest) // 10):
        grow(job, "10")
        time.sleep(0.02)
    time.sleep(30)


INSTEAD = {
    "fail": fail, "retry": retry, "dead": dead, "kill": kill, "exit": leave, "stranger": stranger, "broken": broken,
    "mute": mute, "daemon": daemon,
}
"""These answer themselves, or not at all."""

BEFORE = {"leaver": leaver, "sleep": sleep, "spill": spill, "grow": grow, "hoard": hoard}


def act(job: dict[str, Any]) -> None:
    word, _, rest = job["body"].partition(" ")
    word, _, once = word.partition("-")
    if not once or job["attempt"] == 1:
        if word in INSTEAD:
            return INSTEAD[word](job, rest)
        if word in BEFORE:
            BEFORE[word](job, rest)
    note(job, "end")
    return answer(job)


HOARD: list[bytearray] = []

if __name__ == "__main__":
    if os.environ.get("IGNORES_TERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        told = json.loads(line)
        if told.get("encoding") == "base64":
            told["body"] = base64.b64decode(told["body"]).hex()
        note(told, "begin")
        act(told)
