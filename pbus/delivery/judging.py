"""
What an outcome means for its claim, with what this child remembers of the topic: its brake, and who was busy.

    outcome --> brake spares? busy for how long? --> core.outcome.judge --> settlement
        +-----> brake counts --> tripped: attempts to be given back

Rule: everything about judging that needs memory is here, and is lost with the child: then a brake trips anew, and
a busy delivery gets its ``busy_limit`` again. No attempt is ever used up because of that.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from pbus.clock import Clock
from pbus.core.brake import Brake, Ended, Mode, Result, Tripped
from pbus.core.fingerprint import fingerprint
from pbus.core.job import Delivery, Settlement
from pbus.core.outcome import UNKNOWN, Outcome, Rules, Verdict, judge
from pbus.delivery.finished import Finished

BUSY_KEPT: Final = 50_000
"""Deliveries of which is remembered since when they are answered busy; of more, the oldest begin anew."""

Path = tuple[str, str]
"""(queue, topic)."""

_RESULTS: Final = {
    Verdict.DONE: Result.WORKED,
    Verdict.RETRY_ASKED: Result.WORKED,  # the handler works, and knows what it wants
    Verdict.FAILED: Result.FAILED,
    Verdict.TIMEOUT: Result.FAILED,
    Verdict.CRASHED: Result.FAILED,
    Verdict.PERMANENT: Result.FAILED,
}
"""What an attempt says about its handler; every other verdict says nothing."""


class Judging:
    """
    One per storage of a delivery child. One owner: its desk.

    Args:
        rules: What each topic allows.
        brakes: The brake of each topic that has one.
        clock: Where ages come from.
    """

    def __init__(self, rules: Mapping[Path, Rules], brakes: Mapping[Path, Brake], clock: Clock) -> None:
        self._rules = rules
        self._brakes = brakes
        self._clock = clock
        self._busy: dict[tuple[str, str, str], float] = {}
        self._worked: dict[Path, int] = {}  # went well, and the brakes do not know yet
        self._tripped: list[tuple[Path, Tripped]] = []
        self.stirred = False
        """A brake has heard of a probe: there may be room for the next one. Whoever looks lowers it."""

    def tripped(self) -> list[tuple[Path, Tripped]]:
        """Brakes that tripped since the last call."""
        tripped, self._tripped = self._tripped, []
        return tripped

    def count(self, now_s: float) -> None:
        """Tell the brakes what went well; before anything else is judged, and after a batch."""
        for path, count in self._worked.items():
            if path in self._brakes:
                self._brakes[path].worked(count, now_s)
        self._worked.clear()

    def passes(self, finished: Finished) -> bool:
        """Whether all of these are just done: no brake of their topic wants to hear of each. They are counted then."""
        path = finished.path
        brake = self._brakes.get(path)
        if brake is not None and brake.mode is not Mode.FREE:
            return False
        self._worked[path] = self._worked.get(path, 0) + len(finished.deliveries)
        if self._busy:
            for delivery in finished.deliveries:
                self._busy.pop((*path, delivery.id), None)
        return True

    def judge(self, delivery: Delivery, outcome: Outcome, now_s: float, now_ms: int) -> Settlement:
        """
        How that claim ends.

        Args:
            delivery, outcome: The attempt.
            now_s: Monotonic seconds.
            now_ms: Wall clock, unix ms.
        """
        path = delivery.queue, delivery.topic
        brake = self._brakes.get(path)
        if outcome.verdict is Verdict.DONE and (brake is None or brake.mode is Mode.FREE):
            self._worked[path] = self._worked.get(path, 0) + 1
            if self._busy:
                self._busy.pop((*path, delivery.id), None)
            return judge(delivery, outcome, self._rules[path], now_ms, 0.0)
        self.count(now_s)
        spared_s = brake.spared_s if brake is not None and brake.sparing else None
        busy_s = self._busy_s(delivery, outcome.verdict, now_s)
        rules = self._rules[path]
        settlement = judge(delivery, outcome, rules, now_ms, random.random(), busy_s=busy_s, spared_s=spared_s)
        if brake is not None:
            self._tell(brake, _ended(delivery, outcome, settlement, rules), path, now_s)
        return settlement

    def _tell(self, brake: Brake, ended: Ended, path: Path, now_s: float) -> None:
        self.stirred |= brake.sparing
        tripped = brake.ended(ended, now_s)
        if tripped is not None:
            self._tripped.append((path, tripped))

    def _busy_s(self, delivery: Delivery, verdict: Verdict, now_s: float) -> float:
        """For how long it has been answered busy; any other answer of its handler ends that."""
        key = delivery.queue, delivery.topic, delivery.id
        if verdict is Verdict.BUSY:
            since_s = self._busy.setdefault(key, now_s)
            if len(self._busy) > BUSY_KEPT:
                del self._busy[next(iter(self._busy))]
            return now_s - since_s
        if verdict in _RESULTS:
            self._busy.pop(key, None)
        return 0.0


def _ended(delivery: Delivery, outcome: Outcome, settlement: Settlement, rules: Rules) -> Ended:
    """
    What the brake is told.

    An attempt is given back where the topic may run a job again at all, and not where nobody knows whether it
    ran. What the handler itself gave up on gets one more chance, and no second one.
    """
    result = _RESULTS.get(outcome.verdict, Result.NOTHING)
    if result is not Result.FAILED:
        return Ended(delivery.id, result)
    once = outcome.verdict is Verdict.PERMANENT and delivery.forgiven > 0
    forgivable = settlement.counts and rules.retry.attempts > 1 and settlement.reason != UNKNOWN and not once
    group = settlement.fingerprint or fingerprint(settlement.reason, outcome.error)
    return Ended(delivery.id, result, group, outcome.error, forgivable)
