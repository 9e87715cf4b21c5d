"""The register of children where the machine does not let another one be born."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.config.schema import Backoff
from pbus.supervisor import children as register
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.children import Children
from pbus.supervisor.reconcile import Spawn, reconcile
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard

CROWD = RoleSpec(role="consumer", module="x", path="gift/credit", count=500, needed=False)


def test_a_machine_that_lets_nobody_be_born_is_asked_once_a_second_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = FakeClock(), []

    def refused(*_: Any) -> Any:
        asked.append(clock.monotonic_s())
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(register, "spawn", refused)
    switchboard = Switchboard()
    children = Children([CROWD], Backoff(), Scoreboard(600), switchboard, lambda *_: None, clock)
    nursery: Any = None
    for _ in range(20):
        actions = reconcile(children.wanted(1, 30.0, None), children.seen(), clock.monotonic_s())
        assert all(isinstance(action, Spawn) for action in actions)
        assert not children.perform(actions, nursery, 1)
        clock.advance(0.25)
    assert len(asked) == 5
    assert "Too many open files" in children.problems()["not forked"]
    clock.advance(3)
    assert "not forked" not in children.problems()
    switchboard.close()
