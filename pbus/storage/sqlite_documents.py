"""
Documents of an embedded store: a row each; the row number is the version and never comes again.

Rule: functions here run inside a transaction that the driver opened. The table is made by the first write, as that of
statistics is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import apsw

from pbus.storage.documents import MOST, Document, too_many

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS documents (version INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
    "name TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (kind, name)) STRICT"
)
_IS_THERE: Final = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'documents')"
_ALL: Final = "SELECT kind, name, version, text FROM documents WHERE kind = ? ORDER BY name"
_SOME: Final = (
    "SELECT d.kind, d.name, d.version, d.text FROM (SELECT DISTINCT value FROM json_each(?1)) names "
    "CROSS JOIN documents d ON d.kind = ?2 AND d.name = names.value ORDER BY d.name"
)


def read(db: apsw.Connection, kind: str, names: Sequence[str] | None) -> list[Document]:
    """See ``KeepsDocuments.documents``."""
    if not db.execute(_IS_THERE).get:
        return []
    rows: Any = db.execute(_ALL, (kind,)) if names is None else db.execute(_SOME, (json.dumps(list(names)), kind))
    return [Document(*row) for row in rows]


def write(db: apsw.Connection, kind: str, name: str, text: str, version: int) -> int:
    """See ``KeepsDocuments.write_document``."""
    db.execute(_TABLE)
    found = _version(db, kind, name)
    if found != version:
        return 0
    if not found and db.execute("SELECT count(*) FROM documents WHERE kind = ?", (kind,)).get >= MOST:
        raise too_many(kind)
    db.execute("INSERT OR REPLACE INTO documents (kind, name, text) VALUES (?, ?, ?)", (kind, name, text))
    return db.last_insert_rowid()


def drop(db: apsw.Connection, kind: str, name: str, version: int) -> bool:
    """See ``KeepsDocuments.drop_document``."""
    if not version or not db.execute(_IS_THERE).get or _version(db, kind, name) != version:
        return False
    db.execute("DELETE FROM documents WHERE version = ?", (version,))
    return True


def _version(db: apsw.Connection, kind: str, name: str) -> int:
    return db.execute("SELECT version FROM documents WHERE kind = ? AND name = ?", (kind, name)).get or 0
