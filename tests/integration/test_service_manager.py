"""A bus under a service manager: what it tells, with the test as the manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bus import BusFactory
from tests.support.waiting import until

WATCHDOG_S = 3.0
PULLED = {"queue": {"gift": {"topic": {"credit": {"pull": {}}}}}}


class Manager:
    """Keeps every message with the time at which it came."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@pbus-manager-{os.getpid()}"
        self.sock.bind("\0" + self.address[1:])
        self.sock.setblocking(False)
        self.told: list[tuple[float, list[str]]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000))}

    def heard(self, line: str) -> list[float]:
        """When messages with *line* came."""
        while True:
            try:
                self.told.append((time.monotonic(), self.sock.recv(65_536).decode().split("\n")))
            except BlockingIOError:
                return [at for at, lines in self.told if line in lines]

    def wait(self, line: str, after: float = 0.0) -> float:
        """When *line* came first after *after*."""
        return until(lambda: next((at for at in self.heard(line) if at > after), 0.0), 20, f"{line} in {self.told}")


@pytest.fixture
def manager() -> Iterator[Manager]:
    made = Manager()
    yield made
    made.sock.close()


def test_manager_is_told_of_start_reload_life_and_stop(bus_factory: BusFactory, manager: Manager) -> None:
    bus = bus_factory(PULLED, environment=manager.environment)
    assert bus.process is not None
    manager.wait("READY=1")
    (ready,) = [lines for _, lines in manager.told if "READY=1" in lines]
    assert ready[1] == f"MAINPID={bus.process.pid}"
    assert ready[2].startswith("STATUS=running, ")
    manager.wait("WATCHDOG=1")

    os.kill(bus.process.pid, signal.SIGHUP)
    asked = manager.wait("RELOADING=1")
    (reloading,) = [lines for _, lines in manager.told if "RELOADING=1" in lines]
    assert reloading[1].startswith("MONOTONIC_USEC="), "in the same message"
    ready_s = manager.wait("READY=1", after=asked)

    told = bus.cli("upgrade", "--wait")
    assert told.returncode == 0, told.stderr
    executed = manager.wait("READY=1", after=manager.wait("RELOADING=1", after=ready_s))
    assert all(lines[1] == ready[1] for at, lines in manager.told if "READY=1" in lines), "the pid stays"
    manager.wait("WATCHDOG=1", after=executed)

    bus.kill("ingest", signal.SIGSTOP)
    until(lambda: time.monotonic() - manager.heard("WATCHDOG=1")[-1] > WATCHDOG_S, 20, "the watchdog starves")
    bus.kill("ingest", signal.SIGCONT)
    manager.wait("WATCHDOG=1", after=time.monotonic())
    bus.stop()
    stopping = manager.wait("STOPPING=1")
    manager.wait("EXTEND_TIMEOUT_USEC=20000000", after=stopping)


def test_programs_do_not_hear_of_the_manager(bus_factory: BusFactory, manager: Manager, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = {"argv": ["sh", "-c", f"env > {seen}.new; mv {seen}.new {seen}; exec sleep 60"]}
    bus_factory({"program": {"look": program}}, environment=manager.environment)
    until(seen.exists, 20, "the program has looked")
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & {line.partition("=")[0] for line in seen.read_text().splitlines()}


PASS_ON = """
import fcntl, os, sys
count = int(sys.argv[1])
kept = [fcntl.fcntl(int(descriptor), fcntl.F_DUPFD, 100) for descriptor in sys.argv[2:2 + count]]
for place, descriptor in enumerate(kept):
    os.dup2(descriptor, 3 + place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES="ingest:dashboard:ingest")
os.execv(sys.executable, [sys.executable, *sys.argv[2 + count:]])
"""
"""What a manager does between fork and exec."""


def test_sockets_of_the_manager_are_served_and_outlive_the_bus(bus_factory: BusFactory, tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp, socket.create_server(("127.0.0.1", 0)) as web,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(path))
        unix.listen()
        sockets = (tcp, web, unix)
        listen = [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]
        dashboard = {"listen": f"127.0.0.1:{web.getsockname()[1]}"}
        bus = bus_factory({**PULLED, "ingest": {"listen": listen}, "dashboard": dashboard}, start=False)
        with socket.create_connection(tcp.getsockname(), 20) as early, socket.socket(socket.AF_UNIX) as other:
            early.sendall(b"PING\r\n")  # before there is a bus
            passed = [str(sock.fileno()) for sock in sockets]
            with bus.out.open("ab") as out:
                bus.process = subprocess.Popen(
                    [sys.executable, "-c", PASS_ON, str(len(passed)), *passed, "-m", "pbus", "start", "-c", bus.conf],
                    stdout=out, stderr=out, env=bus.environment, cwd=bus.folder, start_new_session=True,
                    pass_fds=[int(descriptor) for descriptor in passed],
                )
            assert early.recv(100) == b"+PONG\r\n"
            other.settimeout(20)
            other.connect(str(path))
            other.sendall(b"PING\r\n")
            assert other.recv(100) == b"+PONG\r\n"
        bus.wait()
        with urllib.request.urlopen(f"http://{dashboard['listen']}/-/livez", timeout=10) as answer:
            assert answer.status == 200
        assert bus.cli("upgrade", "--wait").returncode == 0
        assert bus.stop() == 0
        with socket.socket(socket.AF_UNIX) as later:
            later.connect(str(path))  # the file is still there, and the manager's socket still listens
