"""Who ought to give a sign of life and does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.handle import Handle
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.signs import all_alive, silent
from tests.unit.supervisor.fakes import Wire, handle

INGEST = RoleSpec(role="ingest", module="x")
DASHBOARD = RoleSpec(role="dashboard", module="x", needed=False)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def child(clock: FakeClock) -> Iterator[Handle]:
    wire = Wire()
    made = handle(Scoreboard(4, clock), wire, role="ingest")
    made.slot.beat()
    yield made
    wire.close()


def test_child_that_beats_is_not_silent(child: Handle, clock: FakeClock) -> None:
    clock.advance(9.0)
    assert silent([child], clock.monotonic_s()) == []
    clock.advance(2.0)
    assert silent([child], clock.monotonic_s()) == ["ingest: no sign of life for 11 s"]


def test_child_that_starts_and_user_code_need_give_none(child: Handle, clock: FakeClock) -> None:
    clock.advance(60.0)
    child.ready_s = None
    assert silent([child], clock.monotonic_s()) == []
    child.ready_s, child.spec = 1.0, RoleSpec(role="consumer", module="x", own_group=True)
    assert silent([child], clock.monotonic_s()) == []


@pytest.mark.parametrize(("within_s", "after_s", "alive"), [
    (2.0, 1.0, True), (2.0, 3.0, False), (60.0, 9.0, True), (60.0, 11.0, False),
])
def test_all_are_alive_while_signs_are_young(
    child: Handle, clock: FakeClock, within_s: float, after_s: float, alive: bool
) -> None:
    clock.advance(after_s)
    assert all_alive([child], [INGEST], (), clock.monotonic_s(), within_s) is alive


def test_role_that_is_needed_and_given_up_is_not_alive(clock: FakeClock) -> None:
    now_s = clock.monotonic_s()
    assert not all_alive([], [INGEST, DASHBOARD], {INGEST.key: "failed too often"}, now_s, 15.0)
    assert all_alive([], [INGEST, DASHBOARD], {DASHBOARD.key: "failed too often"}, now_s, 15.0)
