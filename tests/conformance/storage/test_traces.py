"""Trace stores keep what was put for as long as they say, within their bytes, and never break for good."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.core.trace import Shelf
from pbus.errors import StorageError
from pbus.storage.open import StoreTarget
from pbus.storage.traces import BLOCK_COST, MOST_SECONDS, REFUSAL_BYTES, REFUSALS, Block, TraceLimits, Traces, make
from pbus.storage.traces_buffer import TraceBuffer
from pbus.storage.traces_redis import REGISTER_S, RedisTraces
from pbus.storage.traces_sqlite import SqliteTraces
from tests.conformance.storage.places import Place
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

NOW_S = 1_800_000_000
"""A full minute."""


class TraceWorld:
    """An empty place, and trace stores on it as several processes have them."""

    def __init__(self, place: Place) -> None:
        self.url = place.empty()
        self._made: list[Traces] = []

    def traces(self, *, keep_s: float = 60.0, keep_failed_s: float = 600.0, max_bytes: int = 1 << 20,
               timeout_s: float = 5.0) -> Traces:
        target = StoreTarget("main", self.url, "", timeout_s, "n1")
        made = make(target, TraceLimits(keep_s, keep_failed_s, max_bytes))
        assert made is not None
        made.open()
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture
def world(place: Place) -> Iterator[TraceWorld]:
    made = TraceWorld(place)
    yield made
    made.close()


def block(data: bytes, second: int = NOW_S, shelf: Shelf = Shelf.RECENT, queue: str = "gift") -> Block:
    return Block(queue, shelf, second, data)


def test_traces_are_found_by_queue_shelf_and_second(world: TraceWorld) -> None:
    traces = world.traces()
    ours = block(b"ours\x00\xff")
    others = [
        block(b"queue", queue="mail"), block(b"shelf", shelf=Shelf.KEPT), block(b"before", NOW_S - 1),
        block(b"after", NOW_S + 1),
    ]

    assert traces.put([*others[:2], ours, *others[2:]]) == (5, 0)

    assert traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == [ours]
    assert [one.data for one in traces.blocks("gift", Shelf.KEPT, NOW_S - 9, NOW_S + 9)] == [b"shelf"]
    assert traces.blocks("nobody", Shelf.RECENT, NOW_S, NOW_S) == []


def test_traces_of_one_second_are_from_many_writers(world: TraceWorld) -> None:
    for writer in (world.traces(), world.traces(), world.traces()):
        for text in (b"1", b"2"):
            writer.put([block(text)])

    found = world.traces().blocks("gift", Shelf.RECENT, NOW_S, NOW_S)

    assert sorted(one.data for one in found) == [b"1", b"1", b"1", b"2", b"2", b"2"]


def test_traces_of_a_span_come_in_order_of_seconds(world: TraceWorld) -> None:
    traces = world.traces()
    seconds = [NOW_S + offset for offset in (130, -70, 59, 0, 61, -1, 60, 15)]
    traces.put([block(str(second).encode(), second, Shelf.INDEX) for second in seconds])

    found = traces.blocks("gift", Shelf.INDEX, NOW_S - 1, NOW_S + 61)

    assert [one.second for one in found] == [NOW_S + offset for offset in (-1, 0, 15, 59, 60, 61)]
    assert all(one.data == str(one.second).encode() for one in found)


def test_traces_of_too_long_a_span_are_refused(world: TraceWorld) -> None:
    traces = world.traces()
    traces.blocks("gift", Shelf.INDEX, NOW_S, NOW_S + MOST_SECONDS - 1)

    with pytest.raises(ValueError, match="at most 600"):
        traces.blocks("gift", Shelf.INDEX, NOW_S, NOW_S + MOST_SECONDS)


def test_traces_that_have_no_room_are_not_stored_and_counted(world: TraceWorld) -> None:
    room = 10 * (100 + BLOCK_COST)
    traces = world.traces(max_bytes=2 * room)  # RECENT has half of it

    put = traces.put([block(bytes([number]) * 100) for number in range(12)])
    again = traces.put([block(b"x" * 100)])

    assert put == (10, 2)
    assert again == (0, 1)
    assert traces.used() == {Shelf.RECENT: room, Shelf.KEPT: 0, Shelf.INDEX: 0}
    assert len(traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S)) == 10


def test_traces_of_one_shelf_take_no_room_of_another(world: TraceWorld) -> None:
    traces = world.traces(max_bytes=4_000)
    traces.put([block(b"x" * 100) for _ in range(50)])

    assert traces.put([block(b"failed", shelf=Shelf.KEPT), block(b"marks", shelf=Shelf.INDEX)]) == (2, 0)


def test_traces_of_all_writers_share_the_room(world: TraceWorld) -> None:
    room = 10 * (100 + BLOCK_COST)
    one, other = (world.traces(max_bytes=2 * room) for _ in range(2))
    assert one.put([block(b"x" * 100) for _ in range(10)]) == (10, 0)

    other.put([])  # as a writer does at its next turn

    assert other.put([block(b"x" * 100)]) == (0, 1)


def test_traces_go_when_they_are_too_old_and_leave_their_room(world: TraceWorld) -> None:
    traces = world.traces(keep_s=0.5, max_bytes=4 * (100 + BLOCK_COST))
    traces.put([block(b"x" * 100), block(b"x" * 100), block(b"failed", shelf=Shelf.KEPT)])
    assert traces.put([block(b"x" * 100)]) == (0, 1)

    def gone() -> bool:
        traces.trim()
        return not traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S)

    until(gone, 5.0, "the blocks are dropped")
    until(lambda: traces.used()[Shelf.RECENT] == 0, 5.0, "their bytes are free")
    traces.put([])
    assert traces.put([block(b"x" * 100)]) == (1, 0)
    assert traces.blocks("gift", Shelf.KEPT, NOW_S, NOW_S) == [block(b"failed", shelf=Shelf.KEPT)]


def test_traces_outlive_their_process(world: TraceWorld) -> None:
    first = world.traces()
    first.put([block(b"told")], [("gift", b"refused")])
    used = first.used()
    first.close()

    second = world.traces()

    assert second.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == [block(b"told")]
    assert second.refusals("gift") == [b"refused"]
    assert second.used() == used
    assert used[Shelf.RECENT] == len(b"told") + BLOCK_COST


def test_refused_pushes_are_kept_a_queue_newest_first(world: TraceWorld) -> None:
    traces = world.traces()
    traces.put([], [("gift", b"1"), ("mail", b"m"), ("", b"nobody's"), ("gift", b"2")])
    traces.put([block(b"told")], [("gift", b"3")])

    assert traces.refusals("gift") == [b"3", b"2", b"1"]
    assert traces.refusals("gift", 2) == [b"3", b"2"]
    assert traces.refusals("") == [b"nobody's"]
    assert traces.refusals("gift", 0) == traces.refusals("none") == []


def test_refused_pushes_are_a_bounded_number_of_bounded_size(world: TraceWorld) -> None:
    traces = world.traces()
    traces.put([], [("gift", b"%d" % number) for number in range(REFUSALS - 1)] + [("mail", b"m")])
    traces.put([], [("gift", b"x" * (REFUSAL_BYTES + 1)) for _ in range(3)])

    kept = traces.refusals("gift", 2 * REFUSALS)

    assert len(kept) == REFUSALS
    assert kept[0] == b"x" * REFUSAL_BYTES
    assert kept[-1] == b"2"
    assert traces.refusals("mail") == [b"m"]


def test_traces_go_on_after_their_store_was_emptied(world: TraceWorld, place: Place) -> None:
    traces = world.traces()
    traces.put([block(b"before")])

    _empty(world)

    assert traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == []
    assert traces.put([block(b"after")]) == (1, 0)
    assert world.traces().blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == [block(b"after")]


def test_traces_have_no_store_beside_a_driver_that_has_none() -> None:
    assert make(StoreTarget("main", "memory:", "", 5.0, "n1"), TraceLimits(1.0, 1.0, 1)) is None


def _empty(world: TraceWorld) -> None:
    """As a person does who removes everything under a running process."""
    if world.url.startswith("sqlite:"):
        for path in Path(world.url.removeprefix("sqlite:")).parent.iterdir():
            path.unlink()
        return
    import redis

    with redis.Redis(unix_socket_path=world.url.removeprefix("redis+unix://").partition("?")[0]) as client:
        client.flushall()


# -- the file beside an embedded store ------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[TraceWorld]:
    made = TraceWorld(Place("sqlite", lambda: f"sqlite:{tmp_path}/pbus.db"))
    yield made
    made.close()


def test_file_of_traces_is_private_and_beside_the_store(folder: TraceWorld, tmp_path: Path) -> None:
    folder.traces().put([block(b"told")])

    assert (tmp_path / "pbus.db.traces").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "pbus.db").exists()


@pytest.mark.parametrize("content", [b"no database, but long enough" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_of_traces_that_is_damaged_is_begun_anew(folder: TraceWorld, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pbus.db.traces").write_bytes(content)

    traces = folder.traces()

    assert traces.put([block(b"told")]) == (1, 0)
    assert traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == [block(b"told")]


def test_file_of_traces_that_is_damaged_in_use_is_begun_anew(folder: TraceWorld, tmp_path: Path) -> None:
    path = tmp_path / "pbus.db.traces"
    traces, other = folder.traces(max_bytes=1 << 26), folder.traces(max_bytes=1 << 26)
    traces.put([block(os.urandom(2_000)) for _ in range(5_000)])  # the log is copied into the file
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (path.stat().st_size - 4096))

    with pytest.raises(StorageError, match="a new file begins"):
        other.blocks("gift", Shelf.RECENT, NOW_S, NOW_S)

    assert other.put([block(b"other")]) == (1, 0)
    assert traces.put([block(b"again")]) == (1, 0)
    assert {one.data for one in traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S)} == {b"again", b"other"}


def test_file_of_traces_forgets_what_a_clock_far_ahead_has_written(tmp_path: Path) -> None:
    target, limits = StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1"), TraceLimits(60.0, 600.0, 1 << 20)
    ahead = SqliteTraces(target, limits, FakeClock(NOW_S + 86_400.0))
    ahead.put([block(b"ahead")])
    ahead.close()
    traces = SqliteTraces(target, limits, FakeClock(float(NOW_S)))

    traces.trim()
    traces.put([block(b"now")])
    traces.trim()

    assert traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == [block(b"now")]
    traces.close()


def test_file_of_traces_takes_nothing_of_a_disk_that_is_short(tmp_path: Path) -> None:
    target = StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1", min_free_bytes=1 << 62)
    traces = make(target, TraceLimits(60.0, 600.0, 1 << 20))
    assert traces is not None
    traces.open()

    assert traces.put([block(b"told")], [("gift", b"refused")]) == (0, 1)

    assert traces.blocks("gift", Shelf.RECENT, NOW_S, NOW_S) == traces.refusals("gift") == []
    traces.close()


@pytest.mark.parametrize(("high_water", "stored"), [(0.0, 0), (1.0, 1)])
def test_traces_leave_the_last_room_to_jobs(tmp_path: Path, high_water: float, stored: int) -> None:
    target = StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1", high_water=high_water)
    traces = make(target, TraceLimits(60.0, 600.0, 1 << 20))
    assert traces is not None
    traces.open()

    assert traces.put([block(b"told")]) == (stored, 1 - stored)
    traces.close()


def test_traces_leave_the_last_room_of_redis_to_jobs(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, maxmemory="100mb", **{"maxmemory-policy": "noeviction"})
    server.start()
    clock = FakeClock()
    target = StoreTarget("main", server.url, "", 5.0, "n1", high_water=0.3)
    traces = RedisTraces(target, TraceLimits(60.0, 600.0, 1 << 20), clock)
    try:
        assert traces.put([block(b"told")]) == (1, 0)
        with server.client() as client:
            client.set("jobs", b"x" * 40_000_000)
        clock.advance(1.0)
        traces.put([block(b"notices")])
        assert traces.put([block(b"told")], [("gift", b"refused")]) == (0, 1)
        assert traces.refusals("gift") == []
        with server.client() as client:
            client.delete("jobs")
        clock.advance(1.0)
        traces.put([])
        assert traces.put([block(b"told")]) == (1, 0)
    finally:
        traces.close()
        server.close()


def test_writers_of_all_nodes_are_counted_in_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    clock = FakeClock()
    target = StoreTarget("main", server.url, "", 5.0, "n1")
    writers = [RedisTraces(target, TraceLimits(60.0, 600.0, 1 << 20), clock) for _ in range(3)]
    try:
        for _ in range(2):
            for each in writers:
                each.put([block(b"told")])
        assert writers[0].writers == writers[2].writers == 3
        assert writers[0].used()[Shelf.RECENT] == 6 * (4 + BLOCK_COST)
        for _ in range(4):
            clock.advance(REGISTER_S)
            writers[0].put([block(b"told")])
        writers[1].trim()
        writers[0].put([block(b"told")])
        assert writers[0].writers == 1
    finally:
        for each in writers:
            each.close()
        server.close()


def test_traces_stay_below_their_bytes_at_ten_times_the_planned_rate(tmp_path: Path) -> None:
    clock, limits, cap = FakeClock(), TraceLimits(20.0, 200.0, 1 << 17), 1 << 17
    traces = SqliteTraces(StoreTarget("main", f"sqlite:{tmp_path}/pbus.db", "", 5.0, "n1"), limits, clock)
    buffer = TraceBuffer("n1/delivery.0", limits, 1, clock)
    planned = cap // 2 / 12 / 20                          # attempts a second that RECENT has room for
    held = told = kept = 0
    tracemalloc.start()
    for turn in range(250):                               # 2.5 times as long as they are kept
        clock.advance(0.2)
        now_s = clock.wall_s()
        for place in range(int(10 * planned * 0.2)):
            job = f"{int(now_s * 1000)}-{place}"
            buffer.done(("gift", "credit", "pid 7", job, now_s, now_s - 0.004, 0.001 * (place % 7)))
            told += 1
        if turn == 100:
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
        put = traces.put(buffer.drain()[0])
        kept += buffer.drained
        assert put.dropped == 0, "the buffer leaves out what has no room, and knows it"
        if turn % 5 == 0:
            traces.trim()
        assert sum(traces.used().values()) <= cap
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    traces.close()
    assert peak - held < 2 << 20
    assert 0.02 < kept / told < 0.5
    assert kept + buffer.dropped_total == told


def test_file_of_traces_does_not_grow_beyond_its_room(folder: TraceWorld, tmp_path: Path) -> None:
    traces = folder.traces(max_bytes=1 << 20)
    for _ in range(40):
        traces.put([block(os.urandom(10_000), shelf=shelf) for shelf in Shelf for _ in range(10)])

    files = [path.stat().st_size for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm"))]
    assert sum(files) <= 1.25 * (1 << 20)
    assert sum(traces.used().values()) > 0.9 * (1 << 20)
