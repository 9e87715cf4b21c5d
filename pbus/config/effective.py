"""
The settings in effect as rows: key, value as a person would write it, and where it came from.

Rule: secrets leave as ``***``. Keys that this version does not act on are not effective and left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
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


Hide = Callable[[Any], str]
"""What stands for a secret."""


def masked(_: Any) -> str:
    """Nothing of a secret is told."""
    return MASK


def rows(loaded: Loaded, hide: Hide = masked) -> list[Row]:
    """Every key in effect, in the order of the schema, names in the order of the files."""
    return list(_section(loaded.settings, (), loaded.tree, hide))


def _section(section: Any, path: KeyPath, tree: Tree, hide: Hide) -> Iterator[Row]:
    for field in dataclasses.fields(section):
        meta, value = field.metadata, getattr(section, field.name)
        here = (*path, key_of(field))
        if meta["later"] or value is None:
            continue
        if meta["kind"] == "table":
            yield from _section(value, here, tree, hide)
        elif meta["kind"] == "tables":
            for name, nested in value.items():
                yield from _section(nested, (*here, name), tree, hide)
        elif meta["kind"] == "params":
            yield from _params(value, here, tree, hide)
        else:
            yield _row(meta, value, here, tree, hide)


def _row(meta: Mapping[str, Any], value: Any, path: KeyPath, tree: Tree, hide: Hide) -> Row:
    if meta["secret"]:
        # It may have come by password_file or inside a URL: the file of its table is the answer.
        origin = tree.file_of(path) if value else DEFAULT
        return Row(dotted(path), hide(value) if value else "", origin)
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


def _params(params: Mapping[str, str], path: KeyPath, tree: Tree, hide: Hide) -> Iterator[Row]:
    """Headers and the like often carry credentials: what looks like one, or came from the environment, is masked."""
    for name, value in params.items():
        here = (*path, name)
        hidden = here in tree.from_environment or is_credential(name, value)
        yield Row(dotted(here), hide(value) if hidden else value, tree.origin.get(here, DEFAULT))
