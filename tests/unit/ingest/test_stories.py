from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pbus.codec.trace_block import find_marks, marked, unpack
from pbus.core import index
from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.outcome import Outcome, Rules, Verdict, judge
from pbus.core.trace import Attempt, Received, Shelf
from pbus.errors import Unavailable
from pbus.ingest.committer import Ticket
from pbus.ingest.stories import KINDS, Stories
from pbus.storage.driver import Appended
from pbus.storage.traces import MARKS_SPAN_S, Block, Put, TraceLimits
from pbus.storage.traces_buffer import MOST_RECORDS, TraceBuffer
from pbus.storage.traces_writer import SAME, TraceWriter
from tests.unit.ingest.door import MovableClock

T0 = 1_800_000_000_000
UID = index.mark(b"$.uid")


class FakeTraces:
    """Keeps what it is given; fails while told to."""

    blocking, writers = False, 0

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.refusals: list[tuple[str, dict[str, Any]]] = []
        self.fail: Exception | None = None

    def put(self, blocks: Any, refusals: Any = ()) -> Put:
        if self.fail is not None:
            raise self.fail
        self.blocks += blocks
        self.refusals += [(queue, json.loads(text)) for queue, text in refusals]
        return Put(len(blocks), 0)

    def close(self) -> None:
        """Nothing is open."""


class FakeClient:
    """A connection as its stories see it."""

    def __init__(self, peer: str = "10.0.0.1:5", name: bytes = b"shop") -> None:
        self.peer, self.name, self.library, self.who = peer, name, {"lib-name": "phpredis", "lib-ver": "6"}, None
        self.access = type("Access", (), {"kind": "system", "name": "live"})()


