"""
A process that pushes, claims and settles, and is killed at one of its steps.

A step is a call from Python into C: every SQLite statement, every read and write of a socket, every
line of its own diary. The parent counts the steps of a whole life, then ends lives at any of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pbus.core.job import Move, Push
from pbus.storage.driver import Driver, QueueSpec, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.world import gift, settlement

OWNER = "n1/b1/1.1"
TOPICS = ("credit", "mail")
ROUNDS = 4
MOVES = (Move.ACK, Move.RETRY, Move.BURY, Move.RELEASE, Move.ACK)

Life = Callable[[Driver, Callable[[str, Any], None]], None]


@dataclass
class Diary:
    """
    What a life was told, written down at once.

    Attributes:
        pushing: Batch -> bodies of appends that were called.
        pushed: Batches that were answered.
        settling: (topic, body, move) of settles that were called.
        settled: Those that were answered True.
        steps: Steps of a life that was not killed.
    """

    pushing: dict[int, list[str]] = field(default_factory=dict)
    pushed: list[int] = field(default_factory=list)
    settling: list[tuple[str, str, str]] = field(default_factory=list)
    settled: list[tuple[str, str, str]] = field(default_factory=list)
    steps: int = 0

    @classmethod
    def read(cls, path: Path) -> Diary:
        diary = cls()
        for line in path.read_text().splitlines():
            kind, value = json.loads(line)
            if kind == "pushing":
                diary.pushing[value[0]] = value[1]
            elif kind == "steps":
                diary.steps = value
            else:
                getattr(diary, kind).extend([tuple(one) if isinstance(one, list) else one for one in value])
        return diary


def live(url: str, diary: Path, last_step: int, spec: QueueSpec | None = None, life: Life | None = None) -> int:
    """
    One life in a child process; *last_step* 0: it ends by itself; *life*: another one than that of this file.

    Returns:
        The child's wait status.
    """
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            _run(url, diary, last_step, spec or gift(*TOPICS, retention_s=0.0, retention_bytes=0), life or _rounds)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def _run(url: str, diary: Path, last_step: int, spec: QueueSpec, life: Life) -> None:
    out = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(kind: str, value: Any) -> None:
        os.write(out, (json.dumps([kind, value]) + "\n").encode())

    store = make(StoreTarget("main", url, "", 5.0, "n1"))
    steps = 0

    def step(_frame: FrameType, event: str, _what: Any) -> None:
        nonlocal steps
        if event == "c_call":
            steps += 1
            if steps == last_step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(step)
    store.open()
    store.declare([spec])
    life(store, note)
    store.close()
    sys.setprofile(None)
    note("steps", steps)


def _rounds(store: Driver, note: Callable[[str, Any], None]) -> None:
    for batch in range(1, ROUNDS + 1):
        _one_round(store, batch, note)


def _one_round(store: Driver, batch: int, note: Callable[[str, Any], None]) -> None:
    bodies = [f"{batch}.{number}" for number in range(5)]
    note("pushing", [batch, bodies])
    store.append(OWNER, batch, [Push("gift", body.encode()) for body in bodies])
    note("pushed", [batch])
    claimed = store.claim([Want(OWNER, "gift", topic, 4) for topic in TOPICS])
    plan = [(one, MOVES[number % len(MOVES)]) for number, one in enumerate(claimed)]
    names = [(one.topic, one.body.decode(), move.value) for one, move in plan]
    note("settling", names)
    answers = store.settle([settlement(one, move, counts=move is not Move.ACK, reason="failed") for one, move in plan])
    note("settled", [name for name, answer in zip(names, answers, strict=True) if answer])
    store.promote_due()
    store.trim()
    store.checkpoint()
