"""
The settings in effect as rows: key, value as a person would write it, and where it came from.

Rule: secrets leave as ``***``. Keys that this version does not act on are not effective and left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.config.build import key_of, written
from pbus.config.load import Loaded
from pbus.config.tree import KeyPath, Tree, dotted

DEFAULT: Final = "default"
MASK: Final = "***"

_SECRET_NAME: Final = re.compile(r"auth|cookie|key|token|secret|pass|pwd|credential", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@")
"""``mysql://user:password@host``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One key in effect; *origin* is a file, or ``default``."""

    key: str
    value: Any
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Every key in effect, in the order of the schema, names in the order of the files."""
    return list(rows_of(loaded.settings, (), loaded.tree))


def rows_of(section: Any, path: KeyPath, tree: Tree) -> Iterator[Row]:
    """Every key of *section*, which stands at *path*."""
    for field in dataclasses.fields(section):
        meta, value = field.metadata, getattr(section, field.name)
        here = (*path, key_of(field))
        if meta["later"] or value is None:
            continue
        if meta["kind"] == "table":
            yield from rows_of(value, here, tree)
        elif meta["kind"] == "tables":
            for name, nested in value.items():
                yield from rows_of(nested, (*here, name), tree)
        elif meta["kind"] == "params":
            yield from rows_of_params(value, here, tree, secret=meta["secret"])
        else:
            yield row(meta, value, here, tree)


def row(meta: Mapping[str, Any], value: Any, path: KeyPath, tree: Tree) -> Row:
    """One key that is no table, as its field describes it."""
    if meta["secret"]:
        # It may have come by password_file or inside a URL: the file of its table is the answer.
        origin = tree.file_of(path) if value else DEFAULT
        return Row(dotted(path), MASK if value else "", origin)
    return Row(dotted(path), written(meta["kind"], value), _origin(path, tree))


def _origin(path: KeyPath, tree: Tree) -> str:
    """The file of a key; of a table written as one value (``concurrency = 4``), the file of that."""
    table: Any = tree.values
    for key in path[:-1]:
        table = table.get(key, {})
        if not isinstance(table, Mapping):
            return tree.origin.get(path[:-1], DEFAULT)
    return tree.origin.get(path, DEFAULT)


def is_credential(name: str, value: str) -> bool:
    """Whether a header or a parameter looks like one that must not be shown."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))


def rows_of_params(params: Mapping[str, str], path: KeyPath, tree: Tree, *, secret: bool = False) -> Iterator[Row]:
    """Headers and the like often carry credentials: what looks like one, or came from the environment, is masked."""
    for name, value in params.items():
        here = (*path, name)
        hidden = secret or here in tree.from_environment or is_credential(name, value)
        yield Row(dotted(here), MASK if hidden else value, tree.origin.get(here, DEFAULT))
