"""Every row of the outcome table for HTTP, against an endpoint that does whatever it is told."""

from __future__ import annotations

import gzip
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from pbus.config import schema
from pbus.core.outcome import Outcome, Verdict
from tests.support.call_desk import Calls, delivery, eventually
from tests.support.http_stub import HttpStub, response
from tests.support.talker import CLOSE, HANG, RESET, Drip, Pause, Plan

OpenStub = Callable[..., HttpStub]
OK = response(200, b"done")


@pytest.fixture
def endpoint() -> Iterator[OpenStub]:
    stubs: list[HttpStub] = []

    def open_stub(*plans: Plan) -> HttpStub:
        """Request number n is answered by plan n, the last one again and again."""
        stubs.append(HttpStub(lambda _, n: plans[min(n, len(plans) - 1)]))
        return stubs[-1]

    yield open_stub
    for each in stubs:
        each.close()


def calls(stub: HttpStub, handler: dict[str, object] | None = None, **settings: object) -> Calls:
    return Calls(schema.HttpHandler(url=stub.url, **(handler or {})), **settings)


def outcome_of(stub: HttpStub, handler: dict[str, object] | None = None, **settings: object) -> Outcome:
    with calls(stub, handler, **settings) as running:
        return running.run_one()


# -- what is sent ---------------------------------------------------------------------------------------


def test_plain_request_is_the_jobs_bytes_and_the_headers_of_the_contract(endpoint):
    stub = endpoint((OK,))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = delivery(7, b"\x00\xff", attempt=3, redelivered=True, traceparent=trace, content_type="application/json")
    with calls(stub, {"headers": {"X-Key": "secret", "user-agent": "mine"}, "host": "credit.internal"}) as running:
        running.run_one(job)
    (request,) = stub.requests
    assert (request.line, request.body) == ("POST /jobs HTTP/1.1", b"\x00\xff")
    assert request.headers == {
        "Host": "credit.internal", "Accept-Encoding": "identity", "X-Key": "secret", "user-agent": "mine",
        "Content-Type": "application/json", "Content-Length": "2", "X-Pbus-Job-Id": "1800000000000-7",
        "X-Pbus-Queue": "gift", "X-Pbus-Topic": "credit", "X-Pbus-Attempt": "3", "X-Pbus-Redelivered": "1",
        "traceparent": trace, "ce-specversion": "1.0", "ce-id": "1800000000000-7", "ce-source": "/pbus/gift",
        "ce-type": "pbus.job", "ce-subject": "credit", "ce-time": "2027-01-15T08:00:00.000000Z",
    }


@pytest.mark.parametrize("content_type", ["", "nonsense", "a/b\r\nEvil: 1", "a/b\n", "a/" + "b" * 300])
def test_content_type_of_a_producer_becomes_a_header_only_if_it_is_one(endpoint, content_type):
    stub = endpoint((OK,))
    with calls(stub) as running:
        running.run_one(delivery(content_type=content_type))
    assert stub.requests[0].headers["Content-Type"] == "application/octet-stream"
    assert "Evil" not in stub.requests[0].headers


def test_query_and_path_of_the_url_are_sent(endpoint):
    stub = endpoint((OK,))
    with Calls(schema.HttpHandler(url=f"http://{stub.address}/a/b?c=d&e")) as running:
        running.run_one()
    with Calls(schema.HttpHandler(url=f"http://{stub.address}")) as running:
        running.run_one()
    with Calls(schema.HttpHandler(url=f"http://user:secret@{stub.address}/礼 物?a=b c")) as running:
        assert "secret" not in running.run_one().target
    assert [request.line for request in stub.requests] == [
        "POST /a/b?c=d&e HTTP/1.1", "POST / HTTP/1.1", "POST /%E7%A4%BC%20%E7%89%A9?a=b%20c HTTP/1.1",
    ]
    assert stub.requests[2].headers["Host"] == stub.address


def test_pepper_over_http_pings_then_posts_the_form(endpoint):
    stub = endpoint((response(200, Code="200", Consume_Topics="gift/credit"),))
    outcome = outcome_of(stub, {"contract": "pepper"})
    assert outcome.verdict is Verdict.DONE
    assert [request.form["type"] for request in stub.requests] == ["ping", "data"]
    for request in stub.requests:
        assert request.headers["IS-PEPPER-BUS-REQUEST"] == "true"
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"


