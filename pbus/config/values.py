"""
How values are written: durations, sizes, rates, shares, percentages, addresses.

Rule: one small pure function a notation; each raises ``ValueError`` with a text that says what was
expected and gives an example. The inverse functions write a value back as a person would.
"""

from __future__ import annotations

import math
import re
import signal
from dataclasses import dataclass
from typing import Final

_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?([A-Za-z]+)\Z")
_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s?/\s?([a-z]+)\Z")
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)\s?%\Z")

PLAIN: Final = "plain:"
"""Before an address that speaks no TLS although others do."""

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SIZE_UNITS: Final = {
    "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4,
    "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4,
}
_RATE_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0}


def duration_s(text: str) -> float:
    """
    Seconds of ``250ms``, ``10s``, ``1.5m``, ``2h``, ``7d``; ``0s`` means none wherever none makes sense.

    Raises:
        ValueError: anything else, a number without a unit too.
    """
    match = _QUANTITY.match(text)
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError('a duration such as "250ms", "10s", "5m", "2h" or "7d"')
    if match[2] == "ms":
        return float(match[1]) / 1000.0
    return float(match[1]) * _DURATION_UNITS[match[2]]


def size_bytes(text: str) -> int:
    """
    Bytes of ``512B``, ``64KiB``, ``1.5MiB``, ``4GiB`` (KB, MB, GB are powers of 1000).

    Raises:
        ValueError: anything else, or not a whole number of bytes.
    """
    match = _QUANTITY.match(text)
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError('a size such as "512B", "64KiB", "1MiB" or "4GiB"')
    number, unit = match[1], _SIZE_UNITS[match[2]]
    if "." not in number:
        return int(number) * unit
    size = float(number) * unit
    if size != int(size):
        raise ValueError("a whole number of bytes")
    return int(size)


def rate_per_s(text: str) -> float:
    """
    Per second of ``100/s``, ``90/m``, ``10/h``; an empty text is 0.0: no limit.

    Raises:
        ValueError: anything else.
    """
    if not text:
        return 0.0
    match = _RATE.match(text)
    if match is None or match[2] not in _RATE_UNITS:
        raise ValueError('a rate such as "100/s" or "90/m", or "" for none')
    return float(match[1]) / _RATE_UNITS[match[2]]


def share(value: float) -> float:
    """
    A part of a whole, 0..1.

    Raises:
        ValueError: outside of that.
    """
    if not math.isfinite(value) or not 0.0 <= value <= 1.0:
        raise ValueError("a share between 0 and 1 such as 0.5")
    return float(value)


def percent(text: str) -> float:
    """
    The share of ``1%`` (0.01) or ``100%`` (1.0).

    Raises:
        ValueError: anything else, or above 100.
    """
    match = _PERCENT.match(text)
    if match is None or float(match[1]) > 100.0:
        raise ValueError('a percentage such as "1%" or "100%"')
    return float(match[1]) / 100.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect: a unix socket's *path*, or *host* and *port*."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """
    The address of ``127.0.0.1:12018``, ``[::1]:12018``, ``name:80`` or ``unix:PATH``.

    Raises:
        ValueError: anything else; port 0 too (nobody could know where to connect).
    """
    expected = 'an address such as "127.0.0.1:12018", "[::1]:12018" or "unix:PATH"'
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError(expected)
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    if not colon or not _is_host(name) or (":" in name and not bracketed):
        raise ValueError(expected)
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65_535:
        raise ValueError(f"{expected} with a port from 1 to 65535")
    return Address(host=name, port=int(port))


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients come in; *plain*: without TLS."""

    address: Address
    plain: bool = False

    def __str__(self) -> str:
        return f"{PLAIN if self.plain else ''}{self.address}"


def door(text: str) -> Door:
    """
    The door of an address, or of ``plain:HOST:PORT``, which speaks no TLS although others do.

    Raises:
        ValueError: anything else.
    """
    rest = text.removeprefix(PLAIN)
    if rest == text:
        return Door(address(text))
    try:
        where = address(rest)
    except ValueError as error:
        raise ValueError(f'an address such as "{PLAIN}127.0.0.1:12018" with a port from 1 to 65535') from error
    if where.path:
        raise ValueError(f'"{where}" without "{PLAIN}": a unix socket never speaks TLS')
    return Door(where, plain=True)


def _is_host(name: str) -> bool:
    """Printable, no blanks, no slash: enough to keep typos out; resolving is the business of who connects."""
    return bool(name) and name.isprintable() and not any(character in " /@[]\"'" for character in name)


def signal_number(text: str) -> int:
    """
    The number of ``TERM``, ``SIGINT``, ``USR2``..

    Raises:
        ValueError: there is no such signal.
    """
    name = text.upper().removeprefix("SIG")
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError as error:
        raise ValueError('a signal such as "TERM", "INT" or "QUIT"') from error


def written_duration(seconds: float) -> str:
    """*seconds* in the largest unit that keeps it a whole number: ``10s``, ``250ms``, ``24h`` is ``1d``."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        amount = seconds / _DURATION_UNITS[unit]
        if amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{seconds * 1000:.9g}ms"


def written_size(size: int) -> str:
    """*size* in the largest binary unit that keeps it a whole number: ``64KiB``, ``1MiB``, ``0B``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def written_rate(per_s: float) -> str:
    """*per_s* as ``100/s``; empty for 0.0 (none)."""
    return f"{per_s:.9g}/s" if per_s else ""


def written_percent(part: float) -> str:
    """*part* of 1 as ``1%``."""
    return f"{part * 100:.9g}%"
