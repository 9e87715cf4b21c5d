"""
Wire vectors: each ``NAME.resp`` is what a client sends, ``NAME.json`` beside it what that means.

``valid`` commands, ``refused`` ones over a limit (the connection lives), ``broken`` input (one error,
nothing after it). To add a case, add two files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.resp_events import parser, take

VECTORS = sorted(Path(__file__).parent.glob("*/*.resp"))


def expected(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return document


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", VECTORS, ids=name)
def test_vector_in_one_chunk(path: Path) -> None:
    wanted = expected(path)
    reader = parser(**wanted.get("limits", {}))

    assert take(reader, [path.read_bytes()]) == wanted["events"]
    assert reader.partial is wanted.get("partial", False)


@pytest.mark.parametrize("path", VECTORS, ids=name)
def test_vector_byte_by_byte(path: Path) -> None:
    wanted = expected(path)
    reader = parser(**wanted.get("limits", {}))

    assert take(reader, [bytes([byte]) for byte in path.read_bytes()]) == wanted["events"]
    assert reader.partial is wanted.get("partial", False)


@pytest.mark.parametrize("path", VECTORS, ids=name)
def test_vector_cut_at_every_byte(path: Path) -> None:
    raw, wanted = path.read_bytes(), expected(path)

    for cut in range(0, len(raw), 1 + len(raw) // 300):
        reader = parser(**wanted.get("limits", {}))
        assert take(reader, [raw[:cut], raw[cut:]]) == wanted["events"], f"cut at {cut}"


@pytest.mark.parametrize("path", VECTORS, ids=name)
def test_vector_one_command_a_call(path: Path) -> None:
    wanted = expected(path)
    reader = parser(**wanted.get("limits", {}))

    assert take(reader, [path.read_bytes()], most=1) == wanted["events"]


@pytest.mark.parametrize("path", [path for path in VECTORS if path.parent.name != "broken"], ids=name)
def test_vector_carried_on_by_another_parser(path: Path) -> None:
    raw, wanted = path.read_bytes(), expected(path)

    for cut in range(0, len(raw), 1 + len(raw) // 100):
        first, second = (parser(**wanted.get("limits", {})) for _ in range(2))
        before = take(first, [raw[:cut]])
        unread = first.unread()
        if unread is None:                            # in the middle of a refused command
            continue
        assert before + take(second, [unread, raw[cut:]]) == wanted["events"], f"cut at {cut}"


def test_every_vector_has_its_result() -> None:
    results = {path.with_suffix(".resp") for path in Path(__file__).parent.glob("*/*.json")}

    assert results == set(VECTORS)
    assert len(VECTORS) >= 70
