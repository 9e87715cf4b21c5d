"""
Transactions as programs make them: redis-py's pipelines as they are by default, phpredis' multi(), redis-cli.

One bus a store, with a second storage beside it; every test has queues of its own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ExecAbortError

from pbus.core.traceparent import trace_id
from tests.support.bus import Bus, write_config
from tests.support.programs import requires, requires_php_redis
from tests.support.redis_server import running

PREFIXES = ("py", "full", "ack", "php", "phpfull", "cli", "two", "long", "other", "trace", "pipe")
MANY = 2000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_STORED = "nothing of the transaction is stored"


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def bus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """``NAME.a`` and ``NAME.b`` for each of PREFIXES, ``NAME.one`` takes one job; ``away`` is in another storage."""
    folder = tmp_path_factory.mktemp(f"transactions-{request.param}")
    topic = {"t": {"pull": {}}}
    queues: dict[str, Any] = {f"{name}.{half}": {"topic": topic} for name in PREFIXES for half in "ab"}
    queues |= {f"{name}.one": {"max_backlog": 1, "topic": topic} for name in PREFIXES}
    queues["away"] = {"storage": "second", "topic": topic}
    storage = {"main": {"url": "sqlite:main.db"}, "second": {"url": "sqlite:second.db"}}
    with contextlib.ExitStack() as stack:
        if request.param == "redis":
            storage["main"]["url"] = stack.enter_context(running(folder)).url
        bus = Bus(folder / "bus")
        stack.callback(bus.clean_up)
        write_config(bus.folder, {"storage": storage, "queue": queues})
        yield bus.start()


@pytest.fixture
def client(bus: Bus) -> Iterator[redis.Redis]:
    with redis.Redis(port=bus.port, decode_responses=True) as client:
        yield client


def bodies(client: redis.Redis, queue: str) -> list[str]:
    """What is in *queue*; it is empty then."""
    found: list[str] = client.execute_command("RPOP", f"{queue}/t", 10_000) or []
    return found


# -- redis-py -------------------------------------------------------------------------------------


def test_pipeline_of_redis_py_is_a_transaction(client: redis.Redis) -> None:
    with client.pipeline() as batch:
        batch.lpush("py.a", "1", "2").llen("py.a").xadd("py.b", {"body": "3"}).rpop("py.b/t").lpush("py.a", "4")
        replies = batch.execute()

    assert [*replies[:2], *replies[3:]] == [3, 3, "3", 3]
    assert replies[2].partition("-")[0].isdigit()
    assert bodies(client, "py.a") == ["1", "2", "4"]


def test_refused_command_aborts_the_pipeline_of_redis_py(client: redis.Redis) -> None:
    with client.pipeline() as batch, pytest.raises(redis.ResponseError, match="NOQUEUE there is no queue 'nope'"):
        batch.lpush("py.a", "1").lpush("nope", "2").execute()
    with client.pipeline() as batch, pytest.raises(redis.ResponseError, match="not allowed inside a transaction"):
        batch.lpush("py.a", "1").brpop("py.a/t", 1).execute()

    assert bodies(client, "py.a") == []


def test_full_queue_leaves_nothing_of_the_transaction(client: redis.Redis) -> None:
    with client.pipeline() as batch:
        assert batch.lpush("full.a", "1").lpush("full.one", "1").execute() == [1, 1]
    with client.pipeline() as batch, pytest.raises(ExecAbortError) as aborted:
        batch.lpush("full.a", "2", "3").lpush("full.one", "2").lpush("full.b", "2").llen("full.a").execute()

    assert str(aborted.value).startswith("QUEUEFULL full.one holds 1 of 1 jobs")
    assert NOT_STORED in str(aborted.value)
    assert [bodies(client, f"full.{name}") for name in ("a", "b", "one")] == [["1"], [], ["1"]]


def test_ack_and_push_are_one_step(client: redis.Redis) -> None:
    client.lpush("ack.a", "job")
    client.lpush("ack.one", "in the way")
    ((_, ((job_id, _),)),) = client.xreadgroup("t", "c", {"ack.a": ">"})

    with client.pipeline() as batch, pytest.raises(ExecAbortError):
        batch.xack("ack.a", "t", job_id).lpush("ack.one", "next").execute()
    assert client.xpending("ack.a", "t")["pending"] == 1, "not acked, since nothing was stored"

    with client.pipeline() as batch:
        assert batch.xack("ack.a", "t", job_id).lpush("ack.b", "next").execute() == [1, 1]
    assert client.xpending("ack.a", "t")["pending"] == 0


def test_transaction_is_of_one_storage(client: redis.Redis) -> None:
    with client.pipeline() as batch, pytest.raises(ExecAbortError) as refused:
        batch.lpush("two.a", "1").lpush("away", "2").execute()

    said = f"BADVALUE a transaction pushes to queues of one storage, two.a and away are in two: {NOT_STORED}"
    assert str(refused.value) == said
    assert (client.llen("two.a"), client.llen("away")) == (0, 0)
    with client.pipeline() as batch:
        assert batch.lpush("away", "2").llen("two.a").execute() == [1, 0], "looking is of any storage"


def test_thousands_of_pushes_are_one_transaction(client: redis.Redis) -> None:
    with client.pipeline() as batch:
        for number in range(MANY):
            batch.lpush("long.a" if number % 2 else "long.b", str(number))
        replies = batch.execute()

    assert replies == [MANY // 2] * MANY
    assert bodies(client, "long.a") == [str(number) for number in range(1, MANY, 2)]


def test_pipeline_without_transaction_is_what_it_was(client: redis.Redis) -> None:
    client.lpush("pipe.b", "job")
    ((_, ((job_id, _),)),) = client.xreadgroup("t", "c", {"pipe.b": ">"})

    with client.pipeline(transaction=False) as batch:
        batch.lpush("pipe.a", "1").llen("pipe.a").lpush("pipe.one", "1").lpush("pipe.one", "2")
        batch.xack("pipe.b", "t", job_id).lpush("pipe.a", "2")
        replies = batch.execute(raise_on_error=False)

    assert [*replies[:3], *replies[4:]] == [1, 1, 1, 1, 2]
    assert str(replies[3]).startswith("QUEUEFULL pipe.one")


# -- phpredis, redis-cli --------------------------------------------------------------------------


def php(bus: Bus, code: str) -> Any:
    """What *code* puts into ``$out``, with ``$r`` connected; its exceptions as text."""
    script = f"""
        $r = new Redis(); $r->connect('127.0.0.1', {bus.port}); $out = null;
        try {{ {code} }} catch (RedisException $e) {{ $out = $e->getMessage(); }}
        echo json_encode([$out, $r->getLastError()]);
    """
    done = subprocess.run(
        [requires_php_redis(), "-d", "display_errors=stderr", "-r", script], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return json.loads(done.stdout)


def test_multi_of_phpredis_is_a_transaction(bus: Bus, client: redis.Redis) -> None:
    replies, _ = php(bus, "$out = $r->multi()->lPush('php.a', '1', '2')->lLen('php.a')->lPush('php.b', '3')->exec();")

    assert replies == [2, 2, 1]
    assert (bodies(client, "php.a"), bodies(client, "php.b")) == (["1", "2"], ["3"])


def test_phpredis_throws_what_was_refused_at_once(bus: Bus, client: redis.Redis) -> None:
    refused, _ = php(bus, "$out = $r->multi()->lPush('phpfull.a', '1')->lPush('nope', '2')->exec();")
    discarded, _ = php(bus, "$r->multi()->lPush('phpfull.a', '1'); $out = [$r->discard(), $r->lLen('phpfull.a')];")

    assert refused.startswith("NOQUEUE there is no queue 'nope'")
    assert discarded == [True, 0]
    assert bodies(client, "phpfull.a") == []


def test_phpredis_waits_in_vain_when_exec_is_refused_and_its_raw_command_does_not(
    bus: Bus, client: redis.Redis
) -> None:
    """It expects a reply a command behind the error of EXEC (5.3), from Redis itself as well."""
    client.lpush("phpfull.one", "in the way")

    pushes = "->lPush('phpfull.a', '1')->lPush('phpfull.one', '2')"
    own, _ = php(bus, f"$r->setOption(Redis::OPT_READ_TIMEOUT, 0.3); $out = $r->multi(){pushes}->exec();")
    raw, said = php(bus, """
        foreach ([['MULTI'], ['LPUSH', 'phpfull.a', '1'], ['LPUSH', 'phpfull.one', '2'], ['EXEC']] as $words)
            $out = $r->rawCommand(...$words);
    """)

    assert isinstance(own, str), "an exception, and not replies"
    assert "EXECABORT QUEUEFULL phpfull.one" in f"{raw} {said}"
    assert NOT_STORED in f"{raw} {said}"
    assert bodies(client, "phpfull.a") == []


def test_transaction_typed_into_redis_cli(bus: Bus, client: redis.Redis) -> None:
    typed = "MULTI\nLPUSH cli.a 1\nLLEN cli.a\nEXEC\nMULTI\nLPUSH cli.a 2\nLPUSH nope 3\nEXEC\nMULTI\nDISCARD\nEXEC\n"
    done = subprocess.run(
        [requires("redis-cli"), "-p", str(bus.port)], input=typed, capture_output=True, text=True, timeout=20
    )

    said = [line for line in done.stdout.splitlines() if line]
    assert said[:5] == ["OK", "QUEUED", "QUEUED", "1", "1"]
    assert said[5:7] == ["OK", "QUEUED"]
    assert said[7].startswith("NOQUEUE there is no queue 'nope'")
    assert said[8:] == [
        "EXECABORT Transaction discarded because of previous errors: nothing of it is stored", "OK", "OK",
        "ERR EXEC without MULTI",
    ]
    assert bodies(client, "cli.a") == ["1"]


# -- PBUS.PARENT ----------------------------------------------------------------------------------


def traces(client: redis.Redis, queue: str) -> list[str]:
    """Trace ids of what waits in *queue*; it is read then."""
    entries = client.xreadgroup("t", "c", {queue: ">"})[0][1]
    return [trace_id(fields["traceparent"], "") if fields["traceparent"] else "" for _, fields in entries]


def test_children_are_in_the_trace_that_their_job_brought(client: redis.Redis, bus: Bus) -> None:
    parent = client.xadd("trace.a", {"body": "parent", "traceparent": TRACEPARENT})
    plain = client.xadd("trace.a", {"body": "without"})
    client.brpop("trace.a/t", 5)

    with redis.Redis(port=bus.port, decode_responses=True, single_connection_client=True) as handler:
        for job_id in (parent, plain, "1700000000000-77"):
            assert handler.execute_command("PBUS.PARENT", job_id) == "OK"
            handler.lpush("trace.b", "child")
        with handler.pipeline() as batch:
            batch.execute_command("PBUS.PARENT", parent)
            batch.lpush("trace.b", "child").execute_command("PBUS.PARENT", "")
            batch.lpush("trace.b", "nobody's").execute()

    assert traces(client, "trace.b") == [
        "0af7651916cd43dd8448eb211c80319c", trace_id("", plain), trace_id("", "1700000000000-77"),
        "0af7651916cd43dd8448eb211c80319c", "",
    ]


def test_reader_has_its_own_children_without_saying_the_trace(client: redis.Redis, bus: Bus) -> None:
    client.xadd("other.a", {"body": "parent", "traceparent": TRACEPARENT})

    with redis.Redis(port=bus.port, decode_responses=True, single_connection_client=True) as handler:
        ((_, ((job_id, _),)),) = handler.xreadgroup("t", "c", {"other.a": ">"})
        handler.execute_command("PBUS.PARENT", job_id)
        handler.lpush("other.b", "child")
        handler.xack("other.a", "t", job_id)

    assert traces(client, "other.b") == ["0af7651916cd43dd8448eb211c80319c"]
