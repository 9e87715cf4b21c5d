"""Reloads of a real bus: what is touched, what is not, what waits, and what is taken back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import redis

from tests.support.bus import Bus, BusFactory
from tests.support.fastcgi_stub import DONE, FastcgiStub, answering
from tests.support.nightly import figure
from tests.support.shop import HANDLERS, OpenShop
from tests.support.talker import Pause
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)


def another(bus: Bus, text: str, name: str = "later.toml") -> None:
    """A further file of the configuration."""
    (bus.conf / name).write_text(text)


def reloaded(bus: Bus) -> str:
    """``pbus reload --wait``; what it printed."""
    told = bus.cli("reload", "--wait")
    assert told.returncode == 0, told.stdout + told.stderr + bus.tail()
    return told.stdout + told.stderr


def consumers(bus: Bus, topic: str) -> dict[int, int]:
    """Pid -> restarts of a topic's processes."""
    rows = bus.status()["processes"]
    return {row["pid"]: row["restarts"] for row in rows if row["role"] == "consumer" and row["path"] == topic}


def python(more: str = "") -> str:
    """TOML of a handler that obeys."""
    return f'python = {{ call = "consumer_jobs:act", path = "{HANDLERS}"{more} }}\n'


def test_only_the_topic_that_changed_is_touched(shop: OpenShop) -> None:
    gift = shop(consumers=2)
    bus = gift.bus
    another(bus, f"[queue.mail.topic.send]\n{python()}")
    assert "1 topic touched: mail/send" in reloaded(bus)
    until(lambda: len(consumers(bus, "mail/send")) == 1, 5, "the new topic has its process")
    siblings, old = consumers(bus, "gift/credit"), consumers(bus, "mail/send")
    gift.push(*(f"ok {number}" for number in range(20)))
    gift.settled()

    another(bus, f"[queue.mail.topic.send]\n{python(', max_jobs = 70')}")
    assert "mail/send" in reloaded(bus)

    def replaced() -> bool:
        gift.push_to("mail", *(f"ok {number}" for number in range(8)))  # a canary is good after some jobs
        return not set(old) & set(consumers(bus, "mail/send"))

    until(replaced, 15, lambda: f"it is replaced\n{bus.tail()}")
    assert consumers(bus, "gift/credit") == siblings
    assert bus.topic("gift", "credit")["done_total"] == 20
    assert bus.status()["problems"] == []


def test_new_setting_is_active_within_two_seconds_and_a_hup_is_enough(shop: OpenShop) -> None:
    gift = shop(timeout="30s")
    bus = gift.bus
    client = redis.Redis(port=bus.port)
    with pytest.raises(redis.ResponseError, match="NOQUEUE"):
        client.lpush("mail", "x")
    another(bus, "[queue.mail.topic.send]\npull = {}\n")
    assert bus.process is not None
    began_s = time.monotonic()
    os.kill(bus.process.pid, signal.SIGHUP)

    def taken() -> bool:
        with redis.Redis(port=bus.port) as fresh:
            try:
                return bool(fresh.lpush("mail", "x"))
            except redis.RedisError:
                return False

    until(taken, 10, lambda: f"the new queue is there\n{bus.tail()}")
    print(f"active after {time.monotonic() - began_s:.2f} s")
    client.close()


def test_a_job_that_takes_long_is_finished_by_those_who_had_it(shop: OpenShop) -> None:
    gift = shop(consumers=2, timeout="0s")
    bus = gift.bus
    (delivery,) = bus.pids("delivery")
    gift.push("sleep 6")
    until(lambda: gift.runs("begin"), 10, "it has begun")
    another(bus, '[log]\nlevel = "debug"\n')
    assert f"finishing what they run: delivery 0 ({delivery})" in reloaded(bus)
    gift.push("ok now")
    until(lambda: "ok now" in gift.bodies(), 3, "others are run meanwhile")
    gift.settled()
    assert gift.bodies().count("sleep 6") == 1
    assert len(gift.runs("begin")) == 2
    until(lambda: delivery not in bus.pids("delivery"), 5, "the old one goes when nothing is left")


