"""An HTTP endpoint for tests that answers whatever the test plans (see ``talker``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from tests.support.talker import Plan, Talker


@dataclass(frozen=True)
class HttpRequest:
    """What arrived: request line, headers (names as sent), body."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """Fields of the body, each once."""
        return {name: values[0] for name, values in parse_qs(self.body.decode("ascii"), keep_blank_values=True).items()}


class HttpStub(Talker[HttpRequest]):
    """An endpoint on a loopback port that answers by *plan*."""

    def __init__(self, plan: Callable[[HttpRequest, int], Plan]) -> None:
        super().__init__(_read_request, plan, tcp=True)

    @property
    def url(self) -> str:
        """A URL below it."""
        return f"http://{self.address}/jobs"


def response(status: int, body: bytes = b"", **fields: str) -> bytes:
    """A response with a Content-Length; ``Retry_After="3"`` becomes ``Retry-After: 3``."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _read_request(stream: Any) -> HttpRequest | None:
    line = stream.readline().decode("latin-1").rstrip("\r\n")
    if not line:
        return None
    headers: dict[str, str] = {}
    while field := stream.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = field.partition(":")
        headers[name] = value.strip()
    return HttpRequest(line, headers, stream.read(int(headers.get("Content-Length", "0"))))
