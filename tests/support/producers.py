"""
Programs that push and write down what they sent and heard.

    RedisPy     redis-py, its own processes and threads, pipelines, runs until told to stop or N
    PhpRedis    php with the Redis extension
    benchmark() redis-benchmark, which writes no keys: its pushes are counted

``python -m tests.support.producers`` is the process behind RedisPy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import seeds
from tests.support.ledger import ERR, OK, UNKNOWN, Ledger, PushedFile
from tests.support.mix import Wish, draw
from tests.support.programs import requires, requires_php_redis

_ROOT = Path(__file__).parents[2]
_PADDING = "x" * 150
_AFTER_FAILURE_S = 0.02


class Program:
    """A producer process; ``finish`` waits for it, ``stop`` asks it to end after its current batch."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self, timeout_s: float = 20.0) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self.finish(timeout_s)

    def finish(self, timeout_s: float = 60.0) -> None:
        """
        Wait until it has pushed all it was asked to.

        Raises:
            AssertionError: it is not done in time (it is killed), or it failed.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the producer {self._process.args} did not end within {timeout_s:g} s") from None
        assert status == 0, f"the producer {self._process.args} ended with {status}"

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class RedisPy(Program):
    """
    redis-py in a process of its own.

    Args:
        ledger: Where it writes.
        port: Of pbus, on loopback.
        queue: Where it pushes.
        count: How many in all; 0: until ``stop``.
        threads: Connections.
        pipeline: Pushes a round trip.
        orders: Words for the handler, such as ``sleep=5``.
        pause_s: Pause between two round trips of a connection.
        name: Part of its keys and of its file's name; one a producer.
        typed: XADD instead of LPUSH, so that the reply is the job's id.
        password: Sent by AUTH before anything else.
        mix: Shares of pushes with options (``mix``); means typed. A push with ``dedupe`` is repeated until it is
            answered, and a share ``again`` of them although they were.
    """

    def __init__(
        self, ledger: Ledger, port: int, queue: str, *, count: int = 0, threads: int = 4, pipeline: int = 1,
        orders: str = "", pause_s: float = 0.0, name: str = "py", typed: bool = False, password: str = "",
        mix: Mapping[str, float] | None = None,
    ) -> None:
        argv = [
            sys.executable, "-m", "tests.support.producers", str(ledger.pushed_path(name)), "--port", str(port),
            "--queue", queue, "--count", str(count), "--threads", str(threads), "--pipeline", str(pipeline),
            "--orders", orders, "--pause", str(pause_s), "--name", name, "--password", password,
            "--mix", json.dumps(mix or {}),
        ]
        super().__init__([*argv, "--typed"] if typed or mix else argv)


class PhpRedis(Program):
    """phpredis in a php process, one connection; skips (or in CI fails) the test where php has no Redis extension."""

    def __init__(
        self, ledger: Ledger, port: int, queue: str, *, count: int, pipeline: int = 1, name: str = "php"
    ) -> None:
        path = ledger.pushed_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).parent / "handlers/push.php"
        arguments = ["127.0.0.1", str(port), queue, name, str(count), str(pipeline), str(path)]
        super().__init__([requires_php_redis(), str(script), *arguments])


def benchmark(
    port: int, queue: str, count: int, *, connections: int = 50, pipeline: int = 1, size: int = 200, body: str = ""
) -> float:
    """
    Push *count* jobs with redis-benchmark; pushes a second as it measured them.

    Unless *body* is given they begin with a random number, which may repeat: judge with ``Ledger.verdict_by_count``.
    """
    body = body or "bench-__rand_int__ ".ljust(size, "x")
    answer = subprocess.run(
        [
            requires("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-n", str(count), "-c", str(connections),
            "-P", str(pipeline), "-r", "2000000000", "--csv", "LPUSH", queue, body,
        ],
        capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
    )
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said
    assert "error" not in said.lower(), said
    rates = re.findall(r'^".*LPUSH.*?","([\d.]+)"(?:,"[\d.]+")*$', answer.stdout, re.MULTILINE)
    assert rates, said
    return float(rates[-1])


# -- the process behind RedisPy -----------------------------------------------------------------------


class _Connection(threading.Thread):
    """One connection: pushes batch after batch and writes down each reply."""

    def __init__(self, options: argparse.Namespace, number: int, count: int, stop: threading.Event) -> None:
        super().__init__(name=f"producer {number}")
        self._options = options
        self._prefix = f"{options.name}.{number}"
        self._count = count
        self._told_to_stop = stop
        self._mix: dict[str, float] = json.loads(options.mix)
        self._chance = seeds.generator("producer", self._prefix)
        self._whim = seeds.generator("producer that repeats", self._prefix)  # drawn from as replies come
        self._owed: list[Wish] = []
        self._file = PushedFile(Path(f"{options.path}.{number}"))
        self._redis = redis.Redis(
            port=options.port, password=options.password or None, retry=Retry(NoBackoff(), 0), socket_timeout=10,
            socket_connect_timeout=5,
        )

    def run(self) -> None:
        done = 0
        while not self._told_to_stop.is_set() and (not self._options.count or done < self._count):
            size = self._options.pipeline
            if self._options.count:
                size = min(size, self._count - done)
            self._push([*self._take_owed(), *(self._wish(number) for number in range(done, done + size))])
            done += size
            if self._options.pause:
                self._told_to_stop.wait(self._options.pause)
        self._file.close()
        self._redis.close()

    def _wish(self, number: int) -> Wish:
        return draw(self._chance, self._mix, f"{self._prefix}-{number}", self._options.orders)

    def _take_owed(self) -> list[Wish]:
        owed, self._owed = self._owed, []
        return owed

    def _push(self, wishes: list[Wish]) -> None:
        sent_s = time.time()
        batch = self._redis.pipeline(transaction=False)
        for wish in wishes:
            body = " ".join(filter(None, (wish.key, wish.orders, _PADDING)))
            if self._options.typed:
                batch.execute_command("XADD", self._options.queue, "*", "body", body, *wish.words())
            else:
                batch.lpush(self._options.queue, body)
        try:
            replies: list[Any] = batch.execute(raise_on_error=False)
        except (redis.RedisError, OSError) as error:
            replies = [error] * len(wishes)
        replied_s = time.time()
        for wish, reply in zip(wishes, replies, strict=True):
            options = " ".join(f"{name}={value}" for name, value in wish.options.items())
            result, about = _understood(reply)
            self._file.record(wish.key, sent_s, replied_s, result, about, options)
            if "dedupe" in wish.options and (result != OK or self._whim.random() < self._mix.get("again", 0.0)):
                self._owed.append(wish)
        self._file.sync()
        if any(isinstance(reply, Exception) for reply in replies):
            self._redis.connection_pool.disconnect()
            self._told_to_stop.wait(_AFTER_FAILURE_S)


def _understood(reply: Any) -> tuple[str, str]:
    """What a reply says about its push, and its id or error."""
    if isinstance(reply, redis.ResponseError) and not str(reply).startswith("MAYBESTORED"):
        return ERR, str(reply)
    if isinstance(reply, Exception):
        return UNKNOWN, f"{type(reply).__name__}: {reply}"
    if isinstance(reply, bytes):
        return OK, reply.decode()
    return (OK, "") if isinstance(reply, int) and reply > 0 else (UNKNOWN, f"the reply was {reply!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--orders", default="")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--name", default="py")
    parser.add_argument("--password", default="")
    parser.add_argument("--typed", action="store_true")
    parser.add_argument("--mix", default="{}")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    share, rest = divmod(options.count, options.threads)
    connections = [_Connection(options, n, share + (n < rest), stop) for n in range(options.threads)]
    for connection in connections:
        connection.start()
    for connection in connections:
        while connection.is_alive():
            with contextlib.suppress(InterruptedError):
                connection.join(0.1)


if __name__ == "__main__":
    main()
