"""
What a bus that runs cannot take over from changed files: keys whose effect is ``restart`` keep the value they have.

Rule: of what is new nothing stands yet, so a new storage or queue is taken as it is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pbus.config.build import key_of
from pbus.config.schema import Settings
from pbus.config.tree import KeyPath, dotted


def keep_standing(settings: Settings, running: Settings) -> tuple[Settings, tuple[str, ...]]:
    """
    *settings* as far as a bus of *running* can take them over.

    Returns:
        The settings, and the keys that wait for a restart.
    """
    waiting: list[KeyPath] = []
    kept: Settings = _section(settings, running, (), waiting)
    # A queue that stays where it is needs its storage, whatever the files say of that.
    used = {queue.storage for queue in kept.queue.values()}
    gone = {name: storage for name, storage in running.storage.items() if name in used and name not in kept.storage}
    waiting += [("storage", name) for name in gone]
    kept = dataclasses.replace(kept, storage={**kept.storage, **gone})
    if ("node", "data_dir") in waiting:  # their files are told from it
        waiting = [path for path in waiting if path[0] != "storage"]
    return kept, tuple(dotted(path) for path in waiting)


def _section(now: Any, before: Any, path: KeyPath, waiting: list[KeyPath]) -> Any:
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(now):
        meta, value, old = field.metadata, getattr(now, field.name), getattr(before, field.name)
        if value == old:
            continue
        here = (*path, key_of(field))
        if meta["effect"] == "restart":
            waiting.append(here)
            changed[field.name] = old
        elif dataclasses.is_dataclass(value) and dataclasses.is_dataclass(old):
            changed[field.name] = _section(value, old, here, waiting)
        elif meta["kind"] == "tables" and isinstance(value, Mapping):
            changed[field.name] = {
                name: _section(each, old[name], (*here, name), waiting) if name in old else each
                for name, each in value.items()
            }
    return dataclasses.replace(now, **changed) if changed else now
