"""
Spans on their way to an OpenTelemetry receiver: OTLP over HTTP, by the official exporter.

    tell --> queue, bounded --a batch, once a second or when it is full--> exporter --> receiver
               | full: dropped, counted                   | failed: the batch is dropped, counted, and a pause

Rule: lossy, and nobody waits for it: ``tell`` only puts a span into memory. The SDK is imported by ``open_exporter``,
in the children that export, and nowhere else. No gevent here: the role runs ``run`` in a greenlet, after patching, so
that the exporter's socket yields. (The SDK's BatchSpanProcessor is not used: it encodes up to 512 spans in one go while
the loop stands still, tells nobody what it dropped, and wants tracers that draw ids at random.)
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pbus.clock import Clock
from pbus.core.span import Sampler, Span

WAITING: Final = 8192
"""Spans that wait at most: about 10 MB."""
BATCH: Final = 64
"""Spans of one request: the loop stands still for 2.3 ms while they are encoded."""
MOST_PER_S: Final = 4000
"""Of one process: encoding them is 14 % of a core. What comes faster for long is dropped."""
FLUSH_S: Final = 1.0
LAST_S: Final = 1.0
"""How long a child that ends waits for its last spans."""
PATIENCE: Final = 3.0
"""Timeouts without any success, and ``pbus status`` has it."""
FIRST_PAUSE: Final = 0.1
MOST_PAUSE: Final = 3.0
"""Timeouts between two tries while the receiver is away."""
_NAP_S: Final = 0.01
AWAY: Final = "spans do not reach the OpenTelemetry receiver and are dropped, jobs are not affected"
BROKEN_TEXT: Final = "spans cannot be exported, jobs are not affected"

PATH: Final = "/v1/traces"
TIMEOUT_S: Final = 10.0
SERVICE: Final = "pbus"
FULL: Final = "full"
REFUSED: Final = "refused"
BROKEN: Final = "broken"
_RATIO: Final = ("traceidratio", "parentbased_traceidratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanPlan:
    """
    ``[otel]`` with what the environment adds to it.

    Attributes:
        endpoint: URL of the traces; empty: the exporter reads it from the environment.
        headers: Of each request, beside those of the environment.
        share: Of the jobs without a producer's trace, 0 to 1.
        service: ``service.name``; empty: the environment has one.
        timeout_s: Of a request, its repetitions included.
        node: ``host.name`` of this bus.
    """

    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0
    service: str = SERVICE
    timeout_s: float = TIMEOUT_S
    node: str = ""

    @property
    def sampler(self) -> Sampler:
        """Which jobs have spans."""
        return Sampler(self.share)


def plan_of(settings: Any, node: str, environment: Mapping[str, str]) -> SpanPlan | None:
    """
    What ``[otel]`` asks for; None: nothing, because the section is not there or the environment has turned it off.

    Args:
        settings: ``config.schema.Otel`` or None. What it leaves out comes from the OTEL_* of *environment*.
    """
    if settings is None or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    share = settings.sample
    if share >= 1.0 and environment.get("OTEL_TRACES_SAMPLER") in _RATIO:
        share = _number(environment.get("OTEL_TRACES_SAMPLER_ARG", ""), 1.0)
    seconds = environment.get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") or environment.get("OTEL_EXPORTER_OTLP_TIMEOUT", "")
    return SpanPlan(
        endpoint=_traces_url(settings.endpoint), headers=settings.headers, share=share, node=node,
        service=settings.service_name or environment.get("OTEL_SERVICE_NAME") or _service(environment),
        timeout_s=settings.timeout_s or _number(seconds, TIMEOUT_S) or TIMEOUT_S,
    )


def _service(environment: Mapping[str, str]) -> str:
    return "" if "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "") else SERVICE


def _traces_url(endpoint: str) -> str:
    """The standard's base address gets its path, as in the environment; a whole one stays."""
    return endpoint if not endpoint or endpoint.endswith(PATH) else endpoint.rstrip("/") + PATH


