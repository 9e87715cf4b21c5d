"""
``pbus top`` as a picture: a status and what was counted before in, lines out. Pure but for the colours of ``Output``.

    bus-1  running  3 d 4 h  pid 4711                                              of 17:22:03 UTC
    12 topics: 40 ready, 3 running, 0 delayed, 2 dead   in 12/s  done 11.8/s  failed 0.2/s   9 processes, 412 MiB
      ! mail/web down: 127.0.0.1:9: Connection refused

    TOPIC        STATE    READY ▾  RUNNING ..
    gift/credit  running       40        3
    q quit  p pause  s sort: ready  t processes                                              1-2 of 2

Rule: rows stand still while nobody asks for another order than by name; what is wrong is on top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import click

from pbus.cli.grid import Cell, colour, count, duration, grid, number, size, wait
from pbus.cli.output import Output, columns_of, cut, escape
from pbus.cli.status_view import alarm_lines, problems, process_name
from pbus.core.why_job import moment

TOPICS: Final = "topics"
PROCESSES: Final = "processes"
WINDOW_S: Final = 5.0
"""Rates are those of so long a time."""
_PROBLEMS: Final = 3
_ALARMS: Final = 2
_PLACES: Final = ("ready", "running", "delayed", "dead", "done_total")

Row = Mapping[str, Any]


class Rate(NamedTuple):
    """Jobs a second; None: not known yet."""

    come: float | None = None
    done: float | None = None
    failed: float | None = None


class Pace:
    """How fast things go: totals of some moments. One owner: the command."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, tuple[int, int, int]]]] = deque()

    def see(self, at_s: float, answer: Mapping[str, Any]) -> None:
        """The status at *at_s* (monotonic)."""
        counts = {
            path_of(row): (sum(row[place] for place in _PLACES), row["done_total"], row["failed_total"])
            for row in answer["topics"] if row["done_total"] is not None
        }
        self._seen.append((at_s, counts))
        while len(self._seen) > 2 and self._seen[1][0] <= at_s - WINDOW_S:
            self._seen.popleft()

    def rate(self, path: str) -> Rate:
        """Of a topic."""
        if len(self._seen) < 2:
            return Rate()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        if path not in first or path not in last or last_s <= first_s:
            return Rate()
        grown = (max(0, now - before) / (last_s - first_s) for now, before in zip(last[path], first[path], strict=True))
        return Rate(*grown)


@dataclass(frozen=True, slots=True)
class Screen:
    """
    What the person has chosen.

    Attributes:
        view: ``topics`` or ``processes``.
        sorts: Place of the order in ``SORTS``, of each view.
        frozen: Nothing is looked at anew.
        first: Row that stands on top.
    """

    view: str = TOPICS
    sorts: tuple[int, int] = (0, 0)
    frozen: bool = False
    first: int = 0

    @property
    def order(self) -> str:
        """The column by which rows are sorted."""
        return list(SORTS[self.view])[self.sorts[self.view == PROCESSES]]


Order = Callable[[Row, Rate], Any]


def _most(name: str) -> Order:
    return lambda row, _: -(row.get(name) or 0)


SORTS: Final[Mapping[str, Mapping[str, Order]]] = {
    TOPICS: {
        "topic": lambda row, _: path_of(row), "ready": _most("ready"), "oldest": _most("oldest_wait_s"),
        "in/s": lambda _, rate: -(rate.come or 0.0), "done/s": lambda _, rate: -(rate.done or 0.0),
        "failed/s": lambda _, rate: -(rate.failed or 0.0), "dead": _most("dead"),
    },
    PROCESSES: {
        "process": lambda _row, _rate: 0, "rss": _most("rss_bytes"), "for": _most("job_s"),
        "up": lambda row, _: row["uptime_s"], "restarts": _most("restarts"),
    },
}
"""Columns that rows can be sorted by; the first is as they come (``up``: the youngest first)."""


