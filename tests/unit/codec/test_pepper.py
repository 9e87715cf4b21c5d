"""The Pepperbus contract: names, spelling and encoding as unchanged producers and handlers know them."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, parse_qsl, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec import pepper
from pbus.core.retry import RetryPolicy
from tests.support.call_desk import delivery

RETRY = RetryPolicy(attempts=10, for_s=86_400.0)
NOW_S = 1_800_000_000.0
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def form(job, retry: RetryPolicy = RETRY) -> dict[str, str]:
    data = pepper.Form("gift", "credit", retry).data(job, NOW_S)
    return dict(parse_qsl(data.decode("ascii"), keep_blank_values=True, strict_parsing=True))


def test_form_has_exactly_the_fields_of_the_contract():
    fields = form(delivery(7))
    assert list(fields) == ["type", "IS_PEPPER_BUS_REQUEST", "outTraceId", "queue", "topic", "jobs"]
    assert (fields["type"], fields["IS_PEPPER_BUS_REQUEST"]) == ("data", "true")
    assert (fields["queue"], fields["topic"], len(fields["outTraceId"])) == ("gift", "credit", 32)


def test_job_has_exactly_the_keys_of_the_contract():
    (job,) = json.loads(form(delivery(7, b'{"uid":1}', traceparent=TRACEPARENT))["jobs"])
    assert list(job.items()) == [
        ("id", "1800000000000-7"), ("inTraceId", "0af7651916cd43dd8448eb211c80319c"), ("content", '{"uid":1}'),
        ("retrying", False), ("RetryTimes", 1), ("RetryTime", 86_400), ("IsRetry", True), ("BeginRetry", 0),
        ("RetryResidueTime", 86_400),
    ]


def test_job_of_a_later_attempt():
    job = pepper.job_object(delivery(attempt=3, first_ms=int(NOW_S - 400) * 1000), RETRY, NOW_S)
    assert (job["retrying"], job["RetryTimes"]) == (True, 3)
    assert (job["BeginRetry"], job["RetryResidueTime"]) == (NOW_S - 400, 86_000)


def test_job_residue_is_never_negative():
    assert pepper.job_object(delivery(attempt=2, first_ms=1000), RETRY, NOW_S)["RetryResidueTime"] == 0


def test_job_that_may_run_once_is_no_retry():
    assert pepper.job_object(delivery(), RetryPolicy(attempts=1), NOW_S)["IsRetry"] is False


def test_content_is_not_ascii_escaped():
    jobs = form(delivery(body="礼物 \U0001f381 \"quoted\" \\ \x00".encode()))["jobs"]
    assert "礼物 \U0001f381" in jobs
    assert json.loads(jobs)[0]["content"] == "礼物 \U0001f381 \"quoted\" \\ \x00"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"\xed\xa0\x80", b"ok\x80"])
def test_content_that_is_not_utf8_is_base64(body):
    (job,) = json.loads(form(delivery(body=body))["jobs"])
    assert (base64.b64decode(job["content"]), job["encoding"]) == (body, "base64")
    assert list(job)[-1] == "encoding"


@given(
    st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(1, 50), st.sampled_from([0, 1, 1_799_999_000_123]), st.sampled_from(["", TRACEPARENT, "nonsense"]),
    st.sampled_from([RETRY, RetryPolicy(attempts=1, for_s=0.0)]),
)
def test_form_template_writes_what_job_object_says(body, attempt, first_ms, traceparent, retry):
    job = delivery(3, body, attempt=attempt, first_ms=first_ms, traceparent=traceparent)
    expected = json.dumps([pepper.job_object(job, retry, NOW_S)], ensure_ascii=False, separators=(",", ":"))
    assert form(job, retry)["jobs"] == expected


@given(st.binary(max_size=300))
def test_form_value_is_what_every_decoder_reads(data):
    encoded = pepper.form_value(data).decode("ascii")
    assert parse_qs(f"x={encoded}", keep_blank_values=True, encoding="latin-1")["x"] == [data.decode("latin-1")]
    assert encoded.replace("*", "%2A") == quote_plus(data).replace("~", "%7E")


def test_ping_asks_for_this_topic():
    data = pepper.Form("gift", "credit", RETRY).ping("f" * 32)
    assert dict(parse_qsl(data.decode())) == {
        "type": "ping", "IS_PEPPER_BUS_REQUEST": "true", "outTraceId": "f" * 32, "queue": "gift", "topic": "credit",
        "jobs": "[]",
    }


@pytest.mark.parametrize(
    ("headers", "body", "topics"),
    [
        ({"consume-topics": "gift/credit,gift/mail"}, b"", {"gift/credit", "gift/mail"}),
        ({"consume-topics": " gift/credit , "}, b"other/x", {"gift/credit"}),
        ({"consume-topics": ""}, b"", set()),
        ({}, b"gift/credit,gift/mail\n", {"gift/credit", "gift/mail"}),
        ({}, b"gift/credit", {"gift/credit"}),
        ({}, b"", None),
        ({}, b"ok", None),
        ({}, b"<b>gift/credit</b>", None),
    ],
)
def test_consume_topics(headers, body, topics):
    assert pepper.consume_topics(headers, body) == topics


def test_trace_id_is_the_producers_or_the_jobs_own():
    assert pepper.trace_id(TRACEPARENT, "1-1") == "0af7651916cd43dd8448eb211c80319c"
    assert pepper.trace_id("", "1-1") == pepper.trace_id("x", "1-1") != pepper.trace_id("", "1-2")
    assert len(pepper.trace_id("", "1-1")) == 32


def test_traceparent_is_passed_on_only_when_it_is_one():
    assert pepper.traceparent_of(delivery(traceparent=TRACEPARENT)) == TRACEPARENT
    zero = "00-" + "0" * 32 + "-b7ad6b7169203331-01"
    for bad in ("", "x\r\nEvil: 1", TRACEPARENT + "\n", zero, "ff" + TRACEPARENT[2:]):
        made = pepper.traceparent_of(delivery(traceparent=bad))
        assert made != bad
        assert pepper.trace_id(made, "") == pepper.trace_id("", "1800000000000-1")


def test_out_trace_id_names_the_attempt():
    assert pepper.attempt_trace_id(delivery(attempt=1)) != pepper.attempt_trace_id(delivery(attempt=2))


def test_pushed_json():
    assert pepper.pushed_json(["1-1", "1-2"], "abc") == b'{"jobs":["1-1","1-2"],"inTraceId":"abc","error":""}'
    assert pepper.pushed_json(None, "abc", "满") == '{"jobs":null,"inTraceId":"abc","error":"满"}'.encode()


def test_popped_json():
    job = pepper.job_object(delivery(7, b"x"), RETRY, NOW_S)
    assert json.loads(pepper.popped_json([job])) == {"jobs": [job]}
