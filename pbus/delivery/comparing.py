"""
Compares what a topic and its shadow made of a job, and keeps what that adds up to in a document of the store.

    desk --ended--> halves of this child --meet--> Tally of each shadow --once a second--> document SHADOW
                          | not met within ALONE_S
                          +--> Driver.meet: those of other children and nodes, and from before a restart

Either of the two may be first. The topic's half is its final outcome: a job that it tries again is compared when it is
done, or dead.

Rule: lossy and bounded; nothing waits for it, and none of its errors leaves it. What there is no room for is counted
as skipped. Copies that a replay makes are left out: they go to one topic only.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.config.schema import Queue
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.sample import in_sample, residues
from pbus.core.shadow import KIND, Half, Path, Tally, half_of, steps_of, tally_of
from pbus.storage.driver import Driver
from pbus.storage.halves import Waiting

TURN_S: Final = 0.25
WRITE_S: Final = 1.0
ALONE_S: Final = 2.0
"""So long a half waits here for the other one: most come from the same child, and cost the store nothing."""
INBOX: Final = 4_000
MANY: Final = 500
"""So many do not wait for the next turn."""
INBOX_BYTES: Final = 8 * 1024 * 1024
ALONE: Final = 2_000
"""Halves of one shadow in this child, 6 KiB at most each."""
AT_ONCE: Final = 64
"""Halves in one call of the store."""
YIELD_EACH: Final = 8
"""Bodies that are read without letting others run."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A shadow as it concerns one of the two topics. ``is_shadow``: this one is it."""

    queue: str
    shadow: str
    sample: int
    ignore: Sequence[Path]
    is_shadow: bool


Plan = Mapping[tuple[str, str], Sequence[Watched]]
"""(queue, topic) -> comparisons that it takes part in."""


def plan_of(queues: Mapping[str, Queue], storage: str) -> Plan:
    """Every shadow of the queues of *storage*, and every topic that has one."""
    plan: dict[tuple[str, str], list[Watched]] = {}
    for queue, of_queue in queues.items():
        for name, topic in of_queue.topic.items() if of_queue.storage == storage else ():
            if topic.shadow_of:
                ignore = [steps_of(path) for path in topic.shadow.ignore]
                for path in (name, topic.shadow_of):
                    watched = Watched(queue, name, residues(topic.sample), ignore, path == name)
                    plan.setdefault((queue, path), []).append(watched)
    return plan


def shadows_of(queues: Mapping[str, Queue]) -> frozenset[str]:
    """``queue/topic`` of every shadow."""
    return frozenset(
        f"{queue}/{name}" for queue, of_queue in queues.items() for name, topic in of_queue.topic.items()
        if topic.shadow_of
    )


@dataclass(slots=True)
class _Alone:
    """A half that waits for the other one."""

    half: Half
    since_s: float


Pair = tuple[str, str]
"""Queue and shadow."""
Key = tuple[str, bool]
"""Id, whether it is the shadow's."""
Told = Callable[[Mapping[str, Sequence[int]]], None]
"""Called with ``queue/topic`` of shadows -> how many more jobs gave the same, and something else."""


