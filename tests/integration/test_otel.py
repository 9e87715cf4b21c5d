"""Spans in a real OpenTelemetry receiver: who caused whom, what retries are, and a receiver that is away."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.bus import ROOT, Bus, BusFactory, bus_factory, free_port
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.otlp_receiver import Got, OtlpReceiver
from tests.support.waiting import until

__all__ = ["bus_factory"]

TRACE, PRODUCER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PYTHON = {"call": "tests.support.handlers.otel_jobs:handle", "path": str(ROOT)}


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    yield receiver
    receiver.close()


def metric(bus: Bus, name: str) -> float:
    """The sum of all lines of *name*."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{bus.web_port}/metrics").read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)


def sent_as(job: str, span: Got) -> dict[str, object]:
    return {
        "messaging.system": "pbus", "messaging.operation.type": "send", "messaging.operation.name": "push",
        "messaging.destination.name": "gift", "messaging.message.id": job, "messaging.message.body.size": 1,
        "messaging.client.id": "shop-7", "network.peer.address": span.attributes["network.peer.address"],
    }


def ended(bus: Bus, stub: HttpStub, receiver: OtlpReceiver) -> None:
    """The batch that was read last, what the page counts, and the end of both."""
    until(lambda: [span for span in receiver.spans if span.kind == "CLIENT"], 10, "the span of the batch came")
    (batch,) = [span for span in receiver.spans if span.kind == "CLIENT"]
    assert (batch.name, batch.parent) == ("receive told/log", "")
    assert sorted(batch.links) == sorted((TRACE, span.id) for span in receiver.of(TRACE) if span.name == "send told")
    until(lambda: metric(bus, "pbus_spans_exported_total") >= 6, 10, "the page counts them")
    assert metric(bus, "pbus_spans_dropped_total") == 0
    bus.stop()
    bus.has_not_crashed()
    stub.close()


def test_spans_reach_a_receiver_with_parents_and_links(bus_factory: BusFactory, receiver: OtlpReceiver) -> None:
    calls: list[HttpRequest] = []

    def fails_once(request: HttpRequest, number: int) -> list[bytes]:
        calls.append(request)
        return [response(200) if number else response(500, b"not yet")]

    stub = HttpStub(fails_once)
    bus = bus_factory({
        "dashboard": {"listen": f"127.0.0.1:{free_port()}"},
        "otel": {"endpoint": receiver.url, "headers": {"x-tenant": "shop"}, "sample": "0%", "service_name": "bus"},
        "queue": {
            "gift": {"topic": {
                "credit": {"python": PYTHON},
                "web": {"http": {"url": stub.url}, "retry": {"first": "20ms", "jitter": 0.0}},
                "log": {"pull": {}},
            }},
            "told": {"topic": {"log": {"pull": {}}}},
        },
    })
    client = redis.Redis(port=bus.port, client_name="shop-7", decode_responses=True)
    quiet = client.xadd("told", {"body": "nobody samples this"})
    job = client.xadd("gift", {"body": "x", "traceparent": f"00-{TRACE}-{PRODUCER}-01"})
    ((_, ((read, fields),)),) = client.xreadgroup("log", "me", {"gift": ">"}, block=5000)
    assert (read, client.xack("gift", "log", job)) == (job, 1)
    until(lambda: len(receiver.of(TRACE)) >= 6, 10, "all spans came")
    spans = receiver.of(TRACE)

    def one(name: str, **more: object) -> Got:
        (found,) = [span for span in spans if span.name == name and span.attributes.items() >= more.items()]
        return found

    send = one("send gift")
    assert send.attributes == sent_as(job, send)
    assert (send.kind, send.parent, send.links) == ("PRODUCER", PRODUCER, [])
    assert send.resource["service.name"] == "bus"
    assert send.resource["service.instance.id"].endswith("/ingest.0")
    python, pull = one("process gift/credit"), one("process gift/log")
    first, second = one("process gift/web", **{"pbus.attempt": 1}), one("process gift/web", **{"pbus.attempt": 2})
    for span in (python, pull, first):
        assert (span.kind, span.parent, span.links) == ("CONSUMER", send.id, [])
        assert 0 <= span.took_s < 10
    assert (second.parent, second.links, second.is_error) == ("", [(TRACE, send.id)], False)
    assert first.attributes.items() >= {"error.type": "failed", "pbus.settled": "retry"}.items()
    assert first.is_error
    assert "500" in first.text
    assert python.attributes.items() >= {
        "messaging.system": "pbus", "messaging.operation.type": "process", "messaging.destination.name": "gift",
        "messaging.destination.subscription.name": "credit", "messaging.message.id": job, "pbus.settled": "ack",
    }.items()

    # Every handler was handed its own span, and what it pushed is a child of that.
    assert [call.headers["traceparent"] for call in calls] == [f"00-{TRACE}-{each.id}-01" for each in (first, second)]
    assert fields["traceparent"] == f"00-{TRACE}-{pull.id}-01"
    child = one("send told")
    assert child.parent == python.id
    client.xadd("told", {"body": "y", "traceparent": f"00-{TRACE}-{PRODUCER}-01"})
    ((_, entries),) = client.xreadgroup("log", "me", {"told": ">"})
    assert f"00-{TRACE}-{python.id}-01" in [fields["body"] for _, fields in entries]

    assert all(headers["x-tenant"] == "shop" and path == "/v1/traces" for path, headers in receiver.requests)
    assert quiet not in {span.attributes["messaging.message.id"] for span in receiver.spans}
    client.close()                                     # or the bus waits for its acks
    ended(bus, stub, receiver)


