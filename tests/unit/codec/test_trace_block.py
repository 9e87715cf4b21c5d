"""What is packed comes out of a block; what is damaged is an error, never another story."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.codec.trace_block import MOST_BYTES, Told, find_marks, pack, pack_marks, unpack
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.trace import Attempt, Done, Received, Record, Run, Stored, attempt_of

PEER = ("10.0.0.7:4711", "gift", "shop", "redis-py 5.0")
IDS = st.tuples(st.integers(0, 10**14), st.integers(0, 10**6)).map(lambda parts: f"{parts[0]}-{parts[1]}")
NUMBERS = st.integers(0, 10**13)
MORE = st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=40), st.integers(), st.none()), max_size=3)
ATTEMPTS = st.builds(
    Attempt, IDS, st.sampled_from(["credit", "mail"]), st.integers(1, 99), NUMBERS, NUMBERS, NUMBERS, NUMBERS,
    st.sampled_from(["done", "failed"]), st.sampled_from(["ack", "retry"]), st.text(max_size=20), MORE,
)
RECEIVED = st.builds(Received, IDS, IDS, st.tuples(*[st.text(max_size=20)] * 4))


def attempt(id: str, topic: str = "credit") -> Attempt:
    return Attempt(id, topic, 1, 1_800_000_000_020, 3, 1, 9_000, "done", "ack", "php-fpm 127.0.0.1:9000")


@given(st.lists(st.one_of(ATTEMPTS, RECEIVED), max_size=20))
def test_block_gives_back_what_was_packed(records: list[Record]) -> None:
    assert unpack(pack("n1/delivery.0", records)) == [Told("n1/delivery.0", record) for record in records]


def test_block_is_asked_for_one_job() -> None:
    ours = Received("1800000000000-9", "1800000000000-10", PEER)
    records = [
        attempt("1800000000000-1"), attempt("1800000000000-10"), attempt("1800000000000-10", "mail"), ours,
        Received("1800000000000-0", "1800000000000-8", PEER), Received("1800000000001-0", "1800000000001-9", PEER),
    ]

    found = [told.record for told in unpack(pack("n1/delivery.0", records), "1800000000000-10")]

    assert found == [records[1], records[2], ours]


ROWS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9), st.floats(0, 900), st.floats(0, 0.9)), min_size=1,
                max_size=20, unique_by=lambda row: row[:2])


@given(ROWS)
def test_what_is_plainly_done_is_told_as_any_attempt(drawn: list[tuple[int, int, float, float]]) -> None:
    t0_s = 1_800_000_000.0
    rows = [(f"{1_800_000_000_000 + ms}-{number}", t0_s + ms / 1000 + held_s, t0_s + ms / 1000, run_s * min(1, held_s))
            for ms, number, held_s, run_s in drawn]
    wanted = [
        attempt_of(
            Delivery(id=job, queue="gift", topic="credit", body=b"", attempt=1, crashes=0, redelivered=False,
                     traceparent="", content_type="", first_ms=0, owner="n1/b/3.1", claimed_s=claimed_s),
            Outcome(verdict=Verdict.DONE, run_s=run_s, target="pid 7"),
            Settlement(owner="n1/b/3.1", queue="gift", topic="credit", id=job, move=Move.ACK), ended_s,
        ) for job, ended_s, claimed_s, run_s in rows
    ]

    found = [told.record for told in unpack(pack("n1/delivery.0", [Done("credit", "pid 7", rows)]))]

    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, Attempt)
        assert (one[:3], one[7:]) == (other[:3], other[7:])
        about = 2 + other.pool_ms * 1e-4
        assert abs(one.ended_ms - other.ended_ms) <= 2 + abs(one.ended_ms - wanted[0].ended_ms) * 1e-4
        assert abs(one.wait_ms - other.wait_ms) <= about + abs(one.ended_ms - other.ended_ms)
        assert abs(one.pool_ms - other.pool_ms) <= about
        assert abs(one.run_us - other.run_us) <= 1 + other.run_us * 1e-4


def test_block_of_plain_ones_is_asked_for_one_job() -> None:
    rows = [(f"1800000000000-{number}", 1_800_000_000.5 + number, 1_800_000_000.25, 0.125) for number in range(12)]
    block = pack("n1", [attempt("1800000000000-1"), Done("credit", "a", rows[:5]), Done("credit", "b", rows[5:])])

    (told,) = unpack(block, "1800000000000-10")

    assert told.record == Attempt("1800000000000-10", "credit", 1, 1_800_000_010_500, 250, 10_125, 125_000, "done",
                                  "ack", "b")


def test_what_one_append_stored_is_told_by_client() -> None:
    other = ("10.0.0.8:1", "", "", "")
    block = pack("n1", [Stored("1800000000000-3", [(PEER, 1), (other, 4), (PEER, 2)])])

    assert [told.record for told in unpack(block)] == [
        Received("1800000000000-3", "1800000000000-3", PEER), Received("1800000000000-4", "1800000000000-7", other),
        Received("1800000000000-8", "1800000000000-9", PEER),
    ]
    assert [told.record for told in unpack(block, "1800000000000-7")] == [
        Received("1800000000000-4", "1800000000000-7", other)
    ]


def test_a_damaged_tail_is_an_error() -> None:
    rows = [("1800000000000-1", 1_800_000_000.5, 1_800_000_000.25, 0.125)]
    text = zlib.decompress(pack("n1", [Done("credit", "a", rows)]))

    with pytest.raises(ValueError, match="damaged"):
        unpack(zlib.compress(text.replace(b'"tail":9', b'"tail":5')))


def test_block_takes_about_ten_bytes_an_attempt() -> None:
    rows = [
        (f"{1_800_000_000_000 + at // 8}-{at % 8}", 1_800_000_002 + at / 8_000,
         1_800_000_001 + at // 64 * 64 / 8_000, 0.009 + at * 37 % 5_000 / 1e6) for at in range(2_000)
    ]
    assert len(pack("n1/delivery.0", [Done("credit", "a", rows)])) < 12 * len(rows)
    records = [attempt(f"{1_800_000_000_000 + at // 8}-{at % 8}")._replace(run_us=9_000 + at * 37 % 5_000)
               for at in range(2_000)]

    assert len(pack("n1/delivery.0", records)) < 14 * len(records)


def test_block_of_a_later_version_keeps_the_kinds_we_know() -> None:
    text = zlib.decompress(pack("n1/delivery.0", [attempt("1800000000000-1")]))

    told = unpack(zlib.compress(text + b"\nz\tsomething\tnew"))

    assert [one.record for one in told] == [attempt("1800000000000-1")]


@pytest.mark.parametrize("block", [
    b"", b"rubbish", zlib.compress(b""), zlib.compress(b"[]\n"), zlib.compress(b'{"v":2}\n'),
    pack("n1", [attempt("1800000000000-1")])[:-3],
    zlib.compress(b'{"v":1,"by":"n","names":[]}\na\t1-0\t0\t1\t1\t1\t1\t1'),
    zlib.compress(b'{"v":1,"by":"n","names":{}}\na\t1-0\t0\t1\t1\t1\t1\t1'),
    zlib.compress(b'{"v":1,"by":"n","names":[]}\na\t1-0'),
    zlib.compress(b'{"v":1,"by":"n"}\n'),
    zlib.compress(b'{"v":1,"by":"n","names":[3]}\nr\t1-0\t1-1\t0'),
])
def test_block_that_is_damaged_is_an_error(block: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every text of it is for people
        unpack(block)


def test_block_that_would_fill_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match="too large"):
        unpack(zlib.compress(b" " * (MOST_BYTES + 1)))


@settings(max_examples=50)
@given(st.lists(st.tuples(IDS, st.integers(0, 7), st.integers(0, 2**32 - 1)), max_size=50), st.integers(0, 7))
def test_marks_find_the_jobs_that_have_them(rows: list[tuple[str, int, int]], wanted: int) -> None:
    columns = [low for _, low, _ in rows], [big for _, _, big in rows]
    block = pack_marks([11, 12], [Run(job, 1) for job, _, _ in rows], columns)

    assert find_marks(block, 11, wanted) == [job for job, low, _ in rows if low == wanted]
    assert find_marks(block, 12, wanted) == [job for job, _, big in rows if big == wanted]
    assert find_marks(block, 13, wanted) == []


def test_marks_find_jobs_within_a_run() -> None:
    block = pack_marks([11], [Run("5-8", 3), Run("6-0", 1), Run("7-99", 2)], [[1, 2, 3, 4, 2, 3]])

    assert find_marks(block, 11, 2) == ["5-9", "7-99"]
    assert find_marks(block, 11, 3) == ["5-10", "7-100"]
    assert find_marks(block, 11, 4) == ["6-0"]


def test_marks_are_not_found_between_two_numbers() -> None:
    block = pack_marks([11], [Run("1-0", 1), Run("2-0", 1)], [[0x11223344, 0x55667788]])

    assert find_marks(block, 11, 0x88112233) == []
    assert find_marks(block, 11, 0x66778811) == []


def test_marks_that_are_damaged_are_an_error() -> None:
    block = pack_marks([11], [Run("1-0", 1), Run("2-0", 1)], [[5, 6]])

    for damaged in (b"", b"X1", b"Y1" + block[2:], block[:14], block[:-2]):
        with pytest.raises(ValueError):  # noqa: PT011 - every text of it is for people
            find_marks(damaged, 11, 5)
