"""What each program has in hand: survives whoever wrote it, counts for one life of one process."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.core.names import Owner
from pbus.supervisor.handed import NAME, ROW_BYTES, Hand, Handed

OWNER = Owner("bus-1", "b7", 3, 12)
NAME_OF_NODE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


def test_what_was_given_is_read_by_others(tmp_path: Path) -> None:
    ours, theirs = Handed(str(tmp_path)), Handed(str(tmp_path))

    assert ours.give(OWNER, "1700000000000-1", 12.345)

    assert theirs.read(OWNER) == Hand("1700000000000-1", 12.345)
    ours.close()
    theirs.close()


def test_nothing_was_given_to_anybody_else(tmp_path: Path) -> None:
    handed = Handed(str(tmp_path))
    handed.give(OWNER, "1700000000000-1", 1.0)

    for other in (Owner("bus-1", "b7", 3, 13), Owner("bus-1", "b8", 3, 12), Owner("bus-1", "b7", 4, 12)):
        assert handed.read(other) is None
    handed.close()


def test_what_was_taken_is_gone_and_a_later_job_counts(tmp_path: Path) -> None:
    handed = Handed(str(tmp_path))
    handed.give(OWNER, "1-1", 1.0)
    handed.take(OWNER)
    assert handed.read(OWNER) is None

    handed.give(OWNER, "1-2", 2.0)
    handed.take(Owner("bus-1", "b7", 3, 11))          # somebody who lived there before

    assert handed.read(OWNER) == Hand("1-2", 2.0)
    handed.close()


def test_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    handed = Handed(str(tmp_path / "nowhere"))

    assert not handed.give(OWNER, "1-1", 1.0)
    assert handed.read(OWNER) is None
    handed.take(OWNER)
    handed.close()


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=2 * ROW_BYTES), place=st.integers(0, ROW_BYTES))
def test_rows_of_junk_mean_nothing(tmp_path_factory: object, junk: bytes, place: int) -> None:
    """Whatever is in the file, it is what was given or nothing."""
    folder = tmp_path_factory.mktemp("junk", numbered=True)  # type: ignore[attr-defined]
    handed = Handed(str(folder))
    handed.give(OWNER, "1-1", 1.0)
    fd = os.open(folder / NAME, os.O_WRONLY)
    os.pwrite(fd, junk, OWNER.slot * ROW_BYTES + place)
    os.close(fd)

    assert handed.read(OWNER) in (None, Hand("1-1", 1.0))
    handed.close()


@settings(max_examples=100, deadline=None)
@given(
    node=st.from_regex(NAME_OF_NODE, fullmatch=True), boot=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    slot=st.integers(0, 4096), n=st.integers(1, 2**40), ms=st.integers(0, 10**14 - 1), seq=st.integers(0, 10**20 - 1),
    since_ms=st.integers(0, 10**12),
)
def test_any_owner_and_any_job_fit_into_a_row(
    tmp_path_factory: object, node: str, boot: str, slot: int, n: int, ms: int, seq: int, since_ms: int
) -> None:
    handed = Handed(str(tmp_path_factory.mktemp("any", numbered=True)))  # type: ignore[attr-defined]
    owner = Owner(node, boot, slot, n)

    assert handed.give(owner, f"{ms}-{seq}", since_ms / 1000)

    assert handed.read(owner) == Hand(f"{ms}-{seq}", since_ms / 1000)
    handed.close()


def test_who_only_reads_makes_no_file_that_others_could_not_write(tmp_path: Path) -> None:
    reader, writer = Handed(str(tmp_path)), Handed(str(tmp_path))

    assert reader.read(OWNER) is None
    assert not (tmp_path / NAME).exists()

    assert writer.give(OWNER, "1700000000000-1", 1.0)
    assert reader.read(OWNER) == Hand("1700000000000-1", 1.0)
    reader.close()
    writer.close()
