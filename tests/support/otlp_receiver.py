"""A receiver of OTLP over HTTP on loopback: decodes what comes, keeps the spans, answers what it is told to."""

from __future__ import annotations

import contextlib
import http.server
import threading
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class Got:
    """One span as it came, with names instead of numbers."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    is_error: bool
    text: str
    took_s: float
    resource: dict[str, Any]


@dataclass
class OtlpReceiver:
    """
    Attributes:
        status: Of the next answers.
        spans: What came in requests that were answered with 200.
        requests: Path and headers (lower case) of every request.
        speaks: While it is cleared requests are not answered.
    """

    status: int = 200
    spans: list[Got] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        owner = self
        self.speaks = threading.Event()
        self.speaks.set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                owner.speaks.wait()
                if owner.status == 200:
                    owner.spans += _decoded(data)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(owner.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of(self, trace: str) -> list[Got]:
        """The spans of one trace, in the order they came."""
        return [span for span in list(self.spans) if span.trace == trace]

    def close(self) -> None:
        self.speaks.set()
        self._server.shutdown()
        self._server.server_close()


def _decoded(data: bytes) -> list[Got]:
    request = ExportTraceServiceRequest.FromString(data)
    return [
        _got(span, _plain(group.resource.attributes))
        for group in request.resource_spans for scope in group.scope_spans for span in scope.spans
    ]


def _got(span: Span, resource: dict[str, Any]) -> Got:
    return Got(
        span.name, Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"), span.trace_id.hex(), span.span_id.hex(),
        span.parent_span_id.hex(), [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        _plain(span.attributes), span.status.code == Status.STATUS_CODE_ERROR, span.status.message,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, resource,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
