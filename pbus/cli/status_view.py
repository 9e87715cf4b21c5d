"""
``pbus status`` as people read it and as programs do.

    bus-1  running  3 d 4 h  generation 1  pid 4711

    PROCESS      PID  STATE       UP       RSS  RUNNING  RESTARTS
    delivery 0  4713  ready  3 d 4 h  31.2 MiB        2         0

    TOPIC        STATE    READY  RUNNING  DELAYED  DEAD  OLDEST   DONE  FAILED     SLOTS
    gift/credit  running      0        2        0     0       -  10.2k       3  2 of 1-8

Rule: one screen says what is wrong first, then what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pbus.cli.grid import Cell, colour, count, duration, grid, number, size, wait
from pbus.cli.output import Output, escape
from pbus.clock import SystemClock
from pbus.core.alarms import FIRING

_PROCESS: Final = ("role", "pid", "state", "rss_bytes", "uptime_s", "restarts", "running")
_TOPIC: Final = (
    "queue", "topic", "state", "ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total",
    "concurrency", "capacity", "consumers",
)
_GAP: Final = "  "
_ALARMS: Final = 5
_SAME_ROLE: Final = 4
"""More children of one role than this are shown as one line (consumers of a topic, mostly)."""

def document(answer: Mapping[str, Any], output: Output) -> None:
    """The status in the form that ``-o`` asks for: one JSON document; jsonl and csv list the topics."""
    processes = [{name: row[name] for name in _PROCESS} for row in answer["processes"]]
    topics = [{name: row[name] for name in _TOPIC} for row in answer["topics"]]
    if output.form == "json":
        head = {name: answer[name] for name in ("state", "node", "generation", "problems")}
        fires = {"alarms": answer.get("alarms", []), "alarms_total": answer.get("alarms_total", 0)}
        output.document({**head, "processes": processes, "topics": topics, "door": answer["door"], **fires})
    else:
        output.rows("topics", _TOPIC, topics)


def lines(answer: Mapping[str, Any], output: Output) -> Iterator[str]:
    """The status for people."""
    master = answer["processes"][0]
    yield _GAP.join([
        escape(answer["node"]), output.style(answer["state"], colour(answer["state"])), duration(master["uptime_s"]),
        f"generation {answer['generation']}", f"pid {master['pid']}",
    ])
    for problem in problems(answer):
        yield output.style(f"  ! {escape(problem)}", "red")
    for text, shade in alarm_lines(answer, SystemClock().wall_s()):
        yield output.style(text, shade)
    yield ""
    yield from grid(_process_heads, [_process(row) for row in _folded(answer["processes"])], output, _PROCESS_SPARE)
    if answer["topics"]:
        yield ""
        heads, rows = list(_topic_heads), [_topic(row) for row in answer["topics"]]
        if any(row["capacity"]["max_per_s"] is not None for row in answer["topics"]):
            heads.append(">can do")
            rows = [[*row, _can_do(topic)] for row, topic in zip(rows, answer["topics"], strict=True)]
        yield from grid(heads, rows, output, _TOPIC_SPARE)


def alarm_lines(answer: Mapping[str, Any], now_s: float, most: int = _ALARMS) -> Iterator[Cell]:
    """What fires, the newest first: *most* of them, and how many more (*now_s*: Unix time). Texts and their colours."""
    rows = answer.get("alarms", [])[:most]
    for row in rows:
        since = duration(max(0.0, now_s - row["since_s"]))
        who = f" ({row['state']}{' by ' + row['by'] if row['by'] else ''})" if row["state"] != FIRING else ""
        yield f"  alarm, {since}: {escape(row['text'])}{escape(who)}", "yellow" if who else "red"
    more = answer.get("alarms_total", 0) - len(rows)
    if more > 0:
        yield f"  .. and {more} more alarm{'s' if more > 1 else ''}: 'pbus alarm ls'", "yellow"


def problems(answer: Mapping[str, Any]) -> list[str]:
    """What is wrong, each once: of texts where one begins with the other, the longer. Then why topics do not run."""
    told = list(dict.fromkeys(answer["problems"]))
    told = [text for text in told if not any(other != text and other.startswith(text) for other in told)]
    idle = [row for row in answer["topics"] if row.get("reason") and not _is_told(row, told)]
    reasons = [f"{row['queue']}/{row['topic']} {row['state']}: {row['reason']}" for row in idle]
    return list(dict.fromkeys([*told, *reasons]))


def _is_told(row: Mapping[str, Any], told: Sequence[str]) -> bool:
    """Whether a problem already says why that topic does not run."""
    path = f"{row['queue']}/{row['topic']}"
    begins = (f"{path} {row['state']}: ", *((f"consumer {path}: ",) if row["state"] == "fatal" else ()))
    return any(text.startswith(begins) for text in told)


# -- rows -----------------------------------------------------------------------------------------

_process_heads: Final = ("process", ">pid", "state", ">up", ">rss", ">running", ">restarts")
_topic_heads: Final = (
    "topic", "state", ">ready", ">running", ">delayed", ">dead", ">oldest", ">done", ">failed", ">slots",
)
"""A leading ``>`` stands for a column of numbers."""
_PROCESS_SPARE: Final = ("running", "restarts", "up")
_TOPIC_SPARE: Final = ("done", "failed", "delayed", "oldest")
"""What a narrow terminal does without, in this order; ``pbus topic show`` and ``-o`` have everything."""


def _process(row: Mapping[str, Any]) -> list[Cell]:
    return [
        (process_name(row), ""),
        (row["pid"] if isinstance(row["pid"], str) else str(row["pid"]), ""),
        (row["state"], colour(row["state"])),
        (duration(row["uptime_s"]), ""),
        (size(row["rss_bytes"]), ""),
        count(row["running"]),
        count(row["restarts"], "yellow"),
    ]


def _topic(row: Mapping[str, Any]) -> list[Cell]:
    slots = row["concurrency"]
    limits = str(slots["min"]) if slots["min"] == slots["max"] else f"{slots['min']}-{slots['max']}"
    return [
        (escape(f"{row['queue']}/{row['topic']}{shadow_mark(row)}"), ""),
        (row["state"], colour(row["state"])),
        count(row["ready"]),
        count(row["running"]),
        count(row["delayed"]),
        count(row["dead"], "red"),
        wait(row["oldest_wait_s"]),
        count(row["done_total"]),
        count(row["failed_total"], "yellow"),
        (f"{slots['now']} of {limits}" if slots["max"] else "-", ""),
    ]


def shadow_mark(row: Mapping[str, Any]) -> str:
    """Behind the name of a topic: which one it shadows; empty: it is no shadow."""
    return f" (shadow of {row['shadow_of']})" if row.get("shadow_of") else ""


def _can_do(row: Mapping[str, Any]) -> Cell:
    """What the topic could do at most."""
    most = row["capacity"]["max_per_s"]
    return ("-", "bright_black") if most is None else (f"{number(round(most, 1) if most < 10 else round(most))}/s", "")


def process_name(row: Mapping[str, Any]) -> str:
    """``consumer gift/credit 1``."""
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
