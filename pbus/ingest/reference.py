"""
The table of commands in docs/protocol.md, written from the rows:

    python -m pbus.ingest.reference

Rule: nothing about a command is said twice. The rest of the page is written by hand, around the two marks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pbus.core.pages import rewritten
from pbus.ingest.commands import ROWS
from pbus.ingest.rows import Doc, Row

PAGE: Final = Path(__file__).parents[2] / "docs/protocol.md"
BEGIN: Final = "<!-- Written by `python -m pbus.ingest.reference`; change the rows of commands.py instead. -->\n"
GROUPS: Final = {
    "push": "Pushing", "pull": "Pulling", "look": "Looking", "cancel": "Cancelling", "transactions": "Transactions",
    "connection": "The connection", "server": "The server",
}


def page(text: str) -> str:
    """
    *text* of the page with the table as it has to be.

    Raises:
        ValueError: the marks are missing.
    """
    return rewritten(text, BEGIN, table(ROWS))


def table(rows: Iterable[Row]) -> str:
    """All rows as one table, in the order of the groups; subcommands where their command says nothing of them."""
    docs: dict[int, list[tuple[str, Doc]]] = {}
    for row in rows:
        for each in (row,) if row.doc.syntax or not row.subs else row.subs:
            docs.setdefault(id(each.doc), []).append((each.name.replace("|", " ").upper(), each.doc))
    lines = ["| command | reply | |", "|---|---|---|"]
    for group, title in GROUPS.items():
        of_group = [_line(named) for named in docs.values() if named[0][1].group == group]
        lines += [f"| **{title}** | | |", *of_group] if of_group else []
    return "\n".join(lines) + "\n"


def _line(named: list[tuple[str, Doc]]) -> str:
    doc = named[0][1]
    first, *others = [name for name, _ in named]
    syntax = f"{first} {doc.syntax}".strip().replace("|", "\\|")
    names = ", ".join([f"`{syntax}`", *(f"`{name}`" for name in others)])
    text = doc.summary.rstrip(".") + (f". {doc.more}" if doc.more else "")
    return f"| {names} | {doc.reply} | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"{PAGE} is current\n")
