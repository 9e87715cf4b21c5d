"""
The ledger: how loss and duplication are measured.

    producers   folder/pushed/*       key, sent, replied, ok|err|unknown, id or error     (tabs)
    handlers    folder/ran/QUEUE.TOPIC   key attempt pid t0 t1 id ok|failed               (blanks)

A body is ``KEY [sleep=MS] [fail=N] [die=N] padding``: the key is its first word, so any handler can
find it. A producer's file is fsynced; a handler appends its line with one O_APPEND write *before*
it answers. When nothing is ready, running or delayed any more, per topic and as sets of keys:

    lost    = ok - executed - still in the store (dead, ..)
    phantom = executed - (ok + unknown)
    dup     = sum of max(0, runs - 1)

Programs that cannot write keys (redis-benchmark) are judged by the number of jobs, by job id.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

OK, ERR, UNKNOWN = "ok", "err", "unknown"


class PushedFile:
    """What one producer sent and heard. Lines reach the disk by ``sync``, called after each reply or batch."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def record(self, key: str, sent_s: float, replied_s: float, result: str, about: str = "") -> None:
        """One push: *about* is the job's id where the reply tells it, or the error."""
        plain = " ".join(about.split())
        self._file.write(f"{key}\t{sent_s:.6f}\t{replied_s:.6f}\t{result}\t{plain}\n")

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push as its producer saw it."""

    key: str
    sent_s: float
    replied_s: float
    result: str
    about: str


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt as its handler saw it."""

    key: str
    attempt: int
    pid: int
    start_s: float
    end_s: float
    id: str
    ok: bool


@dataclass(frozen=True, slots=True)
class TopicVerdict:
    """What became of the jobs of one topic. Sets hold keys."""

    path: str
    ok: int
    unknown: int
    refused: int
    executed: int
    failed_attempts: int
    lost: frozenset[str] = frozenset()
    phantom: frozenset[str] = frozenset()
    duplicated: Mapping[str, int] = field(default_factory=dict)
    unnamed: int = 0

    @property
    def dup(self) -> int:
        """Runs beyond the first, summed over the keys."""
        return sum(self.duplicated.values())

    @property
    def lost_count(self) -> int:
        """Keys that are nowhere; jobs in the store whose key nobody knows stand in for as many."""
        return max(0, len(self.lost) - self.unnamed)

    def __str__(self) -> str:
        text = (
            f"ledger {self.path}: ok={self.ok} unknown={self.unknown} refused={self.refused} executed={self.executed} "
            f"failed_attempts={self.failed_attempts} lost={self.lost_count} phantom={len(self.phantom)} dup={self.dup}"
        )
        for name, keys in (("lost", self.lost), ("phantom", self.phantom)):
            if keys:
                text += f"\n  {name}: {' '.join(sorted(keys)[:10])}{' ..' if len(keys) > 10 else ''}"
        return text


