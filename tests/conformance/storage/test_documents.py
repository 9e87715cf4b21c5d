"""Documents: written by whoever saw them last, one over all processes, there after a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pbus.errors import StorageError, StoreFull
from pbus.storage import documents as bounds
from pbus.storage import redis_scripts, sqlite_documents
from pbus.storage.documents import Document
from tests.conformance.storage.world import World, gift


def test_what_was_written_is_read_in_the_order_of_names(world: World) -> None:
    first = world.store.write_document("alarm", "b", "two\n\x00: ü", 0)
    second = world.store.write_document("alarm", "a", "one", 0)
    other = world.store.write_document("silence", "a", "", 0)

    assert 0 < first < second
    found = [Document("alarm", "a", second, "one"), Document("alarm", "b", first, "two\n\x00: ü")]
    assert world.store.documents("alarm") == found
    assert world.store.documents("alarm", ["b", "nobody's", "", "b"]) == found[1:]
    assert world.store.documents("silence") == [Document("silence", "a", other, "")]
    assert world.store.documents("alarm", []) == world.store.documents("nobody's") == []


def test_only_who_saw_the_last_version_writes(world: World) -> None:
    other = world.driver(gift())
    first = world.store.write_document("alarm", "a", "1", 0)

    assert other.write_document("alarm", "a", "2", 0) == 0
    second = other.write_document("alarm", "a", "2", first)
    assert second > first
    assert world.store.write_document("alarm", "a", "3", first) == 0
    assert world.store.write_document("alarm", "a", "3", second + 1) == 0
    assert world.store.documents("alarm") == [Document("alarm", "a", second, "2")]


def test_one_of_several_that_saw_the_same_writes(world: World) -> None:
    drivers = [world.driver(gift()) for _ in range(4)] if world.name == "redis" else [world.store]

    def write(number: int) -> int:
        return drivers[number % len(drivers)].write_document("alarm", "a", "the same text", 0)

    if world.name == "redis":
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(write, range(16)))
    else:
        answers = list(map(write, range(16)))       # a driver of one thread
    assert len([answer for answer in answers if answer]) == 1


def test_a_version_never_comes_again(world: World) -> None:
    first = world.store.write_document("alarm", "a", "1", 0)
    assert not world.store.drop_document("alarm", "a", first + 1)
    assert world.store.drop_document("alarm", "a", first)
    assert not world.store.drop_document("alarm", "a", first)
    assert not world.store.drop_document("alarm", "a", 0)
    assert world.store.documents("alarm") == []

    assert world.store.write_document("alarm", "a", "1", first) == 0
    assert world.store.write_document("alarm", "a", "1", 0) > first


def test_nothing_is_dropped_where_nothing_ever_was(world: World) -> None:
    assert not world.store.drop_document("alarm", "a", 1)
    assert world.store.write_document("alarm", "a", "x", 7) == 0
    assert world.store.documents("alarm") == []


def test_documents_survive_a_restart_and_need_no_declaration(world: World) -> None:
    version = world.store.write_document("alarm", "a", "x", 0)
    world.reopen()

    assert world.driver().documents("alarm") == [Document("alarm", "a", version, "x")]


def test_the_longest_text_is_kept_and_a_longer_one_refused(world: World) -> None:
    longest = "ü" * (bounds.TEXT_BYTES // 2)
    assert world.store.write_document("alarm", "n" * bounds.NAME_BYTES, longest, 0)
    for kind, name, text in (
        ("alarm", "a", longest + "x"), ("alarm", "", "x"), ("alarm", "n" * (bounds.NAME_BYTES + 1), "x"),
        ("no kind", "a", "x"), ("alarm", "a", "\ud800"),
    ):
        with pytest.raises(StorageError):
            world.store.write_document(kind, name, text, 0)

    assert [one.text == longest for one in world.store.documents("alarm")] == [True]


def test_more_than_there_may_be_are_refused_and_those_there_are_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_scripts, "MOST", 3)
    monkeypatch.setattr(sqlite_documents, "MOST", 3)
    first, *_ = [world.store.write_document("alarm", name, "x", 0) for name in "abc"]

    with pytest.raises(StoreFull):
        world.store.write_document("alarm", "d", "x", 0)
    assert (again := world.store.write_document("alarm", "a", "y", first))
    assert world.store.drop_document("alarm", "a", again)
    assert world.store.write_document("alarm", "d", "x", 0)
