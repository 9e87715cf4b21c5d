"""What a client sent, as it may stand in an answer or in the log."""

from __future__ import annotations


def shown(data: bytes, most: int = 64) -> str:
    """*data* as text on one line, at most *most* characters, nothing a terminal would obey."""
    text = data[: most * 4].decode("utf-8", "replace")
    clean = "".join(char if char.isprintable() else "?" for char in text[:most])
    return clean + ".." if len(text) > most or len(data) > most * 4 else clean
