"""What a Redis refuses and what that asks of us; one queue that fails beside others; what is deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pbus.clock import SystemClock
from pbus.core.job import Delivery, Move, Push, PushOptions, Settlement
from pbus.errors import StorageError, Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.redis_streams import POLICY_EVERY_S, RedisStreamsDriver
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_server import RedisServer, running
from tests.support.waiting import until

ALICE = "n1/b1/1.1"
QUEUES = ("gift", "order")
SPECS = [QueueSpec(name, (TopicSpec("credit"),), 3600.0, 1 << 28) for name in QUEUES]


class Shifted(SystemClock):
    """The machine's clock, moved forward by hand."""

    by_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.by_s


def a_driver(url: str, timeout_s: float = 2.0, password: str = "", clock: SystemClock | None = None) -> Any:
    driver = RedisStreamsDriver(StoreTarget("main", url, password, timeout_s, "n1"), clock)
    driver.open()
    driver.declare(SPECS)
    return driver


def claim(driver: RedisStreamsDriver, *queues: str, count: int = 10) -> list[Delivery]:
    return driver.claim([Want(ALICE, queue, "credit", count) for queue in queues or QUEUES])


def ended(delivery: Delivery, move: Move = Move.ACK, **how: Any) -> Settlement:
    return Settlement(
        owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=move, **how
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def driver(server: RedisServer) -> Iterator[RedisStreamsDriver]:
    made = a_driver(server.url)
    yield made
    made.close()


# --- one queue that fails -----------------------------------------------------------------------------


@pytest.fixture
def broken(server: RedisServer, driver: RedisStreamsDriver) -> list[Delivery]:
    """A claim of each queue; then somebody writes a key of another kind over one of gift's."""
    driver.append(ALICE, 1, [Push("gift", b"g1"), Push("gift", b"g2"), Push("order", b"o1"), Push("order", b"o2")])
    deliveries = claim(driver, count=1)
    with server.client() as client:
        for name in ("claims:" + ALICE, "owners", "delayed", "dead"):
            client.delete(f"pbus:{{gift}}:topic:credit:{name}")
            client.set(f"pbus:{{gift}}:topic:credit:{name}", "somebody else's")
    return deliveries


def test_queue_that_fails_holds_up_no_claim_of_another(
    driver: RedisStreamsDriver, broken: list[Delivery]
) -> None:
    assert [one.body for one in claim(driver)] == [b"o2"]
    for _ in range(2):
        with pytest.raises(StorageError, match="WRONGTYPE"):
            claim(driver, "gift")
    assert driver.backlog("gift") == 1, "nothing was taken by the script that failed"


def test_queue_that_fails_holds_up_no_settle_of_another(driver: RedisStreamsDriver, broken: list[Delivery]) -> None:
    gift, order = broken

    assert driver.settle([ended(gift), ended(order)]) == [False, True]
    assert driver.settle([ended(gift)]) == [False]  # nor is it repeated for ever


def test_queue_that_fails_holds_up_nothing_that_is_done_for_all(
    driver: RedisStreamsDriver, broken: list[Delivery]
) -> None:
    driver.settle([ended(broken[1], Move.RETRY)])

    assert driver.promote_due().moved == {("order", "credit"): 1}
    assert driver.numbers().keys() == {("order", "credit")}
    assert driver.queue_numbers()["order"].pushed_total == 2
    assert driver.owners() == []
    assert [one.body for one in claim(driver, "order")] == [b"o1", b"o2"]
    assert len(driver.held(ALICE)) == 2
    driver.trim()


# --- refusals -----------------------------------------------------------------------------------------


def test_script_of_somebody_else_that_blocks_redis_is_waited_out(server: RedisServer) -> None:
    driver = a_driver(server.url)
    with server.client() as client, server.client() as other:
        client.config_set("busy-reply-threshold", 20)

        def block() -> None:
            with pytest.raises(redis.exceptions.ResponseError):
                other.eval("while true do end", 0)

        blocking = threading.Thread(target=block)
        blocking.start()
        texts = []

        def busy() -> bool:
            try:
                claim(driver)
            except Unavailable as error:
                texts.append(str(error))
            return any("BUSY" in text for text in texts)

        until(busy, 10, lambda: f"it says so: {texts}")
        client.execute_command("SCRIPT", "KILL")
        blocking.join(10)
    assert claim(driver) == []
    driver.close()


def test_replica_without_its_master_is_unavailable_with_the_reason(
    server: RedisServer, driver: RedisStreamsDriver
) -> None:
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.replicaof("127.0.0.1", "1")

        with pytest.raises(Unavailable, match="MASTERDOWN"):
            claim(driver)

        client.replicaof("NO", "ONE")
    assert claim(driver) == []


def test_cluster_without_its_slots_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    with running(tmp_path, cluster_enabled="yes") as server, pytest.raises(Unavailable, match="CLUSTERDOWN"):
        a_driver(server.url)


def test_server_that_became_a_replica_is_left_for_the_one_that_the_address_names_now(server: RedisServer) -> None:
    """After a failover the old connection leads to the old master, a new one to the new master."""
    with FaultProxy(server.path) as proxy:
        driver = a_driver(proxy.url)
        before = proxy.connections
        with server.client() as client:
            client.replicaof("127.0.0.1", "1")
            for _ in range(3):
                with pytest.raises(Unavailable, match="READONLY"):
                    driver.append(ALICE, 1, [Push("gift", b"a")])
            client.replicaof("NO", "ONE")
        assert proxy.connections >= before + 2
        assert driver.append(ALICE, 1, [Push("gift", b"a")])[0].id
        driver.close()


def test_password_that_is_changed_and_changed_back_is_noticed_and_taken(tmp_path: Path) -> None:
    with running(tmp_path, requirepass="first") as server:
        driver = a_driver(server.url, password="first")
        with server.client() as client:
            client.config_set("requirepass", "second")
            client.client_kill_filter(_type="normal", skipme=True)
            for _ in range(2):
                with pytest.raises(Unavailable, match="password_file"):
                    claim(driver)
            client.config_set("requirepass", "first")
        assert claim(driver) == []
        driver.close()


def test_server_with_too_many_clients_is_unavailable(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxclients", 1)
        with pytest.raises(Unavailable):  # it closes at once; whether its reason is read is a race
            a_driver(server.url, timeout_s=1.0)
        client.config_set("maxclients", 100)


def test_eviction_policy_that_is_changed_later_is_noticed_by_check(server: RedisServer) -> None:
    clock = Shifted()
    driver = a_driver(server.url, clock=clock)
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        driver.check()
        clock.by_s += POLICY_EVERY_S

        for _ in range(2):
            with pytest.raises(Unavailable, match=r"allkeys-lru.*noeviction"):
                driver.check()

        client.config_set("maxmemory-policy", "noeviction")
    driver.check()
    driver.close()


# --- what is deleted ----------------------------------------------------------------------------------


def test_ids_do_not_go_back_when_everything_was_deleted_and_the_clock_went_back(
    server: RedisServer, driver: RedisStreamsDriver
) -> None:
    with server.client() as client:
        client.hset("pbus:{gift}:queue", "ms", str(round(time.time() * 1000) + 60_000))
        (first,) = driver.append(ALICE, 1, [Push("gift", b"a")])
        assert [one.id for one in claim(driver)] == [first.id]
        client.flushall()

    (second,) = driver.append(ALICE, 2, [Push("gift", b"b")])

    ms, seq = (int(part) for part in first.id.split("-"))
    assert tuple(map(int, second.id.split("-"))) > (ms, seq)
    assert [one.body for one in claim(driver)] == [b"b"]


@pytest.mark.parametrize("key", ["holders", "waiting", "notes", "delayed", "rests", "grouped", "groups", "dead"])
def test_deleted_key_of_a_topic_stops_nobody(server: RedisServer, driver: RedisStreamsDriver, key: str) -> None:
    keyed = PushOptions(key="k")
    driver.append(ALICE, 1, [Push("gift", b"a", options=keyed), Push("gift", b"b", options=keyed)])
    (holder,) = claim(driver)
    driver.append(ALICE, 2, [Push("gift", b"dead"), Push("gift", b"late", options=PushOptions(delay_ms=1))])
    (dead,) = claim(driver)
    driver.settle([ended(dead, Move.BURY, key_rest_s=9.0, fingerprint="f" * 16)])
    with server.client() as client:
        client.delete(f"pbus:{{gift}}:topic:credit:{key}")

    assert driver.settle([ended(holder, Move.RETRY)]) == [True]
    driver.promote_due()
    driver.trim()
    driver.numbers()
    driver.dead_groups("gift", "credit")
    driver.jobs("gift")
    driver.revive("gift", "credit", [dead.id])
    driver.append(ALICE, 3, [Push("gift", b"after")])

    assert b"after" in [one.body for one in claim(driver)]


def test_bodies_of_nothing_may_be_delayed_cancelled_and_wait_for_a_key(driver: RedisStreamsDriver) -> None:
    options = [PushOptions(delay_ms=3_600_000), PushOptions(key="k"), PushOptions(key="k"), None]
    ids = [one.id for one in driver.append(ALICE, 1, [Push("gift", b"", options=one) for one in options])]

    assert driver.cancel("gift", "credit", [ids[0], ids[3]]) == [1, 1]
    (first,) = claim(driver)
    driver.settle([ended(first)])

    assert [one.id for one in claim(driver)] == [ids[2]]
    assert driver.queue_numbers()["gift"].backlog_bytes == 0


def test_dedupe_keys_go_by_themselves(server: RedisServer, driver: RedisStreamsDriver) -> None:
    driver.append(ALICE, 1, [Push("gift", b"a", options=PushOptions(dedupe="7"))])

    with server.client() as client:
        assert 0 < client.pttl("pbus:{gift}:dedupe:7") <= 600_000
