"""``[program.NAME]``: daemons that take no jobs are kept running, heard, and ended with the bus."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.bus import Bus, BusFactory
from tests.support.waiting import until

DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (print("told to stop", flush=True), sys.exit(0)))
print("hello from", os.getpid(), flush=True)
print("complaint", file=sys.stderr, flush=True)
while True:
    time.sleep(60)
"""


def start(bus_factory: BusFactory, program: dict[str, Any], **more: Any) -> Bus:
    tree = {
        "program": {"feed": {"argv": [sys.executable, "-c", DAEMON], **program}},
        "queue": {"gift": {"topic": {"credit": {"pull": {}}}}}, **more,
    }
    return bus_factory(tree, states=("running", "degraded"))


def said(bus: Bus) -> str:
    path = Path(bus.settings.node.log_dir) / "program" / "feed.log"
    return path.read_text() if path.exists() else ""


def daemons(bus: Bus) -> set[int]:
    """Processes that the wrappers of the program have started."""
    found = set()
    for pid in bus.pids("program"):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has gone since
            found |= {child.pid for child in psutil.Process(pid).children()}
    return found


def alive(pid: int) -> bool:
    """It is there, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_runs_as_often_as_it_should_and_its_output_has_a_log(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {"processes": 2, "env": {"LEVEL": "debug"}})
    until(lambda: said(bus).count("hello from") == 2, 10, lambda: said(bus))
    lines = said(bus).splitlines()
    for pid in daemons(bus):
        (line,) = [line for line in lines if line.endswith(f"hello from {pid}")]
        assert f" {pid} - INFO " in line
    assert any("ERROR complaint" in line for line in lines)
    assert bus.status()["problems"] == []


def test_a_program_that_dies_is_started_again(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {})
    (before,) = until(lambda: daemons(bus), 10, "it runs")
    os.kill(before, signal.SIGKILL)
    until(lambda: daemons(bus) and daemons(bus) != {before}, 10, "another one runs")
    assert "died of SIGKILL" in said(bus)


def test_a_killed_wrapper_takes_its_program_with_it(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {})
    (before,) = until(lambda: daemons(bus), 10, "it runs")
    os.kill(bus.pids("program")[0], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(before), 5, "it died with its wrapper")
    until(lambda: daemons(bus), 10, "another one runs")


def test_a_program_dies_with_its_wrapper_although_the_master_stands_still(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {})
    (before,) = until(lambda: daemons(bus), 10, "it runs")
    (wrapper,) = bus.pids("program")
    assert bus.process is not None
    bus.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(wrapper, signal.SIGKILL)
        until(lambda: not alive(before), 5, "the kernel ends it")
    finally:
        bus.process.send_signal(signal.SIGCONT)
    until(lambda: daemons(bus), 10, "another one runs")


def test_stop_sends_the_signal_that_is_configured(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {"stop_signal": "USR1"})
    until(lambda: "hello" in said(bus), 10, "it runs")
    assert bus.stop(timeout_s=3) == 0
    assert "told to stop" in said(bus)


def test_a_program_that_does_not_listen_is_killed_after_its_time_with_its_children(bus_factory: BusFactory) -> None:
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True); print('has', child.pid, flush=True);"
        "time.sleep(60)"
    )
    bus = start(bus_factory, {"argv": [sys.executable, "-c", code], "stop_timeout": "500ms"})
    (line,) = until(lambda: [line for line in said(bus).splitlines() if " has " in line], 10, "it runs")
    child = int(line.split()[-1])
    assert bus.stop(timeout_s=4) == 0
    assert "did not finish within 0.4 s" in said(bus)
    assert not psutil.pid_exists(child)


def test_a_program_that_is_old_is_replaced(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {"max_age": "300ms"})
    until(lambda: said(bus).count("hello from") >= 3, 10, lambda: said(bus))
    assert bus.status()["problems"] == []
    assert bus.events("child.exited") == []


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("raise SystemExit('no port is free')", "exited with status 1: no port is free"),
        ("import os, time; os.fork() or time.sleep(60)", "exited with status 0, it has to stay in the foreground"),
    ],
)
def test_a_program_that_ends_at_once_is_given_up_with_its_reason_and_queues_go_on(
    bus_factory: BusFactory, code: str, hint: str
) -> None:
    backoff = {"backoff": {"first": "10ms", "max": "50ms", "fatal": 5}}
    bus = start(bus_factory, {"argv": [sys.executable, "-c", code]}, supervise=backoff)
    until(lambda: "given up" in str(bus.status()["problems"]), 20, lambda: str(bus.status()["problems"]))
    assert hint in str(bus.status()["problems"])
    assert said(bus).count("starts") == 5
    assert bus.topic("gift", "credit")["state"] == "running"
    assert not daemons(bus)


def test_a_program_that_is_not_to_be_heard_has_no_log(bus_factory: BusFactory) -> None:
    bus = start(bus_factory, {"log": False})
    until(lambda: daemons(bus), 10, "it runs")
    assert bus.stop() == 0
    assert not (Path(bus.settings.node.log_dir) / "program").exists()