def _number(text: str, otherwise: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if number >= 0 else otherwise


class Exporter(Protocol):
    """Sends spans."""

    def export(self, spans: Sequence[Span]) -> str:
        """Send them; why they did not arrive, empty: they did. May take as long as its timeout. May raise."""


class SpanPump:
    """
    One per process. One owner: its greenlet, ``run``.

    Args:
        make: Makes the exporter, at the first span.
        timeout_s: Its timeout.
        clock: Its ``sleep`` yields.
        count: Told how many were exported, and how many were dropped by reason, since the last time.
        problem: Told why nothing arrives, or nothing (it does again).
        flush_s: How long a span waits for company at most.
    """

    def __init__(
        self, make: Callable[[], Exporter], timeout_s: float, clock: Clock,
        count: Callable[[int, Mapping[str, int]], None], problem: Callable[[str], None],
        flush_s: float = FLUSH_S,
    ) -> None:
        self._make = make
        self._exporter: Exporter | None = None
        self._timeout_s = timeout_s
        self._clock = clock
        self._count = count
        self._problem = problem
        self._flush_s = flush_s
        self._waiting: collections.deque[Span] = collections.deque()
        self._room = WAITING
        self._exported = 0
        self._dropped: collections.Counter[str] = collections.Counter()
        self._filled = threading.Event()              # a green one where gevent is patched in
        self._in_hand = 0
        self._failing_s: float | None = None
        self._pause_s = 0.0
        self._closing = False

    def open(self) -> None:
        """Make the exporter now, before there are jobs that the import would hold up. Never raises."""
        try:
            self._exporter = self._make()
        except Exception as error:  # noqa: BLE001 - the bus works without it; said in the status, tried again
            self._problem(f"{BROKEN_TEXT}: {type(error).__name__}: {error}")

    def lost(self) -> None:
        """A span could not be made."""
        self._dropped[BROKEN] += 1

    def tell(self, span: Span) -> None:
        """Export *span* some time, or never. Never blocks."""
        if len(self._waiting) >= self._room:
            self._dropped[FULL] += 1
            return
        self._waiting.append(span)
        if not self._filled.is_set():
            self._filled.set()

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is on its way."""
        return not self._waiting and not self._in_hand

    def run(self) -> None:
        """Export for ever; the life of a greenlet."""
        while True:
            self._filled.wait()
            self._filled.clear()
            self._gather()
            while self._waiting:
                self._turn()
                self._clock.sleep(0 if self._closing else max(self._pause_s, BATCH / MOST_PER_S))
                self._tell()

    def close(self, last_s: float = LAST_S) -> None:
        """Wait a moment for what is left, *last_s* at most. What does not arrive by then is lost."""
        self._closing = True
        until_s = self._clock.monotonic_s() + last_s
        while not self.idle and self._clock.monotonic_s() < until_s:
            self._clock.sleep(_NAP_S)
        self._tell()

    def _gather(self) -> None:
        """Until a second is over, a batch is full or the end is near."""
        until_s = self._clock.monotonic_s() + self._flush_s
        while len(self._waiting) < BATCH and not self._closing:
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            self._clock.sleep(min(left_s, self._flush_s / 10))

    def _turn(self) -> None:
        """One request."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._in_hand = len(batch)
        try:
            if self._exporter is None:
                self._exporter = self._make()
            why = self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is of spans only, and said in the status
            why = f"{type(error).__name__}: {error}"
        self._in_hand = 0
        if why:
            self._failed(len(batch), why)
            return
        self._exported += len(batch)
        self._failing_s, self._pause_s = None, 0.0
        self._problem("")

    def _failed(self, count: int, why: str) -> None:
        now_s = self._clock.monotonic_s()
        self._dropped[REFUSED] += count
        if self._failing_s is None:
            self._failing_s = now_s
        self._pause_s = min(MOST_PAUSE * self._timeout_s, max(FIRST_PAUSE * self._timeout_s, 2 * self._pause_s))
        away_s = now_s - self._failing_s
        if away_s >= PATIENCE * self._timeout_s:
            self._problem(f"{AWAY}: {why}")

    def _tell(self) -> None:
        if self._exported or self._dropped:
            exported, self._exported = self._exported, 0
            dropped, self._dropped = dict(self._dropped), collections.Counter()
            self._count(exported, dropped)


def open_exporter(plan: SpanPlan, instance: str) -> Exporter:
    """
    The official exporter, ready; imports the SDK (after gevent has patched, where that is used).

    Args:
        instance: Which process this is: ``service.instance.id``.
    """
    from pbus.telemetry.otlp import OtlpExporter

    return OtlpExporter(plan, instance)


class Heard(logging.Handler):
    """Keeps the last reason that the SDK gave, instead of writing it somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Note why; that it gives up is no reason."""
        text = " ".join(record.getMessage().split())
        if not self.text or "max retries" not in text:
            self.text = text[:300]
