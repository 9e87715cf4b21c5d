"""
What a bus that runs cannot take over from changed files: keys whose effect is ``restart`` keep the value they have.

Rule: of what is new nothing stands yet, so a new storage or queue is taken as it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
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


def standing(settings: Settings) -> dict[str, str]:
    """Key -> digest of its value, of all that only a restart takes over; for a bus of another version to compare."""
    return dict(_standing(settings, ()))


def differences(settings: Settings, before: Mapping[str, str]) -> list[str]:
    """Keys that are in both and have another value in *settings* than ``standing`` has said."""
    return sorted(key for key, digest in standing(settings).items() if before.get(key, digest) != digest)


def _standing(now: Any, path: KeyPath) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(now):
        meta, value, here = field.metadata, getattr(now, field.name), (*path, key_of(field))
        if meta["effect"] == "restart":
            yield dotted(here), hashlib.sha256(repr(value).encode()).hexdigest()
        elif dataclasses.is_dataclass(value):
            yield from _standing(value, here)
        elif meta["kind"] == "tables" and isinstance(value, Mapping):
            for name, each in value.items():
                yield from _standing(each, (*here, name))
