"""How people read what the autoscaler decided about a topic. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbus.cli.grid import Cell, plain
from pbus.core.autoscale_terms import Capacity


def scaling_lines(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """Lines of ``pbus topic show``: what there is now and why, what it could do, and what was ordered."""
    now, scaling = row.get("concurrency") or {}, row.get("scaling") or {}
    lines: list[tuple[str, Cell]] = []
    if scaling:
        lines.append(("scaled", plain(f"{now.get('now', 0)} now; {scaling.get('reason', '')}")))
    words = capacity_words(row.get("capacity") or {})
    if words:
        lines.append(("capacity", plain(words)))
    for order in row.get("orders") or ():
        lines.append(("order", plain(order)))
    return lines


def capacity_words(capacity: Mapping[str, Any]) -> str:
    """``can do 2,600/s at max, limited by backend live-php 48/48``; empty: nothing is planned yet."""
    if not capacity.get("limited_by"):
        return ""
    return Capacity(
        now_per_s=capacity.get("now_per_s"), max_per_s=capacity.get("max_per_s"), limited_by=capacity["limited_by"],
    ).words
