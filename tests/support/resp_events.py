"""Parser events as plain values: what the wire vectors on disk say, and what tests compare."""

from __future__ import annotations

from typing import Any

from pbus.codec.resp import Limits, RequestParser, Run, TooBig
from pbus.errors import ProtocolError

LIMITS = {"elements": 10_000, "bulk_bytes": 1024 * 1024, "command_bytes": 64 * 1024 * 1024, "inline_bytes": 4096}


def parser(**limits: int) -> RequestParser:
    """A parser with the default limits, or others."""
    return RequestParser(Limits(**{**LIMITS, **limits}))


def plain(events: list[Any]) -> list[Any]:
    """Events as the vectors write them: a Run is the commands it stands for, bytes are latin-1."""
    written: list[Any] = []
    for event in events:
        if isinstance(event, Run):
            written += [[_text(part) for part in [*event.head, last]] for last in event.lasts]
        elif isinstance(event, TooBig):
            kept = [_text(part) for part in event.kept]
            written.append({"too_big": event.what, "kept": kept, "size": event.size, "limit": event.limit})
        elif isinstance(event, ProtocolError):
            written.append({"error": event.reply})
        else:
            written.append([_text(part) for part in event])
    return written


def _text(part: bytes) -> str:
    return part.decode("latin-1")


def take(source: RequestParser, chunks: list[bytes], most: int = 1_000_000) -> list[Any]:
    """Everything *source* makes of *chunks*, at most *most* commands a call."""
    written: list[Any] = []
    for chunk in chunks:
        source.feed(chunk)
        while (events := source.parse(most)) or source.unparsed_bytes:  # blanks are commands without an event
            written += plain(events)
    return written
