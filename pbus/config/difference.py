"""
What has changed between two configurations, key by key, for people.

    + gift.toml: queue.gift.topic.credit.timeout: 5s
    ~ gift.toml: queue.gift.topic.credit.timeout: 60s -> 5s
    - gift.toml: queue.gift.topic.credit.timeout: 5s

Rule: one side is what a bus runs, kept as one text of bytes; secrets are in it as marks that tell only whether they
are the same, and are shown as ``***``.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.config.effective import DEFAULT, MASK, rows
from pbus.config.load import Loaded

ADDED: Final = "+"
CHANGED: Final = "~"
REMOVED: Final = "-"

_SALT_BYTES: Final = 16

Facts = Mapping[str, tuple[str, str]]
"""Key -> (value as text, file)."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    One key that is not what it was.

    Attributes:
        sign: ``+`` it was not set, ``~`` it has another value, ``-`` it is not set any more.
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


def pack(loaded: Loaded, like: bytes = b"") -> bytes:
    """Every key in effect, small; *like* is one that it will be compared with."""
    salt = like[:_SALT_BYTES] or os.urandom(_SALT_BYTES)

    def mark(value: Any) -> str:
        return MASK + hashlib.blake2b(repr(value).encode(), key=salt, digest_size=12).hexdigest()

    found = [[row.key, _text(row.value), row.origin] for row in rows(loaded, mark)]
    return salt + zlib.compress(json.dumps(found, separators=(",", ":")).encode(), 1)


def changes(before: bytes, now: bytes) -> list[Change]:
    """
    From *before* to *now*, both of ``pack``, the second made ``like`` the first; by key.

    What a table has only by default is not worth a line when the table itself is new or gone.
    """
    old, new = _unpack(before), _unpack(now)
    found = []
    for key in sorted(old.keys() | new.keys()):
        was, now_is = old.get(key), new.get(key)
        if was is not None and now_is is not None:
            if was[0] != now_is[0]:
                found.append(Change(CHANGED, _file(now_is[1], was[1]), key, _shown(was[0]), _shown(now_is[0])))
        elif now_is is not None and now_is[1] != DEFAULT:
            found.append(Change(ADDED, now_is[1], key, "", _shown(now_is[0])))
        elif was is not None and was[1] != DEFAULT:
            found.append(Change(REMOVED, was[1], key, _shown(was[0]), ""))
    return found


def _file(now: str, before: str) -> str:
    return before if now == DEFAULT else now


def _unpack(packed: bytes) -> Facts:
    if not packed:
        return {}
    return {key: (text, origin) for key, text, origin in json.loads(zlib.decompress(packed[_SALT_BYTES:]))}


def _shown(text: str) -> str:
    return MASK if text.startswith(MASK) else text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if value else '""'
    return json.dumps(value, ensure_ascii=False, default=str)