def press(screen: Screen, key: str, page: int) -> Screen | None:
    """
    What a key does; None: leave. Keys without a meaning do nothing.

    Args:
        key: A character, or an escape sequence.
        page: Rows that were shown.
    """
    if key in ("q", "Q"):
        return None
    if key in ("p", " "):
        return replace(screen, frozen=not screen.frozen)
    if key in ("t", "\t"):
        return replace(screen, view=PROCESSES if screen.view == TOPICS else TOPICS, first=0)
    if key in ("s", "S"):
        step = 1 if key == "s" else -1
        place = screen.view == PROCESSES
        sorts = list(screen.sorts)
        sorts[place] = (sorts[place] + step) % len(SORTS[screen.view])
        return replace(screen, sorts=(sorts[0], sorts[1]), first=0)
    if key in ("g", "\x1b[H"):
        return replace(screen, first=0)
    return replace(screen, first=max(0, screen.first + _STEPS[key](page))) if key in _STEPS else screen


_STEPS: Final[Mapping[str, Callable[[int], int]]] = {
    **dict.fromkeys(("j", "\x1b[B", "\x1bOB"), lambda _: 1), **dict.fromkeys(("k", "\x1b[A", "\x1bOA"), lambda _: -1),
    "\x1b[6~": lambda page: page, "\x1b[5~": lambda page: -page,
}


class Frame(NamedTuple):
    """Lines from top to bottom, how many rows of the table fit, and the screen with its scrolling within bounds."""

    lines: list[str]
    page: int
    screen: Screen


def frame(
    screen: Screen, answer: Mapping[str, Any], pace: Pace, at_ms: int, room: tuple[int, int], output: Output,
    trouble: str = "",
) -> Frame:
    """
    The picture of one moment.

    Args:
        answer: The last status.
        at_ms: When it was told, unix ms.
        room: Columns and lines.
        trouble: Why there is no newer one; empty: there is nothing wrong.
    """
    columns, height = room
    rows = _sorted(screen, answer, pace)
    top = _head(answer, pace, at_ms, columns, output, trouble)[: max(1, height - 3)]
    page = max(0, height - len(top) - 2)
    screen = replace(screen, first=min(screen.first, max(0, len(rows) - page)))
    shown = rows[screen.first : screen.first + page]
    heads, cells, spare = _TABLES[screen.view]
    marked = [f"{head} ▾" if head.removeprefix(">") == screen.order else head for head in heads]
    table = list(grid(marked, [cells(row, pace.rate(path_of(row))) for row in shown], output, spare, columns))
    lines = [*top, *table][: height - 1]
    lines += [""] * (height - 1 - len(lines))
    return Frame([*lines, _foot(screen, len(rows), len(shown), columns, output)], page, screen)


def path_of(row: Row) -> str:
    """``gift/credit``; of a process that has none: nothing."""
    return f"{row['queue']}/{row['topic']}" if "queue" in row else ""


def _sorted(screen: Screen, answer: Mapping[str, Any], pace: Pace) -> list[Row]:
    rows: Sequence[Row] = answer[screen.view]
    order = SORTS[screen.view][screen.order]
    return sorted(rows, key=lambda row: (order(row, pace.rate(path_of(row))), path_of(row)))


# -- head and foot --------------------------------------------------------------------------------


def _head(
    answer: Mapping[str, Any], pace: Pace, at_ms: int, columns: int, output: Output, trouble: str
) -> list[str]:
    master = answer["processes"][0]
    who, up = escape(answer["node"]), f"  {duration(master['uptime_s'])}  pid {master['pid']}"
    when = f"of {moment(at_ms)[11:]}"
    state = answer["state"] if not trouble else "does not answer"
    room = columns - columns_of(who) - len(state) - 2
    up = up if len(up) <= room else ""
    when = when if len(up) + len(when) + 2 <= room else ""
    gap = " " * (room - len(up) - len(when))
    lines = [f"{who}  {output.style(state, colour(answer['state']) if not trouble else 'red')}{up}{gap}{when}".rstrip()]
    lines.append(cut(_sums(answer, pace), columns))
    told = [trouble] if trouble else problems(answer)
    more = len(told) - _PROBLEMS
    told = told if more <= 0 else [*told[: _PROBLEMS - 1], f"{more + 1} more: 'pbus status' shows all"]
    lines += [output.style(cut(f"  ! {escape(text)}", columns), "red") for text in told]
    fires = alarm_lines(answer, at_ms / 1000, _ALARMS)
    lines += [output.style(cut(text, columns), shade) for text, shade in fires]
    return [*lines, ""]