class Ledger:
    """The files of one test, and what they say together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran_dir.mkdir(parents=True, exist_ok=True)
        self.ran_dir.chmod(0o777)  # a php-fpm pool may run as somebody else

    @property
    def ran_dir(self) -> Path:
        """Where handlers write."""
        return self.folder / "ran"

    def pushed_path(self, name: str) -> Path:
        """Where the producer *name* writes."""
        return self.folder / "pushed" / name

    def producer(self, name: str) -> PushedFile:
        """A file for a producer inside the test's own process."""
        return PushedFile(self.pushed_path(name))

    def pushed(self) -> Iterator[Pushed]:
        """Every push of every producer."""
        for path in sorted((self.folder / "pushed").glob("*")):
            for line in _whole_lines(path):
                key, sent, replied, result, about = line.split("\t")
                yield Pushed(key, float(sent), float(replied), result, about)

    def keys(self, result: str) -> set[str]:
        """Keys whose push ended in *result*."""
        return {push.key for push in self.pushed() if push.result == result}

    def runs(self, queue: str, topic: str) -> Iterator[Run]:
        """Every attempt that the handlers of a topic finished, in the order of the file."""
        for line in _whole_lines(self.ran_dir / f"{queue}.{topic}"):
            key, attempt, pid, start, end, job_id, result = line.split(" ")
            yield Run(key, int(attempt), int(pid), float(start), float(end), job_id, result == OK)

    def executed_count(self, queue: str, topic: str) -> int:
        """Successful runs so far; cheap enough to be polled."""
        path = self.ran_dir / f"{queue}.{topic}"
        return path.read_bytes().count(b" ok\n") if path.exists() else 0

    def verdict(
        self, queue: str, topics: Iterable[str], places: Mapping[str, Iterable[str]] | None = None
    ) -> dict[str, TopicVerdict]:
        """
        What became of every push to *queue*, per topic; printed, even when all is well.

        Args:
            queue, topics: Whose.
            places: Topic -> job ids that are still in its store (dead, or anything else that is
                neither executed nor gone).
        """
        by_result: dict[str, set[str]] = {OK: set(), ERR: set(), UNKNOWN: set()}
        known: dict[str, str] = {}
        for push in self.pushed():
            by_result[push.result].add(push.key)
            if push.result == OK and push.about:
                known[push.about] = push.key
        verdicts = {}
        for topic in topics:
            runs = list(self.runs(queue, topic))
            names = known | {run.id: run.key for run in runs}
            left = set((places or {}).get(topic, ()))
            verdicts[topic] = _judge(
                f"{queue}/{topic}", by_result, runs, {names[job] for job in left if job in names},
                sum(job not in names for job in left),
            )
            print(verdicts[topic])
        return verdicts

    def expect_nothing_lost(
        self, queue: str, topics: Iterable[str], places: Mapping[str, Iterable[str]] | None = None,
        most_dup: int | None = 0,
    ) -> dict[str, TopicVerdict]:
        """``verdict``, and a failure if anything is lost, phantom, or run more than allowed (None: any)."""
        verdicts = self.verdict(queue, topics, places)
        for verdict in verdicts.values():
            assert verdict.ok, f"{verdict.path}: nothing was pushed, so nothing was shown"
            assert not verdict.lost_count, str(verdict)
            assert not verdict.phantom, str(verdict)
            assert most_dup is None or verdict.dup <= most_dup, f"{verdict}\n  allowed dup: {most_dup}"
        return verdicts

    def verdict_by_count(self, queue: str, topics: Iterable[str], accepted: int) -> dict[str, TopicVerdict]:
        """
        ``verdict`` for a producer that writes no keys: *accepted* pushes, told apart by job id.

        Lost and phantom jobs have no names here; they appear as made-up ones.
        """
        verdicts = {}
        for topic in topics:
            runs = list(self.runs(queue, topic))
            counts = Counter(run.id for run in runs if run.ok)
            difference = accepted - len(counts)
            verdicts[topic] = TopicVerdict(
                path=f"{queue}/{topic}", ok=accepted, unknown=0, refused=0, executed=len(counts),
                failed_attempts=sum(not run.ok for run in runs),
                lost=frozenset(f"#{number}" for number in range(difference)),
                phantom=frozenset(f"#{number}" for number in range(-difference)),
                duplicated={job: count - 1 for job, count in counts.items() if count > 1},
            )
            print(verdicts[topic])
        return verdicts


def _judge(
    path: str, pushed: Mapping[str, set[str]], runs: Iterable[Run], left: set[str], unnamed: int
) -> TopicVerdict:
    runs = list(runs)
    counts = Counter(run.key for run in runs if run.ok)
    executed = set(counts)
    return TopicVerdict(
        path=path, ok=len(pushed[OK]), unknown=len(pushed[UNKNOWN]), refused=len(pushed[ERR]), executed=len(executed),
        failed_attempts=sum(not run.ok for run in runs),
        lost=frozenset(pushed[OK] - executed - left),
        phantom=frozenset(executed - pushed[OK] - pushed[UNKNOWN]),
        duplicated={key: count - 1 for key, count in counts.items() if count > 1},
        unnamed=unnamed,
    )


def _whole_lines(path: Path) -> list[str]:
    """The complete lines of a file that somebody may be writing; none when it is not there."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    return text[: text.rfind("\n") + 1].splitlines()
