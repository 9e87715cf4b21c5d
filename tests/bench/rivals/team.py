"""
The other Python job queues: how each is started with the best settings that its documentation has for many short jobs
in two processes, and how it is given work.

Rule: at least once where it can be had (huey has nothing of the kind), no results kept, logs for warnings only, the
broker on the same redis-server and socket, the same function for a job. Its own supervisor comes on top of the two.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support import leftovers

ROOT = Path(__file__).parents[3]
APPS = "tests.bench.rivals"
FIRST = 200
"""Jobs that are done before anything is measured: imports, connections."""
GUESS = 1000
"""Jobs that tell how many a slice takes."""
STARTS_WITHIN_S = 30.0
LONGEST_S = 120.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """
    Attributes:
        name: Its package, and ``NAME_app`` beside this file.
        argv: Arguments of ``python -m`` for its workers, ``{socket}`` is the redis-server's.
        settings: What was chosen, for people.
        times: So often its program is started.
        environment: Variables that it is told by.
    """

    name: str
    argv: tuple[str, ...]
    settings: str
    times: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.name) is not None


RIVALS = (
    Rival(
        name="dramatiq",
        argv=("dramatiq", f"{APPS}.dramatiq_app", "--processes", "2", "--threads", "1"),
        environment={"dramatiq_queue_prefetch": "128"},
        settings="2 processes of 1 thread, prefetch 128, no middleware but Retries; at least once",
    ),
    Rival(
        name="huey",
        argv=("huey.bin.huey_consumer", f"{APPS}.huey_app.huey", "-w", "2", "-k", "process", "-n", "-q"),
        settings="2 process workers, no periodic tasks, no results; at most once, it has nothing stronger",
    ),
    Rival(
        name="taskiq",
        argv=(
            "taskiq", "worker", f"{APPS}.taskiq_app:broker", "--workers", "2", "--ack-type", "when_executed",
            "--no-parse", "--log-level", "WARNING",
        ),
        settings="2 workers, Redis stream, ack when executed, uvloop, no parsing; at least once",
    ),
    Rival(
        name="rq",
        argv=(
            "rq.cli", "worker-pool", "-n", "2", "-w", "rq.worker.SimpleWorker", "-q", "-u", "unix://{socket}?db=1",
            "bench",
        ),
        settings="2 SimpleWorkers (no fork a job), results not kept, Retry; at least once",
    ),
    Rival(
        name="celery",
        argv=(
            "celery", "-A", f"{APPS}.celery_app", "worker", "--pool", "solo", "--loglevel", "ERROR", "--without-gossip",
            "--without-mingle", "--without-heartbeat",
        ),
        times=2,
        settings="2 solo workers, acks late, prefetch 128, no results, gossip, mingle or heartbeat; at least once",
    ),
)


class Team:
    """
    One rival at work; a context manager.

    Args:
        rival: Which.
        folder: Its logs go there.
        socket: Of the redis-server.
        counted: How many jobs have run since the beginning of time.
        environment: What its handlers need.
    """

    def __init__(
        self, rival: Rival, folder: Path, socket: str, counted: Callable[[], int], environment: Mapping[str, str]
    ) -> None:
        self._rival = rival
        self._log = folder / f"{rival.name}.log"
        self._socket = socket
        self._counted = counted
        self._environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "BROKER_SOCKET": socket, **environment, **rival.environment,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Team:
        argv = [argument.format(socket=self._socket) for argument in self._rival.argv]
        with self._log.open("ab") as log:
            for _ in range(self._rival.times):
                self._processes.append(subprocess.Popen(
                    [sys.executable, "-m", *argv], cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True, preexec_fn=leftovers.end_with_the_tests,
                ))
        self._feeder = subprocess.Popen(
            [sys.executable, "-m", f"{APPS}.feeder", f"{self._rival.name}_app"], cwd=ROOT, env=self._environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._everybody()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._processes:
            process.wait(10)
        assert self._feeder.stdin is not None
        assert self._feeder.stdout is not None
        self._feeder.stdin.close()
        self._feeder.wait(10)
        self._feeder.stdout.close()

    def pids(self) -> list[int]:
        """All its processes."""
        return [process.pid for process in self._everybody()]

    def rate(self, slice_s: float, begins: Callable[[], object], ends: Callable[[int], object]) -> float:
        """Jobs a second of a backlog that is worth about so many seconds; *ends* is told how many jobs it was."""
        self._run(FIRST, STARTS_WITHIN_S)
        guess = self._run(GUESS, LONGEST_S)
        with self._standing_still():
            count = max(GUESS, int(guess * slice_s))
            wanted = self._counted() + self._feed(count)
            begins()
            begin_s = time.monotonic()
        self._wait(wanted, LONGEST_S)
        took_s = time.monotonic() - begin_s
        ends(count)
        return count / took_s

    def _run(self, jobs: int, timeout_s: float) -> float:
        begin_s = time.monotonic()
        wanted = self._counted()
        self._wait(wanted + self._feed(jobs), timeout_s)
        return jobs / (time.monotonic() - begin_s)

    def _feed(self, jobs: int) -> int:
        assert self._feeder.stdin is not None
        assert self._feeder.stdout is not None
        self._feeder.stdin.write(f"{jobs}\n")
        self._feeder.stdin.flush()
        assert self._feeder.stdout.readline() == "\n", f"no jobs for {self._rival.name}"
        return jobs

    def _wait(self, wanted: int, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (counted := self._counted()) < wanted:
            late = time.monotonic() > deadline_s
            assert not late, f"{self._rival.name} ran {counted} of {wanted} jobs:\n{self._log.read_text()[-4000:]}"
            time.sleep(_POLL_S)
        assert counted == wanted, f"{self._rival.name} ran {counted} jobs instead of {wanted}"

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        everybody = self._everybody()
        for process in everybody:
            process.suspend()
        yield
        for process in everybody:
            process.resume()

    def _everybody(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                leader = psutil.Process(process.pid)
                found += [leader, *leader.children(recursive=True)]
        return found
