"""
Connections pass to the next generation of a running bus, whatever they are in the middle of.

One bus a store and one reload, for which every guest is in a state of its own; then each goes on where it was.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import Bus, BusFactory, free_port, write_config
from tests.support.certificates import authority
from tests.support.guests import Guest, Stream, command
from tests.support.redis_server import running
from tests.support.waiting import until

PLAIN = (
    "half", "multi", "wait", "order", "deadline", "read", "history", "slow", "big", "stream", "eof", "noack", "later",
)
BLOCKED_S = 2.5
LARGE = b"x" * 900_000
PULL = {"topic": {"t": {"pull": {}}}}
STREAMS = 8


class Stage:
    """The bus before and after its reload, and who was there."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.before = bus.pids("ingest")
        self.guests: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def guest(self, name: str, *said: bytes, **more: Any) -> Guest:
        self.guests[name] = Guest(self.bus.port, *said, **more)
        return self.guests[name]

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.bus.port)

    def close(self) -> None:
        for guest in self.guests.values():
            guest.close()


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp(f"handover-{request.param}")
    queues: dict[str, Any] = dict.fromkeys(PLAIN, PULL)
    queues |= {"kept": {"password": "pw", **PULL}, "changed": {"password": "old", **PULL}}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(running(folder)).url if request.param == "redis" else "sqlite:main.db"
        bus = Bus(folder / "bus")
        stack.callback(bus.clean_up)
        config: dict[str, Any] = {"storage": {"main": {"url": url}}, "ingest": {"listen": [f"127.0.0.1:{free_port()}"]}}
        write_config(bus.folder, {**config, "queue": {**queues, "gone": PULL}})
        bus.start()
        stage = Stage(bus)
        stack.callback(stage.close)
        arrange(stage)
        write_config(bus.folder, {**config, "queue": {**queues, "changed": {"password": "new", **PULL}}})
        told = bus.cli("reload", "--wait")
        assert told.returncode == 0, told.stdout + told.stderr + bus.tail()
        until(lambda: not set(stage.before) & set(bus.processes()), 10, "the old child is gone")
        yield stage


def arrange(stage: Stage) -> None:
    """Everybody begins something that is not over when the reload comes."""
    client = stage.client()
    stage.guest("half").say(b"*3\r\n$5\r\nLPUSH\r\n$4\r\nhalf\r\n$10\r\nhal")
    multi = stage.guest("multi")
    assert [multi.ask("MULTI"), multi.ask("LPUSH", "multi", "a"), multi.ask("XADD", "multi", "*", "body", "b")] == [
        b"OK", b"QUEUED", b"QUEUED"]
    refused = stage.guest("refused")
    assert refused.ask("MULTI") == b"OK"
    assert refused.ask("LPUSH", "nowhere", "a").startswith("NOQUEUE")
    stage.guest("wait").say(command("BRPOP", "wait/t", 0))
    for number in (1, 2, 3):
        stage.guest(f"order{number}").say(command("BRPOP", "order/t", 0))
        time.sleep(0.05)                              # the order in which they wait is what this is about
    stage.facts["deadline_s"] = time.monotonic() + BLOCKED_S
    stage.guest("deadline").say(command("BRPOP", "deadline/t", BLOCKED_S))
    stage.guest("reading").say(command("XREADGROUP", "GROUP", "t", "me", "BLOCK", 0, "STREAMS", "later", ">"))
    arrange_readers(stage, client)
    arrange_identities(stage)
    arrange_slow(stage, client)
    depths = [1 + 40 * (one % 2) for one in range(STREAMS)]
    stage.guests["streams"] = Crowd(
        [Stream(stage.bus.port, "stream", f"s{one}", depth) for one, depth in enumerate(depths)]
    )
    stage.guests["echoes"] = Echoes(stage.bus.port)
    until(lambda: all(len(one.sent) > 20 for one in stage.guests["streams"].streams), 10, "all push")