# -- statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "done"), (201, "done"), (202, "done"), (299, "done"), (301, "misconfigured"), (302, "misconfigured"),
     (307, "misconfigured"), (308, "misconfigured"), (400, "permanent"), (401, "permanent"), (403, "permanent"),
     (404, "not-registered"), (410, "not-registered"), (413, "permanent"), (415, "permanent"), (422, "permanent"),
     (405, "failed"), (409, "failed"), (418, "failed"), (429, "busy"), (503, "busy"), (500, "failed"),
     (502, "failed"), (504, "failed"), (599, "failed")],
)
def test_status_decides(endpoint, status, verdict):
    outcome = outcome_of(endpoint((response(status, b"message"),)))
    assert (outcome.verdict.value, outcome.status, outcome.output) == (verdict, str(status), b"message")
    assert bool(outcome.error) is (verdict != "done")


def test_204_is_done(endpoint):
    assert outcome_of(endpoint((b"HTTP/1.1 204 No Content\r\n\r\n",))).verdict is Verdict.DONE


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [({"X_Pbus_Ack": "1"}, Verdict.DONE), ({}, Verdict.FAILED), ({"X_Pbus_Ack": "0"}, Verdict.FAILED),
     ({"x_pbus_ack": "1"}, Verdict.DONE)],
)
def test_done_when_header(endpoint, fields, verdict):
    outcome = outcome_of(endpoint((response(200, **fields),)), {"done_when": "header"})
    assert outcome.verdict is verdict


def test_done_when_header_does_not_make_an_error_a_success(endpoint):
    outcome = outcome_of(endpoint((response(500, X_Pbus_Ack="1"),)), {"done_when": "header"})
    assert outcome.verdict is Verdict.FAILED


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_and_as_a_date(endpoint, status):
    assert outcome_of(endpoint((response(status, Retry_After="7"),))).delay_s == 7.0
    date = formatdate(time.time() + 30, usegmt=True)
    assert 25.0 < outcome_of(endpoint((response(status, Retry_After=date),))).delay_s <= 30.0
    assert outcome_of(endpoint((response(status, Retry_After="later"),))).delay_s is None


def test_redirect_is_not_followed(endpoint):
    elsewhere = endpoint((OK,))
    outcome = outcome_of(endpoint((response(302, Location=elsewhere.url),)))
    assert outcome.verdict is Verdict.MISCONFIGURED
    assert elsewhere.url in outcome.error
    assert elsewhere.accepted == 0


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [(200, "200", Verdict.DONE), (500, "200", Verdict.DONE), (200, "500", Verdict.FAILED), (200, None, Verdict.FAILED),
     (200, "404", Verdict.NOT_REGISTERED), (200, "503", Verdict.BUSY)],
)
def test_pepper_code_decides_whatever_the_status(endpoint, status, code, verdict):
    answer = response(status, **({} if code is None else {"Code": code}))
    outcome = outcome_of(endpoint((response(200, Code="200"),), (answer,)), {"contract": "pepper"})
    assert outcome.verdict is verdict


# -- the connection -----------------------------------------------------------------------------------------


def test_connection_is_reused_while_work_waits(endpoint):
    stub = endpoint((OK,))
    with calls(stub) as running:
        running.run(*(delivery(n) for n in range(20)))
    assert stub.accepted < 20


def test_server_that_writes_head_and_body_apart_is_not_slow(endpoint):
    """Without TCP_NODELAY there, every kept connection would wait for our delayed ACK: 40 ms a call."""
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"
    stub = endpoint(*[(head, body), (head + body,)] * 25)
    with calls(stub) as running:
        outcomes = running.run(*(delivery(n) for n in range(50)))
    apart_s, at_once_s = (statistics.median(outcome.run_s for outcome in outcomes[n::2]) for n in (0, 1))
    assert apart_s - at_once_s < 0.02


