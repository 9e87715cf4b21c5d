"""
What the ledger's files and the store say together about the deliveries of one topic, as sets of keys:

    lost    = ok - executed - (ready, delayed, running, dead in the store) - cancelled - expired
    phantom = executed or in the store, although refused; and what ran after a cancel that had taken effect
    dup     = sum of max(0, runs - 1)

The store does not keep which deliveries were cancelled or expired, only how many. So: cancelled is what is nowhere
and was cancelled by the test, expired what is nowhere and was pushed with a ttl; what exceeds the store's own count
of them is lost.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.support import seeds
from tests.support.ledger_files import ERR, OK, UNKNOWN, Cancelled, Pushed, Run

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store says about a topic: keys by place, and how many have left it."""

    ready: frozenset[str] = NOTHING
    running: frozenset[str] = NOTHING
    delayed: frozenset[str] = NOTHING
    dead: frozenset[str] = NOTHING
    pushed: int = 0
    done: int = 0
    cancelled: int = 0
    expired: int = 0
    forgotten: int = 0

    @property
    def keys(self) -> frozenset[str]:
        """Of every delivery that has not ended, and of the dead."""
        return self.ready | self.running | self.delayed | self.dead


@dataclass(frozen=True, slots=True)
class TopicVerdict:
    """
    What became of the jobs of one topic. Sets hold keys.

    ``false_done``: how many deliveries the store calls done beyond the jobs that ran.
    """

    path: str
    ok: int
    unknown: int
    refused: int
    executed: int
    failed_attempts: int
    lost: frozenset[str] = NOTHING
    phantom: frozenset[str] = NOTHING
    cancelled: frozenset[str] = NOTHING
    expired: frozenset[str] = NOTHING
    duplicated: Mapping[str, int] = field(default_factory=dict)
    standing: Standing = Standing()
    false_done: int = 0

    @property
    def dup(self) -> int:
        """Runs beyond the first, summed over the keys."""
        return sum(self.duplicated.values())

    @property
    def lost_count(self) -> int:
        """Keys that are nowhere, and as many as would have to be cancelled or expired beyond what the store counted."""
        excess = max(0, len(self.cancelled) - self.standing.cancelled) + max(
            0, len(self.expired) - self.standing.expired
        )
        return len(self.lost) + excess

    def __str__(self) -> str:
        places = " ".join(
            f"{place}={len(getattr(self.standing, place))}" for place in ("ready", "running", "delayed", "dead")
        )
        text = (
            f"ledger {self.path}: {seeds.VARIABLE}={seeds.fix()} ok={self.ok} unknown={self.unknown} "
            f"refused={self.refused} executed={self.executed} failed_attempts={self.failed_attempts} {places} "
            f"cancelled={len(self.cancelled)} expired={len(self.expired)} "
            f"lost={self.lost_count} phantom={len(self.phantom)} dup={self.dup}"
        )
        if self.false_done:
            text += f"\n  {self.false_done} more are done than ever ran"
        for name in ("lost", "phantom"):
            keys = sorted(getattr(self, name))
            if keys:
                text += f"\n  {name}: {' '.join(keys[:10])}{' ..' if len(keys) > 10 else ''}"
        return text


