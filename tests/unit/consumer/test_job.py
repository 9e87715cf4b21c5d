"""What a handler may push, and how it is put."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from pbus.consumer.job import Job


class Pushed:
    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, list[Any]]] = []

    def add(self, queue: str, body: bytes, options: list[Any]) -> str:
        self.calls.append((queue, body, options))
        return "9-0"


@pytest.fixture
def pushed() -> Pushed:
    return Pushed()


@pytest.fixture
def job(pushed: Pushed) -> Job:
    return Job(
        id="1-0", queue="gift", topic="credit", attempt=1, redelivered=False, body=b"{}",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", content_type="",
        log=logging.getLogger(), pusher=pushed,
    )


def test_a_push_is_a_child_of_its_job_with_a_span_of_its_own(job: Job, pushed: Pushed) -> None:
    assert job.push("mail", b"x") == job.push("mail", b"x") == "9-0"
    spans = [options for _, _, options in pushed.calls]
    for name, value in spans:
        assert name == "TRACEPARENT"
        assert re.fullmatch(r"00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01", value)
    assert spans[0] != spans[1]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"\xff\x00", b"\xff\x00"), ("礼物", "礼物".encode()), (bytearray(b"x"), b"x"), ([1, None], b"[1,null]"),
        ({"a": "礼物", "b": [1]}, '{"a":"礼物","b":[1]}'.encode()),
    ],
)
def test_a_body_is_bytes_text_or_json(job: Job, pushed: Pushed, body: Any, sent: bytes) -> None:
    job.push("mail", body)
    assert pushed.calls[0][1] == sent


@pytest.mark.parametrize("body", [None, 3, object()])
def test_anything_else_is_no_body(job: Job, pushed: Pushed, body: Any) -> None:
    with pytest.raises(TypeError, match="a body is"):
        job.push("mail", body)
    assert pushed.calls == []


def test_options_are_put_as_the_bus_reads_them(job: Job, pushed: Pushed) -> None:
    job.push("mail", b"", delay_s=1.5, dedupe="d", ttl_s=0, key="uid 7")
    assert pushed.calls[0][2][:-2] == ["DELAY", 1500, "TTL", 0, "DEDUPE", "d", "KEY", "uid 7"]


def test_a_delay_is_never_shorter_than_asked(job: Job, pushed: Pushed) -> None:
    job.push("mail", b"", delay_s=0.0001)
    assert pushed.calls[0][2][:2] == ["DELAY", 1]


@pytest.mark.parametrize("delay_s", [-1, float("nan"), float("inf"), "5", True])
def test_a_delay_that_is_none_is_a_mistake_of_the_caller(job: Job, pushed: Pushed, delay_s: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="delay_s"):
        job.push("mail", b"", delay_s=delay_s)
    assert pushed.calls == []
