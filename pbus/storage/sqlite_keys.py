"""
Keys of an embedded store: deliveries of one key never overlap within a topic and keep their order.

    meets the key     nobody holds it: it does from now on    somebody does: waiting    it rests: delayed, as holder
    the holder ends   the first that waits holds it, and is ready (again) or, when the key rests, delayed

Rule: whoever ends a delivery that has a key calls ``release``, in the same transaction. Nobody polls.
A call costs the same statements however many keys it is about.
"""

from __future__ import annotations

import collections
import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw

from pbus.storage.sqlite_catalog import CARRIED

_READ = (
    "SELECT json_group_array(json_array(key, holder, rest_ms)) FROM keys "
    "WHERE tid = ?1 AND key IN (SELECT value FROM json_each(?2))"
)
_HOLD = "INSERT OR REPLACE INTO keys SELECT ?1, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2)"
_REST = "UPDATE keys SET holder = 0, rest_ms = ? WHERE tid = ? AND key = ?"
_FREE = "DELETE FROM keys WHERE tid = ?1 AND key IN (SELECT value FROM json_each(?2))"
_HELD_BY_THESE = (
    "SELECT json_group_array(json_array(k.key, "
    "coalesce((SELECT min(w.id) FROM waiting w WHERE w.tid = ?1 AND w.key = k.key), 0), k.rest_ms)) "
    "FROM json_each(?2) p CROSS JOIN keys k ON k.tid = ?1 AND k.key = p.value ->> 0 AND k.holder = p.value ->> 1"
)
_THESE = "tid = ?1 AND id IN (SELECT value FROM json_each(?2))"
_WAKE = f"INSERT INTO again (tid, {CARRIED}, fresh) SELECT tid, {CARRIED}, fresh FROM waiting WHERE {_THESE}"
_WAKE_LATER = (
    f"INSERT INTO delayed (tid, {CARRIED}, fresh, due_ms) SELECT tid, {CARRIED}, fresh, ?3 "
    "FROM waiting WHERE tid = ?1 AND id = ?2"
)
_NO_LONGER_WAIT = f"DELETE FROM waiting WHERE {_THESE}"
_COUNT = "UPDATE topics SET waiting = waiting - ?, again = again + ?, delayed = delayed + ? WHERE tid = ?"

Ended = tuple[int, str, int]
"""Topic (tid), key and id of a delivery that has ended."""


class Meeting(enum.Enum):
    """What a delivery finds that is about to be claimed."""

    MINE = enum.auto()
    HELD = enum.auto()
    RESTS = enum.auto()


def meet(
    db: apsw.Connection, tid: int, wanted: Sequence[tuple[str, int]], now_ms: int
) -> dict[int, tuple[Meeting, int]]:
    """
    Deliveries (key, id) want their keys, in this order; each holds it afterwards unless somebody else does.

    Returns:
        Per id what it found, and until when the key rests (unix ms; 0 if it does not).
    """
    if not wanted:
        return {}
    known = json.loads(db.execute(_READ, (tid, json.dumps([key for key, _ in wanted]))).get)
    held = {key: (holder, rest_ms) for key, holder, rest_ms in known}
    found: dict[int, tuple[Meeting, int]] = {}
    holds: list[tuple[str, int, int]] = []
    for key, number in wanted:
        holder, rest_ms = held.get(key, (0, 0))
        if holder == number:
            found[number] = (Meeting.MINE, 0)
        elif holder:
            found[number] = (Meeting.HELD, 0)
        else:
            found[number] = (Meeting.RESTS, rest_ms) if rest_ms > now_ms else (Meeting.MINE, 0)
            held[key] = (number, 0)
            holds.append((key, number, rest_ms))  # a rest outlives whoever waits for its end
    if holds:
        db.execute(_HOLD, (tid, json.dumps(holds)))
    return found


def release(
    db: apsw.Connection, ended: Iterable[Ended], now_ms: int, rests_ms: Mapping[tuple[int, str], int]
) -> set[int]:
    """
    Hand on the keys of deliveries that have ended.

    Args:
        ended: Those that do not hold their key change nothing.
        now_ms: The store's time.
        rests_ms: How long the key (tid, key) rests before the next one; missing: not at all.

    Returns:
        Topics (tid) that have something ready by it.
    """
    by_topic: dict[int, list[tuple[str, int]]] = collections.defaultdict(list)
    for tid, key, number in ended:
        by_topic[tid].append((key, number))
    return {tid for tid, pairs in by_topic.items() if _hand_on(db, tid, pairs, now_ms, rests_ms)}


def _hand_on(
    db: apsw.Connection, tid: int, pairs: Sequence[tuple[str, int]], now_ms: int,
    rests_ms: Mapping[tuple[int, str], int],
) -> bool:
    """Keys of one topic go to the first that waits for each, or to nobody; whether one of those is ready now."""
    held: list[Any] = json.loads(db.execute(_HELD_BY_THESE, (tid, json.dumps(pairs))).get)
    # A rest goes on when the one that waited for its end is cancelled.
    ends_ms = {key: max(rest_ms, now_ms + rests_ms.get((tid, key), 0)) for key, _, rest_ms in held}
    rested_ms = {key: end_ms for key, end_ms in ends_ms.items() if end_ms > now_ms}
    free = [key for key, following, _ in held if not following and key not in rested_ms]
    woken = [(key, following, rested_ms.get(key, 0)) for key, following, _ in held if following]
    ready = [following for _, following, end_ms in woken if not end_ms]
    for key, following, _ in held:
        if key in rested_ms:
            if following:
                db.execute(_WAKE_LATER, (tid, following, rested_ms[key]))
            else:
                db.execute(_REST, (rested_ms[key], tid, key))
    if free:
        db.execute(_FREE, (tid, json.dumps(free)))
    if woken:
        db.execute(_WAKE, (tid, json.dumps(ready)))
        db.execute(_NO_LONGER_WAIT, (tid, json.dumps([following for _, following, _ in woken])))
        db.execute(_HOLD, (tid, json.dumps(woken)))
        db.execute(_COUNT, (len(woken), len(ready), len(woken) - len(ready), tid))
    return bool(ready)
