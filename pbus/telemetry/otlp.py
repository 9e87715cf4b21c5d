"""
The official OTLP exporter of OpenTelemetry behind the pump's interface. Importing this imports the SDK.

Rule: what the SDK says on its loggers becomes the reason of a failure and goes nowhere else; spans are put into its
classes here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pbus import __version__
from pbus.core.span import CLIENT, CONSUMER, PRODUCER, Span
from pbus.telemetry.spans import Heard, SpanPlan

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_KINDS: Final = {PRODUCER: SpanKind.PRODUCER, CONSUMER: SpanKind.CONSUMER, CLIENT: SpanKind.CLIENT}
_LOGGER: Final = "opentelemetry"


class OtlpExporter:
    """See ``spans.Exporter``. Where to, how and with which certificates: the plan, and the OTEL_* of the standard."""

    def __init__(self, plan: SpanPlan, instance: str) -> None:
        self._heard = Heard()
        logger = logging.getLogger(_LOGGER)
        logger.propagate = False
        logger.handlers[:] = [self._heard]
        self._scope = InstrumentationScope("pbus", __version__)
        named = {"service.name": plan.service} if plan.service else {}
        self._resource = Resource.create({
            "service.version": __version__, "service.instance.id": instance, "host.name": plan.node, **named,
        })
        self._session = Session()
        self._exporter = OTLPSpanExporter(
            endpoint=plan.endpoint or None, headers=dict(plan.headers), timeout=plan.timeout_s,
            session=self._session.session,
        )

    def export(self, spans: Sequence[Span]) -> str:
        """See ``spans.Exporter.export``."""
        self._heard.text = self._session.why = ""
        try:
            if self._exporter.export([self._readable(span) for span in spans]) is SpanExportResult.SUCCESS:
                return ""
        except requests.RequestException as error:
            return self._session.why or plain(error)
        return self._session.why or self._heard.text or "the exporter gives no reason"

    def _readable(self, span: Span) -> ReadableSpan:
        trace = int(span.trace, 16)
        return ReadableSpan(
            span.name, _context(trace, span.id, False), _context(trace, span.parent, True) if span.parent else None,
            self._resource, span.attributes, (),
            [Link(_context(int(of, 16), other, True)) for of, other in span.links], _KINDS[span.kind], None,
            _UNSET if span.error is None else Status(StatusCode.ERROR, span.error), span.start_ns, span.end_ns,
            self._scope,
        )


class Session:
    """
    The exporter's HTTP session, which knows why the last request failed: mostly the exporter says that it gave up.

    Attributes:
        session: What the exporter is given.
        why: Where to and why not; empty: the receiver took it.
    """

    def __init__(self) -> None:
        self.why = ""
        self.session = _bare()
        self._request = self.session.request
        self.session.request = self._noting

    def _noting(self, method: str, url: str, **more: Any) -> Any:
        parts = urlsplit(url)
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            response = self._request(method, url, **more)
        except Exception as error:
            self.why = f"{where}: {plain(error)}"
            raise
        self.why = "" if response.ok else f"{where}: answered {response.status_code} {response.reason}"
        return response


def _bare() -> Any:
    return requests.Session()


def plain(error: BaseException) -> str:
    """What the system said, where an error goes back to that; else the innermost text."""
    said, inner = "", error
    while inner.__context__ is not None:
        inner = inner.__context__
        if isinstance(inner, OSError) and inner.strerror:
            said = inner.strerror
    return said or f"{type(inner).__name__}: {inner}"[:300]


def _context(trace: int, span: str, remote: bool) -> SpanContext:
    return SpanContext(trace, int(span, 16), remote, _SAMPLED)
