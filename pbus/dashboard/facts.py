"""
What the page of metrics is made of: asked of the master and the scheduler by frames, read from shared memory.

    fresh --metrics_please--> master --metrics--> here
                                +----> scheduler --sampled--> here

Rule: who asks waits WAIT_S at most, and then gets what is known; several at once ask once. No store is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.supervisor.exposed import METRICS, PLEASE, SAMPLED

WAIT_S: Final = 1.0
FRESH_S: Final = 0.5
"""What is no older needs no second question."""

Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What is known now.

    Attributes:
        master: The frame ``metrics`` (``supervisor.exposed``); empty: never heard.
        scheduler: The frame ``sampled`` (``scheduler.life``); empty: never heard.
        ages_s: How old they are, by who said them; infinite: never heard.
    """

    master: Frame = field(default_factory=dict)
    scheduler: Frame = field(default_factory=dict)
    ages_s: Mapping[str, float] = field(default_factory=dict)


class Inquiry:
    """One owner: the dashboard child. *tell* and *on_frame* are the child's."""

    def __init__(
        self, tell: Callable[[str], None], on_frame: Callable[[str, Callable[[dict[str, Any]], None]], None],
        clock: Clock, wait_s: float = WAIT_S,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._wait_s = wait_s
        self._heard = {METRICS: _Heard(), SAMPLED: _Heard()}
        self._asked_s = -math.inf
        for kind in self._heard:
            on_frame(kind, lambda frame, kind=kind: self._hear(kind, frame))  # type: ignore[misc]

    def fresh(self) -> Facts:
        """Ask, wait a moment, and answer what is known."""
        now_s = self._clock.monotonic_s()
        if now_s - self._asked_s >= FRESH_S:
            self._asked_s = now_s
            for heard in self._heard.values():
                heard.came.clear()
            self._tell(PLEASE)
        gevent.wait([heard.came for heard in self._heard.values()], timeout=self._wait_s)
        now_s = self._clock.monotonic_s()
        master, scheduler = self._heard[METRICS], self._heard[SAMPLED]
        return Facts(master.frame, scheduler.frame, {
            "master": now_s - master.at_s, "scheduler": now_s - scheduler.at_s,
        })

    def _hear(self, kind: str, frame: Frame) -> None:
        heard = self._heard[kind]
        heard.frame, heard.at_s = frame, self._clock.monotonic_s()
        heard.came.set()


class _Heard:
    """The last frame of a kind."""

    def __init__(self) -> None:
        self.frame: Frame = {}
        self.at_s = -math.inf
        self.came = gevent.event.Event()
