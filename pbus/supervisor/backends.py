"""
What delivery children say about the addresses they call, put together for ``pbus backend ls``. Pure.

Rule: an address is as bad as the worst child finds it; what is counted per child adds up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

WORST_LAST: Final = ("up", "busy", "probing", "open")
_SUMS: Final = ("connections", "in_use", "waiting", "calls_total", "failed_total", "busy_total")

Row = Mapping[str, Any]


def merged(of_children: Iterable[Mapping[tuple[str, str], Row]]) -> list[dict[str, Any]]:
    """One row an address of a backend, in name order; ``limit`` None: nothing bounds it."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for rows in of_children:
        for key, row in rows.items():
            groups.setdefault(key, []).append(row)
    return [_one(group) for _, group in sorted(groups.items())]


def _one(rows: list[Row]) -> dict[str, Any]:
    worst = max(rows, key=lambda row: _badness(str(row["state"])))
    limits = [row.get("limit") for row in rows]
    return {
        **worst,
        **{name: sum(int(row.get(name) or 0) for row in rows) for name in _SUMS},
        "limit": None if None in limits else sum(int(limit or 0) for limit in limits),
        "topics": sorted({topic for row in rows for topic in row.get("topics", ())}),
    }


def _badness(state: str) -> int:
    return WORST_LAST.index(state) if state in WORST_LAST else len(WORST_LAST)
