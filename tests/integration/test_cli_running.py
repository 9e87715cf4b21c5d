"""The everyday commands against a bus that runs: pushed with options, paused, resumed, orphaned, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.bus import Bus, BusFactory, write_config
from tests.support.redis_server import running
from tests.support.waiting import until

PULL: dict[str, object] = {"pull": {}}
NOBODY = {"http": {"url": "http://127.0.0.1:1/nobody"}}


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, object]]:
    """The storage section of a configuration."""
    if request.param == "sqlite":
        yield {}
        return
    folder = tmp_path / "redis"
    folder.mkdir()
    with running(folder) as server:
        yield {"storage": {"main": {"url": server.url}}}


def _ok(bus: Bus, *words: str) -> str:
    said = bus.cli(*words)
    assert said.returncode == 0, said.stderr
    return said.stdout


def _is_said_to_be_full_and_down(bus: Bus) -> None:
    until(lambda: bus.topic("gift", "web")["state"] == "down", 10, "the topic is down")
    full, down, *_ = json.loads(_ok(bus, "topic", "why", "gift/web", "-o", "json"))["reasons"]
    assert (full["why"], full["next"]) == ("full", "'pbus queue show gift' tells whose jobs wait")
    assert down["text"].startswith("gift/web is down: 127.0.0.1:1")
    assert "'pbus backend ls'" in down["next"]


def test_commands_and_a_running_bus_see_the_same(bus_factory: BusFactory, storage: dict[str, object]) -> None:
    tree = {**storage, "queue": {"gift": {"max_backlog": 5, "topic": {"take": PULL, "old": PULL, "web": NOBODY}}}}
    bus = bus_factory(tree)
    client = redis.Redis(port=bus.port, socket_timeout=10, decode_responses=True)

    # Options, by the port and by the command.
    first = client.xadd("gift", {"body": "later", "delay": "600000", "dedupe": "k"})
    again = bus.cli("push", "gift", "later", "--delay", "10m", "--dedupe", "k")
    assert (again.returncode, again.stdout.strip()) == (0, first)
    assert client.rpop("gift/take") is None
    assert client.hgetall("gift/take")["delayed"] == "1"
    job = _ok(bus, "push", "gift", "now", "--key", "u1", "--ttl", "1h").strip()
    exported = [json.loads(line) for line in _ok(bus, "queue", "export", "gift").splitlines()]
    assert [each["id"] for each in exported] == [first, job]
    assert exported[1]["key"] == "u1"
    assert exported[1]["expires_ms"] - int(job.partition("-")[0]) == 3_600_000

    # A pause is seen by the child that hands out, and ends when it is told.
    _ok(bus, "topic", "pause", "gift/take")
    assert client.rpop("gift/take") is None
    assert bus.topic("gift", "take")["state"] == "paused"
    assert bus.status()["state"] == "running" or bus.topic("gift", "web")["state"] == "down"
    _ok(bus, "topic", "resume", "gift/take")
    assert client.rpop("gift/take") == "now"

    # A full queue refuses exactly what does not fit, and its neighbours in the pipeline are stored.
    batch = client.pipeline(transaction=False)
    for count in (1, 3, 1, 1):
        batch.lpush("gift", *["x"] * count)
    replies = batch.execute(raise_on_error=False)
    assert [isinstance(reply, int) for reply in replies] == [True, False, True, True]
    assert str(replies[1]).startswith("QUEUEFULL gift holds ")
    assert str(replies[1]).endswith("of 5 jobs, this command brings 3: not stored, try again in 5 s")
    assert client.llen("gift") == 5

    # Backends are asked from the bus itself.
    until(lambda: bus.status()["backends"][0]["state"] != "up", 20, "it is tried")
    [row] = json.loads(_ok(bus, "backend", "ls", "-o", "json"))["backends"]
    assert (row["address"], row["topics"]) == ("127.0.0.1:1", ["gift/web"])
    _is_said_to_be_full_and_down(bus)

    # A topic that leaves the configuration is orphaned, and removed with what it holds.
    bus.stop()
    write_config(bus.folder, {
        **storage, "ingest": {"listen": [f"127.0.0.1:{bus.port}"]}, "queue": {"gift": {"topic": {"take": PULL}}},
    })
    bus.start(("degraded",))
    assert bus.topic("gift", "old")["state"] == "orphaned"
    assert any(text.startswith("gift/old orphaned: it is not in the configuration, 5 jobs are finished first")
               for text in bus.status()["problems"])
    for topic in ("old", "web"):
        said = bus.cli("topic", "rm", f"gift/{topic}", "--purge", "--yes")
        assert said.returncode == 0, said.stderr
    until(lambda: bus.status()["state"] == "running", 10, "nothing is orphaned")
    assert bus.cli("backend", "ls").stdout == ""
    client.close()
