"""A buffer tells everything while there is room, whole jobs when there is little, and never grows."""

from __future__ import annotations

from pbus.clock import FakeClock
from pbus.codec.trace_block import find_marks, marked, unpack
from pbus.core.trace import Attempt, Received, Run, Shelf, is_kept
from pbus.storage.traces import MARKS_SPAN_S, REFUSALS, Block, TraceLimits
from pbus.storage.traces_buffer import MOST_RECORDS, MOST_TEXT_BYTES, Marks, TraceBuffer

BASE_MS = 1_800_000_000_000
PEER = ("10.0.0.7:4711", "gift", "shop", "redis-py 5.0")


def attempt(id: str) -> Attempt:
    return Attempt(id, "credit", 1, BASE_MS + 20, 3, 1, 9_000, "done", "ack", "php 1")


def ids(count: int) -> list[str]:
    return [f"{BASE_MS + place // 8}-{place % 8}" for place in range(count)]


def buffer(max_bytes: int = 1 << 20, writers: int = 1, clock: FakeClock | None = None) -> TraceBuffer:
    limits = TraceLimits(3_600.0, 604_800.0, max_bytes)
    return TraceBuffer("n1/delivery.0", limits, writers, clock or FakeClock())


def told(blocks: list[Block]) -> list[str]:
    return [one.record.id for block in blocks for one in unpack(block.data) if isinstance(one.record, Attempt)]


def test_buffer_makes_a_block_a_queue_shelf_and_second() -> None:
    made = buffer()
    early, late = attempt(f"{BASE_MS + 999}-0"), attempt(f"{BASE_MS + 1_000}-0")
    made.tell("gift", early)
    made.tell("gift", late)
    made.tell("mail", early)
    made.tell("gift", early, Shelf.KEPT)

    blocks, refusals = made.drain()

    second = BASE_MS // 1000
    assert sorted(block[:3] for block in blocks) == [
        ("gift", Shelf.RECENT, second), ("gift", Shelf.RECENT, second + 1), ("gift", Shelf.KEPT, second),
        ("mail", Shelf.RECENT, second),
    ]
    assert refusals == []
    assert made.drain() == ([], [])
    assert made.dropped_total == 0