def test_jobs_do_not_notice_a_receiver_that_is_away(bus_factory: BusFactory, receiver: OtlpReceiver) -> None:
    receiver.speaks.clear()
    bus = bus_factory({
        "dashboard": {"listen": f"127.0.0.1:{free_port()}"},
        "otel": {"endpoint": receiver.url, "timeout": "200ms"},
        "queue": {"gift": {"topic": {"credit": {"python": PYTHON}}}, "told": {"topic": {"log": {"pull": {}}}}},
    })
    client = redis.Redis(port=bus.port)
    for _ in range(20):
        client.lpush("gift", *["x"] * 50)
    until(lambda: bus.topic("gift", "credit")["done_total"] == 1000, 20, "all jobs are done")
    until(lambda: any("OpenTelemetry" in problem for problem in bus.status()["problems"]), 15, "the status has it")
    until(lambda: metric(bus, "pbus_spans_dropped_total") > 0, 10, "drops are counted")
    assert not receiver.spans
    receiver.speaks.set()
    until(lambda: receiver.spans and metric(bus, "pbus_spans_exported_total"), 10, "they flow again")
    until(lambda: not any("OpenTelemetry" in problem for problem in bus.status()["problems"]), 10, "and that is over")
    bus.stop()
    bus.has_not_crashed()


def test_only_children_that_export_carry_the_sdk(bus_factory: BusFactory, receiver: OtlpReceiver) -> None:
    bus = bus_factory({
        "otel": {"endpoint": receiver.url}, "queue": {"gift": {"topic": {"credit": {"python": PYTHON}}}},
    })
    carries = {
        row["role"]: "google/_upb" in Path(f"/proc/{row['pid']}/maps").read_text() for row in bus.status()["processes"]
    }
    assert bus.process is not None
    carries["master"] = "google/_upb" in Path(f"/proc/{bus.process.pid}/maps").read_text()
    assert {role for role, there in carries.items() if there} == {"ingest", "delivery"}
    assert "consumer" in carries


def test_a_section_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    conf, packages = tmp_path / "conf.d", tmp_path / "packages"
    conf.mkdir()
    packages.mkdir()
    (conf / "pbus.toml").write_text("[otel]\n[queue.gift]\n")
    from_here = next(Path(each) for each in sys.path if (Path(each) / "click").is_dir())
    for each in from_here.iterdir():
        if not each.name.startswith("opentelemetry"):
            (packages / each.name).symlink_to(each)
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "pbus", "config", "check", "-c", str(conf)], capture_output=True, text=True,
        env={"PYTHONPATH": f"{ROOT}:{packages}"}, cwd=tmp_path,
    )
    assert ended.returncode == 78
    assert "otel" in ended.stderr
    assert "pip install 'pbus[otel]'" in ended.stderr