def test_a_stop_ends_an_old_generation_that_still_works(shop: OpenShop) -> None:
    gift = shop(timeout="0s")
    gift.push("sleep 60")
    until(lambda: gift.runs("begin"), 10, "it has begun")
    another(gift.bus, '[log]\nlevel = "debug"\n')
    reloaded(gift.bus)
    began_s = time.monotonic()
    assert gift.bus.stop() == 0
    assert time.monotonic() - began_s < 3.0 + 3.0


def test_what_only_a_restart_takes_over_is_said_and_everything_else_is_taken_over(shop: OpenShop) -> None:
    gift = shop()
    bus = gift.bus
    another(bus, '[storage.main]\nurl = "sqlite:other.db"\n[queue.mail.topic.send]\npull = {}\n')
    assert "storage.main.url: only 'pbus restart' takes it over" in reloaded(bus)
    with redis.Redis(port=bus.port) as client:
        assert client.lpush("mail", "x") == 1
    assert any("'pbus restart'" in problem and "storage.main.url" in problem for problem in bus.status()["problems"])
    assert not (bus.folder / "var" / "other.db").exists()


def test_doors_come_and_go_by_their_address(shop: OpenShop) -> None:
    gift = shop()
    bus = gift.bus
    path = bus.folder / "door.sock"
    first = bus.settings.ingest.listen[0]
    conf = next(bus.conf.glob("*.toml"))
    text = conf.read_text()
    assert "listen" in text, text
    conf.write_text(text.replace(f'"{first}"', f'"unix:{path}", "{first}"'))
    reloaded(bus)
    with redis.Redis(unix_socket_path=str(path)) as by_path, redis.Redis(port=bus.port) as by_port:
        assert by_path.ping()
        assert by_port.ping()
    conf.write_text(text)
    reloaded(bus)
    assert not path.exists()
    with redis.Redis(port=bus.port) as client:
        assert client.ping()


def test_a_door_that_somebody_else_has_is_refused_and_nothing_changes(shop: OpenShop) -> None:
    gift = shop()
    bus = gift.bus
    before = bus.processes()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = bus.settings.ingest.listen[0]
        conf = next(bus.conf.glob("*.toml"))
        conf.write_text(conf.read_text().replace(f'"{first}"', f'"127.0.0.1:{taken.getsockname()[1]}", "{first}"'))
        told = bus.cli("reload", "--wait")
    assert told.returncode == 78, told.stderr
    assert "is in use" in told.stderr
    assert bus.processes() == before


def test_a_generation_that_does_not_come_up_is_taken_back(shop: OpenShop) -> None:
    gift = shop()
    bus = gift.bus
    before = bus.processes()
    (bus.folder / "var" / "more.db").write_bytes(b"no database at all" * 1000)
    another(bus, """
[storage.main]
url = "sqlite:pbus.db"
[storage.more]
url = "sqlite:more.db"
[queue.mail]
storage = "more"
[queue.mail.topic.send]
pull = {}
""")
    told = bus.cli("reload", "--wait")
    assert told.returncode == 1, told.stderr + bus.tail()
    assert "taken back" in told.stderr
    until(lambda: bus.processes() == before, 10, lambda: f"only the old ones are there\n{bus.tail()}")
    assert any("taken back" in problem for problem in bus.status()["problems"])
    gift.push("ok it")
    gift.settled()
    (bus.conf / "later.toml").unlink()
    reloaded(bus)
    assert bus.status()["problems"] == []


def test_differences_are_shown_without_being_taken_over(shop: OpenShop) -> None:
    bus = shop(timeout="30s").bus
    before = bus.processes()
    conf = next(bus.conf.glob("*.toml"))
    conf.write_text(conf.read_text().replace("30s", "20s"))
    told = bus.cli("config", "diff")
    assert told.stdout == f"~ {conf}: queue.gift.topic.credit.timeout: 30s -> 20s\n", told.stderr
    assert bus.processes() == before
    assert bus.status()["generation"] == 1


def test_ingest_children_are_added_and_taken_away_by_signals(shop: OpenShop) -> None:
    bus = shop().bus
    assert bus.process is not None
    for signum, expected in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        os.kill(bus.process.pid, signum)
        until(lambda expected=expected: len(bus.pids("ingest")) == expected, 10, bus.tail)
    os.kill(bus.process.pid, signal.SIGTTOU)
    until(lambda: len(bus.events("door.resized")) == 5, 5, bus.tail)
    assert len(bus.pids("ingest")) == 1, "the last one stays"
    with redis.Redis(port=bus.port) as client:
        assert client.ping()


