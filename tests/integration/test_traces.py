"""Stories of jobs in a running bus: who pushed them, every attempt, who was refused; with the bus stopped, too."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pbus.app import stores, traces
from pbus.codec import trace_block
from pbus.core.names import job_id_ms
from pbus.core.trace import Attempt, Received, Shelf
from pbus.storage.traces import make
from tests.support.bus import ROOT, Bus, BusFactory, bus_factory
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

__all__ = ["bus_factory"]

QUEUES = {"gift": {
    "index": ["$.uid"],
    "topic": {
        "credit": {"python": {"call": "tests.support.handlers.trace_jobs:handle", "path": str(ROOT)},
                   "retry": {"attempts": 2, "first": "50ms", "jitter": 0.0}},
        "log": {"pull": {}},
    },
}}


@pytest.fixture(params=["sqlite", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "sqlite":
        yield {}
        return
    server = RedisServer(tmp_path)
    server.start()
    yield {"url": server.url}
    server.close()


def story(bus: Bus, job: str) -> tuple[list[Received], list[Attempt]]:
    """What is kept of a job."""
    kept = make(stores(bus.settings)["main"], traces(bus.settings).limits)
    assert kept is not None
    second = job_id_ms(job) // 1000
    told = [
        each.record for shelf in (Shelf.RECENT, Shelf.KEPT) for block in kept.blocks("gift", shelf, second, second)
        for each in trace_block.unpack(block.data, job)
    ]
    kept.close()
    attempts = sorted((one for one in told if isinstance(one, Attempt)), key=lambda one: one.ended_ms)
    return [one for one in told if isinstance(one, Received)], attempts


def test_a_job_that_fails_and_is_dead_has_its_whole_story(bus_factory: BusFactory, storage: dict[str, str]) -> None:
    bus = bus_factory({"queue": QUEUES} | ({"storage": {"main": storage}} if storage else {}))
    client = redis.Redis(port=bus.port, client_name="shop-7")
    good, bad = (client.xadd("gift", {"body": body}).decode() for body in ('{"uid":1}', '{"uid":2,"fail":true}'))
    until(lambda: bus.topic("gift", "credit")["dead"] == 1, 20, "the second one is dead")
    assert client.rpop("gift/log") == b'{"uid":1}'
    late = client.xadd("gift", {"body": '{"uid":3}', "ttl": "1", "delay": "50"}).decode()
    until(lambda: {one.topic for one in story(bus, late)[1]} == {"credit", "log"}, 20, "the late one has expired")
    bus.stop()

    (received,), attempts = story(bus, bad)
    assert received.peer[0].startswith("127.0.0.1:")
    assert received.peer[2] == "shop-7"
    assert [(one.attempt, one.verdict, one.move) for one in attempts] == [(1, "failed", "retry"), (2, "failed", "bury")]
    first, second = attempts
    assert "no credit" in first.more["error"]
    assert first.ended_ms < first.more["next_ms"] <= second.ended_ms
    assert job_id_ms(bad) <= first.ended_ms
    assert {(one.attempt, one.verdict) for one in story(bus, late)[1]} == {(0, "expire")}
    assert "credit: expired by its ttl" in bus.cli("job", "trace", late).stdout
    _, done = story(bus, good)
    assert {(one.topic, one.verdict) for one in done} == {("credit", "done"), ("log", "done")}


def test_one_command_leads_from_an_id_to_every_hop(bus_factory: BusFactory, storage: dict[str, str]) -> None:
    bus = bus_factory({"queue": QUEUES} | ({"storage": {"main": storage}} if storage else {}))
    client = redis.Redis(port=bus.port, client_name="shop-7")
    job = client.xadd("gift", {"body": '{"uid":2,"fail":true,"child":1}'}).decode()
    until(lambda: bus.topic("gift", "credit")["dead"] == 1, 20, "it is dead")
    bus.cli("job", "retry", "gift/credit", job)
    until(lambda: bus.topic("gift", "credit")["failed_total"] == 4, 20, "it has failed as often again")
    bus.stop()
    text = bus.cli("job", "trace", job).stdout
    document = json.loads(bus.cli("job", "trace", "-o", "json", "gift", job).stdout)
    kinds = [(hop["kind"], hop["topic"]) for hop in document["hops"]]
    assert kinds[0] == ("received", "")
    assert kinds.count(("attempt", "credit")) == 4
    assert kinds.count(("decision", "credit")) == 1
    assert "child" in {kind for kind, _ in kinds}
    assert "client shop-7" in text
    assert "RuntimeError: no credit for this one" in text
    assert "made ready again by" in text


def test_what_is_not_there_is_said_with_its_time(bus_factory: BusFactory) -> None:
    bus = bus_factory({"queue": QUEUES})
    bus.stop()
    old, future = bus.cli("job", "trace", "1600000000000-0"), bus.cli("job", "trace", "9900000000000-7", "gift")
    assert (old.returncode, future.returncode) == (5, 5)
    assert "trace expired: a job of that id was pushed at 2020-09-13 12:26:40.000 UTC" in old.stderr
    assert "its id is of 2283-09-" in future.stderr
    assert bus.cli("job", "trace", "nonsense").returncode == 2


def test_find_tells_what_came_what_was_refused_and_what_never_did(
    bus_factory: BusFactory, storage: dict[str, str]
) -> None:
    stores_ = {"storage": {"main": storage}} if storage else {}
    bus = bus_factory({"ingest": {"max_body": "1KiB"}, "queue": QUEUES | {"later": {"index": ["$.uid"]}}} | stores_)
    client = redis.Redis(port=bus.port)
    time.sleep(1.0 - time.time() % 1.0)                # what came in the second of the start is not known
    begin = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S}"
    job = client.xadd("gift", {"body": '{"uid": 88123, "fail": true}'}).decode()
    client.lpush("gift", *[f'{{"uid": {number}}}' for number in range(50)])
    until(lambda: bus.topic("gift", "credit")["dead"] == 1, 20, "it is dead")
    with pytest.raises(redis.ResponseError, match="NOTOPIC"):
        client.lpush("later", '{"uid": 7777}')
    with pytest.raises(redis.ResponseError, match="NOTOPIC"):
        client.lpush("later", '{"uid": 7778, "text": "' + "x" * 1024 + '"}')      # too large to be looked at
    with pytest.raises(redis.ResponseError, match="NOQUEUE"):
        client.lpush("nobody", '{"uid": 7779}')
    bus.stop()

    found = bus.cli("job", "find", "gift", "uid=88123", "--since", begin)
    assert (found.returncode, found.stderr) == (0, "")
    assert f"found gift {job}" in found.stdout
    assert f"pbus job retry gift/credit {job}" in found.stdout
    refused = bus.cli("job", "find", "later", "uid=7777", "--since", begin)
    assert refused.returncode == 5
    assert "refused 2 times with NOTOPIC" in refused.stdout
    assert "never reached" not in refused.stdout
    unsure = bus.cli("job", "find", "later", "uid=7778", "--since", begin)
    assert "of which values is not known" in unsure.stdout
    assert "it may have been among those that were refused" in unsure.stdout
    never = until(
        lambda: (said := bus.cli("job", "find", "gift", "uid=4711", "--since", begin)).stdout.count("never reached")
        and said, 20, "the last seconds are known",
    )
    assert never.returncode == 5
    assert "$.uid=4711 never reached the bus between" in never.stdout
    assert "1 pushes to names that nobody bears" in never.stdout
    before = bus.cli("job", "find", "gift", "uid=4711", "--since", "1h")
    assert "the index begins at" in before.stdout
    by_log = json.loads(bus.cli("job", "find", "gift", "fail=true", "-o", "json", "--since", begin).stdout)
    assert [row["id"] for row in by_log["jobs"]] == [job]


@pytest.mark.parametrize(("words", "says"), [
    (("uid",), "'uid' is no PATH=VALUE"),
    (("uid=1", "--since", "soon"), "--since takes a duration such as 2h"),
    (("uid=1", "--since", "2190-01-01"), "--since is in the future"),
    (("uid=1", "--since", "1h", "--until", "2h"), "is after --until"),
    (("uid=1", "--until", "2190-01-01"), "--until is in the future"),
    (("uid=1", "--until", "-1h"), "--until takes a duration"),
])
def test_find_says_what_is_wrong_with_the_question(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text('[queue.gift.topic.log]\npull = {}\n')
    bus = Bus(tmp_path)
    answer = bus.cli("job", "find", "gift", *words)
    assert answer.returncode == 2
    assert says in answer.stderr


def test_following_ends_when_the_job_is_over(bus_factory: BusFactory) -> None:
    bus = bus_factory({"queue": QUEUES})
    client = redis.Redis(port=bus.port)
    job = client.xadd("gift", {"body": '{"uid":1}'}).decode()
    pop = threading.Timer(1.5, lambda: client.rpop("gift/log"))
    pop.start()
    followed = bus.cli("job", "trace", "-f", job, timeout_s=20)
    pop.join()
    assert followed.returncode == 0
    assert followed.stdout.count("credit: attempt 1") == 1
    assert "log: attempt 1 at handed out to a client" in followed.stdout
    assert followed.stdout.rstrip().endswith("log: done")
