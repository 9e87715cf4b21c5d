"""Every row of the outcome table for FastCGI, against an application that does whatever it is told."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator

import gevent
import pytest

from pbus.clock import FakeClock
from pbus.config import schema
from pbus.core.outcome import Outcome, Verdict
from tests.support import fastcgi_stub as stub
from tests.support.call_desk import Calls, delivery, eventually
from tests.support.fastcgi_stub import DONE, FastcgiRequest, FastcgiStub, answering
from tests.support.talker import CLOSE, HANG, RESET, Drip, Pause, Plan

SCRIPT = "/srv/credit.php"

OpenStub = Callable[..., FastcgiStub]


@pytest.fixture
def application() -> Iterator[OpenStub]:
    stubs: list[FastcgiStub] = []

    def open_stub(*plans: Plan, tcp: bool = False, **_: object) -> FastcgiStub:
        """Job number n is answered by plan n, the last one again and again."""
        stubs.append(FastcgiStub(answering(lambda _, n: plans[min(n, len(plans) - 1)]), tcp=tcp))
        return stubs[-1]

    yield open_stub
    for each in stubs:
        each.close()


def calls(application: FastcgiStub, **settings: object) -> Calls:
    return Calls(schema.FastcgiHandler(address=application.address, script=SCRIPT), **settings)


def calls_on_kept_connections(application: FastcgiStub) -> Calls:
    """The clock stands still, so a connection stays hot: only the first call has a fresh one."""
    return calls(application, clock=FakeClock())


def jobs_of(application: FastcgiStub) -> list[FastcgiRequest]:
    return [request for request in application.requests if request.form["type"] == "data"]


def outcome_of(application: FastcgiStub, **settings: object) -> Outcome:
    with calls(application, **settings) as running:
        return running.run_one()


# -- done, and what is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_code_200_is_done(application, tcp):
    outcome = outcome_of(application((DONE,), tcp=tcp))
    assert (outcome.verdict, outcome.error, outcome.status, outcome.output) == (Verdict.DONE, "", "200", b"ok")
    assert outcome.headers["x-powered-by"] == "stub"
    assert 0.0 < outcome.run_s < 5.0


def test_request_carries_the_parameters_of_the_contract(application):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    app = application((DONE,))
    handler = schema.FastcgiHandler(address=app.address, script=SCRIPT, params={"APP_ENV": "live"})
    with Calls(handler) as running:
        running.run_one(delivery(7, b"{}", traceparent=trace))
    (request,) = jobs_of(app)
    assert request.keep
    assert request.params == {
        "SCRIPT_FILENAME": SCRIPT, "SCRIPT_NAME": "/credit.php", "DOCUMENT_ROOT": "/srv", "QUERY_STRING": "",
        "REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/x-www-form-urlencoded", "SERVER_PROTOCOL": "HTTP/1.1",
        "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "pbus", "REMOTE_ADDR": "127.0.0.1", "APP_ENV": "live",
        "REQUEST_URI": "/pbus/gift/credit/1800000000000-7", "HTTP_TRACEPARENT": trace,
        "CONTENT_LENGTH": str(len(request.body)),
    }


def test_body_of_a_megabyte_arrives_whole(application):
    app = application((DONE,))
    body = os.urandom(512 * 1024).hex().encode()
    with calls(app) as running:
        assert running.run_one(delivery(1, body)).verdict is Verdict.DONE
    assert body in jobs_of(app)[0].body


def test_stderr_is_not_stdout(application):
    outcome = outcome_of(application((stub.stderr(b"PHP message: hm") + DONE,)))
    assert (outcome.verdict, outcome.stderr, outcome.output) == (Verdict.DONE, b"PHP message: hm", b"ok")


# -- the handler's own answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "verdict", "delay_s"),
    [
        ("Code: 500", Verdict.FAILED, None), ("Code: 201", Verdict.FAILED, None), ("Code:", Verdict.FAILED, None),
        ("Code: 200\r\nCode: 500", Verdict.FAILED, None), ("Code: 404", Verdict.NOT_REGISTERED, None),
        ("Code: 429", Verdict.BUSY, None), ("Code: 503\r\nRetry-After: 7", Verdict.BUSY, 7.0),
        ("Status: 500 Oops\r\nCode: 200", Verdict.DONE, None), ("Status: 200 OK", Verdict.FAILED, None),
        ("Code: 503\r\nRetry-After: 999999999", Verdict.BUSY, 3600.0),
    ],
)
def test_code_decides_whatever_the_status(application, head, verdict, delay_s):
    outcome = outcome_of(application((stub.answer(head),)))
    assert (outcome.verdict, outcome.delay_s) == (verdict, delay_s)


def test_failure_says_code_error_code_and_message(application):
    outcome = outcome_of(application((stub.answer("Code: 500\r\nError-Code: E42", "余额不足".encode()),)))
    assert outcome.error == "Code: 500; Error-Code: E42; 余额不足"


@pytest.mark.parametrize(
    ("wire", "hint"),
    [
        (stub.answer("Content-type: text/html", b"all fine"), "the answer has no Code header; all fine"),
        (stub.answer("Status: 500 Oops", b""), "status 500"),
        (
            stub.answer("A: b", b"Warning: Cannot modify header information - headers already sent by (output started "
                                b"at /srv/a.php:3) in"),
            "polluted headers: output began before the header was set at /srv/a.php:3",
        ),
        (stub.answer("A: b", b"<br />\n<b>Notice</b>"), "polluted headers"),
        (stub.stderr(b"PHP message: PHP Fatal error:  Uncaught Exception: x in /srv/a.php:1") + stub.answer("A: b"),
         "php says: Uncaught Exception: x in /srv/a.php:1"),
        (stub.stdout(b"PHP Warning:  oops\r\nCode: 200\r\n\r\nok") + stub.end(), "polluted headers: not a header"),
        (stub.stdout(b"Code: 200") + stub.end(), "polluted headers: no header block"),
        (stub.end(), "no header block"),
    ],
)
def test_end_request_without_the_header_is_not_acknowledged(application, wire, hint):
    outcome = outcome_of(application((wire,)))
    assert outcome.verdict is Verdict.FAILED
    assert "not acknowledged" in outcome.error
    assert hint in outcome.error


@pytest.mark.parametrize("reply", [
    stub.stderr(b"PHP message: PHP Fatal error:  Uncaught Exception: x in /srv/a.php:1") + stub.answer("A: b"),
    stub.answer("A: b", b"<b>Fatal error</b>:  Uncaught Exception: x in /srv/a.php:1"),
])
def test_what_php_says_is_said_once(application, reply):
    outcome = outcome_of(application((reply,)))
    said = "not acknowledged: the answer has no Code header; php says: Uncaught Exception: x in /srv/a.php:1"
    assert outcome.error == said


@pytest.mark.parametrize("body", [b"File not found.\n", b"No input file specified.\n"])
def test_missing_script_is_not_registered(application, body):
    outcome = outcome_of(application((stub.answer("Status: 404 Not Found", body),)))
    assert outcome.verdict is Verdict.NOT_REGISTERED
    assert SCRIPT in outcome.error


def test_script_that_php_fpm_refuses_is_misconfigured(application):
    outcome = outcome_of(application((stub.answer("Status: 403 Forbidden", b"Access denied.\n"),)))
    assert outcome.verdict is Verdict.MISCONFIGURED
    assert "security.limit_extensions" in outcome.error


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(1, Verdict.BUSY), (2, Verdict.BUSY), (3, Verdict.MISCONFIGURED), (9, Verdict.FAILED)],
)
def test_protocol_status_outweighs_any_header(application, status, verdict):
    outcome = outcome_of(application((stub.stdout(b"Code: 200\r\n\r\n") + stub.end(status),)))
    assert outcome.verdict is verdict


# -- post_max_size --------------------------------------------------------------------------------------


def test_request_above_max_post_is_never_sent(application):
    app = application((DONE,))
    backend = schema.Backend(fastcgi=[app.address], max_post_bytes=4096)
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend) as running:
        outcome = running.run_one(delivery(1, b"&" * 1400))  # 1,400 bytes are 4,200 when encoded
        assert running.run_one(delivery(2, b"x" * 3000)).verdict is Verdict.DONE
    assert outcome.verdict is Verdict.UNSENT
    assert "max_post of the backend is 4096: never sent" in outcome.error
    assert len(jobs_of(app)) == 1


def test_success_for_a_form_that_php_dropped_is_no_success(application):
    def plan(request: FastcgiRequest, _: int) -> Plan:
        size = len(request.body)
        warning = f"PHP Warning:  POST Content-Length of {size} bytes exceeds the limit of 100 bytes in Unknown"
        return (stub.stderr(warning.encode()) + DONE,)

    app = FastcgiStub(answering(plan))
    try:
        outcome = outcome_of(app)
    finally:
        app.close()
    assert outcome.verdict is Verdict.PERMANENT
    assert "above php's post_max_size of 100" in outcome.error


def test_somebody_elses_oversize_message_changes_nothing(application):
    wire = stub.stderr(b"POST Content-Length of 5 bytes exceeds the limit of 1 bytes") + DONE
    assert outcome_of(application((wire,))).verdict is Verdict.DONE


# -- the connection ---------------------------------------------------------------------------------------


def test_no_such_socket_is_down():
    handler = schema.FastcgiHandler(address="unix:/nonexistent/fpm.sock", script=SCRIPT)
    with Calls(handler) as running:
        running.lane.wants()
        eventually(lambda: running.lane.state == "down", 5.0, "five failures open the circuit")
        assert "No such file or directory" in running.lane.reason
        assert running.lane.wants() == []


def refused_address(folder: str) -> str:
    path = os.path.join(folder, "dead.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    return f"unix:{path}"


def full_address(folder: str) -> tuple[str, list[socket.socket]]:
    """A listener whose backlog is full: a unix connect answers EAGAIN."""
    path = os.path.join(folder, "full.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    kept = [listener]
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        kept.append(client)
        if client.connect_ex(path) == errno.EAGAIN:
            return f"unix:{path}", kept


@pytest.mark.parametrize("case", ["refused", "full", "tcp", "dns", "timeout"])
def test_nothing_reached_is_down_and_uses_up_no_attempt(tmp_path, case, application):
    kept: list[socket.socket] = []
    if case == "refused":
        address = refused_address(str(tmp_path))
    elif case == "full":
        address, kept = full_address(str(tmp_path))
    elif case == "tcp":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
    elif case == "dns":
        address = "no-such-host.invalid:9000"
    else:
        address = "192.0.2.1:9000"  # TEST-NET-1: nobody answers
    backend = schema.Backend(fastcgi=[address], connect_timeout_s=0.1, circuit=schema.Circuit(window_s=30.0))
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend) as running:
        running.lane._flow.shut.clear()  # as after an answered ping: the jobs themselves meet the dead address
        outcome = running.run_one()
        assert outcome.verdict is Verdict.DOWN
        assert address in outcome.error
    for each in kept:
        each.close()


def test_first_address_that_works_is_used(application, tmp_path):
    app = application((DONE,))
    backend = schema.Backend(fastcgi=[refused_address(str(tmp_path)), app.address])
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend) as running:
        outcomes = running.run(*(delivery(n) for n in range(20)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}


@pytest.mark.parametrize("ending", [CLOSE, RESET])
def test_end_of_a_fresh_connection_without_an_answer_is_a_crash(application, ending):
    app = application((Pause(0.2), ending))  # longer than a connection stays hot, so every job has a fresh one
    with calls(app) as running:
        gevent.sleep(0)
        running.run_one()
        outcome = running.run_one()
    assert outcome.verdict is Verdict.CRASHED
    assert "without an answer" in outcome.error
    assert not outcome.resent


@pytest.mark.parametrize("ending", [CLOSE, RESET])
def test_partial_answer_is_a_crash_even_on_a_kept_connection(application, ending):
    app = application((DONE,), (DONE[:30], ending))
    with calls_on_kept_connections(app) as running:
        outcomes = running.run(delivery(1), delivery(2))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE, Verdict.CRASHED]
    assert not outcomes[1].resent
    assert len(jobs_of(app)) == 2


def test_kept_connection_that_ends_without_an_answer_is_resent_once(application):
    app = application((DONE,), (CLOSE,), (DONE,))
    with calls_on_kept_connections(app) as running:
        outcomes = running.run(delivery(1), delivery(2))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE, Verdict.DONE]
    assert [outcome.resent for outcome in outcomes] == [False, True]
    assert [request.params["REQUEST_URI"][-1] for request in jobs_of(app)] == ["1", "2", "2"]


def test_resend_that_ends_without_an_answer_is_a_crash(application):
    app = application((DONE,), (CLOSE,))
    with calls_on_kept_connections(app) as running:
        outcomes = running.run(delivery(1), delivery(2))
    assert (outcomes[1].verdict, outcomes[1].resent) == (Verdict.CRASHED, True)
    assert len(jobs_of(app)) == 3


def test_resend_that_reaches_nobody_is_unsure(application):
    app = FastcgiStub(answering(lambda _, n: (DONE,) if n == 0 else gone(app)))

    def gone(app: FastcgiStub) -> Plan:
        assert app._listener is not None
        app._listener.shutdown(socket.SHUT_RDWR)
        return (CLOSE,)

    try:
        with calls_on_kept_connections(app) as running:
            outcomes = running.run(delivery(1), delivery(2))
    finally:
        app.close()
    assert (outcomes[1].verdict, outcomes[1].resent) == (Verdict.UNSURE, True)


@pytest.mark.parametrize("tcp", [False, True])
def test_connection_closed_between_two_calls_is_replaced_silently(application, tcp):
    app = application((DONE, CLOSE), tcp=tcp)  # as php-fpm does after pm.max_requests
    with calls(app) as running:
        for number in range(5):
            outcome = running.run_one(delivery(number))
            eventually(lambda: app.open == 0, 5.0, "the application has closed")
            assert (outcome.verdict, outcome.resent) == (Verdict.DONE, False)
    assert len(jobs_of(app)) == 5


def test_connection_that_speaks_unasked_is_not_reused(application):
    app = application((DONE + b"more",))
    with calls(app) as running:
        outcomes = running.run(*(delivery(n) for n in range(5)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
    assert app.accepted >= 5


@pytest.mark.parametrize(
    "wire",
    [
        stub.record(6, b"x", version=9), stub.record(6, b"x", request_id=4), stub.record(99, b"x"),
        stub.stdout(b"Code: 200\r\n\r\n") + stub.record(3, b"\0" * 4), b"HTTP/1.1 200 OK\r\nCode: 200\r\n\r\n",
    ],
)
def test_what_is_no_fastcgi_is_failed_and_closed(application, wire):
    app = application((wire, HANG))
    outcome = outcome_of(app)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.error.startswith("not an answer: ")
    eventually(lambda: app.open == 0, 5.0, "the connection is closed")


def test_reply_cut_at_every_byte_is_never_done(application):
    wire = stub.stderr(b"note") + DONE
    cuts = [(wire[:size], RESET if size % 2 else CLOSE) for size in range(1, len(wire))]
    app = application(*cuts)
    with calls(app) as running:
        outcomes = running.run(*(delivery(n) for n in range(len(cuts))))
    assert len(cuts) > 100
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.CRASHED}


# -- time and size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [(HANG,), (stub.stdout(b"Code: 200\r\n\r\n"), HANG), (Drip(DONE, 0.05),)])
def test_deadline_is_a_timeout_however_the_bytes_drip(application, plan):
    app = application(plan)
    with calls(app, timeout_s=0.3) as running:
        outcome = running.run_one()
        assert outcome.verdict is Verdict.TIMEOUT
        assert outcome.error == "no answer within 0.3 s"
        assert outcome.run_s > 0.25
        app.plan = answering(lambda _, __: (DONE,))
        assert running.run_one(delivery(2)).verdict is Verdict.DONE  # a late answer is on a closed connection


def test_no_timeout_waits(application):
    assert outcome_of(application((Pause(0.4), DONE)), timeout_s=0.0).verdict is Verdict.DONE


def test_slow_bytes_within_the_deadline_are_an_answer(application):
    assert outcome_of(application((Drip(DONE, 0.001),))).verdict is Verdict.DONE


def test_answer_of_two_megabytes_counts_and_is_kept_in_part(application):
    outcome = outcome_of(application((stub.answer("Code: 200", b"x" * 2_000_000),)))
    assert (outcome.verdict, len(outcome.output)) == (Verdict.DONE, 64 * 1024)


@pytest.mark.parametrize("kind", [stub.stdout, stub.stderr])
def test_endless_answer_is_closed_at_8_mib_and_failed(application, kind):
    app = application((kind(b"Code: 200\r\n\r\n"), *([kind(b"x" * 65_528) * 8] * 100), HANG))
    outcome = outcome_of(app)
    assert outcome.verdict is Verdict.FAILED
    assert "larger than 8 MiB" in outcome.error
    assert len(outcome.output) <= 64 * 1024


def test_headers_of_two_megabytes_are_no_acknowledgement(application):
    head = "Code: 200\r\n" + "X-Big: " + "x" * 2_000_000
    outcome = outcome_of(application((stub.answer(head),)))
    assert outcome.verdict is Verdict.FAILED
    assert "not acknowledged" in outcome.error
