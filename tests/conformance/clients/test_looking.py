"""Looking and cancelling as clients do it: shapes beside a real Redis' own, redis-py's parsers, redis-cli's help."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis

from tests.support.bus import Bus, write_config
from tests.support.programs import requires
from tests.support.redis_server import RedisServer, running

STORES = ("lite", "red")
TOPICS = {"credit": {"pull": {}}, "mail": {"pull": {}}}
OF_7_2 = {"inactive", "active-time"}
"""What a Redis of 7.2 says, and an older one does not."""


class Stage(NamedTuple):
    bus: Bus
    server: RedisServer


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A bus with a queue in either store (named after it, others beside it), and the Redis that is one of them."""
    folder = tmp_path_factory.mktemp("looking")
    (folder / "redis").mkdir()
    with running(folder / "redis") as server:
        bus = Bus(folder)
        queues = {
            f"{store}{of}": {"topic": TOPICS, "storage": {"lite": "main", "red": "red"}[store]}
            for store in STORES for of in ("2", "3", "-py2", "-py3", "-cancel", "-seen")
        }
        stores = {"main": {"url": "sqlite:pbus.db"}, "red": {"url": server.url}}
        write_config(folder, {"ingest": {"processes": 2}, "storage": stores, "queue": queues})
        try:
            yield Stage(bus.start(), server)
        finally:
            bus.clean_up()


# -- shapes ---------------------------------------------------------------------------------------


