"""What a client sent, as it may stand in an answer or in the log."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(r"\b(push|pepper):[^\s:/]+/[0-9A-Za-z]+/\d+\.\S*")


def shown(data: bytes, most: int = 64) -> str:
    """*data* as text on one line, at most *most* characters, nothing a terminal would obey, and no token."""
    text = _TOKEN.sub(r"\1:..", data[: most * 4 + 512].decode("utf-8", "replace"))
    clean = "".join(char if char.isprintable() else "?" for char in text[:most])
    return clean + ".." if len(text) > most else clean
