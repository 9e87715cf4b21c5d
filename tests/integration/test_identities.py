"""Who may do what on a real bus of two ingest children, what is counted of those who may not, and who hears of it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.bus import Bus, BusFactory, free_port, write_config
from tests.support.waiting import until

PULL = {"t": {"pull": {}}}


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """``gift`` and ``idle`` are open; ``safe``, its topic and its system ``live`` have two passwords each."""
    folder = tmp_path_factory.mktemp("identities")
    for name in ("queue", "topic", "system"):
        (folder / name).write_text(f"old-{name}\nnew-{name}\n")
    own = {"pull": {}, "password_file": "topic"}
    bus = Bus(folder)
    write_config(folder, {
        "ingest": {"listen": [f"0.0.0.0:{free_port()}"], "processes": 2, "limits": {"command_time": "300ms"}},
        "system": {"live": {"password_file": "system"}},
        "queue": {
            "gift": {"topic": PULL},
            "safe": {"system": "live", "password_file": "queue", "topic": {"own": own}},
            "idle": {"topic": PULL},
        },
    })
    try:
        yield bus.start()
    finally:
        bus.clean_up()


def client(bus: Bus, name: str = "", password: str = "", host: str = "127.0.0.1") -> redis.Redis:
    identity: dict[str, Any] = {"username": name, "password": password} if name else {}
    return redis.Redis(host=host, port=bus.port, retry=Retry(NoBackoff(), 0), **identity)


def elsewhere() -> str:
    """An address of this machine that is not its loopback: whoever comes from it is nobody's neighbour."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    pytest.skip("this machine has no address but its loopback")


@pytest.mark.parametrize("age", ["old", "new"])
def test_both_passwords_count_while_one_replaces_the_other(bus: Bus, age: str) -> None:
    with client(bus, "safe", f"{age}-queue") as queue, client(bus, "safe/own", f"{age}-topic") as topic:
        queue.lpush("safe", age)
        assert topic.rpop("safe/own") == age.encode()
    with client(bus, "live", f"{age}-system") as system:
        assert system.lpush("safe", "s") >= 1
    with client(bus, "safe/own", f"{age}-topic") as topic:
        assert topic.rpop("safe/own") == b"s"


def test_queue_without_a_password_is_open_to_this_machine_only(bus: Bus) -> None:
    here, there = client(bus), client(bus, host=elsewhere())
    with here, there:
        assert here.lpush("gift", "a") == 1
        for command in ("LPUSH gift a", "LLEN gift", "RPOP gift/t", "LPUSH nope a", "INFO"):
            with pytest.raises(redis.AuthenticationError):
                there.execute_command(*command.split())
        assert there.ping()
        assert here.rpop("gift/t") == b"a"


def test_refusals_of_all_children_and_of_their_dead_are_added_up(bus_factory: BusFactory) -> None:
    bus = bus_factory({"ingest": {"processes": 2}, "queue": {"gift": {"topic": PULL}}})
    for _ in range(20):
        with client(bus) as one, pytest.raises(redis.ResponseError):
            one.lpush("nope", "a")
    until(lambda: bus.status()["door"]["refused"].get("NOQUEUE") == 20, 5, "the status knows of all")
    bus.kill("ingest")
    until(lambda: _can_push(bus), 10, "the door is open again")
    assert bus.status()["door"]["refused"]["NOQUEUE"] == 20

    bus.stop()
    assert why(bus, "gift/t")[:2] == ["the bus does not run here", "  next: 'pbus start'"]


def _can_push(bus: Bus) -> bool:
    with contextlib.suppress(redis.RedisError), client(bus) as one:
        return bool(one.lpush("gift", "a"))
    return False


def _grown(bus: Bus, before: dict[str, Any], kind: str, name: str) -> int:
    return int(bus.status()["door"][kind].get(name, 0) - before[kind].get(name, 0))


def test_closings_are_counted_by_reason_and_shown_as_json(bus: Bus) -> None:
    before = bus.status()["door"]
    with socket.create_connection(("127.0.0.1", bus.port), 5) as slow, client(bus) as idle:
        idle.ping()
        slow.sendall(b"*2\r\n$4\r\n")
        slow.settimeout(5)
        assert slow.recv(1000).startswith(b"-ERR the command was not complete after 0.3 s")
        until(lambda: _grown(bus, before, "closed", "command_time") == 1, 5, "the closing is counted")
        door = json.loads(bus.cli("status", "-o", "json").stdout)["door"]

    assert set(door) == {"connections", "refused", "closed", "limited", "failed_auths"}
    assert door["connections"] >= 1
    assert door["closed"]["command_time"] >= 1


# -- pbus topic why -------------------------------------------------------------------------------


def why(bus: Bus, path: str) -> list[str]:
    done = bus.cli("topic", "why", path)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_why_begins_with_who_failed_to_authenticate(bus: Bus) -> None:
    for number in range(3):
        with client(bus, "safe", f"wrong {number}") as one, pytest.raises(redis.AuthenticationError):
            one.ping()
    with client(bus, "new-queue", "safe") as swapped, pytest.raises(redis.AuthenticationError):
        swapped.ping()
    until(lambda: len(bus.status()["door"]["failed_auths"]) >= 2, 5, "both rows are there")

    first, then, *_ = why(bus, "safe/own")
    assert first.startswith("127.0.0.1 failed to authenticate 4 times in 10 min, as safe, last ")
    assert then.startswith("  next: ")
    assert not why(bus, "idle/t")[0].startswith("127.0.0.1 failed to authenticate 4")
    told = bus.cli("status", "-o", "json").stdout + "".join(map(str, bus.events("auth.refused")))
    assert "new-queue" not in told, "a password that was given for a name is shown nowhere"
    assert "wrong 1" not in told


def test_why_of_topics_by_what_they_are_in(bus: Bus) -> None:
    assert why(bus, "idle/t")[-2:] == [
        "nothing was ever pushed to idle", "  next: 'pbus push idle BODY --wait' tries it",
    ]
    with client(bus) as one:
        one.lpush("gift", "a", "b")
        assert "2 jobs wait for consumers that fetch them" in "\n".join(why(bus, "gift/t"))
        bus.cli("topic", "pause", "gift/t", check=True)
        assert any(re.fullmatch(r"gift/t was paused by \S+ on \S+ \d+ s ago, 2 jobs wait", line)
                   for line in why(bus, "gift/t"))
        bus.cli("topic", "resume", "gift/t", check=True)
        assert len(one.rpop("gift/t", 2)) == 2
    until(lambda: bus.topic("gift", "t")["ready"] == 0, 5, "they are taken")
    until(lambda: why(bus, "gift/t")[-2].startswith("nothing waits: "), 5, "and settled")


def test_why_as_json_and_of_no_topic(bus: Bus) -> None:
    answer = json.loads(bus.cli("topic", "why", "idle/t", "-o", "json").stdout)

    assert (answer["v"], answer["queue"], answer["topic"]) == (1, "idle", "t")
    assert answer["reasons"][-1] == {
        "why": "never", "text": "nothing was ever pushed to idle", "next": "'pbus push idle BODY --wait' tries it",
    }
    assert bus.cli("topic", "why", "idle/none").returncode == 5
