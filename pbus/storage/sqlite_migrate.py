"""
The format of an embedded store's file: making a new one, bringing an older one up to date.

Rule: one transaction, by whoever opens the file first on this node: a start that is killed in the
middle of it leaves the file as it was. There is no way back but a copy.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import apsw

from pbus.storage.sqlite_catalog import make_log

APPLICATION_ID: Final = 0x70627573      # "pbus"
VERSION: Final = 2
OLDEST: Final = 1
"""The oldest format that ``migrate`` reads."""


def make(db: apsw.Connection) -> None:
    """The schema in an empty file."""
    with db:
        _run(db, "schema")
        _stamp(db)


def migrate(db: apsw.Connection) -> None:
    """Format 1 to 2."""
    with db:
        for name in ("before_2", "schema", "after_2"):
            _run(db, name)
        queues: list[Any] = db.execute("SELECT qid FROM queues").fetchall()
        for (qid,) in queues:
            _migrate_log(db, qid)
        _stamp(db)


def add_columns(db: apsw.Connection) -> None:
    """What came to format 2 later; whoever does not know it is not disturbed by it."""
    if not db.execute("SELECT EXISTS (SELECT 1 FROM pragma_table_info('topics') WHERE name = 'sample')").get:
        db.execute("ALTER TABLE topics ADD COLUMN sample INTEGER NOT NULL DEFAULT 0")


def _migrate_log(db: apsw.Connection, qid: int) -> None:
    """The columns of a log that format 1 had not, and what it knows about bytes."""
    for column in ("due_ms INTEGER", "expires_ms INTEGER", "key TEXT"):
        db.execute(f"ALTER TABLE log_{qid} ADD COLUMN {column}")
    make_log(db, qid)
    db.execute(
        f"UPDATE queues SET trimmed_bytes = coalesce((SELECT upto - length(body) FROM log_{qid} ORDER BY id LIMIT 1), "
        "pushed_bytes) WHERE qid = ?", (qid,),
    )
    db.execute(
        f"UPDATE topics AS t SET taken_bytes = coalesce((SELECT upto FROM log_{qid} WHERE id <= t.cursor "
        "ORDER BY id DESC LIMIT 1), (SELECT trimmed_bytes FROM queues WHERE qid = t.qid)) WHERE qid = ?", (qid,),
    )


def _run(db: apsw.Connection, name: str) -> None:
    db.execute(files("pbus.storage").joinpath(f"sql/{name}.sql").read_text("utf-8"))


def _stamp(db: apsw.Connection) -> None:
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", VERSION)
