"""This node's events for the others: which lines are told, how long they are, and that nothing waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pbus.clock import FakeClock
from pbus.errors import Unavailable
from pbus.scheduler.bulletin import MOST, Teller, is_event, short
from pbus.storage.bulletin import LINE_BYTES, home
from pbus.storage.open import StoreTarget
from pbus.telemetry.log_reader import LogReader

EVENT = {"ts": "2027-01-15T08:00:00.000Z", "level": "info", "event": "child.ready", "node": "bus-1", "role": "master"}


class Ring:
    """Where it is told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.away = False

    def tell(self, node: str, lines: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("away")
        self.told += [(node, line) for line in lines]

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for _, line in self.told]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "pbus.log"
    path.write_text(json.dumps({**EVENT, "event": "long.ago"}) + "\n")
    return path


@pytest.fixture
def ring() -> Ring:
    return Ring()


@pytest.fixture
def teller(log: Path, ring: Ring) -> Iterator[Callable[[], Teller]]:
    """Makes the duty, with a reader that stands at the end of what is there."""
    readers: list[LogReader] = []

    def make() -> Teller:
        readers.append(LogReader(str(log), FakeClock()))
        readers[-1].to_end()
        return Teller(ring, readers[-1], "bus-1")

    yield make
    for reader in readers:
        reader.close()


def write(log: Path, *events: dict[str, Any]) -> None:
    with log.open("a") as file:
        file.writelines(json.dumps({**EVENT, **event}) + "\n" for event in events)


def test_what_comes_is_told_once(log: Path, ring: Ring, teller: Callable[[], Teller]) -> None:
    duty = teller()
    assert duty.turn() > 0
    write(log, {"event": "topic.down"}, {"event": "job.dead", "job": "17-1"}, {"event": "store.away"})
    duty.turn()
    duty.turn()
    assert ring.events == ["topic.down", "store.away"]
    assert {node for node, _ in ring.told} == {"bus-1"}


def test_store_that_is_away_holds_nothing_up_and_gets_what_comes_then(
    log: Path, ring: Ring, teller: Callable[[], Teller]
) -> None:
    duty = teller()
    ring.away = True
    write(log, {"event": "topic.down"})
    duty.turn()
    ring.away = False
    write(log, {"event": "topic.running"})
    duty.turn()
    assert ring.events == ["topic.running"]


def test_flood_is_cut_and_counted(log: Path, ring: Ring, teller: Callable[[], Teller]) -> None:
    duty = teller()
    write(log, *[{"event": "client.slow"}] * (MOST + 7))
    duty.turn()
    assert len(ring.told) == MOST
    assert json.loads(ring.told[-1][1])["omitted_events"] == 7


def test_log_that_is_not_there_yet_is_waited_for(log: Path, ring: Ring, teller: Callable[[], Teller]) -> None:
    log.unlink()
    duty = teller()
    duty.turn()
    write(log, {"event": "topic.down"})
    duty.turn()
    duty.turn()
    assert ring.events == ["topic.down"]


@pytest.mark.parametrize(("fields", "is_one"), [
    ({}, True), ({"level": "error"}, True), ({"job": "17-1"}, False), ({"level": "debug"}, False),
    ({"event": "handler.output"}, False), ({"event": "program.output"}, False), ({"event": ""}, False),
])
def test_events_are_about_the_bus(fields: dict[str, Any], is_one: bool) -> None:
    assert is_event({**EVENT, **fields}) is is_one


@pytest.mark.parametrize("more", [
    {"reason": "x" * 5000}, {f"field_{number}": "y" * 200 for number in range(100)}, {"reason": "ü" * 5000},
    {"traceback": "\ud800" * 3000, "numbers": list(range(5000))}, {"event": "e" * 5000, "ts": "t" * 5000},
])
def test_line_of_any_length_becomes_one_that_fits(more: dict[str, Any]) -> None:
    line = short({**EVENT, **more})
    assert len(line.encode()) <= LINE_BYTES
    assert json.loads(line)["event"][:20] == {**EVENT, **more}["event"][:20]


def test_ring_is_in_the_first_store_that_may_be_shared() -> None:
    urls = {"main": "sqlite:/x", "b": "redis://h", "a": "redis+unix:///s"}
    targets = {name: StoreTarget(name, url, "", 5.0, "n") for name, url in urls.items()}
    found = home(targets)
    assert found is not None
    assert found.name == "a"
    assert home({"main": targets["main"]}) is None
