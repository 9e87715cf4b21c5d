"""
A bus of its own for the demo: a temporary folder, free ports, one queue with two topics.

Rule: nothing outside that folder is touched, and when the demo ends the bus has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pbus.cli.demo_jobs import FOLDER_VARIABLE
from pbus.clock import Clock
from pbus.errors import Exit, PbusError
from pbus.supervisor.control import call

QUEUE: Final = "orders"
TOPICS: Final = ("billing", "email")
_BOOT_S: Final = 30.0
_PATIENCE_S: Final = 5.0
_TURN_S: Final = 0.05
_GRACE_S: Final = 10
_FAST_S: Final = 5.0
_ANSWER_S: Final = 5.0

_CONFIGURATION: Final = """\
# The configuration of the demo. The shipped conf.d/ explains every section.
[node]
name = "demo"
run_dir = "{folder}/run"
data_dir = "{folder}/data"
log_dir = "{folder}/log"
grace = "{grace}s"

[ingest]
listen = ["127.0.0.1:{port}"]

[dashboard]
listen = "127.0.0.1:{web_port}"

[queue.orders]
description = "an order was placed"

[queue.orders.topic.email]
python = {{ call = "pbus.cli.demo_jobs:email" }}
concurrency = 2

[queue.orders.topic.billing]
http = {{ url = "{url}" }}
concurrency = 8
retry = {{ attempts = 20, first = "100ms", factor = 1.5, max = "1s" }}
"""


class DemoError(PbusError):
    """The demo cannot go on; the text says why."""

    exit_status = Exit.FAILED


class DemoBus:
    """The bus of the demo; a context manager that leaves no process behind."""

    def __init__(self, folder: str, endpoint_url: str, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.port, web_port = _free_ports(2)
        self.config_dir = os.path.join(folder, "conf.d")
        os.mkdir(self.config_dir)
        Path(self.config_dir, "demo.toml").write_text(
            _CONFIGURATION.format(
                folder=folder, port=self.port, web_port=web_port, url=endpoint_url, grace=_GRACE_S
            ),
            encoding="utf-8",
        )

    def __enter__(self) -> DemoBus:
        # A session of its own: Ctrl-C is the demo's, which then stops the bus in good order.
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pbus", "start", "-c", self.config_dir], stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, FOLDER_VARIABLE: self._folder},
            )
        try:
            self._await_running()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def status(self) -> dict[str, Any]:
        """
        What ``pbus status`` knows.

        Raises:
            PbusError: the bus does not answer.
        """
        answer: dict[str, Any] = call(os.path.join(self._folder, "run"), "status", _ANSWER_S, reads=True)["status"]
        return answer

    def topics(self) -> list[Mapping[str, Any]]:
        """The numbers of its topics."""
        topics: list[Mapping[str, Any]] = self.status()["topics"]
        return topics

    @property
    def _output(self) -> str:
        return os.path.join(self._folder, "output")

    def _await_running(self) -> None:
        deadline_s = self._clock.monotonic_s() + _BOOT_S
        patient_until_s = self._clock.monotonic_s() + _PATIENCE_S
        while self._clock.monotonic_s() < deadline_s:
            assert self._process is not None
            if self._process.poll() is not None:
                raise DemoError(f"the bus ended with status {self._process.returncode}:\n{self._said()}")
            status = self._status_or_none()
            if status is not None and status["state"] == "running":
                return
            if status is not None and status["state"] == "degraded" and self._clock.monotonic_s() > patient_until_s:
                raise DemoError("the bus does not work:\n" + "\n".join(status["problems"]))
            self._clock.sleep(_TURN_S)
        raise DemoError(f"the bus is not running after {_BOOT_S:g} s:\n{self._said()}")

    def _status_or_none(self) -> dict[str, Any] | None:
        try:
            return self.status()
        except PbusError:
            return None  # not there yet

    def _stop(self) -> None:
        """In good order; at once when it takes too long or somebody is impatient (Ctrl-C)."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE_S + 5)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._stop_at_once(process)

    @staticmethod
    def _stop_at_once(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)  # the second one means: fast
        try:
            process.wait(_FAST_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()

    def _said(self) -> str:
        text = Path(self._output).read_text(encoding="utf-8", errors="replace")
        log = Path(self._folder, "log", "pbus.log")
        if log.exists():
            text += "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-10:])
        return text


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in held]
    for sock in held:
        sock.close()
    return ports
