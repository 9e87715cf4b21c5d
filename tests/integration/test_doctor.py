"""``pbus doctor`` and what it looks at: a real Redis, php-fpm, certificates, a bus that runs or is short of files."""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pbus.app import stores
from pbus.cli.main import main
from pbus.core.statistics import Bucket
from pbus.storage.open import make
from pbus.telemetry.metrics import BOUNDS
from tests.support.bus import ROOT, Bus, BusFactory, free_port
from tests.support.certificates import authority
from tests.support.php_fpm import PhpFpm
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

SCRIPT = str(ROOT / "contrib/php/pbus-doctor.php")
OpenPool = Callable[..., PhpFpm]
ROOMY = {"main": {"url": "sqlite:pbus.db", "high_water": 1.0, "min_free": "0B"}}
"""A store that has room, however full the disk of the tests is."""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[OpenPool]:
    pools: list[PhpFpm] = []

    def open_pool(**settings: Any) -> PhpFpm:
        pools.append(PhpFpm(tmp_path, **settings))
        pools[-1].start()
        return pools[-1]

    yield open_pool
    for each in pools:
        each.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, maxmemory="64mb", maxmemory_policy="allkeys-lru")
    server.start()
    yield server
    server.close()


def found(bus: Bus, *arguments: str, status: int) -> dict[tuple[str, str], dict[str, str]]:
    """(subject, check) -> finding; the exit status is *status*. In this process: to start another costs more."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        ended = main(["doctor", *arguments, "-o", "json", "-c", str(bus.conf)])
    assert ended == status, out.getvalue()
    document = json.loads(out.getvalue())
    assert document["v"] == 1
    assert sum(document["counts"].values()) == len(document["findings"])
    return {(row["subject"], row["check"]): row for row in document["findings"]}


def checks(bus: Bus, subject: str, *arguments: str, status: int) -> list[str]:
    """What is found of *subject*."""
    return [check for about, check in found(bus, *arguments, status=status) if about == subject]


def calling(fpm: PhpFpm, script: str, **backend: Any) -> dict[str, Any]:
    """A queue whose one topic is run by *script*."""
    return {
        "storage": ROOMY, "backend": {"live": {"fastcgi": [fpm.address], **backend}},
        "queue": {"gift": {"topic": {"credit": {
            "fastcgi": {"backend": "live", "script": script}, "concurrency": 8, "timeout": "20s",
        }}}},
    }  # fmt: skip


# -- stores -----------------------------------------------------------------------------------------


def test_redis_that_loses_jobs_is_told_until_it_is_repaired(bus_factory: BusFactory, server: RedisServer) -> None:
    tree = {"storage": {"main": {"url": server.url}}, "queue": {"gift": {"topic": {"t": {"pull": {}}}}}}
    bus = bus_factory(tree, start=False)

    assert checks(bus, "storage main", status=4) == ["eviction", "not-durable"]
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("save", "3600 1")
        assert checks(bus, "storage main", status=0) == ["snapshots"]
        client.config_set("appendonly", "yes")
        until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 10, "its first file is written")
        assert checks(bus, "storage main", status=0) == ["fsync-everysec"]
        client.config_set("appendfsync", "no")
        assert checks(bus, "storage main", status=0) == ["fsync-never"]
        client.config_set("appendfsync", "always")
        client.config_set("maxmemory", "0")
        assert checks(bus, "storage main", status=0) == ["memory-unbound"]
        client.setrange("ballast", 20_000_000, "x")
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"] / 0.9)))
        assert checks(bus, "storage main", status=4) == ["store-full"]
        client.config_set("maxmemory", "64mb")
        client.replicaof("127.0.0.1", "1")
        assert "replica" in checks(bus, "storage main", status=4)
        client.replicaof("NO", "ONE")
    assert checks(bus, "storage main", status=0) == []


def test_redis_that_does_not_tell_all_is_a_note(bus_factory: BusFactory, server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.acl_setuser("bus", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"],
                           commands=["+@all", "-config"])  # fmt: skip
    url = server.url.replace("redis+unix://", "redis+unix://bus:secret@")
    queue = {"gift": {"topic": {"t": {"pull": {}}}}}
    bus = bus_factory({"storage": {"main": {"url": url}}, "queue": queue}, start=False)

    finding = found(bus, status=0)["storage main", "store-unread"]
    assert finding["what"] == "could not look at appendfsync, save"
    assert "secret" not in json.dumps(finding)


def test_store_that_is_away_is_told_and_the_rest_is_looked_at(bus_factory: BusFactory, tmp_path: Path) -> None:
    tree = {
        "storage": {"main": {"url": f"redis+unix://{tmp_path}/none.sock"}},
        "queue": {"gift": {"topic": {"t": {"pull": {}, "timeout": "0s"}}}, "nobody": {}},
    }
    told = found(bus_factory(tree, start=False), status=69)

    assert told["storage main", "store-away"]["what"].endswith("none.sock. No such file or directory")
    assert {("topic gift/t", "pull-endless"), ("queue nobody", "no-topics"), ("node", "bus-stopped")} < set(told)


def test_file_that_somebody_keeps_closed_is_away(bus_factory: BusFactory) -> None:
    tree = {"storage": {"main": {**ROOMY["main"], "call_timeout": "100ms"}}, "queue": {"gift": {}}}
    bus = bus_factory(tree, start=False)
    (bus.folder / "var").mkdir()
    (bus.folder / "var/pbus.db").touch()
    with (bus.folder / "var/pbus.db.gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        told = found(bus, status=69)

    assert "another process is opening it" in told["storage main", "store-away"]["what"]


def test_damaged_file_is_told_with_what_a_start_would_say(bus_factory: BusFactory, tmp_path: Path) -> None:
    bus = bus_factory({"storage": ROOMY, "queue": {"gift": {"topic": {"t": {"pull": {}}}}}}, start=False)
    (bus.folder / "var").mkdir()
    (bus.folder / "var/pbus.db").write_bytes(b"SQLite format 3\0" + bytes(5000))

    assert "pbus.db" in found(bus, status=4)["storage main", "store-unfit"]["what"]


# -- php-fpm ----------------------------------------------------------------------------------------


def test_php_fpm_as_it_comes_is_told_what_it_does_to_jobs(bus_factory: BusFactory, pool: OpenPool) -> None:
    fpm = pool(ini={"post_max_size": "2M"})
    bus = bus_factory(calling(fpm, fpm.script("credit.php", ""), reserve=1), start=False)
    subject = f"backend live {fpm.address}"
    told = found(bus, status=4)

    assert [check for about, check in told if about == subject] == [
        "post-small", "terminate-none", "control-none", "few-children",
    ]
    where = f"{fpm.scripts.parent}/php-fpm.conf"
    assert told[subject, "terminate-none"]["fix"].startswith(f"request_terminate_timeout = 18s in {where}")
    assert told[subject, "few-children"]["what"] == (
        "pm.max_children is 4, pbus may open 8 and 1 are for others"
    )


def test_php_fpm_in_order_is_not_talked_about(bus_factory: BusFactory, pool: OpenPool) -> None:
    values = {"request_terminate_timeout": "15s", "pm.max_children": "8", "pm.status_path": "/status"}
    fpm = pool(pool=values, ini={"post_max_size": "8M"}, control_timeout_s=20)
    script = fpm.script("credit.php", "")
    bus = bus_factory(calling(fpm, script, status_path="/status"), start=False)

    assert checks(bus, f"backend live {fpm.address}", status=0) == []
    os.unlink(script)
    told = found(bus, status=4)
    assert told["topic gift/credit", "handler-missing"]["what"] == f"there is no {script}"


def test_pool_behind_a_port_is_found_among_all_that_run_here(bus_factory: BusFactory, pool: OpenPool) -> None:
    port = free_port()
    second = f"0\n[tcp]\nlisten = 127.0.0.1:{port}\npm = static\npm.max_children = 2"
    fpm = pool(pool={"rlimit_core": second}, control_timeout_s=20)
    script = fpm.script("credit.php", "")
    topic = {"fastcgi": {"address": f"127.0.0.1:{port}", "script": script}, "concurrency": 3}
    tree = {"storage": ROOMY, "queue": {"gift": {"topic": {"credit": topic}}}}
    told = found(bus_factory(tree, start=False), status=0)

    subject = f"backend 127.0.0.1:{port}"
    assert told[subject, "few-children"]["what"] == "pm.max_children is 2, pbus may open 3 and 0 are for others"
    assert (subject, "terminate-none") in told
    assert (subject, "control-none") not in told


def test_script_in_the_pool_tells_what_no_file_does(bus_factory: BusFactory, pool: OpenPool) -> None:
    fpm = pool(ini={"enable_post_data_reading": "off"}, control_timeout_s=20)
    bus = bus_factory(calling(fpm, fpm.script("credit.php", ""), max_post="9MiB", max_connections=4), start=False)
    subject = f"backend live {fpm.address}"

    assert found(bus, status=0)[subject, "pool-unread"]["what"] == "could not look at post_max_size"
    assert checks(bus, subject, "--script", SCRIPT, status=4) == ["post-unread", "post-small", "terminate-none"]
    unread = found(bus, "--script", "/nowhere.php", status=0)[subject, "pool-unread"]["what"]
    assert unread.endswith("post_max_size, script /nowhere.php (its answer is not what it should be)")


def test_calls_that_a_reload_would_cut_are_seen(bus_factory: BusFactory, pool: OpenPool, tmp_path: Path) -> None:
    values = {"request_terminate_timeout": "15s", "pm.status_path": "/status"}
    fpm = pool(pool=values, ini={"post_max_size": "8M"}, control_timeout_s=1)
    end = tmp_path / "end"
    script = fpm.script("credit.php", f"while (!file_exists('{end}')) {{ usleep(20000); clearstatcache(); }}")
    bus = bus_factory(calling(fpm, script, status_path="/status"), start=False)
    subject = f"backend live {fpm.address}"
    assert checks(bus, subject, status=0) == []

    command = [sys.executable, "-m", "pbus", "topic", "debug", "gift/credit", "x", "-c", str(bus.conf)]
    with subprocess.Popen(command, env=bus.environment, cwd=bus.folder, stdout=subprocess.DEVNULL):
        until(lambda: "control-short" in checks(bus, subject, status=0), 10, "a call takes longer than a second")
        end.touch()


def test_calls_of_the_last_day_count_by_what_the_store_keeps(bus_factory: BusFactory, pool: OpenPool) -> None:
    fpm = pool(pool={"request_terminate_timeout": "15s"}, ini={"post_max_size": "8M"}, control_timeout_s=3)
    bus = bus_factory(calling(fpm, fpm.script("credit.php", ""), max_connections=4), start=False)
    classes = {bisect.bisect_left(BOUNDS, 0.1): 97, bisect.bisect_left(BOUNDS, 4.9): 3}
    driver = make(stores(bus.settings)["main"])
    driver.open()
    driver.put_statistics(int(time.time()), [Bucket("gift", "credit", "bus-test", 0, 0, run=classes)])
    driver.close()

    finding = found(bus, status=0)[f"backend live {fpm.address}", "control-short"]
    assert finding["what"] == "process_control_timeout is 3 s, calls take up to 5 s"
    assert finding["fix"].startswith("process_control_timeout = 10s")


def test_pool_that_is_not_there_is_an_error(bus_factory: BusFactory, tmp_path: Path) -> None:
    topic = {"fastcgi": {"address": f"unix:{tmp_path}/none.sock", "script": "/srv/none.php"}}
    web = {"http": {"url": "http://127.0.0.1:9/jobs"}}
    tree = {"storage": ROOMY, "queue": {"gift": {"topic": {"credit": topic, "web": web}}}}
    told = found(bus_factory(tree, start=False), status=4)

    assert told[f"backend unix:{tmp_path}/none.sock", "backend-away"]["what"].endswith("No such file or directory")
    assert told["backend 127.0.0.1:9", "backend-away"]["what"].endswith("Connection refused")
    assert ("topic gift/credit", "handler-unseen") in told


# -- the bus ----------------------------------------------------------------------------------------


def test_running_bus_is_in_order_and_says_when_it_is_short_of_files(bus_factory: BusFactory) -> None:
    bus = bus_factory({"storage": ROOMY, "queue": {"gift": {"topic": {"t": {"pull": {}}}}}})
    [ingest] = bus.pids("ingest")
    soft, hard = resource.prlimit(ingest, resource.RLIMIT_NOFILE)
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, (min(hard, 10_064), hard))
    if hard >= 10_064:
        assert checks(bus, "ingest", status=0) == []
    assert checks(bus, "node", status=0) == []
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, (1024, hard))
    assert found(bus, status=0)["ingest", "descriptors"]["what"] == (
        "each may have 1024 files open, ingest.limits.connections asks for 10064"
    )
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, (200, hard))
    assert checks(bus, "ingest", status=4) == ["few-descriptors"]
    resource.prlimit(ingest, resource.RLIMIT_NOFILE, (soft, hard))

    bus.cli("topic", "pause", "gift/t", check=True)
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", "a")
    (bus.conf / "pbus.toml").write_text((bus.conf / "pbus.toml").read_text().replace('"t"', '"u"'))
    told = found(bus, status=0)
    assert told["topic gift/t", "orphaned"]["what"] == "it is not in the configuration, 1 job wait in it"


def test_open_addresses_passwords_and_certificates_are_judged(bus_factory: BusFactory, tmp_path: Path) -> None:
    pair = authority(tmp_path).issue("door")
    tree: dict[str, Any] = {
        "storage": ROOMY,
        "ingest": {"listen": ["0.0.0.0:12999", "plain:0.0.0.0:12998", "127.0.0.1:12997"], "tls": pair.setting},
        "queue": {
            "open": {"topic": {"t": {"pull": {}}}},
            "safe": {"password": "p", "topic": {"t": {"python": {"call": "no_such_module.jobs:run"}}}},
        },
    }
    told = found(bus_factory(tree, start=False), status=4)

    assert [key for key in told if key[1] == "plain-door"] == [("listen 0.0.0.0:12998", "plain-door")]
    assert [key for key in told if key[1] == "no-password"] == [("queue open", "no-password")]
    assert told["tls.cert", "tls-expires"]["what"] in (f"{pair.cert} expires in {text}" for text in ("47 h", "2 d"))
    assert told["topic safe/t", "handler-missing"]["what"] == "there is no Python module no_such_module in sys.path"


def test_people_read_what_is_so_its_effect_and_the_fix(bus_factory: BusFactory) -> None:
    done = bus_factory({"storage": ROOMY, "queue": {"gift": {}}}, start=False).cli("doctor")

    assert done.returncode == 0
    assert done.stdout.splitlines()[:4] == [
        "warning  queue gift: nobody reads it; 0 jobs were pushed to it so far",
        "         what is pushed is answered as stored, and is run by nobody",
        "         fix: add a [queue.gift.topic.NAME], or remove the queue",
        "note     node: the bus does not run here",
    ]
    assert done.stdout.splitlines()[-1] == "0 errors, 1 warning, 2 notes"
