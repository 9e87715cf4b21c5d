"""A receiver of webhooks: keeps what it is sent, answers what it is told to."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """When (monotonic), the id of the message, the JSON."""

    at_s: float
    id: str
    body: dict[str, Any]


@dataclass
class Receiver:
    """
    Attributes:
        answers: Status and body of the next answers, the last one stays.
        got: What came, refused or not.
        context: With it, TLS is spoken.
    """

    answers: list[tuple[int, bytes]] = field(default_factory=lambda: [(200, b"ok")])
    got: list[Received] = field(default_factory=list)
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.got.append(Received(time.monotonic(), self.headers.get("X-Pbus-Message", ""), body))
                status, answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'s' if self.context else ''}://127.0.0.1:{self._server.server_address[1]}/hook"

    def of(self, status: str) -> list[dict[str, Any]]:
        """Bodies of that status."""
        return [one.body for one in self.got if one.body.get("status") == status]

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
