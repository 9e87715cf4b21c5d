"""What the page asks the master and the scheduler, and what it does when they do not answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gevent

from pbus.clock import FakeClock
from pbus.dashboard.facts import FRESH_S, Facts, Inquiry

Act = Callable[[dict[str, Any]], None]


class Others:
    """The master and the scheduler, behind a child; *silent* ones are asked and do not answer."""

    def __init__(self, *silent: str) -> None:
        self.silent = set(silent)
        self.asked = 0
        self.acts: dict[str, Act] = {}

    def on_frame(self, kind: str, act: Act) -> None:
        self.acts[kind] = act

    def tell(self, kind: str) -> None:
        assert kind == "metrics_please"
        self.asked += 1
        for answer in {"metrics", "sampled"} - self.silent:
            gevent.spawn_later(0.01, self.acts[answer], {"kind": answer, "n": self.asked})


def inquiry(others: Others, clock: FakeClock, wait_s: float = 5.0) -> Inquiry:
    return Inquiry(others.tell, others.on_frame, clock, wait_s)


def test_both_are_asked_and_heard() -> None:
    facts = inquiry(Others(), FakeClock()).fresh()
    assert (facts.master["n"], facts.scheduler["n"]) == (1, 1)
    assert facts.ages_s == {"master": 0.0, "scheduler": 0.0}


def test_who_does_not_answer_holds_nobody_up_and_what_it_said_last_gets_older() -> None:
    others, clock = Others(), FakeClock()
    asker = inquiry(others, clock, 0.1)
    asker.fresh()
    others.silent.add("sampled")
    clock.advance(10.0)
    facts = asker.fresh()
    assert (facts.master["n"], facts.scheduler["n"]) == (2, 1)
    assert facts.ages_s == {"master": 0.0, "scheduler": 10.0}


def test_never_heard_is_told_as_that() -> None:
    facts = inquiry(Others("metrics", "sampled"), FakeClock(), 0.1).fresh()
    assert facts == Facts(ages_s={"master": math.inf, "scheduler": math.inf})


def test_many_at_once_ask_once() -> None:
    others, clock = Others(), FakeClock()
    asker = inquiry(others, clock)
    together = [gevent.spawn(asker.fresh) for _ in range(5)]
    gevent.joinall(together, raise_error=True)
    assert others.asked == 1
    assert {each.value.master["n"] for each in together} == {1}
    clock.advance(FRESH_S)
    assert asker.fresh().master["n"] == 2
