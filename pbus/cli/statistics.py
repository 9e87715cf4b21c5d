"""
``pbus topic stats`` and ``pbus system report``: what became of jobs, from the statistics that the stores keep.

Rule: percentiles are read off summed classes, so those of a month are as true as those of a minute. Hours and days are
those of UTC: so are their buckets.
"""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.grid import Cell, count, grid, plain, size
from pbus.cli.output import escape
from pbus.clock import SystemClock
from pbus.core.statistics import DAY_S, LEVELS, Bucket, folded, level, quantile, total
from pbus.errors import Exit
from pbus.telemetry.metrics import BOUNDS

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.stores import Stock

_MINUTE_S: Final = 60
_ROWS: Final = 24
"""About so many rows, where nobody says which step."""
_STEPS_S: Final = (60, 300, 900, 3600, 6 * 3600, DAY_S)
_LONGEST_S: Final = max(LEVELS.values())
_PARTS: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_COUNTS: Final = ("pushed", "done", "failed", "retried", "dead", "redelivered", "expired", "cancelled", "bytes")
_TIMES: Final = tuple(f"{what}_{part}_s" for what in ("wait", "run") for part in _PARTS)
_SECONDS: Final = ("wait_s", "run_s", "cpu_s")
_HEADS: Final = (
    "from", ">in", ">done", ">failed", ">retried", ">dead", ">redelivered", ">wait p50", ">p99", ">run p50", ">p90",
    ">p99",
)
_GIB: Final = 1024**3
_REPORT: Final = (
    "system", "title", "owner", "cost_center", "queues", "jobs", "done", "failed", "dead", "gib", "handler_hours",
    "cpu_hours", "attempts_per_job", "share",
)


# -- pbus topic stats ---------------------------------------------------------------------------


def topic_stats(context: Context, path: str, since: str, step: str) -> int:
    """
    Print a row a step in which anything happened, and the sum.

    Raises:
        NotFound: there is no such topic. Unavailable: its store is away.
    """
    from pbus.cli.stores import queue_driver, take_stock

    now_s = int(SystemClock().wall_s())
    window_s = min(_seconds(since, "--since"), _LONGEST_S)
    step_s = _seconds(step, "--step") if step else _step_s(window_s)
    span_s = level(now_s - window_s, now_s, step_s, now_s)
    if step_s % span_s:
        step_s = -(-step_s // span_s) * span_s
        context.output.say(f"so long ago is kept by {_words(span_s)} only: --step is {_words(step_s)}")
    begin_s = (now_s - window_s) // step_s * step_s
    stock = take_stock(context.settings())
    name = stock.topic(path)
    with queue_driver(stock, name[0]) as driver:
        buckets = driver.statistics(*name, begin_s, now_s + 1, span_s)
    rows = [_row(bucket) for bucket in folded(buckets, begin_s, step_s)]
    _show_stats(context, name, rows, _numbers(total(buckets)), step_s)
    return Exit.DONE


def _show_stats(
    context: Context, name: tuple[str, str], rows: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], step_s: int
) -> None:
    output = context.output
    if output.form != "table":
        columns = ("at", "at_s", *_COUNTS, *_TIMES, *_SECONDS)
        output.rows("steps", columns, rows, queue=name[0], topic=name[1], step_s=step_s, total=whole)
        return
    if not rows:
        output.say(f"nothing is known of {'/'.join(name)} in that time; it is written once a minute")
        return
    for line in grid(_HEADS, [_cells(row) for row in (*rows, whole)], output):
        output.line(line)


def _row(bucket: Bucket) -> dict[str, Any]:
    begun = datetime.datetime.fromtimestamp(bucket.at_s, datetime.UTC)
    return {"at": begun.strftime("%Y-%m-%dT%H:%M:%SZ"), "at_s": bucket.at_s, **_numbers(bucket)}


def _numbers(bucket: Bucket) -> dict[str, Any]:
    times = {
        f"{what}_{name}_s": quantile(getattr(bucket, what), part, BOUNDS)
        for what in ("wait", "run") for name, part in _PARTS.items()
    }
    seconds = {name: getattr(bucket, name.replace("_s", "_us")) / 1e6 for name in _SECONDS}
    return {name: getattr(bucket, name) for name in _COUNTS} | times | seconds


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    begun = datetime.datetime.fromtimestamp(row["at_s"], datetime.UTC).astimezone() if "at_s" in row else None
    return [
        plain(begun.strftime("%m-%d %H:%M") if begun else "all"), count(row["pushed"]), count(row["done"]),
        count(row["failed"], "yellow"), count(row["retried"]), count(row["dead"], "red"), count(row["redelivered"]),
        *(_time(row[name]) for name in ("wait_p50_s", "wait_p99_s", "run_p50_s", "run_p90_s", "run_p99_s")),
    ]


