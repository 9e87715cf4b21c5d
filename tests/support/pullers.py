"""
Programs that pull by XREADGROUP, do as the bodies say, keep the ledger, and ack: redis-py in a process of its own.

    with scenario.pulling("credit", connections=2) as puller:
        ...
        os.kill(puller.pid, signal.SIGKILL)

``python -m tests.support.pullers`` is that process. It outlives doors that are closed in its face. What it reads it
writes down at once, so that a test knows what it held when it was killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.handlers.ledger_jobs import record
from tests.support.ledger import Ledger
from tests.support.ledger_files import whole_lines
from tests.support.producers import Program

_ROOT = Path(__file__).parents[2]
_AFTER_FAILURE_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """One job as its puller read it."""

    key: str
    id: str
    attempt: int
    redelivered: bool
    at_s: float


class Puller(Program):
    """
    Connections that read one topic, each job after job.

    Args:
        ledger: Where it writes.
        port: Of pbus, on loopback.
        path: ``queue/topic``.
        connections: So many, each with a thread.
        count: Jobs of one reply at most.
        block_ms: How long one read waits.
        elsewhere: Acks go out on connections of their own.
        name: Of its consumers.
    """

    def __init__(
        self, ledger: Ledger, port: int, path: str, *, connections: int = 1, count: int = 16, block_ms: int = 1000,
        elsewhere: bool = False, name: str = "puller",
    ) -> None:
        argv = [
            sys.executable, "-m", "tests.support.pullers", path, "--port", str(port), "--count", str(count),
            "--block", str(block_ms), "--connections", str(connections), "--name", name,
            "--taken", str(ledger.folder / "taken" / name),
        ]
        self._taken = ledger.folder / "taken" / name
        self._taken.parent.mkdir(exist_ok=True)
        environment = {**os.environ, "LEDGER_DIR": str(ledger.ran_dir)}
        more = ["--elsewhere"] if elsewhere else []
        self._process = subprocess.Popen([*argv, *more], cwd=_ROOT, stdin=subprocess.DEVNULL, env=environment)

    def taken(self) -> Iterator[Taken]:
        """What it has read so far, in order."""
        for line in whole_lines(self._taken):
            key, job_id, attempt, redelivered, at = line.split(" ")
            yield Taken(key, job_id, int(attempt), redelivered == "1", float(at))

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


class _Reader(threading.Thread):
    """One connection, and one for acks where these go elsewhere."""

    def __init__(self, options: argparse.Namespace, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"puller {number}")
        self._options = options
        self._consumer = f"{options.name}.{number}"
        self._told_to_stop = stop
        self._queue, _, self._topic = options.path.partition("/")
        self._reading = self._client()
        self._acking = self._client() if options.elsewhere else self._reading

    def _client(self) -> redis.Redis:
        return redis.Redis(
            port=self._options.port, protocol=2, retry=Retry(NoBackoff(), 0), socket_connect_timeout=5,
            socket_timeout=self._options.block / 1000 + 10, max_connections=1,
        )

    def run(self) -> None:
        while not self._told_to_stop.is_set():
            try:
                self._read()
            except redis.ResponseError:               # the store is away
                self._told_to_stop.wait(_AFTER_FAILURE_S)
            except (redis.RedisError, OSError):
                self._reading.connection_pool.disconnect()
                self._acking.connection_pool.disconnect()
                self._told_to_stop.wait(_AFTER_FAILURE_S)
        self._reading.close()
        self._acking.close()

    def _read(self) -> None:
        options = self._options
        streams: Any = {self._queue: ">"}
        reply: Any = self._reading.xreadgroup(
            self._topic, self._consumer, streams, count=options.count, block=options.block
        )
        jobs = [(job_id.decode(), fields) for _, entries in reply or [] for job_id, fields in entries]
        self._note(jobs)
        for job_id, fields in jobs:
            self._do(job_id, fields)

    def _note(self, jobs: list[tuple[str, dict[bytes, bytes]]]) -> None:
        now_s = time.time()
        lines = [
            f"{_text(fields, b'body').split(' ')[0]} {job_id} {_text(fields, b'attempt')} "
            f"{_text(fields, b'redelivered')} {now_s:.6f}\n" for job_id, fields in jobs
        ]
        fd = os.open(self._options.taken, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, "".join(lines).encode())
        os.close(fd)

    def _do(self, job_id: str, fields: dict[bytes, bytes]) -> None:
        job = SimpleNamespace(
            queue=self._queue, topic=self._topic, id=job_id, text=_text(fields, b"body"),
            attempt=int(fields[b"attempt"]),
        )
        command = ["XACK", self._queue, self._topic, job_id]
        try:
            record(job)
        except RuntimeError as failure:
            command = ["PBUS.NACK", *command[1:], "REASON", str(failure)]
        while not self._said(command):
            time.sleep(_AFTER_FAILURE_S)

    def _said(self, command: list[str]) -> bool:
        """Whether an ack was taken; while the store is away it is to be said again."""
        try:
            self._acking.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.ResponseError as refusal:
            return not str(refusal).startswith("UNAVAILABLE")
        return True


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields[name].decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--block", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--name", default="puller")
    parser.add_argument("--taken", required=True)
    parser.add_argument("--elsewhere", action="store_true")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    readers = [_Reader(options, number, stop) for number in range(options.connections)]
    for reader in readers:
        reader.start()
    for reader in readers:
        while reader.is_alive():
            reader.join(0.1)


if __name__ == "__main__":
    main()
