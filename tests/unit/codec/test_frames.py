from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec.frames import BRIEF_ID_BYTES, FrameError, FrameReader, encode, encode_done

IDS = st.text(max_size=40)
TIMES = st.floats(allow_nan=False)
FRAMES = st.lists(
    st.one_of(
        st.tuples(IDS, TIMES),
        st.dictionaries(st.sampled_from(["id", "ids", "text"]), st.one_of(IDS, st.lists(IDS, max_size=3))),
    ),
    max_size=20,
)


def wire(frames: list[Any]) -> bytes:
    return b"".join(
        encode_done(*frame) if isinstance(frame, tuple) else encode("x", **frame) for frame in frames
    )


def told(frames: list[dict[str, Any]]) -> list[Any]:
    """One after the other, as they were written."""
    flat: list[Any] = []
    for frame in frames:
        flat += frame["ended"] if frame["kind"] == "done" else [{k: v for k, v in frame.items() if k != "kind"}]
    return flat


@given(FRAMES, st.data())
def test_frames_of_both_kinds_arrive_in_order_however_they_are_cut(frames: list[Any], data: st.DataObject) -> None:
    stream, reader, heard, at = wire(frames), FrameReader(brief=True), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        heard += reader.feed(stream[at : at + size])
        at += size
    assert told(heard) == frames
    assert reader.pending == b""


def test_brief_frames_of_one_read_are_one() -> None:
    stream = encode_done("1-0", 0.5) + encode_done("2-0", 0.25) + encode("x") + encode_done("3-0", 1.0)
    assert FrameReader(brief=True).feed(stream) == [
        {"kind": "done", "ended": [("1-0", 0.5), ("2-0", 0.25)]},
        {"kind": "x"},
        {"kind": "done", "ended": [("3-0", 1.0)]},
    ]


@pytest.mark.parametrize("rest", [b"", b"\x00", encode_done("1-0", 1.0)[:-1]])
def test_what_is_not_complete_is_kept_for_another_reader(rest: bytes) -> None:
    reader = FrameReader(brief=True)
    reader.feed(encode("x") + rest)
    assert (reader.pending, reader.pending_bytes) == (rest, len(rest))


def test_a_reader_that_does_not_expect_brief_frames_takes_them_for_nonsense() -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(encode_done("1-0", 1.0))


@pytest.mark.parametrize("data", [
    b"\xff\xff\xff\xff",
    (2**31 + 7).to_bytes(4, "big"),
    (2**31 + 9 + BRIEF_ID_BYTES).to_bytes(4, "big"),
    encode_done("1-0", 1.0)[:-3] + b"\xff\xff\xff",
])
def test_brief_frames_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader(brief=True).feed(data)
