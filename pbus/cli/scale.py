"""
``pbus topic scale``: so many places of a topic for a time, by the order of a person.

Rule: the order is checked and kept by the scheduler of the running bus; this reads times as people write them.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context
from pbus.cli.grid import Cell, plain, show
from pbus.cli.output import escape
from pbus.core.orders import FILE, Order, read
from pbus.errors import Exit, NotRunning

if TYPE_CHECKING:
    from pbus.config.schema import Settings

_ASK_S: Final = 10.0
_DAY: Final = datetime.timedelta(days=1)
_COLUMNS: Final = ("topic", "orders")
_HEADS: Final = ("topic", "order")


def scale(
    context: Context, glob: str, number: int | None, bounds: tuple[int | None, int | None],
    times: tuple[str, str, str], reset: bool,
) -> int:
    """
    Make an order, or take orders back.

    Args:
        number: Exactly so many; None: *bounds*.
        bounds: Min and max; None: as configured.
        times: What ``--from``, ``--to`` and ``--for`` say; empty: nothing.
    """
    _check_usage(number, bounds, times, reset)
    least, most = (number, number) if number is not None else bounds
    from_s, until_s = moments(*times, now=_now())
    answer = _call(context, glob=glob, min=least, max=most, from_s=from_s, until_s=until_s, reset=reset)
    orders: Mapping[str, Sequence[str]] = answer["orders"]
    rows = [{"topic": path, "orders": list(orders[path])} for path in answer["topics"]]
    show(context.output, "topics", _COLUMNS, rows, _HEADS, _cells)
    return Exit.DONE


def _check_usage(
    number: int | None, bounds: tuple[int | None, int | None], times: tuple[str, str, str], reset: bool
) -> None:
    if reset and (number is not None or any(bound is not None for bound in bounds) or any(times)):
        raise click.UsageError("--reset takes orders back, it goes with nothing else")
    if number is not None and any(bound is not None for bound in bounds):
        raise click.UsageError("either a number, or --min and --max")
    if not reset and number is None and all(bound is None for bound in bounds):
        raise click.UsageError("how many? A number, --min, --max, or --reset")
    if times[1] and times[2]:
        raise click.UsageError("either --to or --for")


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    return [plain(escape(row["topic"])), plain("; ".join(row["orders"]) or "none: as configured")]


def _call(context: Context, **fields: Any) -> dict[str, Any]:
    from pbus.supervisor.control import call

    try:
        return call(context.run_dir(), "scale", _ASK_S, **fields)
    except NotRunning as error:
        raise NotRunning(f"{error}; an order is given to a running bus, 'pbus start --daemon' starts it") from None


def _now() -> datetime.datetime:
    from pbus.clock import SystemClock

    return datetime.datetime.fromtimestamp(SystemClock().wall_s(), datetime.UTC).astimezone()


def moments(begin: str, end: str, lasting: str, now: datetime.datetime) -> tuple[float | None, float | None]:
    """
    Unix times of ``--from``, and of ``--to`` or ``--for``; None where nothing is said.

    A time without a day is the next one: after now, or, of an end, after the begin.

    Args:
        now: With the time zone that times are meant in.

    Raises:
        click.BadParameter: one cannot be read.
    """
    from pbus.config.values import duration_s

    since = _moment(begin, "--from", now) if begin else None
    if lasting:
        try:
            for_s = duration_s(lasting)
        except ValueError as error:
            raise click.BadParameter(f"{lasting!r} is not {error}", param_hint="--for") from None
        if for_s <= 0:
            raise click.BadParameter("it has to last for a while", param_hint="--for")
        return _stamp(since), (since or now).timestamp() + for_s
    return _stamp(since), _stamp(_moment(end, "--to", since or now) if end else None)


def _moment(text: str, option: str, after: datetime.datetime) -> datetime.datetime:
    """The time that *text* says: of that day, or the next one after *after*."""
    try:
        clock = datetime.time.fromisoformat(text)
    except ValueError:
        pass
    else:
        # Clock and calendar of the place, so that a day with 23 or 25 hours is one day.
        naive = datetime.datetime.combine(after.date(), clock)
        found = naive.astimezone(clock.tzinfo or None)
        return found if found > after else (naive + _DAY).astimezone(clock.tzinfo or None)
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        example = "write '2027-12-31 19:50', or '19:50'"
        raise click.BadParameter(f"{text!r} is no time; {example}", param_hint=option) from None


def _stamp(moment: datetime.datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def orders_of(settings: Settings) -> dict[str, list[Order]]:
    """``queue/topic`` -> its orders, those of the future too; a file that cannot be read is told by the bus."""
    try:
        with open(os.path.join(settings.node.data_dir, FILE), encoding="utf-8") as file:
            orders = read(file.read())
    except (OSError, ValueError):
        return {}
    now_s = _now().timestamp()
    found: dict[str, list[Order]] = {}
    for order in orders:
        if order.until_s > now_s:
            found.setdefault(order.path, []).append(order)
    return found
