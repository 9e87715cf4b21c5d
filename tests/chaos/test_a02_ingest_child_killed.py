"""
A02: kill -9 one of two ingest children while fifty producers pipeline.

The listening socket is shared: nobody is refused. Who was connected to the dead child is cut off and
comes again; who is connected to the other child feels nothing.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from tests.support.ledger import OK, UNKNOWN, Pushed
from tests.support.scenario import Scenario
from tests.support.waiting import until

PRODUCERS = 50
PIPELINE = 8
LEAST = 3
"""Connections of each child, so that something is shown for both."""
HELD_S = 0.3
RESPAWN_S = 1.0
RECOVERY_S = 3.0


def test_a_killed_ingest_child_refuses_nobody_and_costs_no_job(scenario: Scenario) -> None:
    bus = scenario.start({"mail": scenario.python(2)}, "[ingest]\nprocesses = 2")
    with scenario.pushing(threads=PRODUCERS, pipeline=PIPELINE) as producers:
        until(lambda: _all_are_served(scenario), 10, lambda: f"both children serve producers: {_clients(scenario)}")
        clients = _clients(scenario)
        killed, other = sorted(clients, key=lambda pid: len(clients[pid]))
        _hold(killed, bus.port, clients[killed])
        os.kill(killed, signal.SIGKILL)
        killed_s = time.time()
        successor = lambda: len(set(bus.pids("ingest")) - {killed}) == 2  # noqa: E731
        scenario.since(killed_s, RESPAWN_S, successor, "a successor of the killed child")
        everybody = lambda: _have_pushed(scenario, killed_s) == PRODUCERS  # noqa: E731
        took_s = scenario.since(killed_s, RECOVERY_S, everybody, "every producer has pushed again")
        scenario.recoveries_s.append(took_s)
        kept = clients[other] <= _clients(scenario).get(other, set())
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)
    cut = _cut_off(scenario)
    outstanding = PIPELINE * len(clients[killed])
    print(f"clients={len(clients[killed])}+{len(clients[other])} cut={cut}")
    assert kept, "a connection of the other child was cut"
    assert 0 < sum(cut.values()) <= outstanding, f"{cut}: at most {outstanding} commands were outstanding"
    assert not any("refused" in text.lower() for text in cut), cut
    assert [event["status"] for event in bus.events("child.exited")] == [-signal.SIGKILL], bus.tail()


def _clients(scenario: Scenario) -> dict[int, set[int]]:
    """Ports of the producers that each ingest child serves now."""
    return {
        pid: {
            connection.raddr.port for connection in psutil.Process(pid).net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
        }
        for pid in scenario.bus.pids("ingest")
    }


def _hold(child: int, port: int, clients: set[int]) -> None:
    """Stop *child* until a command waits for it; when none comes, all its clients are waiting already."""
    os.kill(child, signal.SIGSTOP)
    enough_s = time.monotonic() + HELD_S
    until(lambda: _unread(port, clients) or time.monotonic() >= enough_s, 5, "a command is outstanding")


def _unread(port: int, clients: set[int]) -> bool:
    """Whether one of *clients* has sent something to *port* that nobody has read."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        ours = int(local.rpartition(":")[2], 16) == port and int(remote.rpartition(":")[2], 16) in clients
        if ours and int(queues.rpartition(":")[2], 16):
            return True
    return False


def _all_are_served(scenario: Scenario) -> bool:
    served = [len(ports) for ports in _clients(scenario).values()]
    return len(served) == 2 and min(served) >= LEAST and sum(served) == _have_pushed(scenario, 0.0) == PRODUCERS


def _have_pushed(scenario: Scenario, since_s: float) -> int:
    """How many producers got a positive reply to something they sent after *since_s*."""
    pushed = (push for push in scenario.ledger.pushed() if push.result == OK and push.sent_s > since_s)
    return len({_producer(push) for push in pushed})


def _producer(push: Pushed) -> str:
    """The connection that a push came from, by its key."""
    return push.key.rpartition("-")[0]


def _cut_off(scenario: Scenario) -> dict[str, int]:
    """What producers met that got no reply, and how many pushes it concerns."""
    pushed = [push for push in scenario.ledger.pushed() if push.result == UNKNOWN]
    return {text: sum(push.about == text for push in pushed) for text in {push.about for push in pushed}}
