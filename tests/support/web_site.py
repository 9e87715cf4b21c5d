"""
A web site that lives on the same php-fpm as the bus: a client of its own, a fresh connection a request.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

from pbus.codec import fastcgi

_PATIENCE_S = 30.0
_CONNECTED = "03"


class WebSite:
    """
    Calls *script* at the unix socket *path*: once with ``visit``, all the time in a thread within ``with``.

    Attributes:
        waits_s: How long each visitor waited, in order.
    """

    def __init__(self, path: str, script: str) -> None:
        self._path = path
        self._request = b"".join((
            fastcgi.begin(keep=False),
            fastcgi.params({
                "SCRIPT_FILENAME": script, "SCRIPT_NAME": "/" + os.path.basename(script), "REQUEST_METHOD": "GET",
                "QUERY_STRING": "", "REQUEST_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1",
            }),
            fastcgi.PARAMS_END, fastcgi.STDIN_END,
        ))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self.waits_s: list[float] = []

    def others(self) -> int:
        """Connections that somebody has to the socket now."""
        rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        return sum(len(row) == 8 and row[5] == _CONNECTED and row[7] == self._path for row in rows)

    def visit(self) -> float:
        """One page; seconds until it was there. Raises AssertionError when it is none."""
        begun_s, reader = time.monotonic(), fastcgi.ReplyReader()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE_S)
            client.connect(self._path)
            client.sendall(self._request)
            while not reader.complete and (data := client.recv(65_536)):
                reader.feed(data)
        assert b"page" in reader.stdout, bytes(reader.stdout)
        return time.monotonic() - begun_s

    def __enter__(self) -> WebSite:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(_PATIENCE_S)

    def _live(self) -> None:
        while not self._closed.is_set():
            self.waits_s.append(self.visit())
            self._closed.wait(0.01)