def test_buffer_tells_a_range_in_every_second_of_its_ids() -> None:
    made = buffer()
    made.tell("gift", Received(f"{BASE_MS + 900}-0", f"{BASE_MS + 1_100}-3", PEER))

    blocks, _ = made.drain()

    assert [block.second for block in blocks] == [BASE_MS // 1000, BASE_MS // 1000 + 1]
    assert all(unpack(block.data, f"{BASE_MS + 1_000}-0") for block in blocks)


def test_buffer_is_bounded_and_counts_what_it_drops() -> None:
    made = buffer(1 << 30)
    for job in ids(MOST_RECORDS + 5):
        made.tell("gift", attempt(job))
    assert made.dropped_total == 5
    made.mark(Marks("gift", [Run(f"{BASE_MS}-0", MOST_RECORDS)], (11,), [[1] * MOST_RECORDS]))
    made.mark(Marks("gift", [Run(f"{BASE_MS}-0", 1)], (11,), [[1]]))
    assert made.dropped_total == 6
    for number in range(REFUSALS + 5):
        made.refused("gift", b"%d" % number)

    blocks, refusals = made.drain()

    assert len(told([block for block in blocks if block.shelf is Shelf.RECENT])) == MOST_RECORDS
    assert refusals[0] == ("gift", b"5")
    assert len(refusals) == REFUSALS
    made.tell("gift", attempt(ids(1)[0]), Shelf.KEPT, MOST_TEXT_BYTES)
    made.tell("gift", attempt(ids(1)[0]), Shelf.KEPT, 1)
    assert made.dropped_total == 7


def test_buffer_with_little_room_tells_whole_jobs() -> None:
    clock = FakeClock()
    made = buffer(2_000_000, 16, clock)  # 62,500 bytes for what is recent: 520 a minute
    for _ in range(120):
        clock.advance(120.0)
        for job in ids(500):
            made.tell("gift", attempt(job))
        blocks, _ = made.drain()
    last = set(told(blocks))

    assert 20 < len(last) < 400
    assert made.dropped_total > 0
    share = max(_mark(job) for job in last)
    assert last == {job for job in ids(500) if _mark(job) <= share}, "by their hash, the same everywhere"


def test_each_of_more_writers_than_planned_takes_a_smaller_part() -> None:
    def kept(seen: int) -> int:
        clock = FakeClock()
        made, count = buffer(1_000_000, 2, clock), 0
        for _ in range(120):
            clock.advance(120.0)
            for job in ids(500):
                made.done(("gift", "credit", "pid 7", job, BASE_MS / 1000 + 1, BASE_MS / 1000, 0.1))
            made.share_among(seen)
            made.drain()
            count += made.drained
        return count

    assert kept(0) == kept(2)
    assert kept(20) < kept(2) / 3


def test_plain_successes_are_left_out_by_the_same_hash() -> None:
    clock = FakeClock()
    made = buffer(1_000_000, 16, clock)
    for _ in range(120):
        clock.advance(120.0)
        for job in ids(500):
            made.done(("gift", "credit", "pid 7", job, BASE_MS / 1000 + 1, BASE_MS / 1000, 0.1))
        blocks, _ = made.drain()
    last = set(told(blocks))

    assert 20 < len(last) < 400
    share = max(_mark(job) for job in last)
    assert last == {job for job in ids(500) if _mark(job) <= share}


def failure(topic: str, job: str) -> Attempt:
    more = {"error": "E" * 200, "stderr": "PHP Fatal error " * 50}
    return Attempt(job, topic, 1, BASE_MS + 20, 3, 1, 9_000, "failed", "retry", "php 1", more)


def test_a_topic_that_fails_always_pushes_nobody_else_out() -> None:
    clock = FakeClock()
    made = buffer(4_000_000, 1, clock)
    others: list[str] = []
    noise = 0
    for second in range(60):
        clock.advance(1.0)
        for place in range(1_000):
            job = f"{BASE_MS + second * 1_000 + place // 8}-{place % 8}"
            made.tell("gift", failure("noise", job), Shelf.KEPT, 1_000)
        made.tell("gift", failure("quiet", f"{BASE_MS + second * 1_000}-9"), Shelf.KEPT, 1_000)
        blocks, _ = made.drain()
        kept = [one.record for block in blocks for one in unpack(block.data) if isinstance(one.record, Attempt)]
        others += [one.id for one in kept if one.topic == "quiet"]
        noise += sum(one.topic == "noise" for one in kept)
    assert len(others) == 60
    assert 100 < noise < 20_000


def test_buffer_without_room_tells_nothing() -> None:
    made = buffer(0)
    made.tell("gift", attempt(ids(1)[0]))
    made.mark(Marks("gift", [Run(f"{BASE_MS}-0", 2)], (11,), [[1, 2]]))

    (note,), refusals = made.drain()
    assert marked(note.data) == ((), 0)  # so that nobody takes what is missing for what never came
    assert refusals == []
    assert made.dropped_total == 3


def test_buffer_marks_jobs_of_several_appends() -> None:
    made = buffer()
    made.mark(Marks("gift", [Run(f"{BASE_MS}-0", 3)], (11, 12), [[1, 2, 3], [0, 9, 0]]))
    made.mark(Marks("gift", [Run(f"{BASE_MS + 500}-0", 2)], (11, 12), [[2, 5], [9, 9]]))
    made.mark(Marks("gift", [Run(f"{BASE_MS + 9_999}-0", 1), Run(f"{BASE_MS + 10_000}-0", 1)], (11, 12),
                    [[2, 3], [0, 0]]))
    made.mark(Marks("gift", [], (11, 12), [[], []]))

    blocks, _ = made.drain()

    assert [block[:3] for block in blocks] == [
        ("gift", Shelf.INDEX, BASE_MS // 1000), ("gift", Shelf.INDEX, BASE_MS // 1000 + MARKS_SPAN_S)
    ]
    assert find_marks(blocks[0].data, 11, 2) == [f"{BASE_MS}-1", f"{BASE_MS + 500}-0", f"{BASE_MS + 9_999}-0"]
    assert find_marks(blocks[0].data, 12, 9) == [f"{BASE_MS}-1", f"{BASE_MS + 500}-0", f"{BASE_MS + 500}-1"]
    assert find_marks(blocks[1].data, 11, 3) == [f"{BASE_MS + 10_000}-0"]
    assert made.dropped_total == 0


def test_buffer_with_little_room_marks_whole_jobs() -> None:
    clock = FakeClock()
    made = buffer(200_000, 1, clock)
    for _ in range(60):
        clock.advance(240.0)
        made.mark(Marks("gift", [Run(f"{BASE_MS}-0", 400)], (11,), [[*range(400)]]))
        blocks, _ = made.drain()

    found = [at for at in range(400) for block in blocks if find_marks(block.data, 11, at) == [f"{BASE_MS}-{at}"]]
    assert 10 < len(found) < 300
    share = max(_mark(f"{BASE_MS}-{at}") for at in found)
    assert found == [at for at in range(400) if _mark(f"{BASE_MS}-{at}") <= share], "each with its own mark"
    assert made.dropped_total > 0


def _mark(id: str) -> float:
    """The least share that keeps *id*, to a ten-thousandth."""
    return next(share for share in (step / 10_000 for step in range(10_001)) if is_kept(id, share))
