"""
Orders of people: so many places of a topic, or other bounds, for a time (``pbus topic scale``).

    made --from_s--> in force --until_s--> expired, dropped

Rule: pure; times are Unix time. Where several orders about one topic are in force, the one made last holds.
"""

from __future__ import annotations

import datetime
import fnmatch
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbus.core.autoscale_terms import Kind, Override, TopicRules

FILE: Final = "scale-orders.json"
"""Where they are kept, in the data directory."""
VERSION: Final = 1

PLACES_MAX: Final = 10_000
"""As ``concurrency`` allows."""
LATEST_S: Final = 250_000_000_000.0
"""Unix time; there are no calendars for what comes after the year 9999."""
LATE_S: Final = 60.0
"""An order may begin so long ago: that is what typing takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What one person ordered about one topic.

    Attributes:
        path: ``queue/topic``.
        least, most: Bounds; None: those of the configuration.
        from_s, until_s: Unix time, from (inclusive) and until (exclusive; infinity: until it is taken back).
        made_s: Unix time.
    """

    path: str
    least: int | None
    most: int | None
    from_s: float
    until_s: float
    made_s: float

    @property
    def override(self) -> Override:
        """The same, as the autoscaler takes it."""
        return Override(least=self.least, most=self.most, from_wall_s=self.from_s, until_wall_s=self.until_s)

    @property
    def words(self) -> str:
        """For people: ``12 at once, until 2027-12-31 22:30``."""
        if self.least == self.most:
            what = f"{self.least} at once"
        else:
            bounds = [f"{name} {number}" for name, number in (("min", self.least), ("max", self.most))
                      if number is not None]
            what = ", ".join(bounds)
        begins = f", from {moment(self.from_s)}" if self.from_s > self.made_s else ""
        ends = "until it is reset" if math.isinf(self.until_s) else f"until {moment(self.until_s)}"
        return f"{what}{begins}, {ends}"

    def fields(self) -> dict[str, Any]:
        """For a file or a frame; no end is None."""
        return {
            "path": self.path, "least": self.least, "most": self.most, "from_s": self.from_s,
            "until_s": None if math.isinf(self.until_s) else self.until_s, "made_s": self.made_s,
        }


def moment(wall_s: float) -> str:
    """Unix time as people here read it: ``2027-12-31 22:30``, with seconds where there are any."""
    local = datetime.datetime.fromtimestamp(wall_s, datetime.UTC).astimezone()
    text = local.replace(tzinfo=None).isoformat(" ", "seconds")
    return text.removesuffix(":00")


def order_of(fields: Mapping[str, Any]) -> Order:
    """
    What ``Order.fields`` gave.

    Raises:
        ValueError: it makes no sense.
    """
    try:
        until_s = fields["until_s"]
        order = Order(
            path=str(fields["path"]), least=_places(fields["least"]), most=_places(fields["most"]),
            from_s=float(fields["from_s"]), until_s=math.inf if until_s is None else float(until_s),
            made_s=float(fields["made_s"]),
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not an order: {error!r}") from None
    _check(order)
    return order


def read(text: str) -> list[Order]:
    """
    The orders of a file.

    Raises:
        ValueError: it makes no sense.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("v") != VERSION or not isinstance(document.get("orders"), list):
        raise ValueError(f"not a file of orders, version {VERSION}")
    return [order_of(fields) for fields in document["orders"]]


def _places(number: Any) -> int | None:
    return None if number is None else int(number)


def ordered(
    glob: str, rules: Mapping[str, TopicRules], *, least: int | None, most: int | None, from_s: float | None,
    until_s: float | None, now_s: float,
) -> list[Order]:
    """
    The orders that somebody asks for.

    Args:
        glob: Which topics: ``gift/credit``, ``gift/*``, or a queue.
        rules: Of all topics that have places.
        from_s, until_s: Unix time; None: now, and until it is taken back.

    Raises:
        LookupError: no topic is called like that.
        ValueError: what is asked for makes no sense.
    """
    paths = matching(glob, rules)
    if until_s is not None and until_s <= now_s:
        raise ValueError(f"it would end in the past, {moment(until_s)}")
    if from_s is not None and from_s < now_s - LATE_S:
        raise ValueError(f"it would begin in the past, {moment(from_s)}; without --from it begins now")
    orders = [
        Order(path=path, least=least, most=most, from_s=now_s if from_s is None else from_s,
              until_s=math.inf if until_s is None else until_s, made_s=now_s)
        for path in paths
    ]
    for order in orders:
        _check(order)
        _check_fits(order, rules[order.path])
    return orders


def matching(glob: str, paths: Iterable[str]) -> list[str]:
    """
    Topics that *glob* means, in order.

    Raises:
        LookupError: none.
    """
    found = sorted(path for path in paths if glob == path.partition("/")[0] or fnmatch.fnmatchcase(path, glob))
    if not found:
        raise LookupError(f"no topic with processes or calls of its own is called {glob!r}")
    return found


def _check(order: Order) -> None:
    least, most = order.least, order.most
    if least is None and most is None:
        raise ValueError("neither min nor max is given")
    for name, number in (("min", least), ("max", most)):
        if number is not None and not 0 <= number <= PLACES_MAX:
            raise ValueError(f"{name} is {number}, it may be 0 to {PLACES_MAX:,}")
    for when_s in (order.from_s, order.made_s, 0.0 if math.isinf(order.until_s) else order.until_s):
        if not 0 <= when_s <= LATEST_S:
            raise ValueError(f"{when_s} is no time that a calendar has")
    if least is not None and most is not None and most < least:
        raise ValueError(f"max ({most}) is less than min ({least})")
    if order.until_s <= order.from_s:
        raise ValueError(f"it would end ({moment(order.until_s)}) before it begins ({moment(order.from_s)})")


def _check_fits(order: Order, rules: TopicRules) -> None:
    if rules.most == 1 and max(order.least or 0, order.most or 0) > 1:
        raise ValueError(f"{order.path} runs one job at a time (concurrency max = 1 keeps its order); "
                         "change the configuration to run more")
    if rules.kind is Kind.CALLS and order.most == 0:
        raise ValueError(f"{order.path} would make no calls at all; 'pbus topic pause' does that")


def in_force(orders: Iterable[Order], wall_s: float) -> dict[str, Override]:
    """``queue/topic`` -> the bounds that hold now."""
    latest: dict[str, Order] = {}
    for order in orders:
        if order.from_s <= wall_s < order.until_s:
            before = latest.get(order.path)
            if before is None or order.made_s >= before.made_s:
                latest[order.path] = order
    return {path: order.override for path, order in latest.items()}


def unexpired(orders: Iterable[Order], wall_s: float) -> list[Order]:
    """Those that hold now or will."""
    return [order for order in orders if order.until_s > wall_s]
