"""
``pbus autoscale simulate``: what other settings would have done with the work that was recorded.

Rule: the function that decides in the bus decides here; only the jobs are made up, as many and as long as they were.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.grid import Cell, count, plain, show
from pbus.cli.output import escape, output_option
from pbus.errors import Exit, NotFound, PbusError

if TYPE_CHECKING:
    from pbus.core.autoscale_record import Moment
    from pbus.core.autoscale_terms import TopicRules

Number = TypeVar("Number", int, float)

Trial = tuple[int | None, int | None, float | None]
"""Min, max and catch_up to try; None: as configured."""

_COLUMNS: Final = (
    "topic", "setting", "min", "max", "catch_up_s", "jobs", "not_begun", "wait_p50_s", "wait_p90_s", "wait_p99_s",
    "process_hours", "most_at_once",
)
_HEADS: Final = ("topic", "setting", ">jobs", ">wait p50", ">p90", ">p99", ">process-hours", ">most")
_MANY_JOBS: Final = 2_000_000
_AFTER_S: Final = 60.0
"""So long goes on what waits at the end of the recording; what has not begun then is said."""
_START_S: Final = 0.5
"""Until a new process takes jobs; that of a heavy application may be longer."""


class _NoSamples(PbusError):
    """Nothing to simulate."""

    exit_status = Exit.NOT_FOUND


@click.group()
def autoscale() -> None:
    """Try settings of the autoscaler over recorded work."""


@autoscale.command()
@click.option("--topic", "glob", default="*", metavar="GLOB", help="Of these topics (default: of all).")
@click.option("--since", default="1h", metavar="TIME", help="What was recorded within this time (default: 1h).")
@click.option("--file", "file", default="", metavar="FILE", help="Samples of this file, all of them.")
@click.option("--catch-up", default="", metavar="TIME,..", help="Try these catch_up.")
@click.option("--max", "mosts", default="", metavar="N,..", help="Try these concurrency.max.")
@click.option("--min", "leasts", default="", metavar="N,..", help="Try these concurrency.min.")
@output_option
@pass_context
def simulate(context: Context, glob: str, since: str, file: str, catch_up: str, mosts: str, leasts: str) -> int:
    """
    Run recorded work under other settings: how long jobs would have waited, and what it would have cost.

    The first row of a topic is its configuration. PROCESS-HOURS counts what was there, idle or not; for calls it is
    the number allowed at once.
    """
    settings = context.settings()
    trials: list[Trial] = list(itertools.product(
        _or_configured(_numbers(leasts, "--min", 0)), _or_configured(_numbers(mosts, "--max", 1)),
        _or_configured(_durations(catch_up, "--catch-up")),
    ))
    from pbus.config.scaling import rules_of

    moments = list(_moments(file, settings.node.data_dir, (_durations(since, "--since") or [3600.0])[0]))
    rules = rules_of(settings.queue, settings.backend, settings.system)
    known = sorted({path for moment in moments for path in moment.topics if path in rules})
    paths = [path for path in known if fnmatch.fnmatchcase(path, glob) or glob == path.partition("/")[0]]
    if not paths:
        raise NotFound(f"no work of a topic called {glob!r} was recorded{_others(known)}")
    rows: list[dict[str, Any]] = []
    for path in paths:
        rows += _rows(context, path, rules[path], moments, trials)
    show(context.output, "settings", _COLUMNS, rows, _HEADS, _cells)
    for row in rows:
        if row["not_begun"]:
            context.output.say(f"{row['topic']}: {row['not_begun']:,} jobs had not begun a minute after the end with "
                               f"max {row['max']}, catch_up {row['catch_up_s']:g} s: they waited longest")
    return Exit.DONE


def _others(known: Sequence[str]) -> str:
    return f"; there is some of {', '.join(known[:12])}" if known else ""


def _durations(text: str, option: str) -> list[float]:
    from pbus.config.values import duration_s

    try:
        found = [duration_s(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not {error}", param_hint=option) from None
    if not all(found):
        raise click.BadParameter(f"{text!r}: it has to be longer than nothing", param_hint=option)
    return found


def _or_configured(values: Sequence[Number]) -> Sequence[Number | None]:
    """*values*, or the one that is configured."""
    return values or (None,)


def _numbers(text: str, option: str, least: int) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers", param_hint=option) from None
    if any(number < least for number in found):
        raise click.BadParameter(f"{text!r}: it is {least} at least", param_hint=option)
    return found


def _moments(file: str, data_dir: str, since_s: float) -> Iterator[Moment]:
    """
    What was recorded, in order.

    Raises:
        _NoSamples: nothing, or nobody may read it.
    """
    from pbus.clock import SystemClock
    from pbus.core.autoscale_record import FOLDER, SUFFIX, moments

    folder = os.path.join(data_dir, FOLDER)
    try:
        names = [file] if file else [
            os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(SUFFIX)
        ]
        begin_s = 0.0 if file else SystemClock().wall_s() - since_s
        for name in names:
            with open(name, encoding="utf-8") as lines:
                yield from (moment for moment in moments(lines) if moment.wall_s >= begin_s)
    except FileNotFoundError as error:
        raise _NoSamples(f"nothing was recorded yet: there is no {error.filename}") from None
    except (OSError, ValueError) as error:
        raise _NoSamples(f"samples cannot be read: {error}") from None


def _rows(
    context: Context, path: str, rules: TopicRules, moments: Sequence[Moment],
    trials: Sequence[Trial],
) -> list[dict[str, Any]]:
    """A row a setting, the configuration first."""
    from pbus.core.autoscale_record import loads_of

    loads = loads_of(moments, path)
    settings = [rules]
    for trial in trials:
        least, most, catch_up_s = (
            known if wish is None else wish
            for wish, known in zip(trial, (rules.least, rules.most, rules.catch_up_s), strict=True)
        )
        tried = dataclasses.replace(rules, least=min(int(least), int(most)), most=int(most), catch_up_s=catch_up_s)
        if tried not in settings:
            settings.append(tried)
    jobs = round(sum(load.for_s * load.per_s for load in loads)) * len(settings)
    if jobs > _MANY_JOBS:
        context.output.say(f"{path}: {jobs:,} jobs to simulate, a few minutes; --since makes it fewer")
    return [_row(path, tried, loads, is_configured=tried is rules) for tried in settings]


def _row(path: str, rules: TopicRules, loads: Sequence[Any], *, is_configured: bool) -> dict[str, Any]:
    from pbus.core.autoscale_simulation import Farm, arrivals, simulate
    from pbus.core.autoscale_terms import Kind

    farm = Farm(start_s=_START_S if rules.kind is Kind.PROCESSES else 0.0)
    jobs = list(arrivals(loads, random.Random(1).random))
    for_s = sum(load.for_s for load in loads)
    ended = simulate(jobs, rules, for_s + _AFTER_S, farm=farm)
    places = [moment.sample.places + moment.sample.starting for moment in ended.moments if moment.at_s <= for_s]
    return {
        "topic": path, "setting": "configured" if is_configured else "tried", "min": rules.least, "max": rules.most,
        "catch_up_s": rules.catch_up_s, "jobs": len(jobs), "not_begun": len(jobs) - len(ended.waits_s),
        "wait_p50_s": round(ended.wait_s(50), 4), "wait_p90_s": round(ended.wait_s(90), 4),
        "wait_p99_s": round(ended.wait_s(99), 4), "process_hours": round(sum(places) / 3600, 4),
        "most_at_once": max(ended.wanted, default=rules.least),
    }


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    mark = " *" if row["setting"] == "configured" else ""
    setting = f"{row['min']}-{row['max']}, catch_up {row['catch_up_s']:g} s{mark}"
    waits = [plain(_time(row[name])) for name in ("wait_p50_s", "wait_p90_s", "wait_p99_s")]
    return [
        plain(escape(row["topic"])), plain(setting), count(row["jobs"]), *waits, plain(f"{row['process_hours']:.3f}"),
        count(row["most_at_once"]),
    ]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
