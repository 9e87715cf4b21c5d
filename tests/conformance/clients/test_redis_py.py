"""redis-py with its defaults, RESP2 and RESP3: what ``test_foreign_clients`` does not do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.bus import Bus


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, bus: Bus) -> Iterator[redis.Redis]:
    client = redis.Redis(port=bus.port, protocol=request.param)
    yield client
    client.close()


def test_client_pushes_and_pulls_with_its_defaults(bus: Bus) -> None:
    with redis.Redis(port=bus.port) as client:
        assert client.ping()
        assert client.lpush("pop", "a", "b") == 2
        assert client.rpush("pop", b"\x00\xff") == 3
        assert client.llen("pop") == 3
        assert client.rpop("pop/t") == b"a"
        assert client.lpop("pop/t", 5) == [b"b", b"\x00\xff"]
        assert client.rpop("pop/t") is None
        assert client.brpop(["pop/t"], timeout=0.05) is None


def test_typed_pushes_answer_ids(client: redis.Redis) -> None:
    first = client.xadd("py2", {"body": "x", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    second = client.execute_command("PBUS.ADD", "py2", "y")

    assert _number(first) < _number(second)
    assert client.publish("py2", "z") == 1


def _number(job_id: bytes) -> tuple[int, int]:
    ms, _, sequence = job_id.decode().partition("-")
    return int(ms), int(sequence)


def test_largest_body_is_stored(client: redis.Redis) -> None:
    assert client.lpush("py3", "x" * 1024 * 1024) >= 1


def test_pipeline_is_answered_in_order(client: redis.Redis) -> None:
    pipe = client.pipeline(transaction=False)
    for number in range(500):
        pipe.execute_command("PBUS.ADD", "pipe", str(number))
    pipe.lpush("nope", "x")
    pipe.ping()
    pipe.llen("pipe")

    *ids, refused, pong, backlog = pipe.execute(raise_on_error=False)

    assert sorted(ids, key=_number) == ids
    assert len(set(ids)) == 500
    assert isinstance(refused, redis.ResponseError)
    assert pong is True
    assert backlog >= 500


def test_names_and_information(client: redis.Redis) -> None:
    assert client.client_setname("me")
    assert client.client_getname() in ("me", b"me")
    assert client.client_id() > 0
    assert client.client_info()["name"] == "me"
    assert client.info()["redis_version"] == "7.2.0"
    assert client.config_get("save") == {"save": ""}
    assert client.command_count() > 20
    assert client.hgetall("py2")[b"running"] == b"0"
    assert len(client.time()) == 2
