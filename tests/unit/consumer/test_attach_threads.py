"""
The two threads of a consumer and its delivery child; a tracer has them change places at any line of the attachment.

What is handed back is given out again later, as a store would. However they meet: each job runs once.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from pbus.clock import SystemClock
from pbus.codec.frames import FrameReader, encode
from pbus.consumer import attach
from pbus.consumer.attach import Attachment

IDENTITY = {"owner": "n/b/5.9", "queue": "gift", "topic": "credit", "pid": 77}
JOBS = 500


class Meeting:
    """One consumer, the listener that calls its jobs back all the time, and a delivery child."""

    def __init__(self, seed: int) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(20)
        self.consumer = Attachment(lambda: ours, IDENTITY, lambda link: None, SystemClock())
        self.chance = random.Random(seed)
        self.ran: list[str] = []
        self.results: list[str] = []
        self.handed_back = 0
        self.store = [f"{number}-0" for number in range(JOBS)]
        self.in_hand: set[str] = set()
        self.over = threading.Event()

    def work(self) -> None:
        while (job := self.consumer.next_job()) is not None:
            self.ran.append(job[0])
            if self.chance.random() < 0.2:
                time.sleep(1e-4)
            self.consumer.answer("done", "", None, 0.0)
        self.consumer.leave(5.0)
        self.over.set()

    def call_back(self) -> None:
        while not self.over.is_set():
            running = self.consumer.running
            if running:
                self.consumer.recall(running)

    def deliver(self) -> None:
        reader = FrameReader()
        while len(self.results) < JOBS:
            self._feed()
            for frame in reader.feed(self.peer.recv(65536)):
                self._hear(frame)
        self.consumer.stop()
        self.over.wait(10)

    def _feed(self) -> None:
        while self.store and len(self.in_hand) < 32:
            frame = self.store[: self.chance.randint(1, 16)]
            del self.store[: len(frame)]
            self.in_hand.update(frame)
            self.peer.sendall(encode("jobs", jobs=[[job_id, 1, False, b"", "", "", 0, 0, 0] for job_id in frame]))

    def _hear(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "result":
            self.in_hand.remove(frame["id"])
            self.results.append(frame["id"])
            self.peer.sendall(encode("settled", ids=[frame["id"]]))
        elif frame["kind"] == "unstarted":
            assert self.in_hand.issuperset(frame["ids"])
            self.in_hand.difference_update(frame["ids"])
            self.store += frame["ids"]
            self.handed_back += len(frame["ids"])
            self.peer.sendall(encode("settled", ids=frame["ids"]))


@pytest.fixture
def crowded() -> Iterator[None]:
    """Threads that are started now may change places at each line of attach.py, and often do."""
    chance = random.Random(1)

    def line(frame: FrameType, event: str, arg: object) -> Any:
        if chance.random() < 0.1:
            time.sleep(chance.choice((0, 0, 0, 1e-5)))
        return line

    def call(frame: FrameType, event: str, arg: object) -> Any:
        return line if frame.f_code.co_filename == attach.__file__ else None

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(call)
    yield
    threading.settrace(None)  # type: ignore[arg-type]
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("seed", range(4))
def test_however_they_meet_each_job_runs_once(seed: int) -> None:
    meeting = Meeting(seed)
    threads = [
        threading.Thread(target=act, daemon=True) for act in (meeting.work, meeting.call_back, meeting.deliver)
    ]
    for thread in threads:
        thread.start()
    meeting.over.wait(15)
    assert not any(count > 1 for count in Counter(meeting.ran).values())
    assert sorted(meeting.results) == sorted(meeting.ran) == sorted(f"{number}-0" for number in range(JOBS))
    assert meeting.handed_back > JOBS // 20
    for thread in threads:
        thread.join(5)
    meeting.peer.close()
    os.close(meeting.consumer._waker)
