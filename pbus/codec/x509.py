"""
When certificates expire; no I/O. All that is read of a certificate is where its validity stands:

    Certificate SEQUENCE { tbs SEQUENCE { [0] version OPTIONAL, serial, signature, issuer,
                                          validity SEQUENCE { notBefore, notAfter }, .. }, .. }

Source: RFC 5280, section 4.1; X.690 (DER), section 8.1. Nothing is verified.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERAL_TIME: Final = 0x18
_LONG: Final = 0x80
_BEFORE_VALIDITY: Final = 3

Element = tuple[int, int, int]
"""Tag, and where its content begins and ends."""


def expiries(pem: str) -> list[float]:
    """
    When each certificate of a PEM file expires, unix time, in their order.

    Raises:
        ValueError: one of them is none.
    """
    return [expiry(base64.b64decode(match[1])) for match in _PEM.finditer(pem)]


def expiry(der: bytes) -> float:
    """
    When a certificate expires, unix time.

    Raises:
        ValueError: it is none.
    """
    try:
        _, at, _ = _element(der, _element(der, 0)[1])
        if der[at] == _VERSION:
            at = _element(der, at)[2]
        for _ in range(_BEFORE_VALIDITY):
            at = _element(der, at)[2]
        not_before = _element(der, _element(der, at)[1])
        tag, begin, end = _element(der, not_before[2])
    except IndexError as error:
        raise ValueError("a certificate that is cut off") from error
    return _time(tag, der[begin:end].decode("ascii"))


def _element(der: bytes, at: int) -> Element:
    """The element at *at*; IndexError where there is none."""
    tag, size, begin = der[at], der[at + 1], at + 2
    if size & _LONG:
        count = size & ~_LONG
        size, begin = int.from_bytes(der[begin : begin + count], "big"), begin + count
    if begin + size > len(der):
        raise IndexError
    return tag, begin, begin + size


def _time(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text  # two digits of a year mean 1950 to 2049
    elif tag != _GENERAL_TIME:
        raise ValueError("a certificate without an end of its validity")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
