"""
The orders of people, kept in a file of the data directory, so that they survive a restart.

    data_dir/scale-orders.json    {"v": 1, "orders": [{path, least, most, from_s, until_s, made_s}, ..]}

Rule: an order counts when it is on the disk. The file is replaced as a whole, never changed in place; one that cannot
be understood is said and put aside, and never stops the bus.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from pbus.clock import Clock
from pbus.core import orders as rule
from pbus.core.autoscale_terms import Override, TopicRules
from pbus.core.orders import FILE, VERSION, Order
from pbus.errors import Exit

_PROBLEM: Final = "orders"


class Orders:
    """One owner: the scheduler."""

    def __init__(
        self, data_dir: str, rules: Mapping[str, TopicRules], clock: Clock, problem: Callable[[str, str], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """*problem*: raises, or with an empty text lifts, what ``pbus status`` shows."""
        self._path = os.path.join(data_dir, FILE)
        self._rules = rules
        self._clock = clock
        self._problem = problem
        self._log = log
        self._orders: list[Order] = []

    def load(self) -> None:
        """Read the file; without one there are no orders."""
        try:
            with open(self._path, encoding="utf-8") as file:
                self._orders = rule.read(file.read())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            aside = f"{self._path}.bad"
            with contextlib.suppress(OSError):
                os.replace(self._path, aside)
            text = f"orders of 'pbus topic scale' are lost: {self._path}: {error}; it is kept as {aside}"
            self._problem(_PROBLEM, text)
            self._log.error("orders.unreadable", path=self._path, error=str(error))

    def in_force(self, wall_s: float) -> dict[str, Override]:
        """``queue/topic`` -> the bounds that hold now. What has expired is dropped."""
        if not self._orders:
            return {}
        left = rule.unexpired(self._orders, wall_s)
        if len(left) < len(self._orders):
            for order in self._orders:
                if order not in left:
                    self._log.info("order.expired", path=order.path, order=order.words)
            self._orders = left
            with contextlib.suppress(OSError):      # it is dropped again after a restart
                self._write(left)
        return rule.in_force(left, wall_s)

    def take(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """
        A person's order, or its withdrawal (``reset``).

        Returns:
            Fields of the answer: ``topics``, and what is ordered about each (``orders``); or ``error`` and
            ``exit_status``.
        """
        try:
            return self._reset(frame["glob"]) if frame.get("reset") else self._add(frame)
        except LookupError as error:
            return _refused(str(error.args[0]), Exit.NOT_FOUND)
        except (TypeError, ValueError) as error:
            return _refused(str(error), Exit.USAGE)
        except OSError as error:
            return _refused(f"cannot write {self._path}: {error.strerror or error}; nothing was changed", Exit.FAILED)

    def _add(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        new = rule.ordered(
            frame["glob"], self._rules, least=frame.get("min"), most=frame.get("max"), from_s=frame.get("from_s"),
            until_s=frame.get("until_s"), now_s=self._clock.wall_s(),
        )
        self._keep([*rule.unexpired(self._orders, self._clock.wall_s()), *new])
        for order in new:
            self._log.info("order.made", path=order.path, order=order.words)
        return self._told([order.path for order in new])

    def _reset(self, glob: str) -> dict[str, Any]:
        known = {*self._rules, *(order.path for order in self._orders)}
        paths = rule.matching(glob, known)
        gone = [order for order in self._orders if order.path in paths]
        if gone:
            self._keep([order for order in self._orders if order not in gone])
        for order in gone:
            self._log.info("order.reset", path=order.path, order=order.words)
        return self._told(paths)

    def _told(self, paths: list[str]) -> dict[str, Any]:
        return {
            "topics": paths,
            "orders": {path: [order.words for order in self._orders if order.path == path] for path in paths},
        }

    def _keep(self, orders: list[Order]) -> None:
        self._write(orders)
        self._orders = orders
        self._problem(_PROBLEM, "")

    def _write(self, orders: list[Order]) -> None:
        text = json.dumps({"v": VERSION, "orders": [order.fields() for order in orders]}, indent=1)
        partial = f"{self._path}.new"
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refused(text: str, exit_status: Exit) -> dict[str, Any]:
    return {"error": text, "exit_status": int(exit_status)}
