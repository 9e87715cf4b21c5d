"""
The Redis protocol from the server's side: replies to bytes, RESP2 and RESP3.

Rule: no I/O. What differs between the two protocols is decided here and nowhere else: nulls, maps,
booleans, doubles, big lists. Commands answer with plain Python values, or with bytes of ``simple``,
``error``, ``integer`` and ``bulk``, which are the same in both.
Source: RESP specification, redis.io/docs/reference/protocol-spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

OK: Final = b"+OK\r\n"
NULL_ARRAY: Final = {2: b"*-1\r\n", 3: b"_\r\n"}
"""Nothing where an array was expected (``BRPOP`` after its time), by protocol version."""
NULL: Final = {2: b"$-1\r\n", 3: b"_\r\n"}
"""Nothing where a bulk was expected (``RPOP`` of an empty topic), by protocol version."""

Value = None | bool | int | float | str | bytes | Sequence["Value"] | Mapping[str, "Value"]


class Status(str):
    """A text that ``encode`` writes as ``+text``: a word of a protocol, no data. Without line ends."""

    __slots__ = ()


class Unordered(tuple[Value, ...]):
    """A sequence that ``encode`` writes as a set (RESP2: an array)."""

    __slots__ = ()


def simple(text: str) -> bytes:
    """``+text``; *text* must not contain line ends."""
    return b"+%b\r\n" % text.encode()


def error(text: str) -> bytes:
    """``-WORD text``: one line whatever *text* contains, at most 1 KiB of it."""
    line = " ".join(text.split()) if "\n" in text or "\r" in text else text
    return b"-%b\r\n" % line.encode("utf-8", "replace")[:1024]


def integer(number: int) -> bytes:
    """``:number``."""
    return b":%d\r\n" % number


def bulk(data: bytes) -> bytes:
    """``$length`` and the bytes."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def encode(value: Value, protocol: int) -> bytes:
    """
    Any reply as bytes.

    Args:
        value: str and bytes become bulks, ints integers, None a null, lists arrays, mappings maps
            (RESP2: an array of keys and values in turn); floats doubles (RESP2: bulks), bools
            booleans (RESP2: 1 and 0); ``Status`` and ``Unordered`` as they say.
        protocol: 2 or 3.
    """
    parts: list[bytes] = []
    _encode(value, protocol, parts)
    return b"".join(parts)


def _encode(value: Value, protocol: int, parts: list[bytes]) -> None:
    if value is None:
        parts.append(NULL[protocol])
    elif isinstance(value, bool):
        parts.append((b"#t\r\n" if value else b"#f\r\n") if protocol == 3 else integer(value))
    elif isinstance(value, int):
        parts.append(integer(value))
    elif isinstance(value, float):
        parts.append(b",%b\r\n" % repr(value).encode() if protocol == 3 else bulk(repr(value).encode()))
    elif isinstance(value, bytes):
        parts.append(bulk(value))
    elif isinstance(value, str):
        parts.append(simple(value) if isinstance(value, Status) else bulk(value.encode()))
    elif isinstance(value, Mapping):
        parts.append(b"%%%d\r\n" % len(value) if protocol == 3 else b"*%d\r\n" % (2 * len(value)))
        for key, entry in value.items():
            parts.append(bulk(key.encode()))
            _encode(entry, protocol, parts)
    else:
        kind = b"~" if protocol == 3 and isinstance(value, Unordered) else b"*"
        parts.append(b"%b%d\r\n" % (kind, len(value)))
        for entry in value:
            _encode(entry, protocol, parts)
