"""
Wire vectors: a ``.hex`` file (``#`` comments, one record after the other) beside what it means.

``replies`` were recorded from php-fpm or written from the specification; ``requests`` are what we
must write, byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pbus.codec import fastcgi, headers

_HERE = Path(__file__).parent


def vectors(folder: str) -> list[Any]:
    paths = sorted((_HERE / folder).glob("*.hex"))
    assert paths, f"no vectors in {folder}"
    return [pytest.param(path, id=path.stem) for path in paths]


def wire_of(path: Path) -> bytes:
    lines = (line for line in path.read_text().splitlines() if not line.startswith("#"))
    return bytes.fromhex("".join(lines))


def expected_of(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return expected


def seen(wire: bytes, size: int) -> dict[str, Any]:
    """What the reader makes of *wire* in pieces of *size* bytes."""
    reader = fastcgi.ReplyReader()
    try:
        for at in range(0, len(wire), size):
            reader.feed(wire[at : at + size])
        reader.eof()
    except fastcgi.ReplyError as error:
        return {"error": str(error)}
    try:
        block, body = fastcgi.cgi_answer(reader.stdout)
        fields: dict[str, str] | None = headers.fields(block)
    except ValueError:
        fields, body = None, bytes(reader.stdout)
    return {
        "headers": fields, "body": body.decode(), "stderr": reader.stderr.decode(), "complete": reader.complete,
        "keep": reader.keep, "protocol_status": reader.protocol_status, "app_status": reader.app_status,
    }


@pytest.mark.parametrize("path", vectors("replies"))
def test_reply_means_the_same_however_it_is_cut(path):
    wire, expected = wire_of(path), expected_of(path)
    for size in (len(wire), 1, 2, 3, 7, 8, 9, 16):
        result = seen(wire, size)
        if "error" in expected:
            assert expected["error"] in result["error"]
        else:
            assert result == {"protocol_status": 0, "app_status": 0} | expected


@pytest.mark.parametrize("path", vectors("requests"))
def test_request_is_written_byte_for_byte(path):
    expected = expected_of(path)
    written = b"".join((
        fastcgi.begin(expected["keep"]),
        *(fastcgi.params(pairs) for pairs in expected["params"]),
        fastcgi.PARAMS_END,
        fastcgi.stdin(expected["body"].encode()),
    ))
    assert written == wire_of(path)
