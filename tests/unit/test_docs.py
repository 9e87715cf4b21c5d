"""The documentation says what is true: links lead somewhere, every event name is listed."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.config.build import key_of
from pbus.config.schema import Settings

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
EVENT = re.compile(r"[a-z]+\.[a-z_]+\Z")

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def logged_events() -> set[str]:
    """First arguments of log calls, and every text anywhere that begins like one of them."""
    texts = [node for path in (ROOT / "pbus").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    direct = {
        node.args[0].value
        for node in texts
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
        and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }  # fmt: skip
    rooms = {event.partition(".")[0] for event in direct if EVENT.match(event)}
    rooms |= {"auth", "job"}  # named through a variable
    return direct | {
        node.value
        for node in texts
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and EVENT.match(node.value)
        and node.value.partition(".")[0] in rooms and node.value.rpartition(".")[2] not in ("py", "log", "sock", "lock")
        and node.value not in configuration_keys()
    }  # fmt: skip


@functools.cache
def configuration_keys() -> frozenset[str]:
    """``node.run_dir`` and the like: errors name them, and they look like events."""
    sections = [field for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.metadata["of"])]
    return frozenset(
        f"{section.name}.{key_of(key)}" for section in sections for key in dataclasses.fields(section.metadata["of"])
    )


def listed_events() -> set[str]:
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/logs.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 30
    return set(rows)


def test_every_event_name_is_listed_in_docs_logs() -> None:
    assert sorted(logged_events() - listed_events()) == []


def test_every_event_name_that_is_listed_exists() -> None:
    assert sorted(listed_events() - logged_events()) == []


def test_event_names_have_the_form_that_filters_rely_on() -> None:
    assert [event for event in sorted(logged_events()) if not EVENT.match(event)] == []


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target = link.partition("#")[0]
        assert not target or (page.parent / target).exists(), f"{page.name} links to {link}"
