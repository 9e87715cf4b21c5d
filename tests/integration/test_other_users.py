"""Consumers that run as a user of their own: they work, log and come back, and nobody else gets in by their ways."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from pbus.codec import frames
from pbus.supervisor.listeners import unix_path
from tests.support.bus import Bus, BusFactory
from tests.support.idle_bus import IdleFactory, role
from tests.support.waiting import until

USER = "nobody"
HANDLER = """
import os
def credit(job):
    print("said by", os.getuid(), flush=True)
    with open(os.path.join(os.path.dirname(__file__), "notes"), "a") as file:
        file.write(f"{job.text} {os.getuid()} {os.getgroups()} {os.nice(0)}\\n")
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs processes as other users")


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder that the other user reaches (tmp_path is for its owner alone)."""
    folder = Path(tempfile.mkdtemp(prefix="pbus-site-"))
    folder.chmod(0o755)
    (folder / "jobs.py").write_text(HANDLER)
    (folder / "notes").touch()
    os.chown(folder / "notes", pwd.getpwnam(USER).pw_uid, -1)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter of this version that the other user may run (one in a home folder is for its owner)."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [candidate, "-c", "import sys, sysconfig; print(sys.version_info[:2])"], user=USER, cwd="/",
                capture_output=True, text=True, check=True, timeout=30,
            )
            if done.stdout.strip() == str(sys.version_info[:2]):
                return candidate
    pytest.skip(f"user {USER} cannot run any Python of this version here")


def start(bus_factory: BusFactory, site: Path, python: str) -> Bus:
    handler = f"python = {{ call = 'jobs:credit', path = '{site}', user = '{USER}', nice = 3 }}"
    bus = bus_factory(f"[queue.gift.topic.credit]\n{handler}\n", start=False)
    bus.python = python
    bus.environment["PYTHONPATH"] += os.pathsep + os.path.dirname(os.path.dirname(pytest.__file__))
    return bus.start()


def test_consumer_works_and_logs_as_its_user_and_finds_its_next_delivery_child(
    bus_factory: BusFactory, site: Path, python: str
) -> None:
    bus = start(bus_factory, site, python)
    client, uid = redis.Redis(port=bus.port), pwd.getpwnam(USER).pw_uid
    client.lpush("gift", "one")
    until(lambda: "one" in (site / "notes").read_text(), 15, lambda: f"it has run\n{bus.tail()}")
    text, ran_as, groups, nice = (site / "notes").read_text().split(" ", 3)
    assert (text, int(ran_as), int(nice.split()[-1])) == ("one", uid, 3)
    assert "0" not in groups.strip("[]").split(",")
    [pid] = bus.pids("consumer")
    assert set(psutil.Process(pid).uids()) == {uid}
    until(lambda: f"said by {uid}" in bus.topic_log("gift", "credit"), 5, "its output is in the log of the topic")
    bus.kill("delivery")
    client.lpush("gift", "two")
    until(lambda: "two" in (site / "notes").read_text(), 15, "it runs jobs of the next delivery child")
    assert bus.pids("consumer") == [pid]


def test_log_of_the_next_day_is_the_users_too(bus_factory: BusFactory, site: Path, python: str) -> None:
    bus = start(bus_factory, site, python)
    log = Path(bus.settings.node.log_dir) / "topic" / "gift.credit.log"
    until(lambda: "starts" in log.read_text(), 10, "it has started")
    log.rename(log.with_suffix(".old"))
    assert bus.process is not None
    os.kill(bus.process.pid, signal.SIGUSR1)
    until(lambda: log.exists() and log.stat().st_uid == pwd.getpwnam(USER).pw_uid, 5, "there is another one")
    redis.Redis(port=bus.port).lpush("gift", "x")
    until(lambda: "said by" in log.read_text(), 10, "the consumer writes to it")


def test_only_its_own_processes_get_in_by_the_sockets_that_it_uses(
    bus_factory: BusFactory, site: Path, python: str
) -> None:
    bus = start(bus_factory, site, python)
    run_dir = Path(bus.settings.node.run_dir)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    [row] = [row for row in bus.status()["processes"] if row["role"] == "consumer"]
    [born] = [event for event in bus.events("child.born") if event["child_pid"] == row["pid"]]
    [boot] = [path.stem for path in (run_dir / "boot").iterdir()]
    owner = f"bus-test/{boot}/{born['n'] - 1}.{born['n']}"
    attach = frames.encode(
        "attach", owner=owner, queue="gift", topic="credit", pid=row["pid"], holds=[], results=[]
    )
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        with unix_path(str(run_dir / "delivery.0.sock")) as path:
            stranger.connect(path)
        stranger.sendall(attach)
        assert stranger.recv(4096) == b""
    assert bus.events("consumer.refused")[0]["owner"] == owner


def test_user_that_is_gone_since_the_start_is_said(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("consumer", path="gift/credit", own_group=True, needed=False, user="nobody-at-all"),
        states=("running", "degraded"),
    )
    bus.wait_for(lambda status: bool(status["problems"]), "it is a problem")
    until(lambda: "'nobody-at-all': there is no such user" in str(bus.status()["problems"]), 10, "it is said")
