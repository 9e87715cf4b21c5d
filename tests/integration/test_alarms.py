"""Alarms of a running bus: a receiver hears of it within seconds, once, and that it is over."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pbus.app import stores
from pbus.errors import Exit
from pbus.storage.driver import Driver
from pbus.storage.open import make
from tests.support.bus import Bus, BusFactory, bus_factory, free_port
from tests.support.receiver import Receiver
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

__all__ = ["bus_factory"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "sqlite":
        yield {"url": "sqlite:pbus.db"}
        return
    server = RedisServer(tmp_path)
    server.start()
    yield {"url": server.url}
    server.close()


def config(receiver: Receiver, storage: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """One topic that is pulled, with a bound of three jobs; its system has a receiver."""
    return {
        "storage": {"main": storage or {"url": "sqlite:pbus.db"}},
        "notify": {"team": {"webhook": receiver.url}},
        "system": {"live": {"owner": "live-team", "oncall": ["team"]}},
        "queue": {"gift": {"system": "live", "topic": {"credit": {"pull": {}, "alarm": {"backlog": 3}}}}},
        **more,
    }


def push(bus: Bus, count: int, queue: str = "gift") -> None:
    redis.Redis(port=bus.port).lpush(queue, *["x"] * count)


@pytest.mark.alone
def test_alarm_is_told_within_five_seconds_once_and_that_it_is_over(
    bus_factory: BusFactory, receiver: Receiver, storage: dict[str, str]
) -> None:
    bus = bus_factory(config(receiver, storage))
    push(bus, 4)
    begun_s = time.monotonic()
    until(lambda: receiver.got, 8, lambda: f"the receiver hears of it {bus.tail()}")
    assert receiver.got[0].at_s - begun_s < 5.0

    (told,) = receiver.of("firing")
    (alarm,) = told["alarms"]
    assert (alarm["id"], alarm["value"], alarm["limit"]) == ("backlog:gift/credit", 4.0, 3)
    assert alarm["text"] == "gift/credit: 4 jobs wait, the limit is 3 jobs"
    assert alarm["cause"].startswith("4 jobs wait for consumers that fetch them")
    assert alarm["affected"] == "system live (live-team), 4 jobs wait"
    assert "RPOP gift/credit" in alarm["next"]

    redis.Redis(port=bus.port).rpop("gift/credit", 4)
    until(lambda: receiver.of("over"), 12, "the receiver hears that it is over")
    assert [one.body["status"] for one in receiver.got] == ["firing", "over"]


def test_restart_tells_nothing_twice_and_forgets_nothing(bus_factory: BusFactory, receiver: Receiver) -> None:
    bus = bus_factory(config(receiver))
    push(bus, 4)
    until(lambda: receiver.of("firing"), 8, "the receiver hears of it")
    bus.kill("scheduler")
    until(lambda: len(bus.pids("scheduler")) == 1, 5, "there is another one")
    bus.restart()
    redis.Redis(port=bus.port).rpop("gift/credit", 4)
    until(lambda: receiver.of("over"), 15, "the receiver hears that it is over")

    assert [one.body["status"] for one in receiver.got] == ["firing", "over"]


def test_message_that_is_refused_is_sent_again_with_the_same_id(bus_factory: BusFactory, receiver: Receiver) -> None:
    receiver.answers = [(500, b""), (503, b""), (200, b"")]
    bus = bus_factory(config(receiver))
    push(bus, 4)
    until(lambda: len(receiver.got) == 3, 15, "it is tried three times")
    until(lambda: bus.events("alarm.told"), 5, "it is told")

    assert len({one.id for one in receiver.got}) == 1
    assert [event["error"] for event in bus.events("alarm.untold")] == [
        "answered 500 Internal Server Error", "answered 503 Service Unavailable",
    ]


def test_thousand_topics_that_go_bad_at_once_are_one_message(bus_factory: BusFactory, receiver: Receiver) -> None:
    topics = {f"t{number}": {"pull": {}, "alarm": {"backlog": 1}} for number in range(1000)}
    bus = bus_factory(config(receiver, queue={"gift": {"system": "live", "topic": topics}}))
    push(bus, 1)
    until(lambda: receiver.got, 15, lambda: f"the receiver hears of it {bus.tail()}")

    (told,) = receiver.of("firing")
    assert (told["count"], told["title"]) == (1000, "ALARM 1000: 1000 backlog")
    until(lambda: bus.events("alarm.told"), 5, "it is told")
    assert len(receiver.got) == 1


def rows(bus: Bus, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bus.cli("alarm", "ls", *words, "-o", "json", check=True).stdout)["alarms"]
    return found


def test_people_acknowledge_silence_and_try(bus_factory: BusFactory, receiver: Receiver) -> None:
    bus = bus_factory(config(
        receiver, notify={"team": {"webhook": receiver.url}, "boss": {"webhook": receiver.url, "shape": "slack"}},
        alarm={"escalate_to": ["boss"], "escalate_after": "4s"},
    ))
    assert bus.cli("alarm", "ls").stderr.strip() == "no alarm"
    assert bus.cli("alarm", "silence", "gift/*", "--for", "1m", "--note", "a deploy").returncode == Exit.DONE
    push(bus, 4)
    until(lambda: [row["state"] for row in rows(bus)] == ["silenced"], 8, "it is listed as silenced")
    assert "a deploy" in bus.cli("alarm", "ls").stderr
    assert receiver.got == []

    assert bus.cli("alarm", "silence", "gift/*", "--for", "0s").returncode == Exit.DONE
    until(lambda: receiver.of("firing"), 8, "it is told when the silence ends")
    assert bus.cli("alarm", "ack", "gift/credit", "--note", "on it").returncode == Exit.DONE
    (row,) = rows(bus)
    assert (row["id"], row["state"], row["note"]) == ("backlog:gift/credit", "acked", "on it")
    shown = bus.cli("alarm", "ls").stdout
    assert "gift/credit: 4 jobs wait, the limit is 3 jobs" in shown
    assert "next: start one: RPOP gift/credit" in shown

    done = bus.cli("alarm", "test", "boss")
    assert (done.returncode, done.stdout[:12]) == (Exit.DONE, "boss took it"), done.stderr
    assert receiver.got[-1].body["text"].startswith("TEST of notifier boss: sent by ")
    redis.Redis(port=bus.port).rpop("gift/credit", 4)
    until(lambda: receiver.of("over"), 12, "it is over")
    assert len(receiver.got) == 3       # nobody was told further up
    assert [row["state"] for row in rows(bus, "--all")] == ["over"]
    assert rows(bus) == []


def test_unacknowledged_is_told_further_up(bus_factory: BusFactory, receiver: Receiver) -> None:
    bus = bus_factory(config(
        receiver, notify={"team": {"webhook": receiver.url}, "boss": {"webhook": receiver.url}},
        alarm={"escalate_to": ["boss"], "escalate_after": "2s"},
    ))
    push(bus, 4)
    (told,) = until(lambda: receiver.of("escalated"), 12, "the next one is told")
    assert told["title"].startswith("NOBODY ACKNOWLEDGED gift/credit: 4 jobs wait")


@pytest.mark.parametrize(("words", "status", "text"), [
    (("ack", "nobody/*"), Exit.NOT_FOUND, "no alarm that fires is 'nobody/*'"),
    (("silence", "gift/*", "--for", "soon"), Exit.USAGE, "'soon' is not a duration"),
    (("silence", "gift/*", "--for", "0s"), Exit.NOT_FOUND, "there is no such silence"),
    (("silence", "gift/*", "--kind", "x"), Exit.USAGE, "'x' is none of oldest_wait, "),
    (("test", "teem"), Exit.NOT_FOUND, "there is no [notify.teem]; did you mean 'team'?"),
    (("test", "team"), Exit.NOT_RUNNING, ""),
])
def test_what_makes_no_sense_is_said(
    bus_factory: BusFactory, receiver: Receiver, words: tuple[str, ...], status: Exit, text: str
) -> None:
    bus = bus_factory(config(receiver), start=False)
    with made(bus):
        pass
    ended = bus.cli("alarm", *words)

    assert (ended.returncode, text in ended.stderr) == (status, True), ended.stderr


@contextlib.contextmanager
def made(bus: Bus) -> Iterator[Driver]:
    """Its store, as the first start makes it."""
    driver = make(stores(bus.settings)["main"])
    driver.open()
    yield driver
    driver.close()


def test_running_bus_tells_by_program_and_by_mail(
    bus_factory: BusFactory, receiver: Receiver, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    bus = bus_factory(config(receiver, notify={
        "team": {"webhook": receiver.url}, "prog": {"command": ["sh", "-c", f"cat > {kept}"]},
        "mail": {"mail": ["a@b"], "smtp": f"127.0.0.1:{free_port()}"}, "bad": {"command": ["sh", "-c", "exit 7"]},
    }))
    assert bus.cli("alarm", "test", "prog").returncode == Exit.DONE
    assert json.loads(kept.read_text())["status"] == "test"
    for name, why in (("mail", "refused"), ("bad", "sh ended with 7")):
        ended = bus.cli("alarm", "test", name)
        assert (ended.returncode, why in ended.stderr) == (Exit.FAILED, True), ended.stderr


def test_node_that_decided_is_lost_and_the_other_tells_it_and_nothing_again(
    bus_factory: BusFactory, receiver: Receiver, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        shared = config(receiver, {"url": server.url}, alarm={"oncall": ["team"]})
        first = bus_factory(shared | {"node": {"name": "n1"}}, name="n1")
        push(first, 4)
        until(lambda: receiver.of("firing"), 8, "the first one decides")
        second = bus_factory(shared | {"node": {"name": "n2"}}, name="n2")
        until(lambda: _has(second, "condition", "n2"), 5, "the second one is known")
        first.kill_everything()
        until(lambda: len(receiver.of("firing")) == 2, 15, lambda: f"the other one decides {second.tail()}")
        redis.Redis(port=second.port).rpop("gift/credit", 4)
        until(lambda: receiver.of("over"), 12, "the backlog is over")
    finally:
        server.close()

    assert [each["id"] for one in receiver.got for each in one.body["alarms"]] == [
        "backlog:gift/credit", "node:n1", "backlog:gift/credit",
    ]


def _has(bus: Bus, kind: str, name: str) -> bool:
    with made(bus) as driver:
        return bool(driver.documents(kind, [name]))


def test_storage_that_is_away_is_told_and_that_it_is_back(
    bus_factory: BusFactory, receiver: Receiver, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        bus_factory(config(receiver, {"url": server.url}, alarm={"oncall": ["team"]}))
        server.kill()
        (told,) = until(lambda: receiver.of("firing"), 10, "the receiver hears of it")
        assert told["title"] == "ALARM storage main does not answer, or cannot write"
        assert told["alarms"][0]["cause"] == "so it is on node bus-test"
        server.start()
        until(lambda: receiver.of("over"), 15, "the receiver hears that it is back")
    finally:
        server.close()

    assert [one.body["status"] for one in receiver.got] == ["firing", "over"]
