"""
Replays of one store, a batch a turn; what is known of each is a document, so any node goes on with any of them.

    document --ours, or nobody's for LOST_S--> next page --> append --> write the document --> settle the dead ones

Rule: jobs are pushed before the document says so, under a key of their own a replay; whoever repeats a batch, after a
kill or because two nodes think that it is theirs, is answered with the copies that are there. The document says whom
to settle before anybody is settled. So nothing is replayed twice, forgotten or counted wrong. A person's word (pause,
cancel) in the document wins over ours. Documents of replays that have ended go after KEEP_S, or when there are MOST.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from pbus.clock import Clock
from pbus.core.job import Push, PushOptions
from pbus.core.names import JOB_ID, Owner
from pbus.core.replay import DEDUPE_S, OPEN, SAMPLE, Replay, guard, trips
from pbus.core.statistics import DAY_S, quantile, total
from pbus.core.trace import Shelf, replayed
from pbus.errors import Conflict, StorageError
from pbus.scheduler.roster import Store
from pbus.storage.documents import Document
from pbus.storage.records import Place
from pbus.storage.replay_source import PAGE, Page, Picked, Source, file_of
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS

KIND: Final = "replay"
LOOK_S: Final = 1.0
"""How often documents are read while a replay runs somewhere."""
WAIT_S: Final = 3.0
"""The same while one waits for a person."""
IDLE_S: Final = 10.0
"""The same while there is none; whoever makes or resumes one has this duty hastened."""
BUSY_S: Final = 0.1
"""Between two batches."""
BEATS: Final = 4
"""A document is written so many times before its replay would be taken over, even when nothing happened."""
KEEP_S: Final = 30 * DAY_S
MOST: Final = 100
"""Documents of replays that have ended; the oldest go first."""
_DROPS: Final = 20
"""So many are dropped in a turn."""
JUDGE_S: Final = 0.5
"""So often it is looked at how the replayed jobs fare."""
_FULL_S: Final = 1.0
_PAGES: Final = 4
"""So many pages are gone through in a turn, while nothing of them is meant."""


@dataclass(slots=True)
class _Hand:
    """What this process knows beside the document."""

    version: int
    seen_s: float
    wrote_s: float = 0.0
    judged_s: float = 0.0
    paid_s: float | None = None         # what was pushed is paid for until then; None: it has not begun, or waited
    ran: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ran_stage: int = -1
    again_s: float = 0.0
    settled: int = 0            # version of the document whose letters are settled


class Replays:
    """The duty of one store."""

    name = "replays"

    def __init__(
        self, store: Store, owner: str, read: Callable[[], Mapping[tuple[str, str], Totals]], lost_after_s: float,
        clock: Clock, log: structlog.typing.FilteringBoundLogger, data_dir: str = "",
    ) -> None:
        """
        Args:
            owner: Of this process; nobody else appends under it.
            read: What handlers of this node did so far (``Histograms.read``).
            lost_after_s: A replay whose document nobody has written for so long is taken over.
            data_dir: Where the files of this node are.
        """
        self._store = store
        self._owner = owner
        self._read = read
        self._lost_after_s = lost_after_s
        self._clock = clock
        self._data_dir = data_dir
        self._log = log.bind(storage=store.name)
        self._hands: dict[str, _Hand] = {}
        self._ended: dict[str, tuple[Document, int]] = {}       # and when, unix ms; nothing is to be done about them
        self._unreadable: set[int] = set()                      # versions of documents that were told of
        self._batch = 0

    def turn(self) -> float:
        documents = self._store.driver.documents(KIND)
        known = {document.name for document in documents}
        self._hands = {name: hand for name, hand in self._hands.items() if name in known}
        self._ended = {name: ended for name, ended in self._ended.items() if name in known}
        waits = [self._step(document) for document in documents]
        self._drop_ended()
        # So that others are taken over in time.
        return min([*waits, IDLE_S, max(LOOK_S, self._lost_after_s)])

    def _drop_ended(self) -> None:
        """Those that nobody will look at any more."""
        oldest = sorted(self._ended.items(), key=lambda ended: ended[1][1])
        too_old_ms = 1000 * (self._clock.wall_s() - KEEP_S)
        for place, (name, (document, ended_ms)) in enumerate(oldest[:_DROPS]):
            if place < len(oldest) - MOST or ended_ms < too_old_ms:
                self._store.driver.drop_document(KIND, name, document.version)
                del self._ended[name]

    def interrupted(self) -> None:
        """Nothing is concluded from its silence: who has written while it was away is seen anew."""
        now_s = self._clock.monotonic_s()
        for hand in self._hands.values():
            hand.seen_s = now_s

    # -- one replay

    def _step(self, document: Document) -> float:
        ended = self._ended.get(document.name)
        if ended is not None and ended[0].version == document.version:
            return IDLE_S
        try:
            replay = Replay.read(document.text)
        except ValueError as error:
            if document.version not in self._unreadable:
                self._unreadable.add(document.version)
                self._log.error("replay.unreadable", replay=document.name, error=str(error))
            return IDLE_S
        return self._take(document, replay)

    def _take(self, document: Document, replay: Replay) -> float:
        now_s = self._clock.monotonic_s()
        hand = self._hands.get(document.name)
        if hand is None:
            hand = self._hands[document.name] = _Hand(document.version, now_s)
        if document.version != hand.version:
            hand.version, hand.seen_s = document.version, now_s
        is_elsewhere = replay.node not in ("", Owner.parse(self._owner).node)
        is_free = self._is_ours(replay) or now_s - hand.seen_s >= self._lost_after_s
        if replay.state not in OPEN and not replay.settle:
            if replay.source == "file" and not is_elsewhere:
                with contextlib.suppress(OSError):
                    os.unlink(file_of(self._data_dir, replay.name))
            self._ended[replay.name] = document, max(replay.changed_ms, replay.made_ms)
            return IDLE_S
        if replay.state != "running":
            hand.paid_s = None
        if is_elsewhere or not is_free or (replay.state != "running" and not replay.settle):
            return LOOK_S if replay.state == "running" and not is_elsewhere else WAIT_S
        try:
            return self._work(replay, hand, now_s)
        except Conflict:
            raise
        except StorageError as error:
            if not self._is_gone(replay):
                raise
            replay.state, replay.reason = "tripped", f"{replay.topics[replay.at]} is not there any more: {error}"
            self._write(replay, hand)
            return LOOK_S

    def _is_ours(self, replay: Replay) -> bool:
        """It is, or was our predecessor's on this node, or is nobody's: a node has one scheduler at a time."""
        try:
            return not replay.owner or Owner.parse(replay.owner).node == Owner.parse(self._owner).node
        except ValueError:
            return True

    def _is_gone(self, replay: Replay) -> bool:
        """Whether the store is there, and the topic is not."""
        path = replay.topics[replay.at] if replay.at < len(replay.topics) else ""
        queue, _, topic = path.rpartition("/")
        return bool(path) and (queue, topic) not in self._store.driver.numbers([queue])

    def _work(self, replay: Replay, hand: _Hand, now_s: float) -> float:
        self._settle(replay, hand)
        if replay.state != "running":
            self._write(replay, hand)
            return LOOK_S
        if replay.owner != self._owner:
            self._log.info("replay.taken", replay=replay.name, before=replay.owner)
            replay.owner = self._owner
            self._begin(replay)
            if not self._write(replay, hand):
                return LOOK_S
        return self._go(replay, hand, now_s)

    def _begin(self, replay: Replay) -> None:
        """What run times were before it; of the last day."""
        if replay.p90_s or replay.replayed or not guard(replay.guard).times:
            return
        until_s = int(self._clock.wall_s())
        found = []
        for path in replay.topics:
            queue, _, topic = path.rpartition("/")
            found += self._store.driver.statistics(queue, topic, until_s - DAY_S, until_s, 60)
        replay.p90_s = quantile(total(found).run, 0.9, BOUNDS) or 0.0

    def _go(self, replay: Replay, hand: _Hand, now_s: float) -> float:
        before = replace(replay, watched=list(replay.watched))
        if now_s - hand.judged_s >= JUDGE_S:
            hand.judged_s = now_s
            self._judge(replay)
        self._look_at_times(replay, hand)
        reason = trips(replay, *self._p90(replay, hand))
        if reason:
            replay.state, replay.reason = "tripped", reason
            self._log.warning("replay.tripped", replay=replay.name, reason=reason)
        elif replay.room == 0 and not replay.watched:
            self._log.info("replay.stage", replay=replay.name, stage=replay.stage, done=replay.done)
            replay.go_on()
            hand.paid_s = None
        elif replay.room and now_s >= hand.again_s:
            self._push_some(replay, hand, now_s)
        if (replay != before or now_s - hand.wrote_s >= self._lost_after_s / BEATS) and self._write(replay, hand):
            self._settle(replay, hand)
        return LOOK_S if replay.state != "running" else BUSY_S if replay.room else JUDGE_S

    def _push_some(self, replay: Replay, hand: _Hand, now_s: float) -> None:
        count = min(self._allowed(replay, hand, now_s), replay.room, PAGE)
        if count <= 0:
            return
        path = file_of(self._data_dir, replay.name)
        source = Source(self._store.driver, replay, int(1000 * self._clock.wall_s()), path)
        for _ in range(_PAGES):
            if replay.at >= len(replay.topics):
                if not replay.watched:
                    replay.state, replay.reason = "done", ""
                    self._log.info("replay.done", replay=replay.name, jobs=replay.replayed, failed=replay.failed_total)
                return
            if self._push_page(replay, hand, now_s, source, count):
                return

    def _push_page(self, replay: Replay, hand: _Hand, now_s: float, source: Source, count: int) -> bool:
        """Push what is meant of the next page; False: nothing was."""
        path = replay.topics[replay.at]
        try:
            page = source.page(path, replay.cursor_ms, replay.cursor, count)
        except OSError as error:
            replay.state, replay.reason = "tripped", f"its file cannot be read: {error}"
            return True
        pushed = self._push(replay, path, page)
        if replay.rate and hand.paid_s is not None:
            hand.paid_s += pushed / replay.rate
        if pushed < len(page.picked):
            hand.again_s = now_s + _FULL_S
            return True
        replay.gone += page.lost
        replay.cursor_ms, replay.cursor = page.at_ms, page.id
        if page.is_last:
            replay.at, replay.cursor_ms, replay.cursor = replay.at + 1, 0, ""
        return bool(page.picked)

    def _allowed(self, replay: Replay, hand: _Hand, now_s: float) -> int:
        """How many may be pushed now; one at first, and what a late turn did not use is saved for a second."""
        if not replay.rate:
            return PAGE
        if hand.paid_s is None:
            hand.paid_s = now_s - 1 / replay.rate
        hand.paid_s = max(hand.paid_s, now_s - max(1.0, 1 / replay.rate))
        return int((now_s - hand.paid_s) * replay.rate + 1e-6)

    def _push(self, replay: Replay, path: str, page: Page) -> int:
        """Push *page*; answers how many of it are there. The cursor is behind the last of them."""
        if not page.picked:
            return 0
        queue, _, topic = path.rpartition("/")
        self._batch += 1
        answers = self._store.driver.append(
            self._owner, self._batch, [_copy(replay, path, queue, topic, one) for one in page.picked]
        )
        refused = next((at for at, answer in enumerate(answers) if answer.refused), len(page.picked))
        picked = page.picked[:refused]
        if refused < len(page.picked):
            replay.reason = f"{path} takes no more now ({answers[refused].refused}): it is tried again"
        else:
            replay.reason = ""
        if not picked:
            return 0
        replay.settle, replay.settle_of = [one.id for one in picked], path
        replay.copies = [one.id for one in answers[: len(picked)]]
        replay.replayed += len(picked)
        replay.first, replay.last = replay.first or answers[0].id, answers[len(picked) - 1].id
        replay.cursor_ms, replay.cursor = picked[-1].at_ms, picked[-1].id
        if not replay.is_watched:
            return len(picked)
        step = 1 if replay.room < SAMPLE or len(picked) < 20 else len(picked) // 20
        room = SAMPLE - len(replay.watched)
        replay.watched += [f"{path} {one.id}" for one in answers[: len(picked) : step]][: max(0, room)]
        return len(picked)

    def _settle(self, replay: Replay, hand: _Hand) -> None:
        """
        The stories of what was replayed say so; a dead letter is dead no more: settled as handled. What somebody else
        has settled or revived is left.
        """
        if replay.settle and hand.settled != hand.version:
            queue, _, topic = replay.settle_of.rpartition("/")
            self._tell(replay, queue, topic)
            if replay.source == "dead":
                handled = self._store.driver.accept(queue, topic, replay.settle)
                self._log.info("replay.handled", replay=replay.name, queue=queue, topic=topic, jobs=sum(handled))
            hand.settled = hand.version
        replay.settle, replay.settle_of, replay.copies = [], "", []

    def _tell(self, replay: Replay, queue: str, topic: str) -> None:
        """Written before anything is settled: who is killed in between tells it anew."""
        traces = self._store.traces
        if traces is None:
            return
        for old, copy in zip(replay.settle, replay.copies, strict=False):
            if JOB_ID.match(old):
                of_old, of_copy = replayed(old, copy, topic, self._clock.wall_s(), replay.name)
                traces.buffer.tell(queue, of_copy, Shelf.KEPT, 2 * len(old))
                if replay.source != "file":           # those may be of another environment
                    traces.buffer.tell(queue, of_old, Shelf.KEPT, 2 * len(copy))
        traces.write()

    # -- how it goes

    def _judge(self, replay: Replay) -> None:
        """Of the watched jobs those that have come to something are judged; what failed once has failed."""
        by_topic: dict[str, list[str]] = {}
        for watched in replay.watched:
            path, _, job_id = watched.partition(" ")
            by_topic.setdefault(path, []).append(job_id)
        replay.watched = []
        for path, ids in by_topic.items():
            queue, _, topic = path.rpartition("/")
            records = {record.id: record for record in self._store.driver.records(queue, ids)}
            # An answer is bounded: what may be in the next one is not judged yet.
            looked = ids.index(next(reversed(records))) + 1 if records else len(ids)
            for job_id in ids[:looked]:
                record = records.get(job_id)
                is_done = _is_done(record.topics.get(topic) if record else None)
                if is_done is None:
                    replay.watched.append(f"{path} {job_id}")
                else:
                    replay.judge(is_done)
            replay.watched += [f"{path} {job_id}" for job_id in ids[looked:]]

    def _look_at_times(self, replay: Replay, hand: _Hand) -> None:
        """Where the times of a stage begin."""
        if hand.ran_stage != replay.stage and guard(replay.guard) != guard(""):
            hand.ran, hand.ran_stage = self._runs(replay), replay.stage

    def _runs(self, replay: Replay) -> dict[str, tuple[int, ...]]:
        counted = self._read()
        found = {path: counted.get((path.rpartition("/")[0], path.rpartition("/")[2])) for path in replay.topics}
        return {path: totals.run for path, totals in found.items() if totals is not None}

    def _p90(self, replay: Replay, hand: _Hand) -> tuple[float | None, int]:
        """Of run times at this node since the stage began, and of how many."""
        rules = guard(replay.guard)
        if not (rules.times or rules.p90_s):
            return None, 0
        classes: dict[int, int] = {}
        for path, now in self._runs(replay).items():
            then = hand.ran.get(path, (0,) * len(now))
            for place, (new, old) in enumerate(zip(now, then, strict=True)):
                if new > old:
                    classes[place] = classes.get(place, 0) + new - old
        return quantile(classes, 0.9, BOUNDS), sum(classes.values())

    # -- the document

    def _write(self, replay: Replay, hand: _Hand) -> bool:
        """Write what we know; False: somebody else runs it, or has dropped it. People's words are taken over."""
        for _ in range(3):
            replay.changed_ms = int(1000 * self._clock.wall_s())
            version = self._store.driver.write_document(KIND, replay.name, replay.text(), hand.version)
            if version:
                hand.version, hand.wrote_s, hand.seen_s = version, self._clock.monotonic_s(), self._clock.monotonic_s()
                return True
            found = self._store.driver.documents(KIND, [replay.name])
            if not found:
                return False
            theirs = Replay.read(found[0].text)
            hand.version = found[0].version
            if theirs.owner not in ("", self._owner):
                return False
            if theirs.state != "running":
                replay.state, replay.reason = theirs.state, theirs.reason
        return False


def _is_done(place: Place | None) -> bool | None:
    """Of a watched job; what has failed once has failed. None: nobody knows yet."""
    if place is None or place.state == "ended":
        return True
    return False if place.state == "dead" or place.attempts or place.crashes else None


def _copy(replay: Replay, path: str, queue: str, topic: str, one: Picked) -> Push:
    """The job once more, for its topic alone."""
    record = one.record
    assert record is not None, "pages that are pushed have bodies"
    options = PushOptions(
        dedupe=replay.key(path, one.id), key=record.key, only=topic, replay_of=record.id, dedupe_s=DEDUPE_S
    )
    return Push(queue, record.body, record.traceparent, record.content_type, options)
