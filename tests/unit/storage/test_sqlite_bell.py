"""The doorbell of an embedded store: who sleeps is rung, who is awake costs nothing, the dead are passed over."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.errors import Unavailable
from pbus.storage import sqlite_bell
from pbus.storage.sqlite_bell import Doorbell, SqliteBell
from tests.support.waiting import until

QUEUES = {"gift": 1, "order": 2}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Deep enough that no socket in it could be bound by its whole path."""
    folder = tmp_path / ("deep" * 20) / ("er" * 40)
    folder.mkdir(parents=True)
    return folder / "pbus.db"


@pytest.fixture
def doorbell(database: Path) -> Iterator[Doorbell]:
    made = Doorbell(database)
    yield made
    made.close()


def listen(doorbell: Doorbell) -> SqliteBell:
    """An ear that has looked once."""
    ear = doorbell.listen(QUEUES)
    assert ear.wait(0.0) is None
    return ear


def push(doorbell: Doorbell, *qids: int) -> None:
    doorbell.count(qids)
    doorbell.ring()


def test_first_wait_says_look_at_all(doorbell: Doorbell) -> None:
    ear = doorbell.listen(QUEUES)

    assert ear.wait(10.0) is None
    assert ear.wait(0.0) == frozenset()
    ear.close()


def test_several_queues_are_named_at_once(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    push(doorbell, 1, 2)

    assert ear.wait(1.0) == {"gift", "order"}
    ear.close()


def test_ring_to_a_listener_that_is_awake_sends_nothing_and_is_not_missed(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    for _ in range(5):
        push(doorbell, 1)

    ear._socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        ear._socket.recv(1)
    assert ear.wait(1.0) == {"gift"}
    ear.close()


def test_many_rings_wake_a_sleeper_once(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    ear._page.asleep[ear._slot] = 1
    for _ in range(5):
        push(doorbell, 1)

    ear._socket.setblocking(False)
    assert ear._socket.recv(1) == b"!"
    with pytest.raises(BlockingIOError):
        ear._socket.recv(1)
    ear.close()


def test_sleeper_wakes_up(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    answers: list[frozenset[str] | None] = []
    sleeper = threading.Thread(target=lambda: answers.append(ear.wait(10.0)))
    sleeper.start()
    until(lambda: ear._page.asleep[ear._slot], 5.0, "it sleeps")
    push(doorbell, 2)
    sleeper.join(10.0)

    assert answers == [frozenset({"order"})]
    ear.close()


def test_ring_for_other_queues_lets_it_sleep_on(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    answers: list[frozenset[str] | None] = []
    sleeper = threading.Thread(target=lambda: answers.append(ear.wait(10.0)))
    sleeper.start()
    for qid in (7, 7, 2):
        until(lambda: ear._page.asleep[ear._slot], 5.0, "it sleeps")
        push(doorbell, qid)
    sleeper.join(10.0)

    assert answers == [frozenset({"order"})]
    ear.close()


def test_count_goes_round(doorbell: Doorbell) -> None:
    doorbell._page.counts[1] = 0xFFFF_FFFF
    ear = listen(doorbell)
    push(doorbell, 1)

    assert ear.wait(1.0) == {"gift"}
    ear.close()


def test_queue_numbers_beyond_the_page_ring_too(doorbell: Doorbell) -> None:
    ear = doorbell.listen({"far": 5 * sqlite_bell.QUEUES + 3})
    assert ear.wait(0.0) is None
    push(doorbell, 5 * sqlite_bell.QUEUES + 3)

    assert ear.wait(1.0) == {"far"}
    ear.close()


def test_listeners_have_places_of_their_own_and_give_them_back(doorbell: Doorbell) -> None:
    ears = [listen(doorbell) for _ in range(3)]
    assert sorted(ear._slot for ear in ears) == [0, 1, 2]
    ears[1].close()
    ears[1].close()

    fresh = listen(doorbell)
    assert fresh._slot == 1
    for ear in (ears[0], ears[2], fresh):
        ear.close()


def test_place_of_a_killed_listener_is_taken_over_and_ringing_it_is_harmless(doorbell: Doorbell) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        ear = listen(doorbell)
        ear._page.asleep[ear._slot] = 1
        os.write(told, b"!")
        signal.pause()
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(told)

    push(doorbell, 1)

    fresh = listen(doorbell)
    assert fresh._slot == 0
    push(doorbell, 1)
    assert fresh.wait(1.0) == {"gift"}
    fresh.close()


def test_listener_that_reads_nothing_never_blocks_the_ringing(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    for _ in range(2000):
        ear._page.asleep[ear._slot] = 1
        push(doorbell, 1)

    assert ear.wait(1.0) == {"gift"}
    ear.close()


def test_too_many_listeners_are_refused_and_leave_nothing_open(
    doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_bell, "SLOTS", 2)
    ears = [listen(doorbell), listen(doorbell)]
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(Unavailable, match="taken"):
        doorbell.listen(QUEUES)

    assert len(os.listdir("/proc/self/fd")) == before
    for ear in ears:
        ear.close()


def test_wait_of_a_closed_listener_answers_at_once(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    ear.close()

    assert ear.wait(10.0) == frozenset()


def test_closing_gives_every_descriptor_back(database: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    doorbell = Doorbell(database)
    listen(doorbell).close()
    doorbell.close()
    doorbell.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_foreign_datagram_wakes_nobody_for_long(doorbell: Doorbell) -> None:
    ear = listen(doorbell)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for _ in range(3):
            stranger.sendto(b"hello", sqlite_bell._address(ear._fd, ear._slot))

    assert ear.wait(0.02) == frozenset()
    ear.close()
