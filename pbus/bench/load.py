"""Who pushes: redis-benchmark, and one plain connection whose jobs bear the time of their push."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from typing import Any, Final

from pbus.bench.private import BenchError, end, find, popen

QUEUE: Final = "bench"
BODY_BYTES: Final = 200
_RATE: Final = re.compile(r'^".*LPUSH.*?","([\d.]+)"(?:,"[\d.]+")*$', re.MULTILINE)
_LONGEST_S: Final = 600.0
_LONGEST_ARGUMENT: Final = 100_000
"""Bytes; the kernel gives a program one of 128 KiB at most."""


def push(
    port: int, queue: str, count: int, *, connections: int = 50, pipeline: int = 1, size: int = BODY_BYTES,
    body: str = "",
) -> float:
    """
    Push *count* jobs with redis-benchmark; pushes a second as it measured them.

    Raises:
        Missing: there is no redis-benchmark here. BenchError: a push was refused.
    """
    body = body or "bench-__rand_int__ ".ljust(size, "x")[:size]
    large = len(body) > _LONGEST_ARGUMENT
    process = popen(
        [
            find("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-n", str(count), "-c", str(connections),
            "-P", str(pipeline), "-r", "2000000000", "--csv", *(["-x"] if large else []), "LPUSH", queue,
            *([] if large else [body]),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        said, _ = process.communicate(body if large else "", timeout=_LONGEST_S)
    finally:
        end(process)
    rates = _RATE.findall(said)
    if process.returncode or not rates or "error" in said.lower():
        raise BenchError(f"redis-benchmark failed: {said[-2000:]}")
    return float(rates[-1])


class Pusher:
    """One plain connection that pushes; a context manager."""

    def __init__(self, port: int, queue: str = QUEUE) -> None:
        self._port = port
        self._queue = queue.encode()

    def __enter__(self) -> Pusher:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def push(self) -> None:
        """A job that bears the time of this call; returns after the reply."""
        body = (b"%d " % time.monotonic_ns()).ljust(BODY_BYTES, b"x")
        self._socket.sendall(
            b"*3\r\n$5\r\nLPUSH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(self._queue), self._queue, len(body), body)
        )
        reply = self._socket.recv(256)
        if reply[:1] != b":":
            raise BenchError(f"a push was answered with {reply!r}")

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def python_topic(function: str, concurrency: int = 1, **more: Any) -> dict[str, Any]:
    """A topic whose handler is that function of ``handlers``."""
    return {"python": {"call": f"pbus.bench.handlers:{function}"}, "concurrency": concurrency, **more}
