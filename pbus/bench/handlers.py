"""
Python handlers for measurements.

    empty     does nothing
    incr      one INCR by redis-py, as most people write it
    incr_raw  one INCR over a bare socket: what the least client costs
    stamp     the body begins with a monotonic time in ns; notes how long ago that was, in $STAMPS_FILE
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

_connections: dict[str, Any] = {}  # owner: this process; made for the first job


def empty(job: Any) -> None:
    """Nothing."""


def incr(job: Any) -> None:  # noqa: ARG001 - a handler is given its job
    """One INCR by redis-py."""
    client = _connections.get("redis-py")
    if client is None:
        import redis

        client = _connections["redis-py"] = redis.Redis(unix_socket_path=os.environ["REDIS_SOCKET"])
    client.incr("count")


def incr_raw(job: Any) -> None:  # noqa: ARG001 - a handler is given its job
    """One INCR over a socket."""
    client = _connections.get("socket")
    if client is None:
        client = _connections["socket"] = socket.socket(socket.AF_UNIX)
        client.connect(os.environ["REDIS_SOCKET"])
    client.send(b"*2\r\n$4\r\nINCR\r\n$5\r\ncount\r\n")
    if client.recv(64)[:1] != b":":
        raise RuntimeError("INCR was not answered with a number")


def stamp(job: Any) -> None:
    """Note the age of the job."""
    now_ns = time.monotonic_ns()
    fd = _connections.get("file")
    if fd is None:
        fd = _connections["file"] = os.open(os.environ["STAMPS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % (now_ns - int(job.body.split()[0])))