class Wire:
    """A connection that tells replies with their types: a kind, or a kind and what is in it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._file = sock.makefile("rb")

    def ask(self, *words: str) -> Any:
        raw = [word.encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw))
        return self._shape()

    def _shape(self) -> Any:
        line = self._file.readline()
        kind, rest = line[:1].decode(), line[1:-2]
        if kind in "$*" and rest == b"-1":
            return f"null {kind}"
        if kind == "$":
            return "$", self._file.read(int(rest) + 2)[:-2].decode()
        if kind in "*~":
            return kind, [self._shape() for _ in range(int(rest))]
        if kind == "%":
            return kind, {self._shape()[1]: self._shape() for _ in range(int(rest))}
        return kind, rest.decode()


def like(ours: Any, theirs: Any) -> None:
    """The same kinds everywhere, the same keys and the same texts of protocol; numbers, ids and names are free."""
    if ours == theirs:
        return
    assert ours[0] == theirs[0], (ours, theirs)
    if ours[0] in ("*", "~"):
        if is_map(theirs):
            like_maps(as_map(ours), as_map(theirs))
        else:
            assert len(ours[1]) == len(theirs[1]), (ours, theirs)
            for mine, other in zip(ours[1], theirs[1], strict=True):
                like(mine, other)
    elif ours[0] == "%":
        like_maps(ours[1], theirs[1])
    elif ours[0] in "-+":
        assert ours == theirs


def is_map(reply: Any) -> bool:
    """An array of names and values, as RESP2 writes a map."""
    names = [entry[1] for entry in reply[1][::2] if entry[0] == "$"]
    return 2 * len(names) == len(reply[1]) and ("name" in names or "length" in names)


def as_map(reply: Any) -> dict[str, Any]:
    return {name[1]: value for name, value in zip(reply[1][::2], reply[1][1::2], strict=True)}


def like_maps(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert [name for name in ours if name not in OF_7_2] == [name for name in theirs if name not in OF_7_2]
    for name in ours.keys() & theirs.keys():
        like(ours[name], theirs[name])


def prepared(wire: Wire, queue: str, protocol: str) -> None:
    """Three entries, the first two pending with c1, in two groups."""
    wire.ask("HELLO", protocol)
    for body in "abc":
        assert wire.ask("XADD", queue, "*", "body", body)[0] == "$"
    assert wire.ask("XREADGROUP", "GROUP", "credit", "c1", "COUNT", "2", "STREAMS", queue, ">")[0] in "*%"


LOOKS = [
    "XRANGE {} - +", "XRANGE {} - + COUNT 1", "XRANGE {} - + COUNT 0", "XRANGE {} 5 6", "XREVRANGE {} + -",
    "XREVRANGE {} + - COUNT -1", "XPENDING {} credit", "XPENDING {} mail", "XPENDING {} credit - + 10",
    "XPENDING {} credit IDLE 0 - + 1 c1", "XPENDING {} credit - + 10 c9", "XINFO STREAM {}", "XINFO STREAM {} FULL",
    "XINFO STREAM {} FULL COUNT 1", "XINFO GROUPS {}", "XINFO CONSUMERS {} credit", "XINFO CONSUMERS {} mail",
    "XAUTOCLAIM {} credit c9 9999999 0-0", "XAUTOCLAIM {} credit c9 9999999 0-0 COUNT 5 JUSTID",
    "XCLAIM {} credit c9 9999999 1-1", "XCLAIM {} credit c9 9999999 1-1 JUSTID", "XDEL {} 1-1", "XDEL {} x",
    "XGROUP CREATE {} credit 0", "XGROUP CREATE {} credit $ MKSTREAM", "XGROUP DELCONSUMER {} credit c9",
    "XGROUP CREATECONSUMER {} credit c1", "XRANGE {} x +", "XRANGE {} - + COUNT", "XRANGE {} - + FOO 1",
    "XRANGE {} - + COUNT x", "XRANGE {} - (0-0", "XPENDING {} credit - +", "XPENDING {} credit x + 1",
    "XPENDING {} credit - + x", "XINFO FOO {}", "XINFO STREAM", "XINFO", "XGROUP FOO {}", "XGROUP CREATE {}", "XGROUP",
    "XAUTOCLAIM {} credit c9 x 0-0", "XAUTOCLAIM {} credit c9 0 x", "XAUTOCLAIM {} credit c9 0 0 COUNT 0",
    "XAUTOCLAIM {} credit c9 0 0 FOO", "XCLAIM {} credit c9 x 1-1", "XCLAIM {} credit c9 0 x", "COMMAND COUNT x",
    "COMMAND FOO", "COMMAND LIST FILTERBY FOO x", "COMMAND LIST FILTERBY MODULE x", "COMMAND LIST x",
    "COMMAND DOCS nope", "COMMAND INFO nope", "COMMAND GETKEYS", "COMMAND GETKEYS nope x",
    "COMMAND GETKEYS XREADGROUP GROUP g c STREAMS {} other > >", "COMMAND GETKEYS XRANGE {} - +",
    "COMMAND GETKEYS XRANGE {} -", "COMMAND GETKEYS ECHO x", "COMMAND GETKEYS XINFO STREAM {}",
    "COMMAND LIST FILTERBY PATTERN xrang*",
]


@pytest.mark.parametrize("protocol", ["2", "3"])
@pytest.mark.parametrize("store", STORES)
def test_replies_are_like_those_of_a_redis(stage: Stage, store: str, protocol: str) -> None:
    queue = f"{store}{protocol}"
    with socket.create_connection(("127.0.0.1", stage.bus.port)) as ours, socket.socket(socket.AF_UNIX) as theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        theirs.connect(stage.server.path)
        pbus, real = Wire(ours), Wire(theirs)
        for topic in TOPICS:
            real.ask("XGROUP", "CREATE", queue, topic, "0", "MKSTREAM")
        prepared(pbus, queue, protocol)
        prepared(real, queue, protocol)

        for look in LOOKS:
            words = look.format(queue).split()
            mine, other = pbus.ask(*words), real.ask(*words)
            try:
                like(mine, other)
            except AssertionError as error:
                raise AssertionError(f"{look}: {error}") from None


def test_documentation_has_the_shapes_of_a_redis(stage: Stage) -> None:
    with socket.create_connection(("127.0.0.1", stage.bus.port)) as ours, socket.socket(socket.AF_UNIX) as theirs:
        theirs.connect(stage.server.path)
        pbus, real = Wire(ours), Wire(theirs)
        docs, info = pbus.ask("COMMAND", "DOCS"), pbus.ask("COMMAND", "INFO", "xrange", "lpush", "nope")
        theirs_2 = real.ask("COMMAND", "INFO", "xrange", "lpush", "nope")
        for wire in (pbus, real):
            wire.ask("HELLO", "3")
        docs_3, info_3 = pbus.ask("COMMAND", "DOCS"), pbus.ask("COMMAND", "INFO", "xrange", "lpush", "nope")
        known, theirs_3 = kinds(real.ask("COMMAND", "DOCS")), real.ask("COMMAND", "INFO", "xrange", "lpush", "nope")

    said = kinds(docs_3)
    assert {"summary", "since", "group", "arguments", "subcommands", "token", "flags", "type"} <= said.keys()
    for name in said.keys() & known.keys():
        assert said[name] <= known[name], name
    assert docs == as_resp_2(docs_3)
    for mine, other in ((info, theirs_2), (info_3, theirs_3)):
        for command, of_redis in zip(mine[1][:2], other[1][:2], strict=True):
            assert [part[0] for part in command[1]] == [part[0] for part in of_redis[1]]
            for place in (0, 1, 3, 4, 5, 8):              # not the flags, the categories, the tips
                assert command[1][place] == of_redis[1][place]
        assert mine[1][2] == other[1][2]


def kinds(reply: Any) -> dict[str, set[str]]:
    """Of every name in every map of a RESP3 reply, which kinds of values it has."""
    found: dict[str, set[str]] = {}
    if reply[0] == "%":
        for name, value in reply[1].items():
            found.setdefault(name, set()).add(value[0])
    values = reply[1].values() if reply[0] == "%" else reply[1] if reply[0] in ("*", "~") else ()
    for value in values:
        for name, more in kinds(value).items():
            found.setdefault(name, set()).update(more)
    return found


def as_resp_2(reply: Any) -> Any:
    if reply[0] == "%":
        return "*", [part for name, value in reply[1].items() for part in (("$", name), as_resp_2(value))]
    return ("*", [as_resp_2(value) for value in reply[1]]) if reply[0] in ("*", "~") else reply


# -- clients --------------------------------------------------------------------------------------


def connected(stage: Stage, protocol: int = 2) -> redis.Redis:
    return redis.Redis(port=stage.bus.port, protocol=protocol, decode_responses=True, single_connection_client=True)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("store", STORES)
def test_redis_py_reads_the_looks(stage: Stage, store: str, protocol: int) -> None:
    queue = f"{store}-py{protocol}"
    with connected(stage, protocol) as client:
        first = client.xadd(queue, {"body": "a", "key": "k"})
        second, third = client.xadd(queue, {"body": "b"}), client.xadd(queue, {"body": "c"})
        client.xreadgroup("credit", "c1", {queue: ">"}, count=2)

        assert client.xrange(queue, count=2) == [(first, {"body": "a", "key": "k"}), (second, {"body": "b"})]
        assert client.xrange(queue, f"({first}", count=1) == [(second, {"body": "b"})]
        assert client.xrevrange(queue, count=1) == [(third, {"body": "c"})]
        consumers = [{"name": "c1", "pending": 2}]
        assert client.xpending(queue, "credit") == {"pending": 2, "min": first, "max": second, "consumers": consumers}
        assert client.xpending(queue, "mail") == {"pending": 0, "min": None, "max": None, "consumers": []}
        one, _ = client.xpending_range(queue, "credit", "-", "+", 10)
        assert (one["message_id"], one["consumer"], one["times_delivered"]) == (first, "c1", 1)
        assert 0 <= one["time_since_delivered"] < 60_000
        assert client.xpending_range(queue, "credit", "-", "+", 10, consumername="c9") == []
        credit, mail = client.xinfo_groups(queue)
        assert (credit["name"], credit["consumers"], credit["pending"]) == ("credit", 1, 2)
        assert credit["last-delivered-id"] == second
        assert (credit["entries-read"], credit["lag"], mail["entries-read"], mail["lag"]) == (2, 1, None, 3)
        (consumer,) = client.xinfo_consumers(queue, "credit")
        assert (consumer["name"], consumer["pending"]) == ("c1", 2)
        stream = client.xinfo_stream(queue)
        assert (stream["length"], stream["groups"], stream["entries-added"]) == (client.xlen(queue), 2, 3)
        assert (stream["first-entry"][0], stream["last-entry"][0]) == (first, third)
        full = client.xinfo_stream(queue, full=True)
        assert [group["name"] for group in full["groups"]] == ["credit", "mail"]
        assert full["groups"][0]["pending"][0][0] == first
        with pytest.raises(redis.ResponseError, match="BUSYGROUP"):
            client.xgroup_create(queue, "credit", mkstream=True)
        assert client.xautoclaim(queue, "credit", "c9", 0) == ["0-0", [], []]
        assert client.xclaim(queue, "credit", "c9", 0, [first]) == []
        assert client.xack(queue, "credit", first, second) == 2


def test_redis_py_reads_the_documentation(stage: Stage) -> None:
    for protocol in (2, 3):
        with redis.Redis(port=stage.bus.port, protocol=protocol, decode_responses=True) as client:
            assert client.command_count() == len(client.command()) == len(client.command_list())
            assert client.command()["xrange"]["arity"] == -4
            assert sorted(client.command_list(category="blocking")) == ["blpop", "brpop", "xreadgroup"]
            reading = ["XREADGROUP", "GROUP", "t", "c", "STREAMS", "one", "two", ">", ">"]
            assert client.command_getkeys(*reading) == ["one", "two"]
            docs = client.execute_command("COMMAND DOCS", "xrange")
            assert "xrange" in docs


def test_cli_has_help_of_every_command(stage: Stage) -> None:
    program = requires("redis-cli")

    def said(*words: str) -> str:
        command = [program, "-p", str(stage.bus.port), "help", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert "\x1b[90mqueue start end [COUNT n]\x1b[0m" in said("xrange")
    assert "queue [FULL [COUNT n]]" in said("xinfo", "stream")
    assert "topic consumer [COUNT n] [BLOCK ms] [NOACK] STREAMS queue [queue ...] id [id ...]" in said("xreadgroup")
    assert "[protocol [AUTH name password] [SETNAME text]]" in said("hello")
    assert "XDEL" in said("@cancel")


# -- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_cancelled_jobs_are_never_handed_out(stage: Stage, store: str) -> None:
    queue = f"{store}-cancel"
    with connected(stage) as client:
        ids = [client.xadd(queue, {"body": body}) for body in "abcd"]
        delayed = client.xadd(queue, {"body": "later", "delay": 3_600_000})
        client.xreadgroup("credit", "c1", {queue: ">"}, count=1)

        nobodys = ["5-5", "0-0", "18446744073709551615-18446744073709551615", "99999999999999-18446744073709551615"]
        assert client.xdel(queue, ids[0], *nobodys, ids[1], delayed) == 3, "the first one waits for mail"
        assert [client.xrange(queue, one, one) for one in nobodys] == [[]] * 4
        assert client.lrem(f"{queue}/mail", 0, ids[2]) == 1
        assert client.lrem(f"{queue}/credit", 0, ids[0]) == 0, "it runs"

        assert client.rpop(f"{queue}/credit", 9) == ["c", "d"]
        assert client.rpop(f"{queue}/mail", 9) == ["d"]
        assert client.xack(queue, "credit", ids[0]) == 1
        numbers = client.hgetall(f"{queue}")
        assert (numbers["ready"], numbers["delayed"], numbers["dead"]) == ("0", "0", "0")
        assert [entry[0] for entry in client.xrange(queue)] == [*ids, delayed], "looking shows what has ended, too"


@pytest.mark.parametrize("store", STORES)
def test_claim_of_another_ingest_child_is_seen_as_its_owner(stage: Stage, store: str) -> None:
    queue = f"{store}-seen"
    with contextlib.ExitStack() as connections:
        mine = connections.enter_context(connected(stage))
        pid = mine.info("server")["process_id"]
        others = (connections.enter_context(connected(stage)) for _ in range(100))
        other = next(client for client in others if client.info("server")["process_id"] != pid)
        mine.xadd(queue, {"body": "a"})
        mine.xreadgroup("credit", "worker-1", {queue: ">"})

        (here,) = mine.xinfo_consumers(queue, "credit")
        (there,) = other.xinfo_consumers(queue, "credit")

    assert here["name"] == "worker-1"
    assert there["name"].startswith(f"{stage.bus.settings.node.name}/")