def judge(
    path: str, pushed: Iterable[Pushed], runs: Iterable[Run], cancelled: Iterable[Cancelled] = (),
    standing: Standing | None = None,
) -> TopicVerdict:
    """
    What became of every push in one topic.

    Args:
        path: ``queue/topic``, for the report.
        pushed: Of the queue.
        runs: Of the topic.
        cancelled: What was cancelled in this topic, or may have been.
        standing: What the store says; None: it was not asked, nothing may be in it.
    """
    by_result: dict[str, set[str]] = {OK: set(), ERR: set(), UNKNOWN: set()}
    with_ttl = set()
    for push in pushed:
        by_result[push.result].add(push.key)
        if "ttl" in push.options:
            with_ttl.add(push.key)
    runs, cancelled, store = list(runs), list(cancelled), standing or Standing()
    counts = Counter(run.key for run in runs if run.ok)
    executed = set(counts)
    nowhere = by_result[OK] - executed - store.keys
    by_hand = nowhere & {cancel.key for cancel in cancelled}
    by_time = (nowhere - by_hand) & with_ttl
    return TopicVerdict(
        path=path, ok=len(by_result[OK]), unknown=len(by_result[UNKNOWN] - by_result[OK]),
        refused=len(by_result[ERR] - by_result[OK]), executed=len(executed),
        failed_attempts=sum(not run.ok for run in runs),
        lost=frozenset(nowhere - by_hand - by_time),
        phantom=frozenset((executed | store.keys) - by_result[OK] - by_result[UNKNOWN]) | _ran_later(runs, cancelled),
        cancelled=frozenset(by_hand), expired=frozenset(by_time),
        duplicated={key: count - 1 for key, count in counts.items() if count > 1}, standing=store,
        false_done=max(0, store.done - len({run.id for run in runs if run.ok})),
    )


def _ran_later(runs: Iterable[Run], cancelled: Iterable[Cancelled]) -> frozenset[str]:
    """Keys that began to run after the reply that they were cancelled for certain."""
    since_s = {cancel.key: cancel.at_s for cancel in cancelled if cancel.certain}
    return frozenset(run.key for run in runs if run.start_s > since_s.get(run.key, run.start_s))


def judge_by_count(path: str, accepted: int, runs: Iterable[Run]) -> TopicVerdict:
    """
    ``judge`` for a producer that writes no keys: *accepted* pushes, told apart by job id.

    Lost and phantom jobs have no names here; they appear as made-up ones.
    """
    runs = list(runs)
    counts = Counter(run.id for run in runs if run.ok)
    difference = accepted - len(counts)
    return TopicVerdict(
        path=path, ok=accepted, unknown=0, refused=0, executed=len(counts),
        failed_attempts=sum(not run.ok for run in runs),
        lost=frozenset(f"#{number}" for number in range(difference)),
        phantom=frozenset(f"#{number}" for number in range(-difference)),
        duplicated={job: count - 1 for job, count in counts.items() if count > 1},
    )


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """How deliveries that share an ordering key ran: how many did, and pairs of ledger keys."""

    ran: int
    overlaps: tuple[tuple[str, str], ...]
    inversions: tuple[tuple[str, str], ...]


def key_order(pushed: Iterable[Pushed], runs: Iterable[Run]) -> KeyOrder:
    """
    Pairs of jobs with one ordering key whose attempts overlapped, or that first ran against the order of their ids.

    Jobs that were pushed with a delay, too, have no place in that order. An attempt is known from its handler's line;
    one that was killed in the middle left none.
    """
    options = {push.key: push.options for push in pushed if "key" in push.options}
    shared = {key: words["key"] for key, words in options.items()}
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.key in shared:
            groups[shared[run.key]].append(run)
    overlaps, inversions = [], []
    ran = len({run.key for group in groups.values() for run in group})
    for group in groups.values():
        group.sort(key=lambda run: run.start_s)
        latest = group[0]
        firsts: dict[str, Run] = {}
        for run in group:
            if run.key != latest.key and run.start_s < latest.end_s:
                overlaps.append((latest.key, run.key))
            latest = max(latest, run, key=lambda each: each.end_s)
            if "delay" not in options[run.key]:
                firsts.setdefault(run.key, run)
        in_order = list(firsts.values())
        for before, after in itertools.pairwise(in_order):
            if _number(after.id) < _number(before.id):
                inversions.append((before.key, after.key))
    return KeyOrder(ran, tuple(overlaps), tuple(inversions))


def _number(job_id: str) -> tuple[int, int]:
    at_ms, _, sequence = job_id.partition("-")
    return int(at_ms), int(sequence)
