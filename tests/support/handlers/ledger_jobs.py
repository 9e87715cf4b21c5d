"""
A Python handler that keeps the ledger: ``key attempt pid t0 t1 id ok|failed`` before it returns.

It runs inside consumer processes; where to write is in ``$LEDGER_DIR``, which they inherit.
"""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

_ORDER = re.compile(r"(sleep|fail|die)=(\d+)\Z")


def orders(words: list[str]) -> dict[str, int]:
    """What a body asks its handler to do: ``sleep=MS``, ``fail=N`` and ``die=N`` (attempts up to N)."""
    found = {"sleep": 0, "fail": 0, "die": 0}
    for word in words:
        match = _ORDER.match(word)
        if match:
            found[match[1]] = int(match[2])
    return found


def poisoned() -> bool:
    """Whether this deploy is a bad one: nothing works (see ``Ledger.poison``)."""
    return os.path.exists(os.path.join(os.environ["LEDGER_DIR"], "..", "poisoned"))


def append(queue: str, topic: str, line: str) -> None:
    """One O_APPEND write to the ledger of a topic."""
    path = os.path.join(os.environ["LEDGER_DIR"], f"{queue}.{topic}")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def record(job: Any) -> None:
    """Do as the body says and write it down."""
    start_s = time.time()
    words = job.text.split(" ")
    told = orders(words)
    time.sleep(told["sleep"] / 1000)
    if job.attempt <= told["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    ok = job.attempt > told["fail"] and not poisoned()
    result = "ok" if ok else "failed"
    line = f"{words[0]} {job.attempt} {os.getpid()} {start_s:.6f} {time.time():.6f} {job.id} {result}\n"
    append(job.queue, job.topic, line)
    if not ok:
        raise RuntimeError("failed as ordered")
