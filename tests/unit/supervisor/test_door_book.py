"""What all ingest children refused, and who failed to prove who they are."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.door_book import KEPT_S, LISTED, RECENT_S, ROWS, DoorBook


def told(*failed: tuple[str, str, str, int], **counts: dict[str, int]) -> dict[str, Any]:
    return {"kind": "door", "failed": [list(row) for row in failed], **counts}


def test_counts_of_all_children_are_added_up() -> None:
    book = DoorBook(FakeClock())
    book.heard(told(refused={"NOAUTH": 2}, closed={"garbage": 1}, limited={}))
    book.heard(told(refused={"NOAUTH": 1, "ERR": 1}, closed={}, limited={"bulk": 1}))

    view = book.view()
    assert view == {
        "refused": {"ERR": 1, "NOAUTH": 3}, "closed": {"garbage": 1}, "limited": {"bulk": 1}, "failed_auths": [],
    }


def test_failures_of_an_address_at_an_identity_are_one_row_and_the_latest_comes_first() -> None:
    clock = FakeClock()
    book = DoorBook(clock)
    book.heard(told(("10.0.0.7", "gift", "gift", 2)))
    clock.advance(5)
    book.heard(told(("10.0.0.8", "", "gitf", 1)))
    clock.advance(5)
    book.heard(told(("10.0.0.7", "gift", "gift", 1)))

    rows = book.view()["failed_auths"]
    assert [(row["address"], row["identity"], row["tried"], row["count"], row["recent"]) for row in rows] == [
        ("10.0.0.7", "gift", "gift", 3, 3), ("10.0.0.8", "", "gitf", 1, 1),
    ]
    assert rows[0]["last_ms"] == round(clock.wall_s() * 1000)


def test_recent_is_the_last_ten_minutes_and_an_hour_later_all_is_forgotten() -> None:
    clock = FakeClock()
    book = DoorBook(clock)
    book.heard(told(("a", "gift", "gift", 4)))
    clock.advance(RECENT_S / 2)
    book.heard(told(("a", "gift", "gift", 3)))
    clock.advance(RECENT_S / 2 + 60)
    assert [(row["count"], row["recent"]) for row in book.view()["failed_auths"]] == [(7, 3)]
    clock.advance(RECENT_S)
    assert [(row["count"], row["recent"]) for row in book.view()["failed_auths"]] == [(7, 0)]
    clock.advance(KEPT_S)
    assert book.view()["failed_auths"] == []


def test_memory_is_bounded_and_the_oldest_make_room() -> None:
    book = DoorBook(FakeClock())
    book.heard(told(*((f"10.0.{number >> 8}.{number & 255}", "gift", "gift", 1) for number in range(3 * ROWS))))

    assert len(book._failed) == ROWS
    rows = book.view()["failed_auths"]
    assert len(rows) == LISTED
    assert rows[0]["address"] == "10.0.2.255"


@pytest.mark.parametrize("frame", [{"failed": [["a"]]}, {"refused": {"x": "many"}}, {"refused": 3}])
def test_frame_that_makes_no_sense_is_an_error_that_the_relay_knows(frame: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        DoorBook(FakeClock()).heard({"kind": "door", **frame})
