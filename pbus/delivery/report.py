"""
What is told of an attempt that is over and written: log, topic log, job events, counters.

Rule: telling never holds a job up and never fails one. Lines about failures are bounded per topic
and second; what was left out is counted in the next line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.core.brake import Tripped
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.names import job_id_ms
from pbus.core.outcome import UNKNOWN, Outcome, Verdict
from pbus.delivery.finished import Finished
from pbus.supervisor.child import Child
from pbus.supervisor.histograms import Row
from pbus.telemetry.topic_log import TopicLog

LINES_PER_S: Final = 20
_EVENTS: Final = {Move.ACK: "job.done", Move.RETRY: "job.retry", Move.BURY: "job.dead", Move.RELEASE: "job.released"}
_SHADOW_FAILED: Final = "job.shadow_failed"
_ENDS: Final = frozenset({Move.RETRY, Move.BURY})


class Report:
    """
    One per delivery child.

    Args:
        child: Whose log, scoreboard slot and followers.
        topic_log: Makes the text log of a topic.
        row: Where the ends of a topic's attempts are counted.
    """

    def __init__(
        self, child: Child, topic_log: Callable[[str, str], TopicLog], row: Callable[[str, str], Row]
    ) -> None:
        self._child = child
        self._row = row
        self._clock: Clock = child.clock
        self._make_topic_log = topic_log
        self._topic_logs: dict[tuple[str, str], TopicLog] = {}
        self._budget: dict[tuple[str, str], _Budget] = {}
        self._done = 0
        self._failed = 0

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        """This attempt is over and the store has it."""
        if settlement.move is Move.ACK:
            if outcome.verdict is Verdict.DONE:
                self._done += 1
            else:
                self._shadow_failed(delivery, outcome)
        elif settlement.move in _ENDS and outcome.verdict is not Verdict.BUSY:
            self._failed += 1
            self._log_failure(delivery, outcome, settlement)
        if settlement.move is not Move.ACK:
            self._row(delivery.queue, delivery.topic).settled(settlement, outcome.verdict is Verdict.BUSY)
        if outcome.stderr:
            text = outcome.stderr.decode("utf-8", "replace")
            self._topic_log(delivery.queue, delivery.topic).write(delivery.id, "ERROR", text, 0)
        if self._child.watched:
            self._child.publish(self._event(delivery, outcome, settlement))

    def done(self, finished: Finished, settlements: Sequence[Settlement]) -> None:
        """These are over, and the store has them."""
        self._done += len(finished.deliveries)
        if self._child.watched:
            for (delivery, outcome), settlement in zip(finished.each(), settlements, strict=True):
                self._child.publish(self._event(delivery, outcome, settlement))

    def batch_over(self) -> None:
        """A batch is told: bring the scoreboard up to date, once for all of it."""
        self._child.slot.update(done=self._done, failed=self._failed)

    def unwritten(self, count: int, error: BaseException) -> None:
        """*count* outcomes wait for the store."""
        if self._spend("", "")[0]:
            self._child.log.warning("settle.waiting", count=count, error=str(error), kind=type(error).__name__)

    def brake_released(self, queue: str, topic: str) -> None:
        """The topic is not braked any more."""
        self._child.log.info("brake.released", queue=queue, topic=topic)
        self._topic_log(queue, topic).write("", "INFO", "works again at full rate", 0)

    def brake_tripped(self, queue: str, topic: str, tripped: Tripped) -> None:
        """The topic is braked from now on."""
        forgiven = sum(tripped.forgive.values())
        self._child.log.error(
            "brake.tripped", queue=queue, topic=topic, jobs=tripped.jobs, failed=tripped.failed,
            fingerprint=tripped.group, error=tripped.error, forgiven=forgiven,
        )
        share = f"{tripped.failed} of {tripped.jobs} attempts failed"
        text = f"braked: {share}, {forgiven} are given back: {tripped.error}"
        self._topic_log(queue, topic).write("", "ERROR", text, 0)

    def topic_changed(self, queue: str, topic: str, state: str, reason: str) -> None:
        """Its own log has that a topic stopped (``paused``, ``down``) for that reason, or runs again."""
        if state == "running":
            self._topic_log(queue, topic).write("", "INFO", state, 0)
            return
        self._topic_log(queue, topic).write("", "ERROR", f"{state}, its jobs wait: {reason}", 0)

    def reopen_logs(self) -> None:
        """The log files were rotated."""
        for log in self._topic_logs.values():
            log.reopen()

    def _log_failure(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        allowed, omitted = self._spend(delivery.queue, delivery.topic)
        if not allowed:
            return
        more: dict[str, Any] = {"omitted": omitted} if omitted else {}
        event = "job.failed"
        if settlement.move is Move.BURY:
            event = "job.unknown" if settlement.reason == UNKNOWN else "job.dead"
            more |= {"reason": settlement.reason, "fingerprint": settlement.fingerprint}
        self._child.log.warning(
            event, queue=delivery.queue, topic=delivery.topic, job=delivery.id, attempt=delivery.attempt,
            verdict=outcome.verdict.value, error=settlement.error, **more,
        )
        text = f"attempt {delivery.attempt} {outcome.verdict.value}: {settlement.error}"
        self._topic_log(delivery.queue, delivery.topic).write(delivery.id, "ERROR", text, 0)

    def _shadow_failed(self, delivery: Delivery, outcome: Outcome) -> None:
        """Only a shadow's attempt is over although it failed; its own log has it, and nobody is woken."""
        self._failed += 1
        if self._spend(delivery.queue, delivery.topic)[0]:
            text = f"{outcome.verdict.value}, only compared: {outcome.error}"
            self._topic_log(delivery.queue, delivery.topic).write(delivery.id, "WARNING", text, 0)

    def _spend(self, queue: str, topic: str) -> tuple[bool, int]:
        """Whether one more line may be written about that topic now, and how many were left out before."""
        budget = self._budget.setdefault((queue, topic), _Budget())
        return budget.spend(self._clock.monotonic_s())

    def _topic_log(self, queue: str, topic: str) -> TopicLog:
        log = self._topic_logs.get((queue, topic))
        if log is None:
            log = self._topic_logs[queue, topic] = self._make_topic_log(queue, topic)
        return log

    def _event(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> dict[str, Any]:
        run_ms = outcome.run_s * 1000
        wait_ms = self._clock.wall_s() * 1000 - job_id_ms(delivery.id) - run_ms
        failed = settlement.move is Move.ACK and outcome.verdict is not Verdict.DONE
        return {
            "event": _SHADOW_FAILED if failed else _EVENTS[settlement.move],
            "id": delivery.id, "queue": delivery.queue, "topic": delivery.topic,
            "attempt": delivery.attempt, "verdict": outcome.verdict.value, "error": settlement.error or outcome.error,
            "run_ms": round(run_ms, 3), "wait_ms": round(max(0.0, wait_ms), 3), "delay_s": settlement.delay_s,
            "reason": settlement.reason, "fingerprint": settlement.fingerprint, "resent": outcome.resent,
            "status": outcome.status, "headers": dict(outcome.headers), "output": outcome.output,
            "stderr": outcome.stderr, "target": outcome.target, "pid": self._child.slot.read().pid,
        }


class _Budget:
    """LINES_PER_S lines in each second."""

    def __init__(self) -> None:
        self._second = -1
        self._left = 0
        self._omitted = 0

    def spend(self, now_s: float) -> tuple[bool, int]:
        """(whether one more line fits, how many did not since the last that did)."""
        if int(now_s) != self._second:
            self._second, self._left = int(now_s), LINES_PER_S
        if not self._left:
            self._omitted += 1
            return False, 0
        self._left -= 1
        omitted, self._omitted = self._omitted, 0
        return True, omitted
