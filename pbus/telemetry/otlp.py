"""
The official OTLP exporter of OpenTelemetry behind the pump's interface. Importing this imports the SDK.

Rule: what the SDK says on its loggers becomes the reason of a failure and goes nowhere else; spans are put into its
classes here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pbus import __version__
from pbus.core.span import PRODUCER, Span
from pbus.telemetry.spans import Heard, SpanPlan

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
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
        self._exporter = OTLPSpanExporter(
            endpoint=plan.endpoint or None, headers=dict(plan.headers), timeout=plan.timeout_s
        )

    def export(self, spans: Sequence[Span]) -> str:
        """See ``spans.Exporter.export``."""
        self._heard.text = ""
        answer = self._exporter.export([self._readable(span) for span in spans])
        if answer is SpanExportResult.SUCCESS:
            return ""
        return self._heard.text or "the exporter gives no reason"

    def _readable(self, span: Span) -> ReadableSpan:
        trace, link = int(span.trace, 16), span.link
        return ReadableSpan(
            span.name, _context(trace, span.id, False), _context(trace, span.parent, True) if span.parent else None,
            self._resource, span.attributes, (),
            [Link(_context(int(link[0], 16), link[1], True))] if link is not None else (),
            SpanKind.PRODUCER if span.kind == PRODUCER else SpanKind.CONSUMER, None,
            _UNSET if span.error is None else Status(StatusCode.ERROR, span.error), span.start_ns, span.end_ns,
            self._scope,
        )


def _context(trace: int, span: str, remote: bool) -> SpanContext:
    return SpanContext(trace, int(span, 16), remote, _SAMPLED)
