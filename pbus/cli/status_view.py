"""
``pbus status`` as people read it and as programs do.

    bus-1  running  3 d 4 h  generation 1  pid 4711

    PROCESS      PID  STATE       UP       RSS  RUNNING  RESTARTS
    delivery 0  4713  ready  3 d 4 h  31.2 MiB        2         0

    TOPIC        STATE    READY  RUNNING  DELAYED  DEAD  OLDEST   DONE  FAILED     SLOTS
    gift/credit  running      0        2        0     0       -  10.2k       3  2 of 1-8

Rule: one screen says what is wrong first, then what is there. Numbers stand right, zeros that mean
"nothing to see" are dim, and nothing is coloured that is not either good or bad.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pbus.cli.output import Output, escape

_PROCESS: Final = ("role", "pid", "state", "rss_bytes", "uptime_s", "restarts", "running")
_TOPIC: Final = (
    "queue", "topic", "state", "ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total",
    "concurrency", "capacity", "consumers",
)
_GOOD: Final = frozenset({"running", "ready"})
_BAD: Final = frozenset({"degraded", "down", "fatal", "dead"})
_GAP: Final = "  "
_SAME_ROLE: Final = 4
"""More children of one role than this are shown as one line (consumers of a topic, mostly)."""

Cell = tuple[str, str]
"""Text and colour (empty: none)."""


def document(answer: Mapping[str, Any], output: Output) -> None:
    """The status in the form that ``-o`` asks for: one JSON document; jsonl and csv list the topics."""
    processes = [{name: row[name] for name in _PROCESS} for row in answer["processes"]]
    topics = [{name: row[name] for name in _TOPIC} for row in answer["topics"]]
    if output.form == "json":
        head = {name: answer[name] for name in ("state", "node", "generation", "problems")}
        output.document({**head, "processes": processes, "topics": topics})
    else:
        output.rows("topics", _TOPIC, topics)


def lines(answer: Mapping[str, Any], output: Output) -> Iterator[str]:
    """The status for people."""
    master = answer["processes"][0]
    yield _GAP.join([
        escape(answer["node"]), output.style(answer["state"], _colour(answer["state"])), duration(master["uptime_s"]),
        f"generation {answer['generation']}", f"pid {master['pid']}",
    ])
    for problem in _problems(answer):
        yield output.style(f"  ! {escape(problem)}", "red")
    yield ""
    yield from _grid(_process_heads, [_process(row) for row in _folded(answer["processes"])], output)
    if answer["topics"]:
        yield ""
        yield from _grid(_topic_heads, [_topic(row) for row in answer["topics"]], output)


def _problems(answer: Mapping[str, Any]) -> list[str]:
    """What is wrong, each once: of texts where one begins with the other, the longer. Then why topics do not run."""
    told = list(dict.fromkeys(answer["problems"]))
    told = [text for text in told if not any(other != text and other.startswith(text) for other in told)]
    idle = [row for row in answer["topics"] if row.get("reason")]
    reasons = [f"{row['queue']}/{row['topic']} {row['state']}: {row['reason']}" for row in idle]
    return list(dict.fromkeys([*told, *reasons]))


def duration(seconds: float) -> str:
    """``4 s``, ``12 min``, ``3 h 20 min``, ``5 d 2 h``: two units at most."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def size(count: int) -> str:
    """``31.2 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def number(count: float) -> str:
    """``9999`` as it is, above that ``12.3k``, ``4.5M``."""
    if count < 10_000:
        return f"{count:g}"
    for unit in ("k", "M", "G"):
        count /= 1000
        if count < 1000 or unit == "G":
            break
    return f"{count:.1f}{unit}"


# -- rows -----------------------------------------------------------------------------------------

_process_heads: Final = ("process", ">pid", "state", ">up", ">rss", ">running", ">restarts")
_topic_heads: Final = (
    "topic", "state", ">ready", ">running", ">delayed", ">dead", ">oldest", ">done", ">failed", ">slots",
)
"""A leading ``>`` stands for a column of numbers."""


def _process(row: Mapping[str, Any]) -> list[Cell]:
    return [
        (_name(row), ""),
        (row["pid"] if isinstance(row["pid"], str) else str(row["pid"]), ""),
        (row["state"], _colour(row["state"])),
        (duration(row["uptime_s"]), ""),
        (size(row["rss_bytes"]), ""),
        _count(row["running"]),
        _count(row["restarts"], "yellow"),
    ]


def _topic(row: Mapping[str, Any]) -> list[Cell]:
    slots = row["concurrency"]
    limits = str(slots["min"]) if slots["min"] == slots["max"] else f"{slots['min']}-{slots['max']}"
    waits = row["oldest_wait_s"] or 0.0
    return [
        (escape(f"{row['queue']}/{row['topic']}"), ""),
        (row["state"], _colour(row["state"])),
        _count(row["ready"]),
        _count(row["running"]),
        _count(row["delayed"]),
        _count(row["dead"], "red"),
        (duration(waits) if waits >= 1 else "-", "" if waits >= 1 else "bright_black"),
        _count(row["done_total"]),
        _count(row["failed_total"], "yellow"),
        (f"{slots['now']} of {limits}", ""),
    ]


def _count(value: int | None, colour: str = "") -> Cell:
    """*value*; a dash where nobody could read it yet."""
    return ("-" if value is None else number(value), colour if value else "bright_black")


def _name(row: Mapping[str, Any]) -> str:
    if row["role"] in ("master", "scheduler", "dashboard"):
        return str(row["role"])
    return " ".join(str(part) for part in (row["role"], row["path"], row["index"]) if part != "")


def _folded(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Many children of one role that all do the same become one line."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["role"], row["path"], row["state"]), []).append(row)
    folded: list[Mapping[str, Any]] = []
    for (_, _, _), group in groups.items():
        folded += group if len(group) <= _SAME_ROLE else [_sum(group)]
    return folded


def _sum(group: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    indexes = sorted(row["index"] for row in group)
    return {
        **group[0],
        "index": f"{indexes[0]}..{indexes[-1]} ({len(group)})",
        "pid": "",
        "uptime_s": min(row["uptime_s"] for row in group),
        **{name: sum(row[name] for row in group) for name in ("rss_bytes", "running", "restarts")},
    }


def _colour(state: str) -> str:
    if state in _GOOD:
        return "green"
    return "red" if state in _BAD else "yellow"


# -- the grid -------------------------------------------------------------------------------------


def _grid(heads: Sequence[str], rows: Sequence[Sequence[Cell]], output: Output) -> Iterator[str]:
    right = [head.startswith(">") for head in heads]
    titles = [head.removeprefix(">").upper() for head in heads]
    widths = [max([len(title), *(len(row[place][0]) for row in rows)]) for place, title in enumerate(titles)]
    narrow = output.terminal and sum(widths) + len(_GAP) * len(widths) > shutil.get_terminal_size().columns
    gap = _GAP[1:] if narrow else _GAP
    grid: list[list[Cell]] = [[(title, "bright_black") for title in titles], *(list(row) for row in rows)]
    for row in grid:
        yield gap.join(
            _cell(output, text, colour, width, is_right)
            for (text, colour), width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()


def _cell(output: Output, text: str, colour: str, width: int, right: bool) -> str:
    padded = text.rjust(width) if right else text.ljust(width)
    return output.style(padded, colour) if colour and text else padded
