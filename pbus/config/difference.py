"""
What has changed between two configurations, key by key, for people.

    + gift.toml: queue.gift.topic.credit.timeout: 5s
    ~ gift.toml: queue.gift.topic.credit.timeout: 1m -> 5s
    - gift.toml: queue.gift.topic.credit.timeout: 5s

Rule: both trees are walked at once and only where they differ, so that a thousand topics of which one has changed cost
what one costs. Secrets are compared, and shown as ``***``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.config import effective
from pbus.config.build import key_of
from pbus.config.effective import DEFAULT, Row
from pbus.config.load import Loaded
from pbus.config.tree import KeyPath, Tree, dotted

ADDED: Final = "+"
CHANGED: Final = "~"
REMOVED: Final = "-"


@dataclass(frozen=True, slots=True)
class Change:
    """
    One key that is not what it was.

    Attributes:
        sign: ``+`` it is set now, ``~`` it has another value, ``-`` it is not set any more.
        file: That says so now (``-``: that said so).
        key: Dotted.
        old, new: As a person would write them; empty where there is none.
    """

    sign: str
    file: str
    key: str
    old: str
    new: str

    def __str__(self) -> str:
        value = f"{self.old} -> {self.new}" if self.sign == CHANGED else self.old or self.new
        return f"{self.sign} {self.file}: {self.key}: {value}"


def changes(before: Loaded, after: Loaded) -> list[Change]:
    """
    From *before* to *after*, in the order of the schema.

    What a table has only by default is not worth a line where the table itself is new or gone.
    """
    return list(_section(before.settings, after.settings, (), before.tree, after.tree))


def touched(before: Loaded, after: Loaded) -> tuple[str, ...]:
    """Paths of the topics that differ, by themselves or in what their queue says; new and gone ones, too."""
    old, new = before.settings.queue, after.settings.queue
    found: list[str] = []
    for name in old.keys() | new.keys():
        if old.get(name) == new.get(name):
            continue
        topics = [queues[name].topic if name in queues else {} for queues in (old, new)]
        alone = [dataclasses.replace(queues[name], topic={}) if name in queues else None for queues in (old, new)]
        all_of_it = None not in alone and alone[0] != alone[1]
        found += [
            f"{name}/{topic}" for topic in topics[0].keys() | topics[1].keys()
            if all_of_it or topics[0].get(topic) != topics[1].get(topic)
        ]
    return tuple(sorted(found))


def _section(old: Any, new: Any, path: KeyPath, before: Tree, after: Tree) -> Iterator[Change]:
    for field in dataclasses.fields(new):
        meta, was, now = field.metadata, getattr(old, field.name), getattr(new, field.name)
        here = (*path, key_of(field))
        if meta["later"] or was == now:
            continue
        if meta["kind"] == "tables":
            for name in [*now, *(name for name in was if name not in now)]:
                yield from _table(was.get(name), now.get(name), (*here, name), before, after)
        elif meta["kind"] == "table":
            yield from _table(was, now, here, before, after)
        elif meta["kind"] == "params":
            yield from _params(was, now, here, before, after, secret=meta["secret"])
        else:
            yield from _leaf(meta, was, now, here, before, after)


def _table(was: Any, now: Any, path: KeyPath, before: Tree, after: Tree) -> Iterator[Change]:
    """One table; None: it is not there."""
    if was is not None and now is not None:
        if was != now:
            yield from _section(was, now, path, before, after)
    elif now is not None:
        yield from (_one(ADDED, row) for row in _written(now, path, after))
    elif was is not None:
        yield from (_one(REMOVED, row) for row in _written(was, path, before))


def _written(section: Any, path: KeyPath, tree: Tree) -> Iterator[Row]:
    """Every key of *section* that a file says, and every table of which it says nothing but that it is there."""
    yield from (row for row in effective.rows_of(section, path, tree) if row.origin != DEFAULT)
    table: Any = tree.values
    for key in path:
        table = table.get(key, {})
    yield from (Row(dotted(empty), "{}", tree.file_of(empty)) for empty in _empty(table, path))


def _empty(table: Mapping[str, Any], path: KeyPath) -> Iterator[KeyPath]:
    if not table:
        yield path
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _empty(value, (*path, key))


def _leaf(
    meta: Mapping[str, Any], was: Any, now: Any, path: KeyPath, before: Tree, after: Tree
) -> Iterator[Change]:
    if was is None or now is None:
        row = effective.row(meta, was if now is None else now, path, before if now is None else after)
        yield _one(REMOVED if now is None else ADDED, row)
        return
    old, new = effective.row(meta, was, path, before), effective.row(meta, now, path, after)
    file = old.origin if new.origin == DEFAULT else new.origin
    yield Change(CHANGED, file, new.key, _text(old.value), _text(new.value))


def _params(
    was: Any, now: Any, path: KeyPath, before: Tree, after: Tree, *, secret: bool = False
) -> Iterator[Change]:
    old = {row.key: row for row in effective.rows_of_params(was, path, before, secret=secret)}
    new = {row.key: row for row in effective.rows_of_params(now, path, after, secret=secret)}
    for name in [*now, *(name for name in was if name not in now)]:
        key = dotted((*path, name))
        if name not in was:
            yield _one(ADDED, new[key])
        elif name not in now:
            yield _one(REMOVED, old[key])
        elif was[name] != now[name]:
            yield Change(CHANGED, new[key].origin, key, _text(old[key].value), _text(new[key].value))


def _one(sign: str, row: Row) -> Change:
    text = _text(row.value)
    return Change(sign, row.origin, row.key, text if sign == REMOVED else "", text if sign == ADDED else "")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if value else '""'
    return json.dumps(value, ensure_ascii=False, default=str)

