"""
The ledger: how loss and duplication are measured.

A body is ``KEY [sleep=MS] [fail=N] [die=N] padding``: the key is its first word, so any handler can find it.
Producers write down what they sent and heard (a file each, fsynced); handlers append a line with one O_APPEND write
*before* they answer; the store is asked where everything else is (``ledger_files`` has the columns, ``verdict`` the
judgement). It is judged per topic, when nothing is ready, running or delayed any more, or at any other moment at
which nobody pushes.

Programs that cannot write keys (redis-benchmark) are judged by the number of jobs, by job id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.support.ledger_files import (
    ERR, OK, UNKNOWN, Cancelled, CancelledFile, Pushed, PushedFile, Run, read_cancelled, read_pushed, read_runs,
)
from tests.support.verdict import KeyOrder, Standing, TopicVerdict, judge, judge_by_count, key_order

__all__ = ["ERR", "OK", "UNKNOWN", "Ledger", "Pushed", "PushedFile", "Run", "Standing", "TopicVerdict"]


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

    def canceller(self, name: str) -> CancelledFile:
        """A file for somebody who cancels."""
        return CancelledFile(self.folder / "cancelled" / name)

    def pushed(self) -> Iterator[Pushed]:
        """Every push of every producer."""
        for path in sorted((self.folder / "pushed").glob("*")):
            yield from read_pushed(path)

    def keys(self, result: str) -> set[str]:
        """Keys whose push ended in *result*."""
        return {push.key for push in self.pushed() if push.result == result}

    def runs(self, queue: str, topic: str) -> Iterator[Run]:
        """Every attempt that the handlers of a topic finished, in the order of the file."""
        return read_runs(self.ran_dir / f"{queue}.{topic}")

    def cancelled(self, topic: str) -> Iterator[Cancelled]:
        """Every cancel that concerns *topic*."""
        for path in sorted((self.folder / "cancelled").glob("*")):
            yield from (cancel for cancel in read_cancelled(path) if cancel.topic in ("", topic))

    def poison(self, poisoned: bool) -> None:
        """From now on every attempt fails, or (False) works again; for the Python and the HTTP handler."""
        flag = self.folder / "poisoned"
        flag.touch() if poisoned else flag.unlink()

    def executed_count(self, queue: str, topic: str) -> int:
        """Successful runs so far; cheap enough to be polled."""
        path = self.ran_dir / f"{queue}.{topic}"
        return path.read_bytes().count(b" ok\n") if path.exists() else 0

    def strangers(self, queue: str, topic: str) -> dict[str, str]:
        """Keys whose producer was told an id under which the handler saw another job: key -> that id."""
        bodies = {run.id: run.key for run in self.runs(queue, topic)}
        return {
            push.key: push.about for push in self.pushed()
            if push.result == OK and bodies.get(push.about, push.key) != push.key
        }

    def key_order(self, queue: str, topic: str) -> KeyOrder:
        """How deliveries with an ordering key ran."""
        return key_order(self.pushed(), self.runs(queue, topic))

    def verdict(
        self, queue: str, topics: Iterable[str], standing: Mapping[str, Standing] | None = None
    ) -> dict[str, TopicVerdict]:
        """What became of every push to *queue*, per topic; *standing* is what the store says. Printed always."""
        pushed = list(self.pushed())
        verdicts = {}
        for topic in topics:
            verdicts[topic] = judge(
                f"{queue}/{topic}", pushed, self.runs(queue, topic), self.cancelled(topic), (standing or {}).get(topic)
            )
            print(verdicts[topic])
        return verdicts

    def expect_nothing_lost(
        self, queue: str, topics: Iterable[str], standing: Mapping[str, Standing] | None = None,
        most_dup: int | None = 0,
    ) -> dict[str, TopicVerdict]:
        """``verdict``, and a failure if anything is lost, phantom, or run more than allowed (None: any)."""
        verdicts = self.verdict(queue, topics, standing)
        for verdict in verdicts.values():
            assert verdict.ok, f"{verdict.path}: nothing was pushed, so nothing was shown"
            assert not verdict.lost_count, str(verdict)
            assert not verdict.phantom, str(verdict)
            assert not verdict.false_done, str(verdict)
            assert most_dup is None or verdict.dup <= most_dup, f"{verdict}\n  allowed dup: {most_dup}"
        return verdicts

    def verdict_by_count(self, queue: str, topics: Iterable[str], accepted: int) -> dict[str, TopicVerdict]:
        """``verdict`` for a producer that writes no keys: *accepted* pushes, told apart by job id."""
        verdicts = {topic: judge_by_count(f"{queue}/{topic}", accepted, self.runs(queue, topic)) for topic in topics}
        for verdict in verdicts.values():
            print(verdict)
        return verdicts
