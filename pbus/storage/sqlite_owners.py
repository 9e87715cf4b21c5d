"""
Who asks: owners of claims and their boots, as the embedded store numbers them.

Rule: functions here run inside a transaction that the driver opened (``glance``: a single statement).
Each is one statement however many owners a call names: every statement hands the interpreter lock
over to the other threads of the process, and waits to get it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from pbus.core.names import Owner
from pbus.errors import Conflict

GLANCE = (
    "SELECT (SELECT catalog FROM pulse), (SELECT group_concat(boot, ' ') FROM boots WHERE fenced), "
    "(SELECT group_concat(t.tid, ' ') FROM topics t JOIN queues q USING (qid) "
    "WHERE t.paused_ms = 0 AND (t.again > 0 OR t.cursor < q.last_id))"
)
_ONE = (
    "SELECT oid, (SELECT catalog FROM pulse), (SELECT fenced FROM boots b WHERE b.boot = o.boot) "
    "FROM owners o WHERE name = ?"
)
_OWN = "SELECT oid, batch, answer, (SELECT fenced FROM boots b WHERE b.boot = o.boot) FROM owners o WHERE name = ?"
_FENCED = "SELECT json_group_array(boot) FROM boots WHERE fenced AND boot IN (SELECT value FROM json_each(?))"
_KNOWN = (
    "SELECT (SELECT json_group_object(name, oid) FROM owners WHERE name IN (SELECT value FROM json_each(?1))), "
    f"({_FENCED.replace('?', '?2')}), (SELECT catalog FROM pulse)"
)
_NEW = "INSERT INTO owners (name, boot) VALUES (?, ?) RETURNING oid"


class Glance(NamedTuple):
    """What a claimer must know before it asks for a turn to write: ``GLANCE``, read."""

    catalog: int
    fenced: list[str]
    ready: set[int]

    @classmethod
    def of(cls, row: Any) -> Glance:
        """From the row of the statement."""
        catalog, fenced, ready = row
        return cls(catalog, fenced.split(" ") if fenced else [], set(map(int, ready.split(" "))) if ready else set())


@dataclass(slots=True)
class OwnerRow:
    """A holder of claims, and its last append with the answer to it (see ``sqlite_log``)."""

    oid: int
    batch: int = 0
    answer: str = ""


def pushing(db: apsw.Connection, name: str) -> OwnerRow:
    """
    The row of an owner, made when it is new.

    Raises:
        Conflict: its boot was fenced.
    """
    row: Any = db.execute(_OWN, (name,)).get
    if row is None:
        refuse_fenced(db, [name])
        return OwnerRow(_make(db, name))
    *own, fenced = row
    if fenced:
        raise _fenced(_boot(name))
    return OwnerRow(*own)


def claiming(db: apsw.Connection, names: Iterable[str]) -> tuple[dict[str, int], int]:
    """
    Numbers of owners, made for those that are new, and the version of the store's catalog.

    Raises:
        Conflict: the boot of one of them was fenced.
    """
    known, version = settling(db, names)
    return {name: known[name] if name in known else _make(db, name) for name in names}, version


def settling(db: apsw.Connection, names: Iterable[str], *, dead: bool = False) -> tuple[dict[str, int], int]:
    """
    Numbers of those owners that the store knows, and the version of its catalog.

    Args:
        dead: Somebody ends the claims of a dead owner: its boot may be fenced.

    Raises:
        Conflict: the boot of one of them was fenced.
    """
    names = list(names)
    if len(names) == 1:
        one: Any = db.execute(_ONE, names).get
        if one is not None and (dead or not one[2]):
            return {names[0]: one[0]}, one[1]
    found, fenced, version = db.execute(_KNOWN, (json.dumps(names), json.dumps(_boots(names)))).get
    if fenced != "[]" and not dead:
        raise _fenced(json.loads(fenced)[0])
    known: dict[str, int] = json.loads(found)
    return known, version


def refuse_fenced(db: apsw.Connection, names: Iterable[str]) -> None:
    """
    Raises:
        Conflict: the boot of one of these owners was fenced.
    """
    fenced = db.execute(_FENCED, (json.dumps(_boots(names)),)).get
    if fenced != "[]":
        raise _fenced(json.loads(fenced)[0])


def refuse_these(names: Iterable[str], fenced: Iterable[str]) -> None:
    """
    Raises:
        Conflict: the boot of one of *names* is in *fenced*.
    """
    for boot in set(fenced).intersection(_boots(names)):
        raise _fenced(boot)


def beat(db: apsw.Connection, node: str, boot: str) -> None:
    """See ``Driver.beat``."""
    fenced = db.execute(
        "INSERT INTO boots (boot, node, beat) VALUES (?, ?, 1) ON CONFLICT (boot) DO UPDATE "
        "SET beat = beat + 1, node = excluded.node RETURNING fenced", (boot, node),
    ).get
    if fenced:
        raise _fenced(boot)


def fence(db: apsw.Connection, boot: str) -> None:
    """See ``Driver.fence``."""
    db.execute(
        "INSERT INTO boots (boot, node, beat, fenced) VALUES (?, '', 0, 1) "
        "ON CONFLICT (boot) DO UPDATE SET fenced = 1", (boot,),
    )


def forget(db: apsw.Connection, boot: str) -> None:
    """See ``Driver.forget``."""
    db.execute("DELETE FROM owners WHERE boot = ? AND oid NOT IN (SELECT oid FROM claims)", (boot,))
    db.execute("DELETE FROM boots WHERE boot = ?1 AND ?1 NOT IN (SELECT boot FROM owners)", (boot,))


def _make(db: apsw.Connection, name: str) -> int:
    oid: int = db.execute(_NEW, (name, _boot(name))).get
    return oid


def _fenced(boot: str) -> Conflict:
    return Conflict(f"boot {boot} was declared dead; nothing was done for it")


def _boots(names: Iterable[str]) -> list[str]:
    return sorted({_boot(name) for name in names})


def _boot(owner: str) -> str:
    return Owner.parse(owner).boot
