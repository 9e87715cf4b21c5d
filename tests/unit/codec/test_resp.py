"""The request parser: any chunking gives the same commands, any bytes at all do no harm."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.codec.resp import Run, encode_command
from tests.support.resp_events import parser, plain, take

ARGUMENT = st.one_of(
    st.binary(max_size=12), st.sampled_from([b"LPUSH", b"gift", b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"x" * 70])
)
COMMAND = st.lists(ARGUMENT, min_size=1, max_size=5)
SMALL = {"elements": 6, "bulk_bytes": 64, "command_bytes": 128, "inline_bytes": 80}


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[list[bytes]], list[bytes]]:
    """Commands (some repeated, as pipelines do) and their bytes cut into chunks anywhere."""
    commands: list[list[bytes]] = []
    for command in draw(st.lists(COMMAND, max_size=6)):
        commands += [command] * draw(st.integers(1, 4))
    return commands, cut(b"".join(encode_command(command) for command in commands), draw)


def cut(raw: bytes, draw: st.DrawFn) -> list[bytes]:
    marks = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[begin:end] for begin, end in zip([0, *marks], [*marks, len(raw)], strict=True)]


@given(streams(), st.integers(1, 9))
def test_any_chunking_gives_the_same_commands(stream: tuple[list[list[bytes]], list[bytes]], most: int) -> None:
    commands, chunks = stream

    assert take(parser(), chunks, most) == plain([*commands])


@given(st.data())
def test_any_chunking_of_any_bytes_gives_the_same_events(data: st.DataObject) -> None:
    beginnings = [b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n", b"$70\r\n", b"*7\r\n", b"PING\r\n", b"\r\n", b"*", b"$"]
    piece = st.one_of(st.binary(max_size=20), COMMAND.map(encode_command), st.sampled_from(beginnings))
    raw = b"".join(data.draw(st.lists(piece, max_size=8)))
    whole = take(parser(**SMALL), [raw])

    chunks = cut(raw, data.draw)                      # type: ignore[arg-type]

    assert take(parser(**SMALL), chunks) == whole


@given(st.lists(st.binary(max_size=300), max_size=20))
@settings(max_examples=300)
def test_random_bytes_never_raise_and_keep_little(chunks: list[bytes]) -> None:
    reader = parser(**SMALL)

    for chunk in chunks:
        reader.feed(chunk)
        while reader.parse(64):
            pass
        assert len(reader.unread() or b"") <= 256

@given(streams(), st.integers(1, 9))
def test_run_of_a_chunk_is_what_feeding_it_gives(stream: tuple[list[list[bytes]], list[bytes]], most: int) -> None:
    commands, chunks = stream
    reader, taken = parser(), []

    for chunk in chunks:
        run = reader.run_of(chunk, most)
        taken += plain([run]) if run is not None else take(reader, [chunk], most)

    assert taken == plain([*commands])


def test_run_of_takes_nothing_while_something_else_is_at_hand() -> None:
    push = encode_command([b"LPUSH", b"gift", b"a"])
    begun, behind, broken = parser(), parser(), parser()
    for reader, fed in ((begun, push + push[:10]), (behind, push * 3), (broken, push + b"*x\r\n")):
        reader.feed(fed)
        reader.parse(2)

    assert [reader.run_of(push, 9) for reader in (begun, behind, broken)] == [None, None, None]
    assert behind.parse(9)
    assert behind.run_of(push, 9) is not None


def test_run_of_keeps_to_the_limits_of_now() -> None:
    reader, push = parser(), encode_command([b"LPUSH", b"gift", b"x" * 70])
    reader.feed(push)
    reader.parse(1)
    assert reader.run_of(push, 1) is not None

    reader.limits = parser(**SMALL).limits

    assert reader.run_of(push, 1) is None


def test_pipeline_of_pushes_is_one_run() -> None:
    reader = parser()
    reader.feed(encode_command([b"LPUSH", b"gift", b"a"]) * 10)

    first, rest = reader.parse(64)

    assert first == [b"LPUSH", b"gift", b"a"]
    assert isinstance(rest, Run)
    assert (rest.head, rest.lasts) == ([b"LPUSH", b"gift"], [b"a"] * 9)


def test_limit_of_a_call_leaves_the_rest_unread() -> None:
    reader = parser()
    one = encode_command([b"LPUSH", b"gift", b"a"])
    reader.feed(one * 100)

    taken = plain(reader.parse(64))

    assert len(taken) == 64
    assert reader.unread() == one * 36
    assert not reader.partial
    assert len(plain(reader.parse(64))) == 36


def test_limits_may_grow_between_two_commands() -> None:
    reader = parser(bulk_bytes=16)
    reader.feed(encode_command([b"AUTH", b"gift:pw"]) + encode_command([b"LPUSH", b"gift", b"x" * 99]))
    assert plain(reader.parse(1)) == [["AUTH", "gift:pw"]]

    reader.limits.bulk_bytes = 1024

    assert plain(reader.parse(1)) == [["LPUSH", "gift", "x" * 99]]


def test_nothing_follows_a_broken_command() -> None:
    reader = parser()
    reader.feed(b"*x\r\n")
    reader.parse(64)

    reader.feed(encode_command([b"PING"]))

    assert reader.parse(64) == []


def test_drip_of_a_large_body_costs_no_more_than_the_body() -> None:
    reader = parser()
    reader.feed(b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n$500000\r\n")
    reader.parse(64)
    tracemalloc.start()

    for _ in range(499_999):
        reader.feed(b"x")
        reader.parse(64)

    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.partial
    assert held < 1_000_000


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nothing_is_kept_of_commands_that_are_done(count: int) -> None:
    reader = parser()
    raw = encode_command([b"LPUSH", b"gift", b"x" * 500_000]) * count
    tracemalloc.start()
    reader.feed(raw)
    assert len(plain(reader.parse(64))) == count
    del raw

    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10_000


def test_skipped_argument_is_not_kept() -> None:
    reader = parser(bulk_bytes=1024)
    tracemalloc.start()
    reader.feed(b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n$50000000\r\n")
    for _ in range(700):
        reader.feed(b"x" * 65_536)
        reader.parse(64)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.partial
    assert reader.unread() is None
    assert peak < 1_000_000