class Echoes(threading.Thread):
    """Large replies, read in small pieces all the time: ``wrong`` is what was not as it had to be."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._guest = Guest(port, receive_bytes=65_536)
        self.count = 0
        self.wrong: list[str] = []
        self.stopping = False
        self.start()

    def run(self) -> None:
        try:
            while not self.stopping:
                body = b"%08d" % self.count * 100_000
                self._guest.say(command("ECHO", body) + command("PING"))
                if [self._guest.hear(), self._guest.hear()] != [body, b"PONG"]:
                    self.wrong.append(f"reply {self.count}")
                self.count += 1
        except Exception as error:  # noqa: BLE001 - the test has to hear of it
            self.wrong.append(repr(error))

    def close(self) -> None:
        self.stopping = True
        self.join(15)
        self._guest.close()


class Crowd:
    """Streams that end together."""

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams

    def close(self) -> None:
        for one in self.streams:
            one.finish()


def arrange_readers(stage: Stage, client: redis.Redis) -> None:
    for queue in ("read", "history"):
        client.lpush(queue, *[f"{queue}-{number}" for number in range(20)])
        reader = stage.guest(queue)
        answer = reader.ask("XREADGROUP", "GROUP", "t", "me", "COUNT", 10, "STREAMS", queue, ">")
        stage.facts[queue] = [job_id for job_id, _ in answer[0][1]]
    gone = stage.guest("gone")
    client.lpush("gone", "lost?")
    gone.ask("XREADGROUP", "GROUP", "t", "me", "COUNT", 1, "STREAMS", "gone", ">")


def arrange_identities(stage: Stage) -> None:
    named = stage.guest("named")
    hello = named.ask("HELLO", 3, "AUTH", "kept", "pw", "SETNAME", "worker-7")
    stage.facts["id"] = named.ask("CLIENT", "ID")
    assert hello
    named.ask("CLIENT", "SETINFO", "LIB-NAME", "guests")
    named.ask("PBUS.PARENT", "1-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert stage.guest("changed").ask("AUTH", "changed", "old") == b"OK"
    stage.guest("nobody")


def arrange_slow(stage: Stage, client: redis.Redis) -> None:
    slow = stage.guest("slow", receive_bytes=4096)
    for number in range(6):
        slow.say(command("ECHO", str(number).encode() * 900_000))
    client.lpush("big", *[LARGE] * 5)
    stage.guest("big", receive_bytes=4096).say(command("RPOP", "big/t", 5))
    client.lpush("noack", *[LARGE] * 5)
    stage.guest("noack", receive_bytes=4096).say(command("XREADGROUP", "GROUP", "t", "me", "STREAMS", "noack", ">"))
    eof = stage.guest("eof", receive_bytes=4096)
    eof.say(command("ECHO", b"e" * 1_000_000) * 5 + command("LPUSH", "eof", "last"))
    eof.socket.shutdown(socket.SHUT_WR)
    until(lambda: client.hgetall("big/t")[b"running"] == b"5" and client.hgetall("noack/t")[b"running"] == b"5", 5,
          lambda: f"the large jobs are with somebody: {client.hgetall('big/t')} {client.hgetall('noack/t')}")


# -- what has become of them ------------------------------------------------------------------------------------------


def test_a_new_child_serves_and_nobody_was_left_behind(stage: Stage) -> None:
    assert not set(stage.bus.pids("ingest")) & set(stage.before)
    (done,) = stage.bus.events("handover.done")
    assert (done["passed"], done["stay"]) == (len(stage.guests) - 1 + STREAMS, 0), stage.bus.tail()
    assert stage.bus.events("handover.broken") == stage.bus.events("handover.back") == []
    print(f"longest pass {done['longest_ms']} ms, in all {done['took_s']} s")


def test_pipelines_lose_and_repeat_nothing(stage: Stage) -> None:
    crowd = stage.guests["streams"]
    counts = [len(one.sent) for one in crowd.streams]
    pairs = list(zip(crowd.streams, counts, strict=True))
    until(lambda: all(len(one.sent) > count for one, count in pairs), 10, "they go on")
    crowd.close()
    assert [one.wrong for one in crowd.streams] == [[]] * STREAMS
    sent = [body for one in crowd.streams for body in one.sent]
    found: list[bytes] = []
    with stage.client() as client:
        while bodies := client.execute_command("RPOP", "stream/t", 1000):
            found += bodies
    assert sorted(found) == sorted(body.encode() for body in sent)
    print(f"longest round trip {max(one.longest_s for one in crowd.streams) * 1000:.0f} ms")


def test_large_replies_that_are_read_all_the_time_come_whole(stage: Stage) -> None:
    echoes = stage.guests["echoes"]
    count = echoes.count
    until(lambda: echoes.count > count + 3, 10, "they go on")
    echoes.close()
    assert echoes.wrong == []


def test_half_a_command_is_completed(stage: Stage) -> None:
    guest = stage.guests["half"].say(b"f a bod\r\n")
    guest.say(command("RPOP", "half/t"))
    assert [guest.hear(), guest.hear()] == [1, b"half a bod"]


def test_what_waits_for_exec_is_done_by_exec(stage: Stage) -> None:
    guest = stage.guests["multi"]
    assert guest.ask("LPUSH", "multi", "c") == b"QUEUED"
    backlog, job_id, after = guest.ask("EXEC")
    assert (backlog, after) == (3, 3)
    assert b"-" in job_id
    assert guest.ask("RPOP", "multi/t", 10) == [b"a", b"b", b"c"]


def test_refused_transaction_stays_refused(stage: Stage) -> None:
    assert stage.guests["refused"].ask("EXEC").startswith("EXECABORT")


def test_blocked_pop_gets_what_comes_later(stage: Stage) -> None:
    with stage.client() as client:
        client.lpush("wait", "now")
    assert stage.guests["wait"].hear() == [b"wait/t", b"now"]


def test_blocked_pops_keep_their_order(stage: Stage) -> None:
    with stage.client() as client:
        for number in (1, 2, 3):
            client.lpush("order", f"job {number}")
            assert stage.guests[f"order{number}"].hear() == [b"order/t", b"job %d" % number]


def test_blocked_pop_ends_at_the_moment_it_was_promised(stage: Stage) -> None:
    assert stage.guests["deadline"].hear() is None
    late_s = time.monotonic() - stage.facts["deadline_s"]
    assert -0.05 < late_s < 1.5, late_s


def test_blocked_read_reads_and_acks(stage: Stage) -> None:
    with stage.client() as client:
        client.lpush("later", "now")
    guest = stage.guests["reading"]
    ((queue, ((job_id, _),)),) = guest.hear()
    assert queue == b"later"
    assert guest.ask("XACK", "later", "t", job_id) == 1


def test_open_claims_are_acked_on_any_connection(stage: Stage) -> None:
    ids = stage.facts["read"]
    guest = stage.guests["read"]
    with stage.client() as client:
        assert client.execute_command("XACK", "read", "t", *ids[:4]) == 4
        assert guest.ask("XACK", "read", "t", *ids) == 6
        assert client.hgetall("read/t")[b"running"] == b"0"
        more = guest.ask("XREADGROUP", "GROUP", "t", "me", "COUNT", 99, "STREAMS", "read", ">")
        fields = [dict(zip(words[::2], words[1::2], strict=True)) for _, words in more[0][1]]
        assert [one[b"body"] for one in fields] == [b"read-%d" % number for number in range(10, 20)]
        assert {one[b"redelivered"] for one in fields} == {b"0"}


def test_open_claims_are_still_the_connections_own(stage: Stage) -> None:
    guest, ids = stage.guests["history"], stage.facts["history"]
    ((_, entries),) = guest.ask("XREADGROUP", "GROUP", "t", "me", "STREAMS", "history", 0)
    assert [job_id for job_id, _ in entries] == ids
    guest.close()
    with stage.client() as client:
        until(lambda: client.hgetall("history/t")[b"running"] == b"0", 5, "they are back")
        words = ("XREADGROUP", "GROUP", "t", "other", "COUNT", 99, "STREAMS", "history", ">")
        ((_, entries),) = client.execute_command(*words)
        assert len(entries) == 20


def test_claims_of_a_queue_that_is_gone_are_still_the_connections_own(stage: Stage) -> None:
    """They keep the queue as an orphan; what becomes of it when the last is acked is told in test_orphans."""
    guest = stage.guests["gone"]
    assert guest.ask("LPUSH", "gone", "more").startswith("NOQUEUE 'gone' is not in the configuration any more")
    ((_, [(_, fields)]),) = guest.ask("XREADGROUP", "GROUP", "t", "me", "STREAMS", "gone", 0)
    assert fields[:2] == [b"body", b"lost?"]


def test_name_protocol_identity_and_parent_pass(stage: Stage) -> None:
    guest = stage.guests["named"]
    assert guest.ask("CLIENT", "GETNAME") == b"worker-7"
    assert guest.ask("CLIENT", "ID") == stage.facts["id"]
    info = guest.ask("CLIENT", "INFO")
    assert b"resp=3" in info
    assert b"lib-name=guests" in info
    assert b"user=kept" in info
    assert guest.ask("LPUSH", "kept", "child") == 1
    ((_, fields),) = guest.ask("XRANGE", "kept", "-", "+")
    assert b"0af7651916cd43dd8448eb211c80319c" in b" ".join(fields)


def test_identity_whose_password_was_changed_is_nobody(stage: Stage) -> None:
    guest = stage.guests["changed"]
    assert guest.ask("LPUSH", "changed", "a").startswith("NOAUTH")
    assert guest.ask("AUTH", "changed", "new") == b"OK"
    assert guest.ask("LPUSH", "changed", "a") == 1


def test_client_that_did_not_read_gets_every_byte(stage: Stage) -> None:
    assert [stage.guests["slow"].hear() for _ in range(6)] == [str(number).encode() * 900_000 for number in range(6)]


def test_popped_jobs_in_an_unsent_reply_are_done_once_it_has_left(stage: Stage) -> None:
    with stage.client() as client:
        assert client.hgetall("big/t")[b"running"] == b"5"
        assert stage.guests["big"].hear() == [LARGE] * 5
        until(lambda: client.hgetall("big/t")[b"running"] == b"0", 5, "they are done")
        assert client.hgetall("big/t")[b"ready"] == b"0"


def test_jobs_in_an_unsent_reply_are_open_once_it_has_left(stage: Stage) -> None:
    guest = stage.guests["noack"]
    ((_, entries),) = guest.hear()
    assert guest.ask("XACK", "noack", "t", *[job_id for job_id, _ in entries]) == 5


def test_client_that_says_nothing_more_gets_its_replies(stage: Stage) -> None:
    guest = stage.guests["eof"]
    assert [guest.hear() for _ in range(6)] == [b"e" * 1_000_000] * 5 + [1]
    with pytest.raises(ConnectionError):
        guest.hear()


def test_doors_of_the_handover_are_for_this_user_alone(stage: Stage) -> None:
    (door,) = Path(stage.bus.settings.node.run_dir).glob("handover.*.sock")
    assert door.stat().st_mode & 0o777 == 0o600


def test_stranger_at_the_door_is_sent_away(stage: Stage) -> None:
    (door,) = Path(stage.bus.settings.node.run_dir).glob("handover.*.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(door))
        with contextlib.suppress(ConnectionError):    # it may be closed before we have said anything
            sock.sendall(b"\0\0\0\1x")
            assert sock.recv(100) == b""
    assert stage.bus.events("handover.stranger")


def test_tls_connection_is_served_for_its_grace_and_closed_between_two_commands(
    tmp_path: Path, bus_factory: BusFactory
) -> None:
    """It cannot pass: its keys are in the old process."""
    ours = authority(tmp_path)
    bus = bus_factory({"node": {"grace": "2s"}, "ingest": {"tls": ours.issue("door").setting}, "queue": {"gift": PULL}})
    context = ssl.create_default_context(cafile=str(ours.cert))
    with socket.create_connection(("127.0.0.1", bus.port)) as plain:
        plain.settimeout(10)
        sealed = context.wrap_socket(plain, server_hostname="localhost")
        began = time.monotonic()
        assert bus.cli("reload", "--wait").returncode == 0
        answers = 0
        while True:
            sealed.sendall(command("LPUSH", "gift", "x"))
            answer = sealed.recv(100)
            if not answer:
                break
            assert answer.startswith(b":"), answer
            answers += 1
            time.sleep(0.05)
        assert 1.0 < time.monotonic() - began < 5.0
        sealed.close()
    with redis.Redis(port=bus.port, ssl=True, ssl_ca_certs=str(ours.cert)) as client:
        assert client.llen("gift") == answers
    (done,) = bus.events("handover.done")
    assert (done["passed"], done["stay"]) == (0, 1)
