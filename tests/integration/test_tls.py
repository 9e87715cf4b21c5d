"""A port that speaks TLS, as Redis clients, pbus itself and its handlers meet it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.bus import Bus, BusFactory, free_port, write_config
from tests.support.certificates import Authority, authority
from tests.support.programs import requires
from tests.support.waiting import until

AGAIN = 'def again(job):\n    job.push("mail", job.body)\n'
PULL = {"topic": {"t": {"pull": {}}}}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def bus(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """Every door speaks TLS; ``gift`` is run by a handler that pushes each job on to ``mail``."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "tls_jobs.py").write_text(AGAIN)
    handler = {"python": {"call": "tls_jobs:again", "path": str(folder)}}
    bus = Bus(folder)
    write_config(folder, {
        "ingest": {"tls": ours.issue("door").setting},
        "queue": {"gift": {"topic": {"credit": handler}}, "mail": PULL, "safe": {"password": "pw", **PULL}},
    })
    try:
        yield bus.start()
    finally:
        bus.clean_up()


def client(bus: Bus, ours: Authority, **more: Any) -> redis.Redis:
    return redis.Redis(port=bus.port, ssl=True, ssl_ca_certs=str(ours.cert), retry=Retry(NoBackoff(), 0), **more)


def cli(bus: Bus, *words: str) -> subprocess.CompletedProcess[str]:
    command = [requires("redis-cli"), "-p", str(bus.port), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_start_says_which_address_speaks_tls(bus: Bus) -> None:
    assert f"listens on 127.0.0.1:{bus.port} (TLS)\n" in bus.out.read_text()


def test_redis_py_pushes_pulls_and_pipelines(bus: Bus, ours: Authority) -> None:
    with client(bus, ours, username="safe", password="pw") as safe:
        assert safe.lpush("safe", "a" * 200_000, "b") == 2
        with safe.pipeline(transaction=False) as batch:
            for number in range(500):
                batch.lpush("safe", str(number))
            assert len(batch.execute()) == 500
        assert safe.llen("safe") == 502
    with client(bus, ours, username="safe/t", password="pw") as puller:
        assert puller.rpop("safe/t") == b"a" * 200_000
        assert len(puller.rpop("safe/t", 501)) == 501


def test_redis_py_with_resp2_and_an_async_client(bus: Bus, ours: Authority) -> None:
    async def push() -> Any:
        async with redis.asyncio.Redis(port=bus.port, ssl=True, ssl_ca_certs=str(ours.cert)) as pusher:
            return await pusher.lpush("mail", "async")

    assert asyncio.run(push()) >= 1
    with client(bus, ours, protocol=2) as old:
        assert old.rpop("mail/t") == b"async"


def test_client_that_does_not_trust_the_certificate_does_not_connect(bus: Bus) -> None:
    stranger = redis.Redis(port=bus.port, ssl=True, retry=Retry(NoBackoff(), 0))
    with stranger, pytest.raises(redis.ConnectionError, match="certificate"):
        stranger.ping()


def test_redis_cli_over_tls(bus: Bus, ours: Authority) -> None:
    tls = ("--tls", "--cacert", str(ours.cert))

    assert cli(bus, *tls, "-h", "localhost", "PING").stdout == "PONG\n"
    assert int(cli(bus, *tls, "--no-auth-warning", "-a", "safe:pw", "LPUSH", "safe", "x").stdout) >= 1
    assert "PONG" not in cli(bus, "--tls", "PING").stdout, "nobody vouches for it"


def test_plain_redis_on_that_port_gets_one_error(bus: Bus) -> None:
    assert "this port speaks TLS" in cli(bus, "PING").stdout
    with socket.create_connection(("127.0.0.1", bus.port), 5) as plain:
        plain.sendall(b"*1\r\n$4\r\nPING\r\n" * 1000)
        assert plain.makefile("rb").read().startswith(b"-ERR this port speaks TLS")


def test_pbus_push_and_job_push_go_by_tls_where_there_is_no_other_way(bus: Bus, ours: Authority) -> None:
    pushed = bus.cli("push", "gift", "by tls", "--wait", check=True)
    assert "done" in pushed.stdout

    with client(bus, ours) as puller:
        until(lambda: puller.rpop("mail/t") == b"by tls", 10, "the handler has pushed it on")


def test_renewed_certificate_counts_without_a_restart(bus: Bus, ours: Authority) -> None:
    def shown() -> bytes | None:
        context = ssl.create_default_context(cafile=str(ours.cert))
        raw = socket.create_connection(("127.0.0.1", bus.port), 5)
        with context.wrap_socket(raw, server_hostname="localhost") as sealed:
            return sealed.getpeercert(binary_form=True)

    with client(bus, ours) as kept:
        kept.ping()
        before = shown()
        ours.issue("door")
        until(lambda: shown() != before, 15, "the new certificate is shown")
        assert kept.ping()
    assert bus.events("tls.renewed")
    assert bus.cli("push", "mail", "after").returncode == 0


def test_clients_show_certificates_where_they_are_asked_for(bus_factory: BusFactory, ours: Authority) -> None:
    plain = free_port()
    bus = bus_factory({
        "ingest": {
            "listen": [f"127.0.0.1:{free_port()}", f"plain:127.0.0.1:{plain}", "unix:bus.sock"],
            "tls": {**ours.issue("asking").setting, "client_ca": str(ours.cert)},
        },
        "queue": {"mail": PULL},
    })
    pair = ours.issue("client")
    with client(bus, ours, ssl_certfile=str(pair.cert), ssl_keyfile=str(pair.key)) as known:
        assert known.lpush("mail", "a") == 1
    with client(bus, ours) as stranger, pytest.raises(redis.ConnectionError):
        stranger.ping()
    other = authority(ours.folder, "stranger").issue("stranger-client")
    stranger = client(bus, ours, ssl_certfile=str(other.cert), ssl_keyfile=str(other.key))
    with stranger, pytest.raises(redis.ConnectionError):
        stranger.ping()

    with redis.Redis(port=plain) as local, redis.Redis(unix_socket_path=str(bus.folder / "bus.sock")) as near:
        assert (local.lpush("mail", "b"), near.lpush("mail", "c")) == (2, 3)
    assert bus.cli("push", "mail", "d").returncode == 0, "by the door without TLS"
    until(lambda: bus.status()["door"]["closed"].get("tls", 0) >= 2, 5, "both are counted")


def test_bus_whose_key_does_not_fit_does_not_start(bus_factory: BusFactory, ours: Authority) -> None:
    setting = {"cert": ours.issue("door").setting["cert"], "key": ours.issue("other").setting["key"]}
    bus = bus_factory({"ingest": {"tls": setting}, "queue": {"mail": PULL}}, start=False)
    bus.launch()

    assert bus.process is not None
    assert bus.process.wait(20) == 78
    assert "ingest.tls.key: " in bus.out.read_text()
