"""
The least that can call php-fpm for every job: one process, keep-alive connections, nothing stored.

    python -m pbus.bench.fastcgi_loop SOCKET SCRIPT CONNECTIONS

A line of standard input is a number of jobs; the answer is the seconds they took. Each job's request has the form and
the parameters that pbus' has; an answer is read no further than its end record.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import Final

from pbus.clock import SystemClock
from pbus.codec import fastcgi, pepper
from pbus.core.job import Delivery
from pbus.core.retry import RetryPolicy

_END_BYTES: Final = 16
"""An END_REQUEST record; php-fpm sends it last and unpadded."""


class Loop:
    """*connections* calls at once; they are open while it runs, because each keeps a php-fpm process."""

    def __init__(self, path: str, script: str, connections: int) -> None:
        self._path = path
        self._connections = connections
        self._clock = SystemClock()
        self._form = pepper.Form("bench", "php", RetryPolicy())
        self._constant = fastcgi.begin() + fastcgi.params({
            "SCRIPT_FILENAME": script, "SCRIPT_NAME": "/" + os.path.basename(script),
            "DOCUMENT_ROOT": os.path.dirname(script), "QUERY_STRING": "", "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": pepper.CONTENT_TYPE, "SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": "pbus", "REMOTE_ADDR": "127.0.0.1",
        })

    def run(self, jobs: int) -> float:
        """Call for so many jobs; seconds."""
        begin_s = time.perf_counter()
        sockets = {sock.fileno(): sock for sock in (socket.socket(socket.AF_UNIX) for _ in range(self._connections))}
        with select.epoll() as poll:
            for fd, sock in sockets.items():
                sock.connect(self._path)
                poll.register(fd, select.EPOLLIN)
            self._call(jobs, sockets, poll)
        for sock in sockets.values():
            sock.close()
        return time.perf_counter() - begin_s

    def _call(self, jobs: int, sockets: dict[int, socket.socket], poll: select.epoll) -> None:
        free, begun, done = list(sockets.values()), 0, 0
        answers = dict.fromkeys(sockets, b"")
        while done < jobs:
            while free and begun < jobs:
                begun += 1
                free.pop().sendall(self.request(begun))
            for fd, _ in poll.poll():
                data = answers[fd] + sockets[fd].recv(65_536)
                ended = len(data) >= _END_BYTES and data[-_END_BYTES + 1] == fastcgi.END_REQUEST
                answers[fd] = b"" if ended else data
                if ended:
                    if b"Code: 200" not in data:
                        raise RuntimeError(f"php-fpm answered {data!r}")
                    done += 1
                    free.append(sockets[fd])

    def request(self, number: int) -> bytes:
        """The call for one job."""
        body = (b"bench-%012d " % number).ljust(200, b"x")
        now_s = self._clock.wall_s()
        delivery = Delivery(
            queue="bench", topic="php", id=f"{int(now_s * 1000)}-{number}", body=body, attempt=1, crashes=0,
            redelivered=False, traceparent="", content_type="", first_ms=0, owner="bare",
        )
        form = self._form.data(delivery, now_s)
        varying = (
            fastcgi.name_value(b"REQUEST_URI", b"/pbus/bench/php/" + delivery.id.encode())
            + fastcgi.name_value(b"HTTP_TRACEPARENT", pepper.traceparent_of(delivery).encode())
            + fastcgi.name_value(b"CONTENT_LENGTH", b"%d" % len(form))
        )
        return b"".join((
            self._constant, fastcgi.record(fastcgi.PARAMS, varying), fastcgi.PARAMS_END, fastcgi.stdin(form),
        ))


def main() -> None:
    """Until standard input ends."""
    path, script, connections = sys.argv[1:]
    loop = Loop(path, script, int(connections))
    for line in sys.stdin:
        print(loop.run(int(line)), flush=True)


if __name__ == "__main__":
    main()
