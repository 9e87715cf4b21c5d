"""A bus as the first process of a container: a PID namespace of its own, logs to standard output, TERM stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pbus.supervisor import process
from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
LITTER = "for i in $(seq 20); do (sh -c 'sleep 0.05' &); done"
"""What leaves children behind that nobody waits for."""


def can_have_a_namespace() -> bool:
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_have_a_namespace(), reason="this user cannot have a PID namespace of his own")


def in_namespace(bus: Bus) -> Bus:
    """Start *bus* as process 1 of a new PID namespace."""
    wrapper = bus.folder / "container"
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(NAMESPACE)} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    bus.python = str(wrapper)
    return bus.start()


def first(bus: Bus) -> int:
    """Process 1 of the namespace, by the number that it has outside."""
    assert bus.process is not None
    (pid,) = process.children(bus.process.pid)
    return pid


def inhabitants(pid: int) -> dict[int, str]:
    """Pid -> state (``S``, ``Z`` ..) of everybody in the namespace of *pid*."""
    here = os.readlink(f"/proc/{pid}/ns/pid_for_children")
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/pid_for_children") == here:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            pass  # it has gone; a zombie has no namespaces to read, but is somebody's child
    for parent in list(found):
        for child in process.children(parent):
            found.setdefault(child, "Z")
    return found


def test_first_process_of_a_container_reaps_logs_to_stdout_and_stops_on_term(bus_factory: BusFactory) -> None:
    bus = in_namespace(bus_factory({
        "node": {"log_dir": "-"}, "queue": {"gift": {"topic": {"credit": {"pull": {}}}}},
        "program": {"litter": {"argv": ["sh", "-c", f"{LITTER}; (setsid sleep 1000 &); echo left; exec sleep 1000"]}},
    }, start=False))
    pid = first(bus)
    assert bus.status()["processes"][0]["pid"] == 1
    until(lambda: "left" in bus.out.read_text(), 20, "the program has littered")
    roles = set(process.children(pid))
    # Somebody who comes from outside (docker exec, a health check).
    subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", LITTER], check=True, timeout=20)
    until(lambda: set(process.children(pid)) == roles, 20, "what others left behind is gone")
    until(lambda: "Z" not in inhabitants(pid).values(), 20, "no zombie is left")
    lines = [json.loads(line) for line in bus.out.read_text().splitlines() if line.startswith("{")]
    assert {"master.starting", "master.ready"} <= {line["event"] for line in lines}
    everybody = inhabitants(pid)
    os.kill(pid, signal.SIGTERM)
    assert bus.process is not None
    assert bus.process.wait(20) == 0
    assert [each for each in everybody if process.birth(each)] == []
    assert '"master.stopped"' in bus.out.read_text()
