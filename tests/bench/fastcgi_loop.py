"""
The least that can call php-fpm for every job: one process, keep-alive connections, nothing stored.

    python -m tests.bench.fastcgi_loop SOCKET SCRIPT CONNECTIONS

A line of standard input is a number of jobs; the answer is the seconds they took. Each job's request
is built as pbus builds it (same bytes for php-fpm); an answer is read no further than its end record.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from pbus.clock import SystemClock
from pbus.codec import fastcgi
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.retry import RetryPolicy
from pbus.delivery.fastcgi_client import FastcgiClient

_END_BYTES = 16
"""An END_REQUEST record; php-fpm sends it last and unpadded."""


class Loop:
    """*connections* calls at once; they are open while it runs, because each keeps a php-fpm process."""

    def __init__(self, path: str, script: str, connections: int) -> None:
        self._path = path
        self._connections = connections
        self._client = FastcgiClient(
            "bench", "php", schema.FastcgiHandler(script=script), retry=RetryPolicy(), max_post_bytes=8 << 20,
            address=path, clock=SystemClock(),
        )

    def run(self, jobs: int) -> float:
        """Call for so many jobs; seconds."""
        begin_s = time.monotonic()
        sockets = {sock.fileno(): sock for sock in (socket.socket(socket.AF_UNIX) for _ in range(self._connections))}
        with select.epoll() as poll:
            for fd, sock in sockets.items():
                sock.connect(self._path)
                poll.register(fd, select.EPOLLIN)
            self._call(jobs, sockets, poll)
        for sock in sockets.values():
            sock.close()
        return time.monotonic() - begin_s

    def _call(self, jobs: int, sockets: dict[int, socket.socket], poll: select.epoll) -> None:
        free, begun, done = list(sockets.values()), 0, 0
        answers = dict.fromkeys(sockets, b"")
        while done < jobs:
            while free and begun < jobs:
                begun += 1
                free.pop().sendall(self._request(begun))
            for fd, _ in poll.poll():
                data = answers[fd] + sockets[fd].recv(65_536)
                ended = len(data) >= _END_BYTES and data[-_END_BYTES + 1] == fastcgi.END_REQUEST
                answers[fd] = b"" if ended else data
                if ended:
                    assert b"Code: 200" in data, data
                    done += 1
                    free.append(sockets[fd])

    def _request(self, number: int) -> bytes:
        body = (b"bench-%012d " % number).ljust(200, b"x")
        delivery = Delivery(
            queue="bench", topic="php", id=f"{int(time.time() * 1000)}-{number}", body=body, attempt=1, crashes=0,
            redelivered=False, traceparent="", content_type="", first_ms=0, owner="bare",
        )
        return self._client.encode(delivery)[0]


def main() -> None:
    path, script, connections = sys.argv[1:]
    loop = Loop(path, script, int(connections))
    for line in sys.stdin:
        print(loop.run(int(line)), flush=True)


if __name__ == "__main__":
    main()
