"""
What a producer may ask for beside the body: names, bounds, and what is said of a wrong one.

    XADD queue * body B [delay MS] [dedupe K] [ttl MS] [key K] [traceparent T]
    PBUS.ADD queue body [DELAY ms] [DEDUPE k] [TTL ms] [KEY k] [TRACEPARENT t]

Rule: strict, and before anything is stored: a delay that was misread is a job at the wrong time. The
names are the same in both commands, in any case.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final, NamedTuple

from pbus.core.job import PushOptions
from pbus.ingest.words import shown

TEXT_BYTES: Final = 256
"""Longest dedupe key, key and traceparent, where nothing else is configured."""
LONGEST_MS: Final = 10 * 365 * 86_400 * 1000
"""Longest delay and ttl: ten years."""
_DIGITS: Final = len(str(LONGEST_MS))

NAMES: Final = (b"delay", b"dedupe", b"ttl", b"key", b"traceparent")
BODY: Final = b"body"


class Refused(Exception):
    """A push that cannot be stored; the text is the error."""


class Asked(NamedTuple):
    """
    What a typed push asks for.

    Attributes:
        body: Where it is one of the fields (XADD); else None.
        traceparent: Empty: none.
        options: None: nothing but the queue's own.
    """

    body: bytes | None
    traceparent: str
    options: PushOptions | None


def read(pairs: Sequence[bytes], ttl_ms: int, also: bytes = b"", most_bytes: int = TEXT_BYTES) -> Asked:
    """
    The options in *pairs*: name, value, name, value..

    Args:
        ttl_ms: The queue's own, for a push that says nothing; 0: none.
        also: A further name that is allowed here.
        most_bytes: Longest dedupe key, key and traceparent.

    Raises:
        Refused: one of them is wrong; says which and why.
    """
    fields = _fields(pairs, also)
    trace = traceparent(fields.get(b"traceparent", b""), most_bytes=most_bytes)
    options = PushOptions(
        delay_ms=_milliseconds(fields, b"delay", 0), dedupe=_text(fields, b"dedupe", most_bytes),
        ttl_ms=_milliseconds(fields, b"ttl", ttl_ms), key=_text(fields, b"key", most_bytes),
    )
    return Asked(fields.get(BODY), trace, options if options != _NOTHING else None)


_NOTHING: Final = PushOptions()


def _fields(pairs: Sequence[bytes], also: bytes) -> dict[bytes, bytes]:
    """Names in lower case, with their values."""
    if len(pairs) % 2:
        raise _bad(f"the option '{shown(pairs[-1])}' has no value")
    fields: dict[bytes, bytes] = {}
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        lower = name.lower()
        if lower not in NAMES and lower != also:
            raise _bad(f"there is no option '{shown(name)}'{_hint(lower, also)}")
        if lower in fields:
            raise _bad(f"the option '{shown(name)}' is given twice")
        fields[lower] = value
    return fields


def _hint(name: bytes, also: bytes) -> str:
    known = [each.decode() for each in (also, *NAMES) if each]
    near = difflib.get_close_matches(name[:64].decode("latin-1"), known, n=1)
    return f", did you mean '{near[0]}'?" if near else f", there are {', '.join(known)}"


def _milliseconds(fields: dict[bytes, bytes], name: bytes, default: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not value.isdigit() or len(value) > _DIGITS or int(value) > LONGEST_MS:
        what = f"{name.decode()} takes whole milliseconds from 0 to {LONGEST_MS} (ten years)"
        raise _bad(f"{what}, not '{shown(value)}'")
    return int(value)


def _text(fields: dict[bytes, bytes], name: bytes, most_bytes: int) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if len(value) > most_bytes:
        raise _bad(f"{name.decode()} takes at most {most_bytes} bytes, this one has {len(value)}")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        what = "is empty, leave it out" if not value else f"takes printable text, not '{shown(value)}'"
        raise _bad(f"{name.decode()} {what}")
    return text


def traceparent(value: bytes, hence: str = "not stored", most_bytes: int = TEXT_BYTES) -> str:
    """
    The text of a trace context of at most *most_bytes*; *hence*: what is told of a wrong one.

    Raises:
        Refused: it is too long, or not printable.
    """
    if len(value) > most_bytes or not value.isascii() or not value.decode("ascii").isprintable():
        raise _bad(f"traceparent must be at most {most_bytes} printable ASCII bytes", hence)
    return value.decode("ascii")


def _bad(what: str, hence: str = "not stored") -> Refused:
    return Refused(f"BADVALUE {what}: {hence}")
