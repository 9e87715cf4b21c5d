"""
Handlers that do to their process what they should not: it is said where people look, and nobody else feels it.

Beside each of them a second topic works all the while.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.telemetry.topic_log import DAY_BYTES
from tests.support.shop import HANDLERS, OpenShop, Shop
from tests.support.waiting import until

NEIGHBOUR = {"mail": {"topic": {"send": {"python": {"call": "push_jobs:record", "path": str(HANDLERS)}}}}}


@contextlib.contextmanager
def neighbour_unharmed(here: Shop) -> Iterator[None]:
    """The other topic runs what it is given before and after, by the same process."""
    def works(total: int) -> None:
        here.push_to("mail", "x")
        until(lambda: here.bus.topic("mail", "send")["done_total"] == total, 10, "the neighbour works")

    works(1)
    pids = here.bus.topic("mail", "send")["consumers"]
    yield
    works(2)
    row = here.bus.topic("mail", "send")
    assert (row["consumers"], row["failed_total"]) == (pids, 0)


def problems(here: Shop) -> str:
    return " | ".join(here.bus.status()["problems"])


def write(folder: Path, source: str) -> dict[str, Any]:
    (folder / "broken_jobs.py").write_text(source)
    return {"call": "broken_jobs:act", "path": folder}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module\ndef act(job): pass", "No module named 'no_such_module'"),
        ("def act(job) pass", "SyntaxError"),
        ("def other(job): pass", "has no attribute 'act'"),
        ("act = 3", "is of type int, not a function"),
        ("def setup(): raise OSError('no database')\ndef act(job): pass", "setup() of broken_jobs failed"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("import os\nos.fork()\nraise ValueError('twice')", "ValueError: twice"),
    ],
)
def test_a_handler_that_cannot_start_is_a_problem_with_its_reason_and_its_jobs_wait(
    shop: OpenShop, tmp_path: Path, source: str, said: str
) -> None:
    here = shop(**write(tmp_path, source), queues=NEIGHBOUR, states=("running", "degraded"))
    with neighbour_unharmed(here):
        until(lambda: said in problems(here), 15, lambda: f"{said!r} is told: {problems(here)}")
        here.push("kept")
    assert here.numbers()["ready"] == 1
    assert said in here.bus.topic_log("gift", "credit")


@pytest.mark.parametrize(("body", "said"), [
    ("close x", "closed descriptors that are not its own"),
    ("close-standard x", "closed standard input, output or error"),
    ("fork-return x", "a process that the handler forked came back"),
])
def test_what_a_handler_does_to_its_process_is_told_on_status_and_in_the_logs(
    shop: OpenShop, body: str, said: str
) -> None:
    here = shop(queues=NEIGHBOUR)
    with neighbour_unharmed(here):
        here.push(body, *(f"ok {number}" for number in range(50)))
        numbers = here.settled()
        assert (numbers["done_total"], numbers["failed_total"]) == (51, 0)
        until(lambda: said in problems(here), 10, lambda: f"{said!r} is told: {problems(here)}")
    [event, *_] = here.bus.events("consumer.trouble")
    assert said in event["text"]
    assert said in here.bus.topic_log("gift", "credit")
    ends = Counter(here.bodies())
    assert set(ends.values()) == {1} | ({2} if "fork" in body else set())  # the child too writes its note
    assert ends["ok 7"] == 1
    assert here.bus.stop() == 0


def test_a_handler_whose_process_was_replaced_after_it_closed_everything_can_be_stopped(shop: OpenShop) -> None:
    here = shop()
    [before] = here.bus.pids("consumer")
    here.push("close x")
    here.settled()
    until(lambda: here.bus.pids("consumer") not in ([before], []), 10, "another process lives there")
    assert here.bus.stop(timeout_s=2.9) == 0
    assert here.bus.events("child.grace_over") == []


def test_forked_processes_that_end_by_themselves_are_nobodys_business(shop: OpenShop) -> None:
    here = shop(queues=NEIGHBOUR)
    here.push("fork-exit x", "ok 1")
    assert here.settled()["done_total"] == 2
    assert "the child ended with 3" in here.bus.topic_log("gift", "credit")
    assert here.bus.events("consumer.trouble") == []


def test_a_handler_that_prints_without_end_fills_its_own_log_up_to_the_bound(shop: OpenShop) -> None:
    """100 MiB as lines, 100 MiB past Python: the job is done, the log is bounded, memory too."""
    here = shop(queues=NEIGHBOUR, timeout="60s")
    path = Path(here.bus.settings.node.log_dir) / "topic" / "gift.credit.log"
    with neighbour_unharmed(here):
        here.push(*(f"shout 10 {number}" for number in range(10)), "ok 1")
        numbers = here.settled(60)
    assert (numbers["done_total"], numbers["failed_total"]) == (11, 0)
    one_job = 10 << 20  # what is written past Python is looked at now and then between jobs
    assert DAY_BYTES <= path.stat().st_size <= DAY_BYTES + 4 * one_job
    until(lambda: "gift/credit: its output is dropped" in problems(here), 10, lambda: f"it is told: {problems(here)}")
    rss = max(row["rss_bytes"] for row in here.bus.status()["processes"] if row["role"] == "consumer")
    assert rss < 100 << 20


def test_sys_exit_in_setup_is_no_endless_loop(shop: OpenShop, tmp_path: Path) -> None:
    source = "import sys\ndef setup(): sys.exit(0)\ndef act(job): pass"
    here = shop(**write(tmp_path, source), states=("running", "degraded"))
    until(lambda: here.bus.events("child.fatal"), 20, "it is given up")
    assert len([event for event in here.bus.events("child.born") if "consumer" in event["child"]]) <= 10
