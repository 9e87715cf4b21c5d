"""
How a log line looks: JSON for programs, text for people; both are exactly one line.

Rule: pure. Whatever a value holds (CR, LF, terminal escapes, U+2028, halves of characters), the
line stays one line and a terminal shows it instead of obeying it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any, Final

ORDER: Final = ("ts", "level", "event", "node", "role", "pid", "queue", "topic", "job", "attempt", "dur_ms", "err")
"""These come first, in this order; all others follow as they were given."""

MAX_TEXT: Final = 8 * 1024
MAX_LINE_BYTES: Final = 64 * 1024

_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)
"""Control characters, line ends of Unicode, invisible and direction-changing ones, lone surrogates."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def timestamp(wall_s: float) -> str:
    """``2026-03-01T12:00:00.250Z``: RFC 3339, UTC, milliseconds."""
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def escape(text: str) -> str:
    r"""*text* with everything that a terminal would obey or that would end a line shown as ``\x1b``, ``\n``."""
    return _UNSAFE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    char = match[0]
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if named is not None:
        return named
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """*text*, or its start with a note of how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def json_line(fields: Mapping[str, Any]) -> bytes:
    """One JSON object and a newline, at most MAX_LINE_BYTES long, UTF-8."""
    text = _encode(fields)
    if not text.isascii():
        text = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    line = text.encode()
    if len(line) >= MAX_LINE_BYTES:
        kept = {key: fields[key] for key in ORDER if key in fields}
        short = {key: cut(value, 512) if isinstance(value, str) else value for key, value in kept.items()}
        line = _encode({**short, "cut_bytes": len(line)}).encode("ascii", "backslashreplace")
    return line + b"\n"


def text_line(fields: Mapping[str, Any]) -> str:
    """``TIME LEVEL event queue/topic key=value ..`` without a newline, safe on a terminal."""
    rest = {key: value for key, value in fields.items() if key not in ("ts", "level", "event", "node")}
    parts = [
        str(fields.get("ts", "-")).replace("T", " ").removesuffix("Z"),
        f"{str(fields.get('level', '-')).upper():<7}",
        str(fields.get("event", "-")),
    ]
    who = "/".join(str(rest.pop(key)) for key in ("queue", "topic") if rest.get(key))
    if who:
        parts.append(who)
    trace = rest.pop("traceback", None)
    parts += [f"{key}={_plain(value)}" for key, value in rest.items()]
    if trace:
        parts.append(f"traceback={_plain(trace)}")
    return escape(" ".join(parts))


def _plain(value: Any) -> str:
    """A value as people read it: bare where that is unambiguous, else as JSON."""
    if isinstance(value, str) and value and not re.search(r'[\s"=]', value):
        return value
    return _encode(value)
