"""
Honest clients: a program of its own that pushes as fast as it is answered, and takes nothing but the right reply.

    with Honest(port, "gift") as honest:
        ... begun = honest.pushed() ... honest.pushed() - begun ...

``python -m tests.support.honest PORT QUEUE CONNECTIONS PIPELINE`` is the process behind it.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from pbus.codec.resp import encode_command
from tests.support.waiting import until

_ROOT = Path(__file__).parents[2]
_COUNT = struct.Struct("=Q")


class Honest:
    """The program, from the first answered push to the end of the block; it failing fails whoever asks it."""

    def __init__(self, port: int, queue: str, connections: int = 4, pipeline: int = 8) -> None:
        self._page = os.memfd_create("pushed")
        os.ftruncate(self._page, mmap.PAGESIZE)
        self._counter = mmap.mmap(self._page, mmap.PAGESIZE)
        words = [port, queue, connections, pipeline, self._page]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.honest", *map(str, words)], cwd=_ROOT, stdin=subprocess.DEVNULL,
            pass_fds=[self._page],
        )

    def pushed(self) -> int:
        """Pushes that were answered so far."""
        assert self._process.poll() is None, "an honest client was refused or cut off; its traceback is above"
        return int(_COUNT.unpack_from(self._counter)[0])

    def __enter__(self) -> Honest:
        until(self.pushed, 20, "the honest clients push")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._counter.close()
        os.close(self._page)


def main() -> None:
    port, queue, connections, pipeline, page = sys.argv[1:]
    counter, pushed = mmap.mmap(int(page), mmap.PAGESIZE), 0
    batch = encode_command([b"LPUSH", queue.encode(), b"x" * 100]) * int(pipeline)
    clients = [socket.create_connection(("127.0.0.1", int(port)), timeout=10) for _ in range(int(connections))]
    readers = [client.makefile("rb") for client in clients]
    while True:
        for client in clients:
            client.sendall(batch)
        for reader in readers:
            for _ in range(int(pipeline)):
                reply = reader.readline()
                assert reply[:1] == b":", reply
                assert int(reply[1:]) > 0
            pushed += int(pipeline)
        _COUNT.pack_into(counter, 0, pushed)


if __name__ == "__main__":
    main()
