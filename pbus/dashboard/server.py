"""
An HTTP server that cannot be pinned: gevent's pywsgi with bounds on time, size and connections.

Rule: a request, its head, its waiting and its answer, is over within REQUEST_S; its bytes are at
most REQUEST_BYTES; above CONNECTIONS the oldest connection gives way to the newest. So a thousand
slow clients cost a probe nothing.
"""

from __future__ import annotations

import io
import socket
from typing import Any, Final

import gevent
import gevent.pywsgi

from pbus.telemetry.log import Logger

REQUEST_S: Final = 10.0
REQUEST_BYTES: Final = 32 * 1024
CONNECTIONS: Final = 256
_LAST_ANSWERS_S: Final = 1.0


class Server(gevent.pywsgi.WSGIServer):  # type: ignore[misc]  # gevent has no types here
    """Serves a WSGI application on a bound socket; errors go to *log*, requests are not logged."""

    def __init__(self, listener: Any, application: Any, log: Logger, *, request_s: float = REQUEST_S) -> None:
        self.request_s = request_s
        self._serving: dict[gevent.Greenlet, None] = {}  # oldest first; one owner: this server
        # Named here, because pywsgi would ask the DNS for it.
        environ = {"SERVER_NAME": "pbus"}
        super().__init__(
            listener, application, log=None, error_log=_ErrorLog(log), handler_class=_Request, environ=environ
        )

    def handle(self, client: Any, address: Any) -> None:
        """One connection, in a greenlet of its own."""
        if len(self._serving) >= CONNECTIONS:
            oldest = next(iter(self._serving))
            del self._serving[oldest]
            oldest.kill(block=False)
        if client.family != socket.AF_UNIX:
            # pywsgi sends head and body apart; the body must not wait for a delayed ACK.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mine = gevent.getcurrent()
        self._serving[mine] = None
        try:
            super().handle(client, address)
        finally:
            self._serving.pop(mine, None)

    def drain(self) -> None:
        """Take no more connections; give running requests a moment to be answered."""
        self.stop()
        gevent.joinall(list(self._serving), timeout=_LAST_ANSWERS_S)


class _Request(gevent.pywsgi.WSGIHandler):  # type: ignore[misc]
    """One connection's requests, each within its bounds."""

    def __init__(self, client: Any, address: Any, server: Server) -> None:
        self._source = _Bounded(client)
        super().__init__(client, address, server, rfile=io.BufferedReader(self._source, 8192))

    def handle_one_request(self) -> Any:
        self._source.left = REQUEST_BYTES
        answer = None  # late: the caller closes the connection
        with gevent.Timeout(self.server.request_s, False):
            answer = super().handle_one_request()
        return answer  # noqa: RET504 - the time-out swallows its exception and comes here


class _Bounded(io.RawIOBase):
    """What a client sends, until it has sent too much: then it looks as if it had hung up."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._client = client
        self.left = REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.left <= 0:
            return 0
        view = memoryview(buffer)[: self.left]
        count: int = self._client.recv_into(view)
        self.left -= count
        return count


class _ErrorLog:
    """What pywsgi writes its complaints to."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def write(self, text: str) -> None:
        """One complaint, maybe with a traceback."""
        if text.strip():
            self._log.warning("http.error", err=text.strip())

    def flush(self) -> None:
        """Nothing is held back."""
