"""
Keys of an embedded store: deliveries of one key never overlap within a topic and keep their order.

    meets the key     nobody holds it: it does from now on    somebody does: waiting    it rests: delayed, as holder
    the holder ends   the first that waits holds it, and is ready (again) or, when the key rests, delayed

Rule: whoever ends a delivery that has a key calls ``release``, in the same transaction. Nobody polls.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

import apsw

from pbus.storage.sqlite_catalog import CARRIED

_READ = "SELECT holder, rest_ms FROM keys WHERE tid = ? AND key = ?"
_HOLD = (
    "INSERT INTO keys VALUES (?, ?, ?, 0) "
    "ON CONFLICT (tid, key) DO UPDATE SET holder = excluded.holder, rest_ms = 0"
)
_REST = "UPDATE keys SET holder = 0, rest_ms = ? WHERE tid = ? AND key = ?"
_FREE = "DELETE FROM keys WHERE tid = ? AND key = ?"
_FIRST = "SELECT min(id) FROM waiting WHERE tid = ? AND key = ?"
_WAKE = f"INSERT INTO again (tid, {CARRIED}, fresh) SELECT tid, {CARRIED}, fresh FROM waiting WHERE tid = ? AND id = ?"
_WAKE_LATER = (
    f"INSERT INTO delayed (tid, {CARRIED}, fresh, due_ms) SELECT tid, {CARRIED}, fresh, ?3 "
    "FROM waiting WHERE tid = ?1 AND id = ?2"
)
_NO_LONGER_WAITS = "DELETE FROM waiting WHERE tid = ? AND id = ?"
_COUNT = "UPDATE topics SET waiting = waiting - ?, again = again + ?, delayed = delayed + ? WHERE tid = ?"


class Meeting(enum.Enum):
    """What a delivery finds that is about to be claimed."""

    MINE = enum.auto()
    HELD = enum.auto()
    RESTS = enum.auto()


def meet(db: apsw.Connection, tid: int, key: str, number: int, now_ms: int) -> tuple[Meeting, int]:
    """
    Delivery *number* wants its key; it holds it afterwards unless somebody else does.

    Returns:
        What it found, and until when the key rests (unix ms; 0 if it does not).
    """
    holder, rest_ms = db.execute(_READ, (tid, key)).get or (0, 0)
    if holder == number:
        return Meeting.MINE, 0
    if holder:
        return Meeting.HELD, 0
    db.execute(_HOLD, (tid, key, number))
    return (Meeting.RESTS, rest_ms) if rest_ms > now_ms else (Meeting.MINE, 0)


@dataclass(slots=True)
class Woken:
    """What ``release`` made of those that waited, per topic (tid)."""

    ready: dict[int, int] = field(default_factory=dict)
    delayed: dict[int, int] = field(default_factory=dict)


def release(
    db: apsw.Connection, ended: Iterable[tuple[int, str, int]], now_ms: int, rests_ms: dict[tuple[int, str], int]
) -> set[int]:
    """
    Hand on the keys of deliveries that have ended.

    Args:
        ended: (tid, key, id) of each; those that do not hold their key change nothing.
        now_ms: The store's time.
        rests_ms: How long the key (tid, key) rests before the next one; missing: not at all.

    Returns:
        Topics (tid) that have something ready by it.
    """
    woken = Woken()
    for tid, key, number in ended:
        holder = db.execute(_READ, (tid, key)).get
        if holder is not None and holder[0] == number:
            _hand_on(db, tid, key, now_ms, rests_ms.get((tid, key), 0), woken)
    for tid in woken.ready.keys() | woken.delayed.keys():
        ready, delayed = woken.ready.get(tid, 0), woken.delayed.get(tid, 0)
        db.execute(_COUNT, (ready + delayed, ready, delayed, tid))
    return set(woken.ready)


def _hand_on(db: apsw.Connection, tid: int, key: str, now_ms: int, rest_ms: int, woken: Woken) -> None:
    """The key goes to the first that waits for it, or to nobody."""
    number = db.execute(_FIRST, (tid, key)).get
    if number is None:
        if rest_ms:
            db.execute(_REST, (now_ms + rest_ms, tid, key))
        else:
            db.execute(_FREE, (tid, key))
        return
    if rest_ms:
        db.execute(_WAKE_LATER, (tid, number, now_ms + rest_ms))
        woken.delayed[tid] = woken.delayed.get(tid, 0) + 1
    else:
        db.execute(_WAKE, (tid, number))
        woken.ready[tid] = woken.ready.get(tid, 0) + 1
    db.execute(_NO_LONGER_WAITS, (tid, number))
    db.execute(_HOLD, (tid, key, number))