def _time(seconds: float | None) -> Cell:
    """``250 us``, ``4 ms``, ``1.6 s``, ``315 s``."""
    if seconds is None:
        return ("-", "bright_black")
    if seconds < 0.001:
        return plain(f"{seconds * 1e6:.0f} us")
    return plain(f"{seconds * 1e3:g} ms" if seconds < 1 else f"{seconds:g} s")


def _step_s(window_s: int) -> int:
    """The first that makes no more than about ``_ROWS`` rows."""
    return next((step for step in _STEPS_S if window_s <= step * _ROWS), DAY_S)


def _seconds(text: str, option: str) -> int:
    from pbus.config.values import duration_s

    try:
        seconds = duration_s(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not {error}", param_hint=option) from None
    if seconds < _MINUTE_S or seconds % _MINUTE_S:
        raise click.BadParameter("whole minutes, at least one", param_hint=option)
    return int(seconds)


def _words(seconds: int) -> str:
    unit, name = next((each, name) for each, name in ((DAY_S, "d"), (3600, "h"), (60, "m")) if seconds % each == 0)
    return f"{seconds // unit}{name}"


# -- pbus system report -------------------------------------------------------------------------


def system_report(context: Context, stock: Stock, names: Sequence[str], month: str) -> int:
    """
    Print a row for each system of *names*; shares are of all systems.

    Raises:
        Unavailable: a store is away: a report with gaps is none.
    """
    since_s, until_s, month = _month(month)
    stock.check()
    found = _by_system(stock, since_s, until_s)
    whole_us = sum(sums.run_us for sums in found.values())
    rows = [_report_row(stock, name, found.get(name, total(())), whole_us) for name in names]
    output = context.output
    if output.form != "table":
        output.rows("systems", _REPORT, rows, month=month)
        return Exit.DONE
    heads = (
        "system", "owner", "cost center", ">jobs", ">done", ">failed", ">dead", ">bytes", ">handler h", ">cpu h",
        ">attempts/job", ">share",
    )
    for line in grid(heads, [_report_cells(row) for row in rows], output):
        output.line(line)
    return Exit.DONE


def _by_system(stock: Stock, since_s: int, until_s: int) -> dict[str, Bucket]:
    """Sums of each system's queues; of queues that no file names any more as of the system ''."""
    from pbus.cli.stores import opened

    found: dict[str, list[Bucket]] = {}
    for storage in stock.settings.storage:
        with opened(stock.settings, storage) as driver:
            for queue in (name for name in stock.queue_names() if stock.storage_of.get(name) == storage):
                section = stock.section(queue)
                sums = total(driver.statistics(queue, None, since_s, until_s, DAY_S))
                found.setdefault(section.system if section else "", []).append(sums)
    return {system: total(sums) for system, sums in found.items()}


def _report_row(stock: Stock, name: str, sums: Bucket, whole_us: int) -> dict[str, Any]:
    section = stock.settings.system.get(name)
    ended = sums.done + sums.dead
    return {
        "system": name, "title": section.title if section else "", "owner": section.owner if section else "",
        "cost_center": section.cost_center if section else "",
        "queues": sum(each.system == name for each in stock.settings.queue.values()),
        "jobs": sums.pushed, "done": sums.done, "failed": sums.failed, "dead": sums.dead, "bytes": sums.bytes,
        "gib": round(sums.bytes / _GIB, 6), "handler_hours": round(sums.run_us / 3.6e9, 6),
        "cpu_hours": round(sums.cpu_us / 3.6e9, 6),
        "attempts_per_job": round((sums.done + sums.failed) / ended, 3) if ended else None,
        "share": round(sums.run_us / whole_us, 6) if whole_us else None,
    }


def _report_cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    share, attempts = row["share"], row["attempts_per_job"]
    return [
        plain(escape(row["system"]) or "-"), plain(escape(row["owner"]) or "-"),
        plain(escape(row["cost_center"]) or "-"), count(row["jobs"]), count(row["done"]),
        count(row["failed"], "yellow"), count(row["dead"], "red"), plain(size(row["bytes"])),
        plain(f"{row['handler_hours']:.2f}"), plain(f"{row['cpu_hours']:.2f}"),
        plain("-" if attempts is None else f"{attempts:.2f}"), plain("-" if share is None else f"{share:.1%}"),
    ]


def _month(text: str) -> tuple[int, int, str]:
    """Begin and end of the month ``2026-11`` (empty: this one), Unix time; and its name."""
    now = datetime.datetime.fromtimestamp(SystemClock().wall_s(), datetime.UTC)
    try:
        begin = datetime.datetime.strptime(text or now.strftime("%Y-%m"), "%Y-%m").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a month such as 2026-11", param_hint="--month") from None
    since_s = int(begin.timestamp())
    days = calendar.monthrange(begin.year, begin.month)[1]
    return since_s, since_s + days * DAY_S, begin.strftime("%Y-%m")
