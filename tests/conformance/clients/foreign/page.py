"""
What came out of the runs as the tables of docs/clients.md and docs/clients.zh-CN.md.

Rule: a table has one row a client, between ``<!-- clients: NAME -->`` and ``<!-- end -->``. Only clients that ran
are looked at: rows of those that are not on this machine stay as they are. Nobody compares the versions.

    PBUS_WRITE_PAGES=1 pytest tests/conformance/clients/test_foreign_clients.py     rewrites the rows
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.conformance.clients.foreign.clients import CLIENTS, ROOT
from tests.conformance.clients.foreign.runs import Ran
from tests.conformance.clients.foreign.steps import STEPS, WORDS, resp

PAGES: Final = (ROOT / "docs/clients.md", ROOT / "docs/clients.zh-CN.md")
OWN_TABLES: Final = ("errors", "unanswered", "reconnect")
"""Steps whose results are told in words."""


def rows(ran: Ran) -> dict[str, str]:
    """The row of a client in each table."""
    found = {"steps": _row(_steps(ran))}
    if "errors" in ran.client.steps:
        found["errors"] = _row(_errors(ran))
    if {"unanswered", "reconnect"} <= ran.client.steps:
        found["connections"] = _row(_connections(ran))
    return found


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _steps(ran: Ran) -> list[str]:
    """Name, version, protocol, then a cell for each step that has no table of its own."""
    told = ran.step("connect")
    cells = [ran.client.name, told["version"], f"RESP{resp(told)}"]
    for step in STEPS:
        if step != "connect" and step not in OWN_TABLES:
            cells.append(f"yes{_note(ran.step(step))}" if step in ran.client.steps else "-")
    return cells


def _note(got: Mapping[str, Any]) -> str:
    return f", {got['note']}" if got.get("note") else ""


def _errors(ran: Ran) -> list[str]:
    """Name, what nearly all errors are, what the others are, and whose text lacks its first word."""
    got = {**ran.step("errors"), "EXECABORT": ran.step("transaction")["refused"]}
    words = [*WORDS, "EXECABORT"]
    usual = Counter(got[word]["class"] for word in words).most_common(1)[0][0]
    other: dict[str, list[str]] = {}
    for word in words:
        if got[word]["class"] != usual:
            other.setdefault(got[word]["class"], []).append(word)
    bare = [word for word in words if word not in got[word]["text"]]
    others = "; ".join(f"{' '.join(some)}: `{name}`" for name, some in other.items())
    return [ran.client.name, f"`{usual}`", others or "-", " ".join(bare) or "-"]


def _connections(ran: Ran) -> list[str]:
    """Name, then what a push sees after its connection closed, after a restart, and when its reply was lost."""
    reconnect, unanswered = ran.step("reconnect"), ran.step("unanswered")
    cells = [ran.client.name, _tries(reconnect["closed"]), _tries(reconnect["restarted"])]
    for kind in ("plain", "dedupe"):
        outcome, times = unanswered[kind], copies(ran, kind)
        shown = f"`{outcome['class']}`" if isinstance(outcome, Mapping) else "the reply"
        cells.append(f"{shown}, stored {'once' if times == 1 else 'twice' if times == 2 else f'{times} times'}")
    return cells


def copies(ran: Ran, kind: str) -> int:
    """How often the push whose reply was lost is stored."""
    return ran.stored["cut"].count(f"CUT:{ran.client.queue}:{kind}".encode())


def _tries(outcomes: Sequence[Any]) -> str:
    names = sorted({outcome["class"] for outcome in outcomes[:-1]})
    return f"{', '.join(f'`{name}`' for name in names)}, then stored" if names else "stored"


def find(page: Path, table: str, name: str) -> str:
    """The row of a client in a table of a page, or nothing."""
    found: str = next((line for line in _lines(page, table) if _name(line) == name), "")
    return found


def comparable(row: str) -> list[str]:
    """The cells of a row without the version."""
    cells = [cell.strip() for cell in row.strip("| \n").split(" | ")]
    return cells[:1] + [re.sub(r"^\d[\w.+-]*$", "", cell) for cell in cells[1:]]


def write(page: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    """Put *found* (table -> client -> row) into a page; rows of others stay, all in the order of CLIENTS."""
    text = page.read_text("utf-8")
    for table, fresh in found.items():
        old = {_name(line): line for line in _lines(page, table)}
        wanted = {**old, **fresh}
        body = "\n".join(wanted[client.name] for client in CLIENTS if client.name in wanted)
        text = re.sub(
            rf"(<!-- clients: {table} -->\n(?:\|.*\n){{2}})(?:\|.*\n)*(<!-- end -->)",
            lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text,
        )
    page.write_text(text, "utf-8")


def _lines(page: Path, table: str) -> list[str]:
    match = re.search(rf"<!-- clients: {table} -->\n(?:\|.*\n){{2}}((?:\|.*\n)*)<!-- end -->", page.read_text("utf-8"))
    assert match, f"{page.name} has no table {table}"
    return match[1].splitlines()


def _name(line: str) -> str:
    return line.strip("| ").split(" | ")[0].strip()
