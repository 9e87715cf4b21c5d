"""
The two handlers of the demo: a Python function, and an HTTP endpoint that fails now and then.

Both write down what they finished, so that the demo can say what was lost or done twice without
asking the bus: a line ``order, unix time`` a job, in one O_APPEND write before the answer.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import threading
from typing import Any, Final

from pbus.clock import SystemClock

FOLDER_VARIABLE: Final = "PBUS_DEMO_DIR"
EMAIL: Final = "email.done"
BILLING: Final = "billing.done"
FAIL_SHARE: Final = 0.05

_clock = SystemClock()
_done_fd = -1  # opened by setup(), once in each consumer process


def setup() -> None:
    """Called once in each consumer process."""
    global _done_fd
    _done_fd = open_append(os.path.join(os.environ[FOLDER_VARIABLE], EMAIL))


def email(job: Any) -> None:
    """The Python handler: pretends to send a mail for an order."""
    note_done(_done_fd, job.json())


def open_append(path: str) -> int:
    """A descriptor whose writes go to the end, whoever else writes there."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def note_done(fd: int, body: Any) -> None:
    """One line: which order, when. What somebody else pushed by hand has no number and is not counted."""
    order = body.get("order") if isinstance(body, dict) else None
    if isinstance(order, int):
        os.write(fd, f"{order} {_clock.wall_s():.6f}\n".encode())


class Endpoint:
    """The HTTP handler, in threads of this process; a context manager."""

    def __init__(self, folder: str) -> None:
        self._fd = open_append(os.path.join(folder, BILLING))
        self._server = _Server(("127.0.0.1", 0), _Billing)
        self._server.done_fd = self._fd

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/billing"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self._server.serve_forever, name="billing", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        os.close(self._fd)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    done_fd = -1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the bus closed is not worth a traceback."""


class _Billing(http.server.BaseHTTPRequestHandler):
    """Charges an order; every twentieth time or so its database is busy."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def do_POST(self) -> None:
        """The plain contract: 2xx is done, anything else is tried again."""
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if random.random() < FAIL_SHARE:
            self._answer(500, b"the database is busy\n")
            return
        with contextlib.suppress(ValueError):
            note_done(self.server.done_fd, json.loads(data))
        self._answer(200, b"charged\n")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the bus tells what fails."""
