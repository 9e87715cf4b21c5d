from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from pbus.clock import SystemClock
from pbus.config.schema import Otel
from pbus.core.span import PRODUCER, Span
from pbus.telemetry.spans import BATCH, FULL, REFUSED, WAITING, Exporter, SpanPump, plan_of
from tests.support.waiting import until

SPAN = Span("send gift", PRODUCER, "ab" * 16, "cd" * 8, "", (), 1, 2, {"messaging.system": "pbus"})


@dataclass
class Place:
    """An exporter, and who is told of it; ``answers`` are given in turn, the last one again and again."""

    answers: list[str] = field(default_factory=lambda: [""])
    got: list[int] = field(default_factory=list)
    exported: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    may: threading.Event = field(default_factory=threading.Event)

    def export(self, spans: Sequence[Span]) -> str:
        self.may.wait(10)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.got.append(len(spans))
        if answer == "raise":
            raise RuntimeError("no such luck")
        return answer

    def count(self, exported: int, dropped: Mapping[str, int]) -> None:
        self.exported += exported
        for reason, number in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number

    def problem(self, text: str) -> None:
        if not self.problems or self.problems[-1] != text:
            self.problems.append(text)

    def pump(self, make: Callable[[], Exporter] | None = None, timeout_s: float = 0.01) -> SpanPump:
        pump = SpanPump(make or (lambda: self), timeout_s, SystemClock(), self.count, self.problem, flush_s=0.02)
        threading.Thread(target=pump.run, daemon=True).start()
        return pump


def test_pump_sends_batches_and_the_rest_when_it_is_closed() -> None:
    place = Place()
    pump = place.pump()
    for _ in range(BATCH + 3):
        pump.tell(SPAN)
    place.may.set()
    pump.close()
    assert (place.got, place.exported, place.dropped) == ([BATCH, 3], BATCH + 3, {})


def test_pump_drops_what_it_has_no_room_for_and_never_waits() -> None:
    place = Place()
    pump = SpanPump(lambda: place, 0.01, SystemClock(), place.count, place.problem)
    for _ in range(WAITING + 5):
        pump.tell(SPAN)
    place.may.set()
    threading.Thread(target=pump.run, daemon=True).start()
    pump.close()
    until(lambda: place.exported == WAITING, 10, "what there was room for came")
    assert place.dropped == {FULL: 5}


def test_pump_says_that_nothing_arrives_and_when_it_does_again() -> None:
    place = Place(answers=["503 Service Unavailable"])
    place.may.set()
    pump = place.pump()

    def told() -> bool:
        pump.tell(SPAN)
        return bool(place.problems)

    until(told, 20, "it is said")
    assert "503 Service Unavailable" in place.problems[0]
    assert "jobs are not affected" in place.problems[0]
    assert place.dropped[REFUSED] >= 1
    assert not place.exported
    place.answers = [""]
    pump.tell(SPAN)
    until(lambda: place.problems[-1] == "", 20, "it is over")


def test_pump_survives_an_exporter_that_raises_or_cannot_be_made() -> None:
    place = Place(answers=["raise", ""])
    place.may.set()
    tries: list[int] = []

    def make() -> Exporter:
        tries.append(1)
        if len(tries) < 3:
            raise ImportError("No module named 'opentelemetry'")
        return place

    pump = place.pump(make)
    pump.open()
    assert "No module named 'opentelemetry'" in place.problems[0]

    def arrived() -> bool:
        pump.tell(SPAN)
        return place.exported > 0

    until(arrived, 20, "a later one is exported")
    assert place.dropped[REFUSED] >= 2


def test_close_does_not_wait_for_a_receiver_that_is_away() -> None:
    place = Place()
    pump = place.pump()
    pump.tell(SPAN)
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    pump.close(0.05)
    place.may.set()
    assert clock.monotonic_s() - begun_s < 5
    assert place.exported == 0


def test_plan_is_nothing_without_a_section_or_where_the_environment_says_so() -> None:
    assert plan_of(None, "n", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"}) is None
    assert plan_of(Otel(), "n", {"OTEL_SDK_DISABLED": "true"}) is None


@pytest.mark.parametrize(("written", "used"), [
    ("http://otel:4318", "http://otel:4318/v1/traces"), ("https://otel/base/", "https://otel/base/v1/traces"),
    ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"), ("", ""),
])
def test_plan_adds_the_path_of_traces(written: str, used: str) -> None:
    plan = plan_of(Otel(endpoint=written), "n", {})
    assert plan is not None
    assert plan.endpoint == used


def test_plan_takes_what_the_section_leaves_out_from_the_environment() -> None:
    environment = {
        "OTEL_SERVICE_NAME": "shop-bus", "OTEL_EXPORTER_OTLP_TIMEOUT": "3", "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    }
    plan = plan_of(Otel(), "n", environment)
    assert plan is not None
    assert (plan.service, plan.timeout_s, plan.share) == ("shop-bus", 3.0, 0.25)
    plan = plan_of(Otel(service_name="bus", timeout_s=2.0, sample=0.5), "n", environment)
    assert plan is not None
    assert (plan.service, plan.timeout_s, plan.share) == ("bus", 2.0, 0.5)
    plan = plan_of(Otel(), "n", {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon", "OTEL_TRACES_SAMPLER_ARG": "0.25"})
    assert plan is not None
    assert (plan.service, plan.timeout_s, plan.share) == ("pbus", 10.0, 1.0)
    plan = plan_of(Otel(), "n", {"OTEL_RESOURCE_ATTRIBUTES": "team=a,service.name=theirs"})
    assert plan is not None
    assert plan.service == ""