class Desk:
    """Stories, their writer and what it has written."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.clock = MovableClock()
        limits = TraceLimits(3_600.0, 604_800.0, max_bytes)
        self.kept = FakeTraces()
        self.writer = TraceWriter(
            self.kept, TraceBuffer("n1/ingest.0", limits, 1, self.clock),  # type: ignore[arg-type]
            lambda function, arguments: function(*arguments), self.clock,
        )
        self.stories = Stories(self.writer, {"gift": ["$.uid"]}, self.clock)
        self.writer.before.append(self.stories.flush)

    def write(self) -> None:
        self.writer.write(last=True)

    def records(self) -> list[Any]:
        return [
            told.record for block in self.kept.blocks if block.shelf is not Shelf.INDEX for told in unpack(block.data)
        ]

    def found(self, value: bytes) -> list[str]:
        blocks = [block.data for block in self.kept.blocks if block.shelf is Shelf.INDEX]
        return [job for block in blocks for job in find_marks(block, UID, index.mark(value))]


@pytest.fixture
def desk() -> Iterator[Desk]:
    return Desk()


def ticket(*bodies: str, queue: str = "gift") -> Ticket:
    return Ticket(FakeClient(), [Push(queue, body.encode()) for body in bodies])  # type: ignore[arg-type]


def stored(*numbers: int) -> list[Appended]:
    return [Appended(f"{T0}-{number}", 1, 1) for number in numbers]


def test_pushes_of_a_command_are_one_record_and_found_by_their_values(desk: Desk) -> None:
    desk.stories.received([ticket('{"uid":1}', '{"uid":2}'), ticket('{"uid":3}')], stored(0, 1, 2), True)
    desk.write()
    peer = ("10.0.0.1:5", "live", "shop", "phpredis 6")
    assert desk.records() == [Received(f"{T0}-0", f"{T0}-1", peer), Received(f"{T0}-2", f"{T0}-2", peer)]
    assert desk.found(b"2") == [f"{T0}-1"]
    assert desk.found(b"4") == []


def test_pushes_of_several_queues_are_told_of_their_own() -> None:
    desk = Desk()
    batch = [ticket("a"), ticket("b", queue="mail"), ticket("c", queue="mail"), ticket(), ticket('{"uid":4}')]
    appended = [*stored(0), Appended(f"{T0}-8", 1, 1), Appended(f"{T0}-9", 1, 1), *stored(1)]
    desk.stories.received(batch, appended, True)
    desk.write()
    assert [(block.queue, [told.record.first for told in unpack(block.data)]) for block in desk.kept.blocks
            if block.shelf is not Shelf.INDEX] == [
        ("gift", [f"{T0}-0", f"{T0}-1"]), ("mail", [f"{T0}-8", f"{T0}-9"])
    ]
    assert desk.found(b"4") == [f"{T0}-1"]


def test_pushes_of_one_command_that_were_stored_in_two_milliseconds_are_all_found(desk: Desk) -> None:
    appended = [Appended(job, 1, 1) for job in (f"{T0}-7", f"{T0}-8", f"{T0 + 1}-0", f"{T0 + 1}-1")]
    desk.stories.received([ticket('{"uid":1}', '{"uid":2}', '{"uid":3}'), ticket('{"uid":4}')], appended, True)
    desk.write()
    assert [desk.found(value) for value in (b"1", b"2", b"3", b"4")] == [[one.id] for one in appended]
    assert [(one.first, one.last) for one in desk.records()] == [(f"{T0}-7", f"{T0 + 1}-0"), (f"{T0 + 1}-1",) * 2]


def test_a_flood_is_not_slowed_down_by_its_index_and_what_is_left_out_is_said(desk: Desk) -> None:
    real = desk.stories._columns["gift"][0]

    def slow(bodies: list[bytes]) -> list[int]:
        desk.clock.ahead_s += 0.02 * len(bodies)
        return real(bodies)

    desk.stories._columns["gift"][0] = slow  # type: ignore[index,call-overload]
    for number in range(4):
        desk.stories.received([ticket(f'{{"uid":{number}}}')], stored(number), True)
    desk.write()
    assert [bool(desk.found(b"%d" % number)) for number in range(4)] == [True, True, False, False]
    assert ((), 0) in [marked(block.data) for block in desk.kept.blocks if block.shelf is Shelf.INDEX]
    desk.clock.ahead_s += 5.0
    desk.stories.received([ticket('{"uid":4}')], stored(4), True)
    desk.write()
    assert desk.found(b"4")


def test_what_a_predecessor_may_have_had_in_hand_is_left_out_of_the_index(desk: Desk) -> None:
    now_s = int(desk.clock.wall_s())
    desk.stories.begin({"gift": T0, "mail": T0})
    desk.write()
    gaps = {block.second for block in desk.kept.blocks if marked(block.data) == ((), 0)}
    assert gaps == {*range(T0 // 1000 - 4, T0 // 1000 + 1), *range(now_s - 4, now_s + 1)}
    assert {block.queue for block in desk.kept.blocks} == {"gift"}


def test_what_was_refused_or_there_before_was_not_received(desk: Desk) -> None:
    answers = [*stored(7), Appended(f"{T0}-3", 1, 1, duplicate=True), Appended("", 1, 1, refused="jobs")]
    desk.stories.received([ticket('{"uid":1}', '{"uid":2}', '{"uid":3}')], answers, False)
    desk.write()
    assert [(one.first, one.last) for one in desk.records()] == [(f"{T0}-7", f"{T0}-7")]
    assert (desk.found(b"1"), desk.found(b"2"), desk.found(b"3")) == ([f"{T0}-7"], [], [])


def test_a_name_that_a_client_takes_later_is_told_from_then_on(desk: Desk) -> None:
    made = ticket("{}")
    desk.stories.received([made], stored(0), True)
    made.connection.name = b"other"  # type: ignore[attr-defined]
    desk.stories.received([made], stored(1), True)
    desk.write()
    assert [one.peer[2] for one in desk.records()] == ["shop", "other"]


def test_refusals_of_one_kind_and_client_are_one_with_their_number(desk: Desk) -> None:
    client: Any = FakeClient()
    for number in range(30):
        desk.stories.refused("gift", "QUEUEFULL gift has 5 jobs", client, [b'{"uid":%d}' % number])
    desk.stories.refused("", "NOQUEUE there is no queue 'gfit'", client, [b"x"])
    desk.write()
    (queue, full), (nobody, lost) = desk.kept.refusals
    assert (queue, full["word"], full["count"], full["size"]) == ("gift", "QUEUEFULL", 30, 10)
    assert full["marks"][3] == [index.mark(b"3")]
    assert (len(full["marks"]), full["more"]) == (8, 1)
    assert (nobody, lost["word"], lost["count"]) == ("", "NOQUEUE", 1)


def test_refusals_are_bounded_and_can_always_be_read(desk: Desk) -> None:
    for number in range(3 * KINDS):
        client: Any = FakeClient("é" * 300, b"\xff" * 200)
        client.peer = f"{number:03}" + client.peer
        desk.stories.refused("gift", f"BADVALUE {'é' * 1000}", client, [b"{}"] * 100)
    desk.write()
    assert len(desk.kept.refusals) == KINDS
    assert sum(told["count"] for _, told in desk.kept.refusals) == 3 * KINDS


def test_a_store_that_is_away_costs_the_stories_and_says_that_they_are_missing(desk: Desk) -> None:
    desk.kept.fail = Unavailable("away")
    desk.stories.received([ticket('{"uid":1}')], stored(0), True)
    desk.write()
    assert desk.writer.refused == "away"
    assert desk.writer.dropped_total == 2
    desk.kept.fail = None
    desk.write()
    assert [(block.second, marked(block.data)) for block in desk.kept.blocks] == [
        (T0 // 1000 + second, ((), 0)) for second in range(MARKS_SPAN_S)
    ]


def test_the_index_says_now_and_then_that_it_is_there(desk: Desk) -> None:
    for _ in range(3):
        desk.stories.beat()
    desk.write()
    (note,) = desk.kept.blocks
    assert (note.queue, marked(note.data)) == ("gift", ((UID,), 0))
    desk.clock.ahead_s += 601
    desk.stories.beat()
    desk.write()
    assert len(desk.kept.blocks) == 2


def test_expired_jobs_are_told(desk: Desk) -> None:
    driver: Any = type("Driver", (), {"expired": collections.deque([("gift", "credit", f"{T0}-0")])})
    desk.writer.follow(driver)
    desk.write()
    (record,) = desk.records()
    assert (record.id, record.topic, record.attempt, record.verdict) == (f"{T0}-0", "credit", 0, "expire")
    assert not driver.expired
    desk.writer.follow(type("Plugin", (), {})())  # type: ignore[arg-type]
    desk.write()


def test_cancelled_jobs_are_told(desk: Desk) -> None:
    desk.stories.cancelled("gift", "", [f"{T0}-0"])
    desk.write()
    (record,) = desk.records()
    assert isinstance(record, Attempt)
    assert (record.attempt, record.topic, record.verdict) == (0, "", "cancel")


def test_failures_that_say_the_same_are_told_briefly_after_the_first_of_a_turn(desk: Desk) -> None:
    for turn in range(2):
        for number in range(SAME + 4):
            job = f"{T0 + turn}-{number}"
            desk.writer.ended(
                Delivery(id=job, queue="gift", topic="credit", body=b"", attempt=1, crashes=0, redelivered=False,
                         traceparent="", content_type="", first_ms=0, owner="n1/b/3.1"),
                Outcome(verdict=Verdict.FAILED, error="no credit", stderr=b"PHP Fatal error"),
                Settlement(owner="n1/b/3.1", queue="gift", topic="credit", id=job, move=Move.RETRY), T0 / 1000,
            )
        desk.write()
    told = desk.records()
    assert [one.more["error"] for one in told] == ["no credit"] * 2 * (SAME + 4)
    assert sum("stderr" in one.more for one in told) == 2 * SAME


def test_attempts_that_ended_well_together_are_told_as_each_of_them_would() -> None:
    jobs = [
        Delivery(f"{T0}-{number}", "gift", "credit", b"", attempt, 0, False, "", "", 0, "n/b/1.2", claimed_s=claimed_s)
        for number, (attempt, claimed_s) in enumerate([(1, T0 / 1000), (1, 0.0), (2, T0 / 1000), (1, T0 / 1000)])
    ]
    runs_s, ended_s = [0.1, 0.2, 0.3, 5.0], T0 / 1000 + 6
    together, apart = Desk(), Desk()
    together.writer.slow_us = apart.writer.slow_us = {("gift", "credit"): 2_000_000}
    together.writer.done(jobs, runs_s, "pid 7", ended_s)
    for each, run_s in zip(jobs, runs_s, strict=True):
        outcome = Outcome(verdict=Verdict.DONE, run_s=run_s, target="pid 7")
        apart.writer.ended(each, outcome, judge(each, outcome, Rules(), 0, 0.0), ended_s)
    together.write()
    apart.write()
    assert len(together.records()) == 4
    assert together.records() == apart.records()
    assert [block.shelf for block in together.kept.blocks] == [block.shelf for block in apart.kept.blocks]


def test_of_many_that_ended_well_those_without_room_are_counted() -> None:
    desk = Desk()
    jobs = [Delivery(f"{T0}-{n}", "gift", "credit", b"", 1, 0, False, "", "", 0, "n/b/1.2") for n in range(9)]
    for _ in range(MOST_RECORDS // 9):
        desk.writer.done(jobs, [0.1] * 9, "pid 7", T0 / 1000)
    desk.writer.done(jobs, [0.1] * 9, "pid 7", T0 / 1000)
    assert desk.writer.dropped_total == 9 - MOST_RECORDS % 9
