"""The register of children where the machine does not let another one be born."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.config.schema import Backoff
from pbus.supervisor import children as register
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.children import Children
from pbus.supervisor.histograms import Histograms
from pbus.supervisor.reconcile import Spawn, reconcile
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard
from pbus.supervisor.spawn import Newborn

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


def test_who_measures_is_lent_a_column_that_nobody_else_counts_in(monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[Newborn] = []
    peers: list[socket.socket] = []

    def spawned(_: Any, newborn: Newborn) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        born.append(newborn)
        peers.extend((ours, theirs))
        return 1_000_000 + newborn.n, ours

    monkeypatch.setattr(register, "spawn", spawned)
    switchboard = Switchboard()
    roles = [RoleSpec(role="delivery", module="x", count=3, measures=True), RoleSpec(role="scheduler", module="x")]
    children = Children(roles, Backoff(), Scoreboard(16), switchboard, lambda *_: None, FakeClock())
    nursery: Any = SimpleNamespace(histograms=Histograms([("gift", "credit")], 2), boot="b")
    places = [("delivery", "", 0), ("scheduler", "", 0), ("delivery", "", 1), ("delivery", "", 2)]
    children.perform([Spawn(place) for place in places], nursery, 1)

    assert [(one.spec.role, one.column) for one in born] == [
        ("delivery", 0), ("scheduler", -1), ("delivery", 1), ("delivery", -1),
    ]
    (first,) = [child for child in children if child.column == 0]
    monkeypatch.setattr(register, "_next_dead", iter([_Ended(first.pid), None]).__next__)
    monkeypatch.setattr(register.os, "waitpid", lambda *_: None)
    children.reap()
    children.perform([Spawn(("delivery", "", 0))], nursery, 1)
    assert born[-1].column == 0
    switchboard.close()
    for peer in peers:
        peer.close()


class _Ended:
    """What waitid says of a process that ended by itself."""

    si_code, si_status = os.CLD_EXITED, 0

    def __init__(self, pid: int) -> None:
        self.si_pid = pid