def _sums(answer: Mapping[str, Any], pace: Pace) -> str:
    topics, processes = answer["topics"], answer["processes"]
    places = [f"{number(sum(row[place] or 0 for row in topics))} {place}" for place in _PLACES[:-1]]
    rates = [pace.rate(path_of(row)) for row in topics]
    paces = [f"{word} {_per_s([rate[at] for rate in rates])}" for at, word in enumerate(("in", "done", "failed"))]
    memory = size(sum(row["rss_bytes"] for row in processes))
    return "   ".join([
        f"{_many(len(topics), 'topic')}: {', '.join(places)}", "  ".join(paces),
        f"{_many(len(processes), 'process', 'es')}, {memory}", _many(answer["door"]["connections"], "connection"),
    ])


def _many(count: int, what: str, ending: str = "s") -> str:
    return f"{count} {what}{ending if count != 1 else ''}"


def _per_s(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{_pace(sum(known))}/s" if known else "-"


def _pace(rate: float) -> str:
    return number(round(rate, 1) if rate < 10 else round(rate))


def _foot(screen: Screen, count: int, shown: int, columns: int, output: Output) -> str:
    other = PROCESSES if screen.view == TOPICS else TOPICS
    keys = f" q quit  p {'go on' if screen.frozen else 'pause'}  s sort: {screen.order}  t {other}"
    frozen = "  PAUSED" if screen.frozen else ""
    where = f"{screen.first + 1 if shown else 0}-{screen.first + shown} of {count} "
    text = cut(keys + frozen + " " * max(2, columns - len(keys) - len(frozen) - len(where)) + where, columns)
    return click.style(text, reverse=True) if output.terminal else text


# -- tables ---------------------------------------------------------------------------------------


def _rate(rate: float | None, bad: str = "") -> Cell:
    if rate is None:
        return ("-", "bright_black")
    return (_pace(rate), bad if rate else "bright_black")


def _topic(row: Row, rate: Rate) -> list[Cell]:
    slots = row["concurrency"]
    limits = str(slots["min"]) if slots["min"] == slots["max"] else f"{slots['min']}-{slots['max']}"
    return [
        (escape(path_of(row)), ""), (row["state"], colour(row["state"])), count(row["ready"]), count(row["running"]),
        count(row["delayed"]), count(row["dead"], "red"), wait(row["oldest_wait_s"]), _rate(rate.come),
        _rate(rate.done), _rate(rate.failed, "red"), count(row["done_total"]), count(row["failed_total"], "yellow"),
        (f"{slots['now']} of {limits}" if slots["max"] else "-", ""),
    ]


def _process(row: Row, _: Rate) -> list[Cell]:
    job, job_s = str(row.get("job") or ""), row.get("job_s")
    return [
        (process_name(row), ""), (str(row["pid"]), ""), (row["state"], colour(row["state"])),
        (duration(row["uptime_s"]), ""), (size(row["rss_bytes"]), ""), count(row["running"]),
        count(row["restarts"], "yellow"), (duration(job_s) if job_s is not None else "-", ""), (escape(job) or "-", ""),
    ]


Table = tuple[Sequence[str], Callable[[Row, Rate], Sequence[Cell]], Sequence[str]]
"""Headings (``>``: numbers), the cells of a row, and what a narrow terminal does without."""

_TABLES: Final[Mapping[str, Table]] = {
    TOPICS: (
        ("topic", "state", ">ready", ">running", ">delayed", ">dead", ">oldest", ">in/s", ">done/s", ">failed/s",
         ">done", ">failed", ">slots"),
        _topic, ("failed", "done", "delayed", "slots", "in/s", "oldest", "failed/s", "running"),
    ),
    PROCESSES: (
        ("process", ">pid", "state", ">up", ">rss", ">running", ">restarts", ">for", "job"),
        _process, ("restarts", "up", "running", "job"),
    ),
}
