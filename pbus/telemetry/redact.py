"""
What must not get into a log: secrets by the name of their key and by their known value, and bodies.

Rule: it is better to hide too much than too little; what is hidden leaves a mark.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pbus.core.mask import HIDDEN, SECRET_NAME

_BODY_KEY: Final = re.compile(r"^(body|bodies|content|payload|argv|params)$", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s\"']*@")
_SHORT: Final = 6
"""Shorter secrets are hidden as whole words only, else a password ``on`` would blacken half a line."""

_DEPTH: Final = 6


def secrets_of(settings: Any) -> list[str]:
    """Every value of a field that is marked ``secret`` in a tree of dataclasses and mappings."""
    return sorted(set(_secrets(settings)))


def _secrets(node: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if field.metadata.get("secret"):
                texts = value.values() if isinstance(value, Mapping) else (value,)
                yield from (line for text in texts if isinstance(text, str) for line in text.splitlines())
            else:
                yield from _secrets(value)
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _secrets(value)


class Redactor:
    """
    Hides secrets in the values of a log line.

    Args:
        secrets: Values that must never be seen, wherever they turn up inside a text.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._known = re.compile("|".join(_literal(secret) for secret in known)) if known else None
        self._keys: dict[str, str] = {}

    def text(self, text: str) -> str:
        """*text* without known secrets and without ``user:password@`` in addresses."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        if "://" in text:
            text = _USERINFO.sub(HIDDEN + "@", text)
        return text

    def value(self, key: str, value: Any, depth: int = 0) -> Any:
        """
        *value* as it may be written under *key*; containers are copied.

        Bytes never get through (they are job data): their length does.
        """
        kind = self._kind(key)
        if kind == "secret" and value not in (None, "", False, True):
            return HIDDEN
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if kind == "body" and isinstance(value, str | list | tuple | dict):
            return f"<{len(value)} hidden>"
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth >= _DEPTH:
            return "<deep>"
        if isinstance(value, Mapping):
            return {str(inner): self.value(str(inner), item, depth + 1) for inner, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(key, item, depth + 1) for item in value]
        return self.text(str(value))

    def _kind(self, key: str) -> str:
        """``secret``, ``body`` or empty; remembered, because the same few keys come again and again."""
        kind = self._keys.get(key)
        if kind is None:
            kind = "secret" if SECRET_NAME.search(key) else "body" if _BODY_KEY.match(key) else ""
            if len(self._keys) < 1000:
                self._keys[key] = kind
        return kind


def _literal(secret: str) -> str:
    pattern = re.escape(secret)
    return pattern if len(secret) >= _SHORT else rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])"
