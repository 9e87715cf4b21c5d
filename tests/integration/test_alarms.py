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
from pbus.cli.main import main
from pbus.errors import Exit
from pbus.storage.driver import Driver
from pbus.storage.open import make
from tests.support.bus import Bus, BusFactory, bus_factory, free_port, to_toml
from tests.support.receiver import Receiver
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

__all__ = ["bus_factory"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def config(receiver: Receiver, storage: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """One topic that is pulled, with a bound of three jobs; its system has a receiver. Alarms are over soon."""
    return {
        "storage": {"main": storage or {"url": "sqlite:pbus.db"}},
        "notify": {"team": {"webhook": receiver.url}},
        "system": {"live": {"owner": "live-team", "oncall": ["team"]}},
        "queue": {"gift": {"system": "live", "topic": {"credit": {"pull": {}, "alarm": {"backlog": 3}}}}},
        **more, "alarm": {"clear_after": "300ms", **more.get("alarm", {})},
    }


SOON = {"look": "200ms", "group_wait": "200ms", "retry_first": "200ms"}
"""Everything happens at once."""


def push(bus: Bus, count: int, queue: str = "gift") -> None:
    redis.Redis(port=bus.port).lpush(queue, *["x"] * count)


def pop_all(bus: Bus) -> None:
    redis.Redis(port=bus.port).rpop("gift/credit", 100)


@pytest.mark.alone
def test_alarm_is_told_within_five_seconds_once_and_that_it_is_over_whoever_dies_meanwhile(
    bus_factory: BusFactory, receiver: Receiver
) -> None:
    bus = bus_factory(config(receiver))
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

    bus.kill("scheduler")
    until(lambda: len(bus.pids("scheduler")) == 1, 5, "there is another one")
    file = bus.conf / "pbus.toml"
    text = file.read_text()
    file.write_text(text.replace('["alarm"]\n', f'["alarm"]\n{to_toml(SOON)}\n'))        # so that it ends soon
    assert file.read_text() != text
    bus.restart()
    pop_all(bus)
    until(lambda: receiver.of("over"), 12, "the receiver hears that it is over")
    assert [one.body["status"] for one in receiver.got] == ["firing", "over"]


def test_thousand_topics_that_go_bad_at_once_are_one_message(bus_factory: BusFactory, receiver: Receiver) -> None:
    topics = {f"t{number}": {"pull": {}, "alarm": {"backlog": 1}} for number in range(1000)}
    bus = bus_factory(config(receiver, queue={"gift": {"system": "live", "topic": topics}}, alarm={"look": "250ms"}))
    push(bus, 1)
    until(lambda: receiver.got, 15, lambda: f"the receiver hears of it {bus.tail()}")

    (told,) = receiver.of("firing")
    assert (told["count"], told["title"]) == (1000, "ALARM 1000: 1000 backlog")
    until(lambda: bus.events("alarm.told"), 5, "it is told")
    assert len(receiver.got) == 1


def test_what_is_given_up_left_alone_or_back_is_told_though_no_topic_has_a_bound(
    bus_factory: BusFactory, receiver: Receiver
) -> None:
    port = free_port()
    bus = bus_factory(config(
        receiver, alarm={**SOON, "oncall": ["team"]}, supervise={"backoff": {"first": "10ms", "fatal": 2}},
        backend={"web": {"fastcgi": [f"127.0.0.1:{free_port()}"], "circuit": {"failures": 1}}},
        queue={"gift": {"system": "live", "topic": {
                   "credit": {"pull": {}}, "mail": {"fastcgi": {"backend": "web", "script": "/x.php"}},
                   "hook": {"http": {"url": f"http://127.0.0.1:{port}/"}}}},
               "order": {"system": "live", "topic": {"ship": {"python": {"call": "no.such:module"}}}}},
    ), states=("running", "degraded"))
    client = redis.Redis(port=bus.port)

    def die() -> None:
        client.lpush("gift", "x")
        ((_, ((job, _),)),) = client.xreadgroup("credit", "me", {"gift": ">"}, 1)
        client.execute_command("PBUS.NACK", "gift", "credit", job, "REASON", "no such user", "DEAD")

    die()
    until(lambda: bus.topic("gift", "credit")["dead"] == 1, 3, "it is dead")
    until(lambda: len(fired(receiver)) == 3, 10, lambda: f"three alarms {bus.tail()}")
    assert fired(receiver)["fatal:order/ship"]["text"].startswith("order/ship is given up")
    circuit = fired(receiver)["circuit:web"]
    assert (circuit["affected"], "Connection refused" in circuit["cause"]) == ("topics gift/mail", True), circuit
    assert fired(receiver)[f"circuit:127.0.0.1:{port}"]["affected"] == "topics gift/hook"
    assert main(["dead", "delete", "gift/credit", "--all", "--yes", "-c", str(bus.conf)]) == Exit.DONE
    die()
    until(lambda: len(fired(receiver)) == 4, 12, lambda: f"the error is back {bus.tail()}")
    (back,) = [each for name, each in fired(receiver).items() if name.startswith("error_back:gift/credit ")]
    assert (back["cause"], back["system"]) == ("no such user", "live")


def fired(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """Alarms that were told, by id."""
    return {each["id"]: each for one in receiver.of("firing") for each in one["alarms"]}


class People:
    """At a terminal of *bus*: commands without processes of their own, which take longer than all the rest."""

    def __init__(self, bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
        self._bus = bus
        self._capsys = capsys

    def say(self, *words: str) -> tuple[int, str, str]:
        """``pbus alarm WORDS``: its exit status, what it printed, what it said."""
        status = main(["alarm", *words, "-c", str(self._bus.conf)])
        return status, *self._capsys.readouterr()

    def rows(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.say("ls", *words, "-o", "json")[1])["alarms"]
        return found


def test_life_of_an_alarm_among_people(
    bus_factory: BusFactory, receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    bus = bus_factory(config(receiver, alarm={**SOON, "escalate_to": ["boss"], "escalate_after": "1s"}, notify={
        "team": {"webhook": receiver.url}, "boss": {"webhook": receiver.url, "shape": "slack"},
        "prog": {"command": ["sh", "-c", f"cat > {kept}"]},
        "mail": {"mail": ["a@b"], "smtp": f"127.0.0.1:{free_port()}"},
    }))
    people = People(bus, capsys)
    assert people.say("silence", "gift/*", "--for", "1m", "--note", "a deploy")[0] == Exit.DONE
    push(bus, 4)
    until(lambda: bus.events("alarm.fired"), 8, "it fires")
    assert [row["state"] for row in people.rows()] == ["silenced"]
    assert "a deploy" in people.say("ls")[2]
    assert receiver.got == []

    receiver.answers = [(500, b""), (503, b""), (200, b"")]
    assert people.say("silence", "gift/*", "--for", "0s")[0] == Exit.DONE
    until(lambda: bus.events("alarm.told"), 8, "it is told when the silence ends, at the third try")
    assert [(one.id, one.body["status"]) for one in receiver.got[:3]] == [(receiver.got[0].id, "firing")] * 3
    assert [event["error"] for event in bus.events("alarm.untold")] == [
        "answered 500 Internal Server Error", "answered 503 Service Unavailable",
    ]

    until(lambda: len(receiver.got) == 4, 5, "nobody acknowledges it, the next one is told")
    assert receiver.got[3].body["text"].startswith("NOBODY ACKNOWLEDGED gift/credit: 4 jobs wait")
    assert people.say("ack", "gift/credit", "--note", "on it")[0] == Exit.DONE
    (row,) = people.rows()
    assert (row["id"], row["state"], row["note"]) == ("backlog:gift/credit", "acked", "on it")
    shown = people.say("ls")[1]
    assert "gift/credit: 4 jobs wait, the limit is 3 jobs" in shown
    assert "next: start one: RPOP gift/credit" in shown
    until(lambda: [row["state"] for row in bus.status()["alarms"]] == ["acked"], 3, "pbus status has it")

    status, shown, _ = people.say("test", "prog")
    assert (status, shown[:12]) == (Exit.DONE, "prog took it")
    assert json.loads(kept.read_text())["status"] == "test"
    status, _, why = people.say("test", "mail")
    assert (status, "refused" in why) == (Exit.FAILED, True), why

    pop_all(bus)
    until(lambda: len(receiver.got) == 6, 8, "both are told that it is over")
    assert [row["state"] for row in people.rows("--all")] == ["over"]
    assert people.rows() == []


@pytest.mark.parametrize(("words", "status", "text"), [
    (("ls",), Exit.DONE, "no alarm"),
    (("ack", "nobody/*"), Exit.NOT_FOUND, "no alarm that fires is 'nobody/*'"),
    (("silence", "gift/*", "--for", "soon"), Exit.USAGE, "'soon' is not a duration"),
    (("silence", "gift/*", "--for", "0s"), Exit.NOT_FOUND, "there is no such silence"),
    (("silence", "gift/*", "--kind", "x"), Exit.USAGE, "'x' is none of oldest_wait, "),
    (("test", "teem"), Exit.NOT_FOUND, "there is no [notify.teem]; did you mean 'team'?"),
    (("test", "team"), Exit.NOT_RUNNING, ""),
])
def test_what_makes_no_sense_is_said(
    bus_factory: BusFactory, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: Exit, text: str
) -> None:
    bus = bus_factory({"notify": {"team": {"webhook": "http://127.0.0.1:1/"}}, "queue": {"gift": {}}}, start=False)
    with made(bus):
        pass

    assert main(["alarm", *words, "-c", str(bus.conf)]) == status
    assert text in capsys.readouterr().err


@contextlib.contextmanager
def made(bus: Bus) -> Iterator[Driver]:
    """Its store, as the first start makes it."""
    driver = make(stores(bus.settings)["main"])
    driver.open()
    yield driver
    driver.close()


def test_node_that_decided_is_lost_and_the_other_tells_it_and_nothing_again_and_that_the_store_is_away(
    bus_factory: BusFactory, receiver: Receiver, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        shared = config(receiver, {"url": server.url}, alarm={**SOON, "oncall": ["team"]})
        first = bus_factory(shared | {"node": {"name": "n1"}}, name="n1")
        push(first, 4)
        until(lambda: receiver.of("firing"), 8, "the first one decides")
        second = bus_factory(shared | {"node": {"name": "n2"}}, name="n2")
        until(lambda: _has(second, "condition", "n2"), 5, "the second one is known")
        (row,) = until(lambda: second.status()["alarms"], 3, "it knows what the first one decided")
        assert (row["id"], row["state"]) == ("backlog:gift/credit", "firing")
        first.kill_everything()
        until(lambda: len(receiver.of("firing")) == 2, 15, lambda: f"the other one decides {second.tail()}")
        pop_all(second)
        until(lambda: receiver.of("over"), 12, "the backlog is over")
        server.kill()
        until(lambda: len(receiver.of("firing")) == 3, 10, "the receiver hears that the store is away")
        server.start()
        until(lambda: len(receiver.of("over")) == 2, 15, "the receiver hears that it is back")
    finally:
        server.close()

    assert [each["id"] for one in receiver.got for each in one.body["alarms"]] == [
        "backlog:gift/credit", "node:n1", "backlog:gift/credit", "storage:main", "storage:main",
    ]
    away = receiver.of("firing")[2]
    assert away["title"] == "ALARM storage main does not answer, or is not fit to keep jobs"
    assert away["alarms"][0]["cause"] == "on node n2: it does not do what it is asked"


def _has(bus: Bus, kind: str, name: str) -> bool:
    with made(bus) as driver:
        return bool(driver.documents(kind, [name]))
