"""What only a store behind a network does: replies that are lost, silence, refusals, restarts, forgetting."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.clock import SystemClock
from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.errors import BootError, Conflict, Exit, MaybeStored, StoreFull, Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.redis_address import parse
from pbus.storage.redis_bell import RedisBell
from pbus.storage.redis_streams import RedisStreamsDriver
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_server import RedisServer, running
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

ALICE = "n1/b1/1.1"
GIFT = QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 28)


def a_driver(url: str, *specs: QueueSpec, timeout_s: float = 5.0, password: str = "") -> RedisStreamsDriver:
    driver = RedisStreamsDriver(StoreTarget("main", url, password, timeout_s, "n1"))
    driver.open()
    driver.declare(specs or (GIFT,))
    return driver


def ended(delivery: Delivery, move: Move = Move.ACK, **how: Any) -> Settlement:
    return Settlement(
        owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=move, **how
    )


def push(driver: RedisStreamsDriver, batch: int, *bodies: bytes) -> list[str]:
    return [one.id for one in driver.append(ALICE, batch, [Push("gift", body) for body in bodies])]


def claim(driver: RedisStreamsDriver, count: int = 100) -> list[Delivery]:
    return driver.claim([Want(ALICE, "gift", "credit", count)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.path) as standing:
        yield standing


@pytest.fixture
def driver(proxy: FaultProxy) -> Iterator[RedisStreamsDriver]:
    made = a_driver(proxy.url)
    yield made
    made.close()


# --- lost replies -----------------------------------------------------------------------------------


def test_append_whose_reply_is_lost_answers_what_was_stored_and_stores_it_once(
    proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    proxy.cut_replies(2)

    ids = push(driver, 1, b"a", b"b")

    assert proxy.cuts == 2
    assert [(one.id, one.body) for one in claim(driver)] == list(zip(ids, [b"a", b"b"], strict=True))


def test_document_whose_reply_is_lost_is_written_once_and_answered(
    proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    proxy.cut_replies(2)

    version = driver.write_document("alarm", "a", "x", 0)

    assert proxy.cuts == 2
    assert [(one.version, one.text) for one in driver.documents("alarm")] == [(version, "x")]
    assert driver.write_document("alarm", "a", "x", 0) == 0


def test_append_cut_in_the_middle_of_its_reply_is_stored_once(proxy: FaultProxy, driver: RedisStreamsDriver) -> None:
    proxy.cut_after(3)

    push(driver, 1, b"a")

    assert [one.body for one in claim(driver)] == [b"a"]


def test_append_that_was_stored_is_answered_although_the_boot_was_fenced_meanwhile(
    driver: RedisStreamsDriver,
) -> None:
    ids = push(driver, 1, b"a")
    driver.fence("b1")

    assert push(driver, 1, b"a") == ids
    with pytest.raises(Conflict):
        push(driver, 2, b"b")


def test_append_that_failed_for_a_reason_nobody_expects_is_not_called_not_stored(
    server: RedisServer, driver: RedisStreamsDriver
) -> None:
    with server.client() as client:
        client.set("pbus:{gift}:sizes", "somebody else's")

    with pytest.raises(MaybeStored, match="WRONGTYPE"):
        push(driver, 1, b"a")


def test_settle_whose_reply_is_lost_still_answers_what_took_effect(
    proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    push(driver, 1, b"a", b"b")
    first, second = claim(driver)
    driver.settle([ended(second)])
    proxy.cut_replies()

    answer = driver.settle([ended(first), ended(second)])

    assert proxy.cuts == 1
    assert answer == [True, False]


def test_claim_whose_reply_is_lost_is_listed_as_held_and_can_be_released(
    proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    assert claim(driver) == []  # Redis knows the script now: one reply a claim
    ids = push(driver, 1, b"a", b"b")
    proxy.cut_replies()

    with pytest.raises(Unavailable):
        claim(driver)

    held = driver.held(ALICE)
    assert [one.id for one in held] == ids
    driver.settle([
        Settlement(owner=ALICE, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE) for one in held
    ])
    assert [(one.body, one.attempt) for one in claim(driver)] == [(b"a", 1), (b"b", 1)]


def test_one_in_twenty_replies_lost_loses_and_doubles_nothing(proxy: FaultProxy, driver: RedisStreamsDriver) -> None:
    proxy.cut_share(0.05)
    settled: list[bytes] = []
    batch = 0
    while batch < 100 or proxy.cuts <= 5:  # whatever the seed
        batch += 1
        push(driver, batch, b"%d" % (2 * batch), b"%d" % (2 * batch + 1))
        try:
            deliveries = claim(driver)
        except Unavailable:
            continue
        assert all(driver.settle([ended(one) for one in deliveries]))
        settled += [one.body for one in deliveries]
    proxy.heal()

    unknown = driver.held(ALICE)
    driver.settle([
        Settlement(owner=ALICE, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE) for one in unknown
    ])
    settled += [one.body for one in claim(driver, 1000)]
    assert sorted(map(int, settled)) == list(range(2, 2 * batch + 2))


# --- silence ----------------------------------------------------------------------------------------


def calls(driver: RedisStreamsDriver, delivery: Delivery) -> dict[str, Any]:
    """Every kind of call that meets the network."""
    return {
        "append": lambda: push(driver, 99, b"x"),
        "claim": lambda: claim(driver),
        "settle": lambda: driver.settle([ended(delivery)]),
        "held": lambda: driver.held(ALICE),
        "owners": driver.owners,
        "numbers": driver.numbers,
        "backlog": lambda: driver.backlog("gift"),
        "promote_due": driver.promote_due,
        "trim": driver.trim,
        "beat": lambda: driver.beat("n1", "b1"),
        "check": driver.check,
    }


@pytest.mark.parametrize("name", ["append", "claim", "settle", "numbers", "promote_due", "trim", "beat", "check"])
@pytest.mark.parametrize("fault", ["frozen", "blackhole", "drip", "refused"])
def test_call_ends_within_its_timeout(server: RedisServer, proxy: FaultProxy, name: str, fault: str) -> None:
    patient = a_driver(proxy.url, timeout_s=10.0)
    push(patient, 1, b"a" * 200)
    (delivery,) = claim(patient)
    patient.close()
    driver = a_driver(proxy.url, timeout_s=0.4)
    call = calls(driver, delivery)[name]
    {"frozen": server.freeze, "blackhole": proxy.blackhole, "drip": lambda: proxy.drip(0.2), "refused": proxy.refuse}[
        fault
    ]()

    with Stopwatch() as watch, pytest.raises((Unavailable, MaybeStored)) as raised:
        call()

    assert watch.worked_s < 0.7
    assert (raised.type is MaybeStored) == (name == "append" and fault != "refused")
    server.resume()
    driver.close()


def test_call_waits_for_a_slow_store(proxy: FaultProxy, driver: RedisStreamsDriver) -> None:
    proxy.delay(0.7)

    ids = push(driver, 1, b"a")

    proxy.heal()
    assert [one.id for one in claim(driver)] == ids


def test_store_is_used_again_at_once_when_it_is_back(server: RedisServer, proxy: FaultProxy) -> None:
    driver = a_driver(proxy.url, timeout_s=1.0)
    server.freeze()
    with pytest.raises(MaybeStored):
        push(driver, 1, b"a")
    server.resume()

    with Stopwatch() as watch:
        push(driver, 2, b"b")

    assert watch.worked_s < 0.5
    assert b"b" in [one.body for one in claim(driver)]  # and b"a", if it was executed first
    driver.close()


def test_connections_that_died_while_idle_are_not_noticed_by_any_caller(
    server: RedisServer, proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    push(driver, 1, b"a")
    proxy.disconnect()
    assert [one.body for one in claim(driver)] == [b"a"]
    proxy.disconnect()
    push(driver, 2, b"b")
    proxy.disconnect()
    assert driver.numbers()["gift", "credit"].ready == 1


def test_exception_inside_a_call_never_leaves_a_reply_for_the_next(
    proxy: FaultProxy, driver: RedisStreamsDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(driver, 1, b"a")

    class Interrupted(BaseException):
        """What gevent.Timeout is to the driver."""

    def interrupted() -> Any:
        raise Interrupted

    proxy.delay(0.2)  # the reply comes when the next call is already under way
    with monkeypatch.context() as patched:
        patched.setattr(driver._calls._link._free[-1], "_read", interrupted)
        with pytest.raises(Interrupted):
            driver.backlog("gift")

    assert driver.beats() == {}  # not the backlog that the interrupted call had asked for


# --- restarts and refusals --------------------------------------------------------------------------


def test_kill_and_restart_with_appendfsync_always_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path, appendonly="yes", appendfsync="always") as server:
        driver = a_driver(server.url, timeout_s=5.0)
        acknowledged: list[str] = []
        go_on = threading.Event()
        go_on.set()

        def produce() -> None:
            batch = 0
            while go_on.is_set():
                batch += 1
                try:
                    acknowledged.extend(push(driver, batch, b"x", b"y"))
                except (Unavailable, MaybeStored):
                    time.sleep(0.01)

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            for _ in range(3):
                before = len(acknowledged)
                until(lambda enough=before + 40: len(acknowledged) > enough, 10, "pushes are acknowledged")
                server.restart()
        finally:
            go_on.clear()
            producer.join()
        stored = {one.id for one in claim(driver, 100_000)}
        driver.close()

    assert set(acknowledged) <= stored
    assert len(acknowledged) == len(set(acknowledged))


def test_claims_and_attempts_survive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, appendonly="yes", appendfsync="always") as server:
        driver = a_driver(server.url)
        push(driver, 1, b"a", b"b")
        first, second = claim(driver)
        driver.settle([ended(first, Move.RELEASE, counts=True, crash=True, redelivered=True)])
        server.restart()

        (again,) = claim(driver)

        assert (again.id, again.attempt, again.crashes, again.redelivered) == (first.id, 2, 1, True)
        assert driver.settle([ended(second), ended(again)]) == [True, True]
        driver.close()


def test_loading_store_is_unavailable_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path, appendonly="yes", key_load_delay="500") as server:
        driver = a_driver(server.url, timeout_s=5.0)
        with server.client() as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(5000):  # it looks at its clients after each 1,024 commands
                pipeline.set(f"other:{number}", "x")
            pipeline.execute()
        server.kill()
        server.launch()

        def refused() -> str:
            try:
                claim(driver)
            except Unavailable as error:
                return str(error)
            return "served"

        texts = [refused()]
        until(lambda: texts.append(refused()) or texts[-1] == "served", 15, lambda: f"it serves again: {texts[-3:]}")
        driver.close()

    assert any("LOADING" in text for text in texts), texts


def test_full_store_refuses_pushes_stores_nothing_of_them_and_can_be_emptied(server: RedisServer) -> None:
    brief = QueueSpec("gift", (TopicSpec("credit"),), 0.0, 0)
    driver = a_driver(server.url, brief)
    push(driver, 1, *[b"x" * 1000] * 300)
    running_now = claim(driver, 10)
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)

    with pytest.raises(StoreFull, match="OOM"):
        push(driver, 2, b"refused")
    driver.check()  # what takes no room goes on
    assert driver.fill().share == 1.0
    driver.beat("n1", "b1")
    driver.fence("b9")
    a_driver(server.url, brief).close()  # a node may start, to empty it

    retried = driver.settle([ended(one, Move.RETRY, counts=True, error="e" * 2000) for one in running_now])
    assert all(retried)
    rest = claim(driver, 1000)
    assert len(rest) == 290
    assert driver.settle([ended(one, Move.RELEASE) for one in rest[:5]]) == [True] * 5
    assert driver.settle([ended(one, Move.BURY, reason="r") for one in rest[5:10]]) == [True] * 5
    assert driver.settle([ended(one) for one in rest[5:10]]) == [False] * 5
    assert all(driver.settle([ended(one) for one in rest[10:]]))
    assert driver.promote_due().moved == {("gift", "credit"): 10}
    assert driver.trim() == 300
    assert len(claim(driver)) == 15
    with server.client() as client:
        client.config_set("maxmemory", 0)
    push(driver, 3, b"stored")
    assert [one.body for one in claim(driver)] == [b"stored"]
    driver.close()


def test_store_that_cannot_save_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    with running(tmp_path, stop_writes_on_bgsave_error="yes") as server:
        driver = a_driver(server.url)
        (tmp_path / "dump.rdb").mkdir()  # a folder where the file should go: the save fails
        with server.client() as client:
            client.config_set("save", "3600 1")
            client.bgsave()
            until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 10, "the save has failed")

        with pytest.raises(Unavailable, match="MISCONF"):
            push(driver, 1, b"a")

        assert claim(driver) == []
        driver.close()
        server.kill()  # asked to end, it would try to save


def test_replica_is_unavailable_with_the_reason(server: RedisServer, driver: RedisStreamsDriver) -> None:
    push(driver, 1, b"a")
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable, match="READONLY"):
            push(driver, 2, b"b")
        client.replicaof("NO", "ONE")
    assert [one.body for one in claim(driver)] == [b"a"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_eviction_policy_other_than_noeviction_stops_the_start(tmp_path: Path, policy: str) -> None:
    with running(tmp_path, maxmemory_policy=policy) as server:
        driver = RedisStreamsDriver(StoreTarget("main", server.url, "", 1.0, "n1"))

        with pytest.raises(BootError, match=f"{policy}.*noeviction") as raised:
            driver.open()

        assert raised.value.exit_status is Exit.CONFIG
        driver.close()


def test_wrong_and_missing_passwords_are_unavailable_and_say_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path, requirepass="s3cret-word") as server:
        for password in ("", "wrong-word"):
            driver = RedisStreamsDriver(StoreTarget("main", server.url, password, 1.0, "n1"))
            with pytest.raises(Unavailable, match="password_file") as raised:
                driver.open()
            assert "word" not in re.sub("password", "", str(raised.value))
            driver.close()
        right = a_driver(server.url, password="s3cret-word")
        push(right, 1, b"a")
        assert [one.body for one in claim(right)] == [b"a"]
        right.close()


def test_password_that_nobody_asked_for_is_unavailable_and_says_so(server: RedisServer) -> None:
    driver = RedisStreamsDriver(StoreTarget("main", server.url, "s3cret", 1.0, "n1"))

    with pytest.raises(Unavailable, match="no password"):
        driver.open()

    driver.close()


def test_store_that_is_away_at_the_start_can_be_opened_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        driver = RedisStreamsDriver(StoreTarget("main", server.url, "", 1.0, "n1"))
        with pytest.raises(Unavailable) as raised:
            driver.open()
        assert str(raised.value).startswith("redis+unix://"), "who tells it says of which storage it is"
        server.start()
        driver.open()
        driver.close()
    finally:
        server.close()


def test_database_of_the_url_is_used(server: RedisServer) -> None:
    driver = a_driver(f"{server.url}?db=3")
    push(driver, 1, b"a")

    with server.client(db=3) as client:
        assert client.exists("pbus:{gift}:log")
    with server.client() as client:
        assert client.dbsize() == 0
    driver.close()


# --- forgetting -------------------------------------------------------------------------------------


def test_script_flush_under_load_is_not_noticed(server: RedisServer, driver: RedisStreamsDriver) -> None:
    with server.client() as client:
        for batch in range(1, 101):
            client.script_flush()
            push(driver, batch, b"%d" % batch)
            client.script_flush()
            (delivery,) = claim(driver)
            client.script_flush()
            assert driver.settle([ended(delivery)]) == [True]
            assert delivery.body == b"%d" % batch


def test_flushall_ends_what_was_there_and_nothing_after_it(server: RedisServer, driver: RedisStreamsDriver) -> None:
    push(driver, 1, b"lost")
    (delivery,) = claim(driver)
    with server.client() as client:
        client.flushall()

    (later,) = push(driver, 2, b"kept")

    assert driver.settle([ended(delivery)]) == [False]
    assert [(one.id, one.body) for one in claim(driver)] == [(later, b"kept")]
    assert driver.backlog("gift") == 0


def test_pushes_after_a_flushall_reach_every_topic_and_process(server: RedisServer) -> None:
    spec = QueueSpec("gift", (TopicSpec("credit"), TopicSpec("mail")), 3600.0, 1 << 28)
    ingest, delivery = a_driver(server.url, spec), a_driver(server.url, spec)
    with server.client() as client:
        client.flushall()
    push(ingest, 1, b"a")

    for topic in ("credit", "mail"):
        assert [one.body for one in delivery.claim([Want(ALICE, "gift", topic, 9)])] == [b"a"]
    assert set(delivery.numbers()) == {("gift", "credit"), ("gift", "mail")}
    ingest.close()
    delivery.close()


@pytest.mark.parametrize("key", ["cursors", "taken", "queue", "sizes", "topic:credit:owners"])
def test_deleted_key_stops_nobody(server: RedisServer, driver: RedisStreamsDriver, key: str) -> None:
    push(driver, 1, b"a", b"b", b"c")
    first = claim(driver, 2)
    with server.client() as client:
        assert client.delete(f"pbus:{{gift}}:{key}") == 1

    push(driver, 2, b"d")

    assert [one.body for one in claim(driver)] == [b"c", b"d"]
    assert driver.settle([ended(one) for one in first]) == [True, True]
    assert driver.backlog("gift") == 0
    assert driver.numbers()["gift", "credit"].running == 2
    driver.trim()


def test_deleted_log_loses_what_was_in_it_and_nothing_else(server: RedisServer, driver: RedisStreamsDriver) -> None:
    push(driver, 1, b"running", b"lost")
    (running_now,) = claim(driver, 1)
    with server.client() as client:
        client.delete("pbus:{gift}:log")
    push(driver, 2, b"kept")

    assert [one.body for one in claim(driver)] == [b"kept"]
    assert driver.backlog("gift") == 0
    assert driver.settle([ended(running_now, Move.RETRY, counts=True)]) == [True]
    (letter,) = driver.dead_letters("gift", "credit")
    assert (letter.id, letter.reason) == (running_now.id, "lost")  # its body is gone: told, not dropped
    assert driver.numbers()["gift", "credit"].dead == 1


def test_deleted_body_of_what_came_back_is_a_dead_letter(server: RedisServer, driver: RedisStreamsDriver) -> None:
    push(driver, 1, b"a", b"b")
    first, second = claim(driver)
    driver.settle([ended(first, Move.RELEASE), ended(second, Move.RELEASE)])
    with server.client() as client:
        client.hdel("pbus:{gift}:topic:credit:bodies", first.id)
        client.config_set("maxmemory", 1)  # on a full store, too

    assert [one.body for one in claim(driver)] == [b"b"]

    assert [(one.id, one.reason) for one in driver.dead_letters("gift", "credit")] == [(first.id, "lost")]


# --- the bell ---------------------------------------------------------------------------------------


def test_bell_says_that_it_was_deaf_after_a_cut_and_hears_again(
    proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    bell = driver.bell("d0", ["gift"])
    assert bell.wait(1) is None
    proxy.disconnect()

    assert bell.wait(2) is None

    push(driver, 1, b"a")
    assert bell.wait(1) == {"gift"}
    bell.close()


def test_bell_waits_out_a_store_that_is_away(proxy: FaultProxy, driver: RedisStreamsDriver) -> None:
    bell = driver.bell("d0", ["gift"])
    bell.wait(1)
    proxy.refuse()

    with Stopwatch() as watch:
        assert bell.wait(0.5) == frozenset()
    assert watch.s > 0.4
    assert watch.worked_s < 0.9

    proxy.heal()
    assert bell.wait(2) is None
    bell.close()


def test_bell_finds_out_that_its_connection_is_silently_dead(
    server: RedisServer, proxy: FaultProxy, driver: RedisStreamsDriver
) -> None:
    bell = RedisBell(parse(proxy.url), 0.3, ["gift"], SystemClock(), quiet_s=0.2)
    assert bell.wait(1) is None
    for _ in range(5):
        assert bell.wait(0.15) == frozenset()  # quiet, asked, answered
    assert proxy.connections == 2  # the driver's and its own
    proxy.blackhole()

    until(lambda: bell.wait(0.1) is not None and proxy.connections > 2, 5, "it tries another connection")

    proxy.heal()
    until(lambda: bell.wait(0.5) is None, 5, "it is subscribed again")
    bell.close()


def test_bell_that_is_closed_elsewhere_wakes_up(driver: RedisStreamsDriver) -> None:
    bell = driver.bell("d0", ["gift"])
    bell.wait(1)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(bell.wait(30)))
    waiting.start()

    bell.close()

    waiting.join(5)
    assert answers == [frozenset()]


@pytest.mark.parametrize("lost", ["key", "field"])
def test_nothing_is_trimmed_past_a_topic_whose_cursor_is_lost(
    server: RedisServer, driver: RedisStreamsDriver, lost: str
) -> None:
    driver.declare([QueueSpec("gift", (TopicSpec("credit"), TopicSpec("mail")), 0.0, 0)])
    push(driver, 1, b"a", b"b")
    for one in driver.claim([Want(ALICE, "gift", "mail", 10)]):
        driver.settle([ended(one)])
    with server.client() as client:
        if lost == "key":
            client.delete("pbus:{gift}:cursors")
        else:
            client.hdel("pbus:{gift}:cursors", "credit")

    for _ in range(3):
        driver.trim()

    assert [one.body for one in claim(driver)] == [b"a", b"b"]
