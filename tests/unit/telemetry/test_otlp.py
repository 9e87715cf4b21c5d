from __future__ import annotations

from collections.abc import Iterator

import pytest

from pbus.core.span import CONSUMER, PRODUCER, Span
from pbus.telemetry.otlp import OtlpExporter, plain
from pbus.telemetry.spans import SpanPlan
from tests.support.otlp_receiver import OtlpReceiver

TRACE, OTHER = "ab" * 16, "12" * 16
SEND = Span("send gift", PRODUCER, TRACE, "cd" * 8, "ef" * 8, (), 1_000_000_000, 3_000_000_000, {"a": 1, "b": True})
LINKS = ((OTHER, "34" * 8),)
RETRY = Span("process gift/credit", CONSUMER, TRACE, "0" * 15 + "1", "", LINKS, 1, 1, {"c": "x"}, "no luck")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    yield receiver
    receiver.close()


def exporter(url: str, **more: str) -> OtlpExporter:
    return OtlpExporter(SpanPlan(endpoint=url + "/v1/traces", timeout_s=0.3, node="n", headers=more), "n/ingest.0")


def test_spans_arrive_as_they_were(receiver: OtlpReceiver) -> None:
    assert exporter(receiver.url, Authorization="Bearer 1").export([SEND, RETRY]) == ""
    send, retry = receiver.spans
    assert (send.name, send.kind, send.trace, send.id, send.parent, send.links) == (
        "send gift", "PRODUCER", TRACE, "cd" * 8, "ef" * 8, [],
    )
    assert (send.attributes, send.is_error, send.took_s) == ({"a": 1, "b": True}, False, 2.0)
    assert (retry.kind, retry.id, retry.parent, retry.links) == ("CONSUMER", "0" * 15 + "1", "", [(OTHER, "34" * 8)])
    assert (retry.is_error, retry.text, retry.attributes) == (True, "no luck", {"c": "x"})
    assert send.resource.items() >= {
        "service.name": "pbus", "service.instance.id": "n/ingest.0", "host.name": "n",
    }.items()
    path, headers = receiver.requests[0]
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer 1")


@pytest.mark.parametrize(("status", "why"), [
    (400, "answered 400 Bad Request"), (503, "answered 503 Service Unavailable"),
])
def test_refusal_is_told_with_its_address(receiver: OtlpReceiver, status: int, why: str) -> None:
    receiver.status = status
    assert exporter(receiver.url).export([SEND]) == f"{receiver.url}/v1/traces: {why}"


def test_receiver_that_is_away_is_told_in_words_of_the_system() -> None:
    why = exporter("http://name:secret@127.0.0.1:1").export([SEND])
    assert why == "http://127.0.0.1:1/v1/traces: Connection refused"


def test_receiver_that_says_nothing_is_a_timeout(receiver: OtlpReceiver) -> None:
    receiver.speaks.clear()
    assert "timed out" in exporter(receiver.url).export([SEND])


def test_error_without_the_system_is_told_by_its_innermost_text() -> None:
    effect = RuntimeError("the effect")
    effect.__context__ = ValueError("the cause")
    assert plain(effect) == "ValueError: the cause"
