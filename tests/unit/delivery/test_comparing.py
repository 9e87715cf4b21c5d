"""Comparing a topic with its shadow: either may be first, in any process, and nothing waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.config.schema import PythonHandler, Queue, Shadow, Topic
from pbus.core.job import Move, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.sample import in_sample, residues
from pbus.core.shadow import KIND, Tally, tally_of
from pbus.delivery import comparing
from pbus.delivery.comparing import ALONE_S, WRITE_S, Comparing, plan_of
from pbus.errors import Unavailable
from pbus.storage.documents import Document
from pbus.storage.halves import Met, Waiting
from tests.support.memory_store import delivery

HANDLER = PythonHandler(call="a:b")


class Desk:
    """A store for halves and documents, as many processes share it."""

    def __init__(self) -> None:
        self.halves: dict[tuple[str, str, bool], str] = {}
        self.document: Document | None = None
        self.fail: Exception | None = None
        self.races = 0
        self.meets = 0

    def meet(self, queue: str, topic: str, halves: Sequence[Waiting]) -> Met:
        if self.fail:
            raise self.fail
        self.meets += 1
        others = []
        for half in halves:
            other = self.halves.pop((topic, half.id, not half.shadow), None)
            if other is None:
                self.halves[topic, half.id, half.shadow] = half.text
            others.append(other)
        return Met(others, 0)

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        if self.fail:
            raise self.fail
        assert (kind, names) == (KIND, ["gift/new"])
        return [self.document] if self.document else []

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        if self.races:
            self.races -= 1
            return 0
        assert version == (self.document.version if self.document else 0)
        self.document = Document(kind, name, version + 1, text)
        return version + 1

    @property
    def tally(self) -> Tally:
        return tally_of(self.document.text if self.document else "")


class Log:
    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, event: str, **_: Any) -> None:
        self.said.append(event)


class Child:
    """One process that compares."""

    def __init__(self, desk: Desk, sample: float = 1.0, ignore: Sequence[str] = ()) -> None:
        self.clock = FakeClock(1_800_000_000.0)
        self.log = Log()
        self.told: list[Mapping[str, Sequence[int]]] = []
        topics = {
            "credit": Topic(python=HANDLER), "mail": Topic(python=HANDLER),
            "new": Topic(python=HANDLER, shadow_of="credit", sample=sample, shadow=Shadow(ignore=list(ignore))),
        }
        plan = plan_of({"gift": Queue(topic=topics), "other": Queue(topic=topics, storage="else")}, "main")
        self.comparing = Comparing(desk, plan, self.clock, self.log, self.told.append)  # type: ignore[arg-type]

    def ends(self, topic: str, job: str = "1-0", body: bytes = b"{}", *, verdict: Verdict = Verdict.DONE,
             move: Move = Move.ACK, run_s: float = 0.01, replay_of: str = "") -> None:
        one = delivery(job, topic=topic)
        one.replay_of = replay_of
        status = "200" if verdict is Verdict.DONE else "500"
        settlement = Settlement(owner="n/b/1.1", queue="gift", topic=topic, id=job, move=move)
        self.comparing.ended(one, Outcome(verdict=verdict, output=body, status=status, run_s=run_s), settlement)

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.comparing.turn()


@pytest.mark.parametrize("first", ["credit", "new"])
def test_answers_of_one_process_are_compared_whoever_is_first(first: str) -> None:
    desk = Desk()
    child = Child(desk)
    for topic in (first, "new" if first == "credit" else "credit"):
        child.ends(topic, body=b'{"who": "%s"}' % topic.encode())
        child.pass_s(WRITE_S)

    tally = desk.tally
    assert (tally.compared, tally.differ, tally.by, tally.skipped) == (1, 1, {"body": 1}, 0)
    assert tally.examples[0].differences[0].text == "credit, the shadow new"
    assert desk.meets == 0
    assert child.told == [{"gift/new": [0, 1]}]


def test_answers_of_two_processes_meet_in_the_store() -> None:
    desk = Desk()
    one, other = Child(desk), Child(desk)
    one.ends("credit", body=b'{"a": 1, "b": 2}')
    one.pass_s(0.1)
    one.pass_s(ALONE_S)
    other.ends("new", body=b'{"b": 2, "a": 1}')
    other.pass_s(0.1)
    other.pass_s(ALONE_S)

    assert (desk.tally.compared, desk.tally.differ, desk.halves) == (1, 0, {})
    assert other.told == [{"gift/new": [1, 0]}]


def test_figures_of_several_processes_add_up_whoever_is_late() -> None:
    desk = Desk()
    one, other = Child(desk), Child(desk)
    for child, job in ((one, "1-0"), (other, "2-0")):
        child.ends("credit", job)
        child.ends("new", job)
    desk.races = 1
    one.pass_s(WRITE_S)
    other.pass_s(WRITE_S)
    assert desk.tally.compared == 1
    one.pass_s(WRITE_S)

    assert desk.tally.compared == 2


def test_only_the_last_outcome_of_a_topic_counts() -> None:
    desk = Desk()
    child = Child(desk)
    child.ends("credit", verdict=Verdict.FAILED, move=Move.RETRY)
    child.ends("new", verdict=Verdict.FAILED)
    child.pass_s(WRITE_S)
    assert desk.tally.compared == 0
    child.ends("credit", verdict=Verdict.FAILED, move=Move.BURY)
    child.pass_s(WRITE_S)

    assert (desk.tally.compared, desk.tally.differ) == (1, 0)


def test_replays_other_topics_and_what_is_not_sampled_are_left_out() -> None:
    desk = Desk()
    child = Child(desk, sample=0.5)
    jobs = [f"{number}-0" for number in range(40)]
    for job in jobs:
        for topic in ("credit", "new", "mail"):
            child.ends(topic, job)
        child.ends("new", f"9{job}", replay_of=job)
    child.pass_s(WRITE_S)

    assert desk.tally.compared == sum(in_sample(job, residues(0.5)) for job in jobs)
    child.pass_s(ALONE_S)
    assert desk.halves == {}


def test_what_is_ignored_does_not_differ() -> None:
    desk = Desk()
    child = Child(desk, ignore=["$.at"])
    child.ends("credit", body=b'{"at": 1, "v": 1}')
    child.ends("new", body=b'{"at": 2, "v": 1}')
    child.pass_s(WRITE_S)

    assert (desk.tally.compared, desk.tally.differ) == (1, 0)


def test_store_that_is_away_costs_comparisons_and_is_said_once() -> None:
    desk = Desk()
    child = Child(desk)
    desk.fail = Unavailable("away")
    child.ends("credit", "1-0")
    for job in ("2-0", "3-0"):
        child.ends("credit", job)
        child.ends("new", job)
    for _ in range(3):
        child.pass_s(ALONE_S)
    assert child.log.said == ["shadow.uncompared"]

    desk.fail = None
    child.pass_s(WRITE_S)
    assert (desk.tally.compared, desk.tally.skipped) == (2, 1)


def test_what_there_is_no_room_for_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "INBOX", 10)
    desk = Desk()
    child = Child(desk)
    for number in range(15):
        child.ends("credit", f"{number}-0")
    child.pass_s(WRITE_S)
    assert desk.tally.skipped == 5

    monkeypatch.setattr(comparing, "ALONE", 12)
    for number in range(20, 30):
        child.ends("credit", f"{number}-0")
    child.pass_s(WRITE_S)
    assert desk.tally.skipped == 5 + 8


def test_a_process_that_ends_leaves_its_halves_and_figures() -> None:
    desk = Desk()
    child = Child(desk)
    child.ends("credit", "1-0")
    child.ends("credit", "2-0")
    child.ends("new", "2-0")
    child.comparing.close()

    assert (desk.tally.compared, [job for _, job, _ in desk.halves]) == (1, ["1-0"])
