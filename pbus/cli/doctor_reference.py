"""
The tables of checks in docs/doctor.md, written from the rules:

    python -m pbus.cli.doctor_reference

Rule: nothing about a check is said twice. The rest of the page is written by hand, around the two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from pbus.core.doctor import RULES, Rule
from pbus.core.doctor_facts import Certificate, Child, Door, Node, Pool, Queue, Store, Topic
from pbus.core.pages import rewritten

PAGE: Final = Path(__file__).parents[2] / "docs/doctor.md"
BEGIN: Final = "<!-- Written by `python -m pbus.cli.doctor_reference`; change the rules in core/doctor.py. -->\n"
GROUPS: Final[dict[str, tuple[type, ...]]] = {
    "The bus": (Node, Child), "Stores": (Store,), "Addresses and certificates": (Door, Certificate),
    "Queues": (Queue,), "Topics": (Topic,), "Backends": (Pool,),
}


def page(text: str) -> str:
    """
    *text* of the page with the tables as they have to be.

    Raises:
        ValueError: the marks are missing.
    """
    return rewritten(text, BEGIN, tables())


def tables() -> str:
    """All rules, a line each, in groups."""
    lines = ["| check | severity | found when |", "|---|---|---|"]
    for title, kinds in GROUPS.items():
        lines += [f"| **{title}** | | |", *(_line(rule) for rule in RULES if rule.of in kinds)]
    return "\n".join(lines) + "\n"


def _line(rule: Rule) -> str:
    return f"| `{rule.check}` | {rule.severity} | {rule.when} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"{PAGE} is current\n")
