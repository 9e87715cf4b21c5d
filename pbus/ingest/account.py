"""
What is told of jobs that were taken here and are over: counters for the scheduler, the log, job events.

    work {topics: {path: {done, run_s_sum}}}    to the master, once a second, topics with something to say
    a row of the histograms                     memory that all children share

Rule: telling never holds a job up and never fails one; lines in the log are bounded a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pbus.core.job import Delivery, Move, Settlement
from pbus.core.names import job_id_ms
from pbus.core.outcome import UNKNOWN, Outcome, Verdict
from pbus.ingest.spans import IngestSpans
from pbus.ingest.stories import Stories
from pbus.supervisor.child import Child
from pbus.supervisor.histograms import Row

LINES_PER_S: Final = 20
_POPPED: Final = Outcome(verdict=Verdict.DONE, target="handed out to a client")
_EVENTS: Final = {Move.ACK: "job.done", Move.RETRY: "job.retry", Move.BURY: "job.dead", Move.RELEASE: "job.released"}


class Account:
    """One per store of an ingest child. One owner: the store."""

    def __init__(self, child: Child, stories: Stories | None = None, spans: IngestSpans | None = None) -> None:
        """*stories*, *spans*: Told of each attempt; None: nobody keeps them, or exports any."""
        self._child = child
        self._stories = stories
        self._spans = spans
        self._work: dict[str, dict[str, float]] = {}
        self._rows: dict[str, Row] = {}
        self._owner = str(child.owner)
        self._lines = 0

    @property
    def watched(self) -> bool:
        """Somebody follows job events."""
        return self._child.watched

    def done(self, path: str, count: int, run_s: float = 0.0) -> None:
        """So many jobs of a topic are done, which took *run_s* together as far as that is known."""
        work = self._work.setdefault(path, {"done": 0, "run_s_sum": 0.0})
        work["done"] += count
        work["run_s_sum"] += run_s

    def popped(self, path: str, deliveries: Sequence[Delivery]) -> None:
        """These of one topic were handed out and are done by that: how long they waited is known, and no more."""
        self.done(path, len(deliveries))
        self._row(deliveries[0]).popped(deliveries, self._child.clock.wall_s())
        if self._stories is not None:
            self._stories.popped(deliveries, _POPPED)
        if self._spans is not None:
            self._spans.popped(deliveries, _POPPED)

    def read(self, of_topics: Iterable[Sequence[Delivery]]) -> None:
        """A client was handed these, of each topic that it reads."""
        if self._spans is not None:
            for deliveries in of_topics:
                self._spans.read(deliveries)

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        """This attempt of a program or of a pull consumer is over and the store has it."""
        path = f"{delivery.queue}/{delivery.topic}"
        self._count(delivery, outcome, settlement)
        if settlement.move is Move.ACK:
            self.done(path, 1, outcome.run_s)
        elif settlement.move is not Move.RELEASE:
            self._log(delivery, outcome, settlement)
        if self._stories is not None:
            self._stories.ended(delivery, outcome, settlement)
        if self._spans is not None:
            self._spans.ended(delivery, outcome, settlement)
        if self._child.watched:
            self._child.publish(self._event(delivery, outcome, settlement))

    def _count(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        row, is_done = self._row(delivery), settlement.move is Move.ACK
        if outcome.run_s or delivery.owner == self._owner:
            if settlement.move is not Move.RELEASE:
                job = "" if delivery.redelivered else delivery.id
                ended = job, outcome.run_s, self._child.clock.wall_s(), len(delivery.body)
                row.attempts([ended], is_done, delivery.redelivered)
        elif is_done:
            row.done()                                # another child's: who knows since when it was read
        if not is_done:
            row.settled(settlement, busy=False)

    def _row(self, delivery: Delivery) -> Row:
        path = f"{delivery.queue}/{delivery.topic}"
        row = self._rows.get(path)
        if row is None:
            row = self._rows[path] = self._child.row_of(delivery.queue, delivery.topic)
        return row

    def tell(self) -> None:
        """Once a second: tell the master what was done since the last time."""
        self._lines = 0
        if self._work:
            work, self._work = self._work, {}
            self._child.tell("work", topics=work, backends={})

    def _log(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        self._lines += 1
        if self._lines > LINES_PER_S:
            return
        more: dict[str, Any] = {"omitted": "more of this second"} if self._lines == LINES_PER_S else {}
        event = "job.failed"
        if settlement.move is Move.BURY:
            event = "job.unknown" if settlement.reason == UNKNOWN else "job.dead"
            more |= {"reason": settlement.reason, "fingerprint": settlement.fingerprint}
        self._child.log.warning(
            event, queue=delivery.queue, topic=delivery.topic, job=delivery.id, attempt=delivery.attempt,
            verdict=outcome.verdict.value, error=settlement.error, **more,
        )

    def _event(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> dict[str, Any]:
        run_ms = outcome.run_s * 1000
        wait_ms = self._child.clock.wall_s() * 1000 - job_id_ms(delivery.id) - run_ms
        return {
            "event": _EVENTS[settlement.move], "id": delivery.id, "queue": delivery.queue, "topic": delivery.topic,
            "attempt": delivery.attempt, "verdict": outcome.verdict.value, "error": settlement.error or outcome.error,
            "run_ms": round(run_ms, 3), "wait_ms": round(max(0.0, wait_ms), 3), "delay_s": settlement.delay_s,
            "reason": settlement.reason, "fingerprint": settlement.fingerprint, "resent": False, "status": "",
            "headers": {}, "output": b"", "stderr": b"", "target": delivery.owner, "pid": 0,
        }
