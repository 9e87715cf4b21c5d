"""What the master tells the page of metrics: sums that go on when children are replaced."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.exposed import exposed
from pbus.supervisor.handle import Death, Handle
from pbus.supervisor.health import Sample
from pbus.supervisor.past import Past
from pbus.supervisor.scoreboard import Scoreboard
from tests.unit.supervisor.fakes import Wire, handle


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(8, FakeClock())


def child(board: Scoreboard, wire: Wire, calls: int = 0, **fields: Any) -> Handle:
    one = handle(board, wire, **fields)
    one.sample = Sample(rss_bytes=1_000, cpu_s=2.0)
    if calls:
        one.backends["php", "a:1"] = {"backend": "php", "address": "a:1", "calls_total": calls, "failed_total": 1}
    return one


def dead(board: Scoreboard, one: Handle, status: int) -> Death:
    return Death(one, board.bury(one.slot, status), status)


def address(name: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"backend": "php", "address": name, "state": state, "waiting": 4, "in_use": 1, "connections": 2, **fields}


def status(*roles: str, backends: Any = (), topics: Any = ()) -> dict[str, Any]:
    processes = [{"role": role, "rss_bytes": 1_000} for role in ("master", *roles)]
    door = {"connections": 5, "refused": {"NOAUTH": 1}, "closed": {}, "limited": {}, "failed_auths": []}
    return {
        "state": "running", "problems": ["a"], "processes": processes, "topics": topics, "backends": backends,
        "door": door, "reload": {"state": "none", "since_s": 0.0},
    }


def test_processor_time_and_calls_of_the_dead_are_not_forgotten(board: Scoreboard, wire: Wire) -> None:
    past = Past()
    past.buried(dead(board, child(board, wire, calls=10), 0), unasked=False)
    now = [child(board, wire, n=2, calls=5)]

    told = exposed(status("delivery", backends=[address("a:1", "up")]), now, past, 7.0, 0.5)

    assert told["roles"] == {"delivery": [1, 1_000, 4.0], "master": [1, 1_000, 0.5]}
    assert (told["backends"]["php"]["calls_total"], told["backends"]["php"]["failed_total"]) == (15, 2)
    assert (told["ended"], told["began_s"], told["problems"]) == ([], 7.0, 1)


@pytest.mark.parametrize(("status", "fields", "why"), [
    (3, {}, "exit"),
    (-signal.SIGKILL, {}, "signal"),
    (-signal.SIGKILL, {"too_big": "2 GiB"}, "memory"),
    (-signal.SIGKILL, {"condemned": True}, "timeout"),
    (78, {"ready_s": None}, "boot"),
])  # fmt: skip
def test_who_ends_unasked_is_counted_by_why(
    board: Scoreboard, wire: Wire, status: int, fields: dict[str, Any], why: str
) -> None:
    past, one = Past(), child(board, wire)
    for name, value in fields.items():
        setattr(one, name, value)
    death = dead(board, one, status)
    past.buried(death, unasked=True)
    past.buried(death, unasked=False)
    assert past.ended == {("delivery", why): 1}


def test_addresses_of_a_backend_add_up_and_what_waits_for_it_is_told_once(board: Scoreboard) -> None:
    rows = [address("a:1", "up"), address("a:2", "open"), address("http://x", "busy", backend="")]
    told = exposed(status(backends=rows), [], Past(), 0.0, 0.0)["backends"]
    assert told["php"] == {"addresses": 2, "open": 1, "in_use": 2, "waiting": 4, "connections": 4}
    assert told["http://x"]["addresses"] == 1


def test_topics_are_told_with_what_the_plan_wants(board: Scoreboard) -> None:
    topic = {"queue": "gift", "topic": "credit", "state": "braked", "concurrency": {"now": 2}, "scaling": {"wanted": 3}}
    told = exposed(status(topics=[topic, {**topic, "scaling": {}}]), [], Past(), 0.0, 0.0)
    assert told["topics"] == [["gift", "credit", "braked", 2, 3], ["gift", "credit", "braked", 2, None]]