def test_a_reload_of_a_bus_that_does_not_run_says_so(bus_factory: BusFactory) -> None:
    bus = bus_factory("[queue.gift.topic.credit]\npull = {}\n", start=False)
    assert bus.cli("reload").returncode == 3


def test_more_and_fewer_delivery_children_find_their_consumers(shop: OpenShop) -> None:
    gift = shop(consumers=3)
    bus = gift.bus
    before = bus.pids("consumer")
    conf = next(bus.conf.glob("*.toml"))
    text = conf.read_text()
    for count in (2, 1):
        conf.write_text(text.replace('"processes" = 1', f'"processes" = {count}'))
        reloaded(bus)
        assert len(bus.pids("delivery")) == count
        gift.push(*(f"ok {count} {number}" for number in range(30)))
        gift.settled()
        until(lambda: bus.topic("gift", "credit")["state"] == "running" and not bus.status()["problems"], 5, bus.tail)
    assert bus.pids("consumer") == before
    assert len(gift.runs("end")) == 60


def test_no_backend_gets_more_connections_because_two_generations_call_it(bus_factory: BusFactory) -> None:
    with contextlib.closing(FastcgiStub(answering(lambda _, __: (Pause(0.3), DONE)))) as stub:
        bus = bus_factory(f"""
[backend.few]
fastcgi = ["{stub.address}"]
max_connections = 3
[queue.gift.topic.credit]
fastcgi = {{ backend = "few", script = "/srv/credit.php" }}
concurrency = 8
""")
        with redis.Redis(port=bus.port) as client:
            client.lpush("gift", *range(40))
            until(lambda: stub.peak == 3, 10, bus.tail)
            for number in range(2):
                another(bus, f'[queue.gift.topic.credit]\ntimeout = "{number + 20}s"\n')
                reloaded(bus)
        until(lambda: bus.topic("gift", "credit")["done_total"] == 40, 20, bus.tail)
    assert stub.peak == 3
    assert sum(request.form["type"] != "ping" for request in stub.requests) == 40


def test_topics_whose_code_is_older_than_its_files_are_named(shop: OpenShop, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "jobs.py").write_text("def act(job):\n    pass\n")
    bus = shop(call="jobs:act", path=code, python={"watch": False}).bus
    assert "older than their files" not in reloaded(bus)
    (code / "jobs.py").write_text("def act(job):\n    return None\n")
    until(lambda: "older than their files" in (told := reloaded(bus)) and "gift/credit" in told, 10, bus.tail)
    assert bus.cli("topic", "restart", "gift/credit").returncode == 0


@pytest.mark.parametrize("later_s", [0.0, 0.2, 0.5])
def test_a_stop_in_the_middle_of_a_reload_wins(shop: OpenShop, later_s: float) -> None:
    bus = shop().bus
    assert bus.process is not None
    os.kill(bus.process.pid, signal.SIGHUP)
    time.sleep(later_s)  # a moment of the reload, whichever
    os.kill(bus.process.pid, signal.SIGTERM)
    assert bus.process.wait(8) == 0
    until(lambda: not bus.processes(), 3, lambda: f"nobody is left\n{bus.tail()}")


@pytest.mark.alone
def test_one_topic_of_a_thousand_is_touched_and_soon(bus_factory: BusFactory) -> None:
    topic = '[queue.q{0}.topic.t{1}]\nfastcgi = {{ address = "127.0.0.1:9", script = "/srv/{0}.php" }}\n'
    bus = bus_factory("".join(topic.format(queue, number) for queue in range(100) for number in range(10)))
    another(bus, '[queue.q50.topic.t5]\ntimeout = "7s"\n')
    assert "1 topic touched: q50/t5" in reloaded(bus)
    (event,) = bus.events("reload.done")
    print(f"1000 topics: taken over after {event['took_s']:.2f} s")
    assert event["topics"] == ["q50/t5"]
    assert len(event["changes"]) == 1
    assert event["took_s"] <= figure(2.5, nightly=1.0), "idle machines need 0.6 s"
