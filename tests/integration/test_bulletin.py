"""Events of all nodes that share a Redis: told by each, read at any of them, bounded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.errors import StorageError
from pbus.storage import bulletin as ring
from pbus.storage.bulletin import LINE_BYTES, PAGE, Bulletin
from pbus.storage.open import StoreTarget
from tests.support.bus import BusFactory, bus_factory
from tests.support.redis_server import running
from tests.support.waiting import until

__all__ = ["bus_factory"]

PULL: dict[str, object] = {"queue": {"gift": {"topic": {"take": {"pull": {}}}}}}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running(folder) as server:
        yield server.url


def test_ring_keeps_the_last_of_all_nodes_in_order(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "ENTRIES", PAGE + 5)
    with contextlib.closing(Bulletin(StoreTarget("main", url, "", 5.0, "n1"))) as bulletin:
        assert bulletin.told() == []
        bulletin.tell("n1", [f"line {number}" for number in range(PAGE + 20)])
        bulletin.tell("n2", ["x" * (LINE_BYTES + 1), "last: ü\x00"])
        bulletin.tell("n2", [])
        first = bulletin.told()
        rest = bulletin.told(first[-1].id)

    assert [len(first), len(rest)] == [PAGE, 5]
    assert (first[0].line, rest[-1].node, rest[-1].line) == ("line 16", "n2", "last: ü\x00")


def test_ring_that_is_away_is_a_storage_error(tmp_path: Path) -> None:
    target = StoreTarget("main", f"redis+unix://{tmp_path}/nobody", "", 0.2, "n1")
    with contextlib.closing(Bulletin(target)) as bulletin, pytest.raises(StorageError):
        bulletin.tell("n1", ["x"])


def test_each_node_shows_what_happens_on_all(bus_factory: BusFactory, url: str) -> None:
    nodes = [
        bus_factory({"storage": {"main": {"url": url}}, "node": {"name": name}, **PULL}, name=name)
        for name in ("bus-1", "bus-2")
    ]
    nodes[0].cli("topic", "scale", "gift/take", "--reset")

    def seen() -> set[tuple[str, str]]:
        said = nodes[0].cli("tail", "events", "--nodes", "--no-follow", "--since", "1h", "-o", "json")
        assert said.returncode == 0, said.stderr
        rows = [json.loads(line) for line in said.stdout.splitlines()]
        return {(row["node"], row["event"]) for row in rows}

    wanted = {("bus-1", "master.ready"), ("bus-2", "master.ready")}
    until(lambda: wanted <= seen(), 10, lambda: f"both are seen: {seen()}")
    lines = nodes[1].cli("tail", "events", "--nodes", "--no-follow", "--only", "master.ready").stdout.splitlines()
    assert [line[:9] for line in lines] == ["bus-1  20", "bus-2  20"]
    assert "job" not in nodes[0].cli("tail", "errors", "--nodes", "--no-follow").stdout


@pytest.mark.parametrize(("words", "status"), [(["log", "--nodes"], 2), (["events", "--nodes"], 5)])
def test_nodes_of_what_is_not_shared_is_refused(bus_factory: BusFactory, words: list[str], status: int) -> None:
    bus = bus_factory(PULL, start=False)
    assert bus.cli("tail", "--no-follow", *words).returncode == status