def test_connection_close_is_obeyed(endpoint):
    stub = endpoint((response(200, Connection="close"), CLOSE))
    with calls(stub) as running:
        outcomes = running.run(*(delivery(n) for n in range(5)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
    assert stub.accepted == 5


@pytest.mark.parametrize("ending", [CLOSE, RESET])
@pytest.mark.parametrize("wire", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n"])
def test_response_cut_at_every_byte_is_never_done(endpoint, wire, ending):
    cuts = [(wire[:size], ending) for size in range(1, len(wire))]
    with calls(endpoint(*cuts)) as running:
        outcomes = running.run(*(delivery(n) for n in range(len(cuts))))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.CRASHED}


@pytest.mark.parametrize("ending", [CLOSE, RESET])
def test_end_without_a_byte_on_a_fresh_connection_is_a_crash(endpoint, ending):
    assert outcome_of(endpoint((ending,))).verdict is Verdict.CRASHED


def test_kept_connection_that_ends_without_an_answer_is_resent_once(endpoint):
    stub = endpoint((OK,), (CLOSE,), (OK,))
    with calls(stub) as running:
        outcomes = running.run(delivery(1), delivery(2))
    assert [(outcome.verdict, outcome.resent) for outcome in outcomes] == [(Verdict.DONE, False), (Verdict.DONE, True)]
    assert [request.headers["X-Pbus-Job-Id"][-1] for request in stub.requests] == ["1", "2", "2"]


def test_answer_before_the_body_was_read_counts(endpoint):
    """A server may refuse a large body and close while we still send."""
    stub = endpoint((OK,))
    stub._read = lambda stream: stream.readline() or None
    stub.plan = lambda _, __: (response(413, b"too large"), Pause(0.05), CLOSE)
    with calls(stub) as running:
        outcome = running.run_one(delivery(1, b"x" * 4_000_000))
    assert outcome.verdict in (Verdict.PERMANENT, Verdict.CRASHED)  # a reset may destroy the answer on its way


@pytest.mark.parametrize(
    "wire",
    [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"],
)
def test_what_is_no_http_is_failed(endpoint, wire):
    outcome = outcome_of(endpoint((wire, HANG)))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.error.startswith("not an answer: ")


def test_down_and_back(endpoint):
    stub = endpoint((OK,))
    stub.stop()
    with calls(stub) as running:
        running.lane.accept([delivery(n) for n in range(8)])
        eventually(lambda: running.lane.state == "down", 5.0, "the circuit is open")
        eventually(lambda: len(running.desk.outcomes) == 8, 5.0, "everything went back")
        assert set(running.desk.verdicts) <= {"down", "released"}
        assert running.lane.wants() == []
        stub.listen()
        eventually(lambda: running.lane.state == "running", 5.0, "the probe found it")
        assert running.run_one(delivery(9)).verdict is Verdict.DONE


def test_body_above_max_post_is_never_sent(endpoint):
    stub = endpoint((OK,))
    backend = schema.Backend(http=[f"http://{stub.address}"], max_post_bytes=1024)
    with calls(stub, backend=backend) as running:
        assert running.run_one(delivery(1, b"x" * 1025)).verdict is Verdict.UNSENT
        assert running.run_one(delivery(2, b"x" * 1024)).verdict is Verdict.DONE
    assert len(stub.requests) == 1


# -- time and size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [(HANG,), (OK[:20], HANG), (Drip(OK, 0.05),), (b"HTTP/1.1 200 OK\r\n\r\n", HANG)])
def test_deadline_is_a_timeout_however_the_bytes_drip(endpoint, plan):
    outcome = outcome_of(endpoint(plan), timeout_s=0.3)
    assert (outcome.verdict, outcome.error) == (Verdict.TIMEOUT, "no answer within 0.3 s")


def test_large_body_counts_by_its_status_and_is_kept_in_part(endpoint):
    outcome = outcome_of(endpoint((response(200, b"x" * 2_000_000),)))
    assert (outcome.verdict, len(outcome.output)) == (Verdict.DONE, 64 * 1024)


def test_endless_body_is_closed_at_8_mib_and_failed(endpoint):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stub = endpoint((b"HTTP/1.1 200 OK\r\n\r\n", *([b"x" * 65_536] * 1000), HANG))
    outcome = outcome_of(stub)
    assert outcome.verdict is Verdict.FAILED
    assert "larger than 8 MiB" in outcome.error
    eventually(lambda: stub.open == 0, 5.0, "the connection is closed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_gzip_bomb_stays_packed(endpoint):
    bomb = gzip.compress(b"\0" * 50_000_000)
    stub = endpoint((response(200, bomb, Content_Encoding="gzip"),))
    outcome = outcome_of(stub)
    assert (outcome.verdict, outcome.output) == (Verdict.DONE, bomb[: 64 * 1024])
    assert stub.requests[0].headers["Accept-Encoding"] == "identity"


def test_headers_of_two_megabytes_are_failed(endpoint):
    assert outcome_of(endpoint((response(200, X_Big="x" * 2_000_000),))).verdict is Verdict.FAILED