class Comparing:
    """
    One per storage of a delivery child that has shadows. One owner: its greenlet, ``run``.

    Args:
        store: Where halves meet, and figures are kept.
        plan: Who is compared with whom.
        clock: The clock to use.
        log: Where trouble is said, once until it is over.
        told: Hears what has been compared, as often as it is written.
    """

    def __init__(self, store: Driver, plan: Plan, clock: Clock, log: Any, told: Told | None = None) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._log = log
        self._told = told
        self._inbox: collections.deque[tuple[Watched, str, Outcome]] = collections.deque()
        self._inbox_bytes = 0
        self._alone: dict[Pair, dict[Key, _Alone]] = {}
        self._tallies: dict[Pair, Tally] = {}
        self._many = gevent.event.Event()
        self._news: dict[str, list[int]] = {}
        self._write_s = 0.0
        self._fails = False
        self._is_over = False

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement, _: float = 0.0) -> None:
        """The store has the end of that attempt. Never blocks."""
        watched = self._plan.get((delivery.queue, delivery.topic))
        if watched is None or settlement.move not in (Move.ACK, Move.BURY) or delivery.replay_of:
            return
        for one in watched:
            if not in_sample(delivery.id, one.sample):
                continue
            if len(self._inbox) >= INBOX or self._inbox_bytes > INBOX_BYTES:
                self._tally(one.queue, one.shadow).skipped += 1
            else:
                self._inbox.append((one, delivery.id, outcome))
                self._inbox_bytes += len(outcome.output)
                if len(self._inbox) == MANY:
                    self._many.set()

    def run(self) -> None:
        """Until it is closed."""
        while not self._is_over:
            self.turn()
            self._many.wait(TURN_S)
            self._many.clear()

    def turn(self) -> None:
        """Compare what can be; write what is due."""
        self._read_inbox()
        now_s = self._clock.monotonic_s()
        self._bring(now_s - ALONE_S)
        if now_s - self._write_s >= WRITE_S:
            self._write_s = now_s
            self._write()

    def close(self) -> None:
        """The last turn; everybody else's half may still come. One that ``run`` is in the middle of ends by itself."""
        self._is_over = True
        self._read_inbox()
        if not self._fails:
            self._bring(math.inf)
            self._write()

    # -- halves -----------------------------------------------------------------------------------

    def _read_inbox(self) -> None:
        read = 0
        while self._inbox:
            watched, job_id, outcome = self._inbox.popleft()
            self._inbox_bytes -= len(outcome.output)
            done = outcome.verdict is Verdict.DONE
            half = half_of(
                done, outcome.verdict.value, outcome.status, outcome.run_s, outcome.output, watched.ignore
            )
            self._take(watched, job_id, half)
            read += 1
            if read % YIELD_EACH == 0:
                gevent.sleep(0)

    def _take(self, watched: Watched, job_id: str, half: Half) -> None:
        pair = watched.queue, watched.shadow
        alone = self._alone.setdefault(pair, {})
        other = alone.pop((job_id, not watched.is_shadow), None)
        if other is not None:
            self._compare(pair, (job_id, watched.is_shadow), half, other.half)
            return
        alone[job_id, watched.is_shadow] = _Alone(half, self._clock.monotonic_s())
        if len(alone) > ALONE:
            del alone[next(iter(alone))]
            self._tally(*pair).skipped += 1

    def _compare(self, pair: Pair, key: Key, mine: Half, other: Half) -> None:
        job_id, is_shadow = key
        real, of_shadow = (other, mine) if is_shadow else (mine, other)
        found = self._tally(*pair).add(job_id, real, of_shadow)
        self._news.setdefault("/".join(pair), [0, 0])[bool(found)] += 1

    def _bring(self, before_s: float) -> None:
        """Those that came before to the store: whoever has the other half brings it there, too."""
        for pair, alone in list(self._alone.items()):
            old = [key for key, one in alone.items() if one.since_s <= before_s]
            for start in range(0, len(old), AT_ONCE):
                halves = {key: alone.pop(key).half for key in old[start : start + AT_ONCE] if key in alone}
                if not self._meet(pair, halves):
                    return  # the others wait for a better moment

    def _meet(self, pair: Pair, halves: Mapping[Key, Half]) -> bool:
        waiting = [Waiting(*key, half.to_text()) for key, half in halves.items()]
        try:
            met = self._store.meet(*pair, waiting)
        except Exception as error:  # noqa: BLE001 - lossy: comparisons are lost, said once
            self._failed(error)
            self._tally(*pair).skipped += len(halves)
            return False
        self._fails = False
        self._tally(*pair).skipped += met.dropped
        for (key, half), text in zip(halves.items(), met.others, strict=True):
            other = Half.read(text) if text is not None else None
            if other is not None:
                self._compare(pair, key, half, other)
        return True

    # -- figures ----------------------------------------------------------------------------------

    def _tally(self, queue: str, shadow: str) -> Tally:
        return self._tallies.setdefault((queue, shadow), Tally())

    def _write(self) -> None:
        """Add to what all children and nodes have written; whoever is late tries again at the next turn."""
        news, self._news = self._news, {}
        if news and self._told is not None:
            self._told(news)
        for path in [path for path, tally in self._tallies.items() if not tally.is_empty]:
            tally = self._tallies.pop(path)
            written = False
            try:
                written = self._add("/".join(path), tally)
                self._fails = False
            except Exception as error:  # noqa: BLE001 - kept, said once, tried again
                self._failed(error)
            if not written:
                self._tallies[path] = tally.plus(self._tally(*path))

    def _add(self, name: str, tally: Tally) -> bool:
        found = self._store.documents(KIND, [name])
        text = tally_of(found[0].text).plus(tally).to_text() if found else tally.to_text()
        return bool(self._store.write_document(KIND, name, text, found[0].version if found else 0))

    def _failed(self, error: Exception) -> None:
        if not self._fails:
            self._log.warning("shadow.uncompared", error=str(error))
        self._fails = True
