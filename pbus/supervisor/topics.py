"""
Topics that do not run: since when, why, and what is said of it in the log and in the status.

Rule: a topic is as bad as its worst lane. Each change is one event; a topic of consumers is told
only when it has stood still for a while, because one process that is replaced is no news. What
stands still longer than PATIENCE_S is a problem until it works again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor.handle import Handle
from pbus.telemetry import log as logs

PATIENCE_S: Final = 3.0
"""A topic may stand still so long before that is a problem."""

WORST_LAST: Final = ("running", "draining", "rollout-failed", "paused", "braked", "down", "fatal")
"""States of a topic that this version knows, from good to bad."""

_EVENTS: Final = {"paused": "topic.paused", "braked": "topic.braked"}
_WORTH_A_NOTE_S: Final = 1.0

Name = tuple[str, str]
"""(queue, topic)."""


@dataclass(slots=True)
class _Stopped:
    state: str
    reason: str
    since_s: float
    logged: str = ""
    """The state that the log has; empty: not yet any."""


class Topics:
    """What the lanes of all children say, put together. One owner: the master."""

    def __init__(self, children: Iterable[Handle], of_consumers: Iterable[Name], clock: Clock) -> None:
        """*children*: living ones, at each look; *of_consumers*: topics with processes of their own."""
        self._children = children
        self.of_consumers = frozenset(of_consumers)
        self._clock = clock
        self._log = logs.get()
        self._stopped: dict[Name, _Stopped] = {}

    def look(self, name: Name) -> None:
        """A lane of that topic has changed, or may be gone."""
        all_lanes = [(child.stays, child.lanes[name]) for child in self._children if name in child.lanes]
        lanes = standing(all_lanes, name in self.of_consumers)
        if not lanes:
            return  # its child is being replaced; the next one will say
        state, reason = worst(lanes)
        if badness(state) <= badness("draining"):
            self._runs(name)
            return
        now_s = self._clock.monotonic_s()
        stopped = self._stopped.setdefault(name, _Stopped(state, reason, now_s))
        stopped.state, stopped.reason = state, reason
        told_late = name in self.of_consumers and state != "braked"
        if stopped.logged != state and (not told_late or now_s - stopped.since_s >= PATIENCE_S):
            stopped.logged = state
            self._log.warning(_EVENTS.get(state, "topic.down"), queue=name[0], topic=name[1], reason=reason)

    def replan(self, of_consumers: Iterable[Name], known: Iterable[Name]) -> None:
        """Another configuration: only *known* topics are worth a word."""
        self.of_consumers, known = frozenset(of_consumers), frozenset(known)
        self._stopped = {name: each for name, each in self._stopped.items() if name in known}

    def tick(self) -> None:
        """Look again at what does not run: time passes, children go."""
        for name in list(self._stopped):
            self.look(name)

    def problems(self, next_starts: Mapping[str, float], told: Iterable[str]) -> list[str]:
        """
        What has stood still for too long, one sentence a topic.

        Args:
            next_starts: See ``reason_of``, by path.
            told: Paths of topics about which more is said elsewhere.
        """
        latest_s, told = self._clock.monotonic_s() - PATIENCE_S, frozenset(told)
        stopped = {"/".join(name): each for name, each in self._stopped.items() if each.since_s < latest_s}
        return [
            f"{path} {each.state}: {reason_of(each.state, each.reason, next_starts.get(path, 0.0))}"
            for path, each in stopped.items() if path not in told
        ]

    def _runs(self, name: Name) -> None:
        stopped = self._stopped.pop(name, None)
        if stopped is not None and stopped.logged:
            self._log.info("topic.running", queue=name[0], topic=name[1])


def without(problems: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Those of *problems* that are not about one of these topics (*paths*) or about its consumers."""
    begins = tuple(f"{who}{end}" for path in paths for who in (path, f"consumer {path}") for end in " :")
    return [problem for problem in problems if not problem.startswith(begins)]


def standing(lanes: Sequence[tuple[bool, Mapping[str, Any]]], of_consumers: bool) -> list[Mapping[str, Any]]:
    """
    Which of a topic's lanes tell how it stands: those of children that stay, else all of them.

    After a reload its processes may all be in a long job that they finish with a child that drains: then its lanes
    tell, and that nobody has come to the new child yet is no trouble.

    Args:
        lanes: Whether its child stays, and what it said.
        of_consumers: It is run by processes of its own.
    """
    staying = [lane for stays, lane in lanes if stays]
    leaving = [lane for stays, lane in lanes if not stays]
    if of_consumers and all(lane["state"] == "down" and not lane.get("concurrency") for lane in staying):
        return [lane for lane in leaving if lane.get("concurrency")] or staying or leaving
    return staying or leaving


def worst(lanes: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """State and reason of the worst of *lanes*."""
    lane = max(lanes, key=lambda lane: badness(lane["state"]), default={"state": "running"})
    return lane["state"], lane.get("reason", "")


def badness(state: str) -> int:
    """A rank; a state that this version does not know is worst."""
    return WORST_LAST.index(state) if state in WORST_LAST else len(WORST_LAST)


def reason_of(state: str, reason: str, next_start_s: float) -> str:
    """*reason*, and when its next process is born (in seconds; 0: none is waited for)."""
    if state == "running" or next_start_s < _WORTH_A_NOTE_S:
        return reason
    return "; ".join(part for part in (reason, f"next start in {next_start_s:.0f} s") if part)
