"""
Calls that follow each other on one connection: what is not the usual answer, in the middle of them.

Job 0 has a fresh connection, job 1 is the first of a run of ``relay``, job 2 meets what the test plans, others follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from pbus.clock import FakeClock
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from tests.support import fastcgi_stub as stub
from tests.support.call_desk import Calls, delivery, eventually
from tests.support.fastcgi_stub import DONE, FastcgiRequest, FastcgiStub, answering
from tests.support.http_stub import HttpStub, response
from tests.support.talker import CLOSE, HANG, RESET, Drip, Pause, Plan

SCRIPT = "/srv/credit.php"
OTHER = stub.answer("Code: 200\r\nX-Number: 2", b"another")

OpenStub = Callable[..., FastcgiStub]


@pytest.fixture
def application() -> Iterator[OpenStub]:
    stubs: list[FastcgiStub] = []

    def open_stub(plans: dict[int, Plan], *, tcp: bool = False) -> FastcgiStub:
        """Job number n is answered by plan n, others are done."""
        stubs.append(FastcgiStub(answering(lambda _, n: plans.get(n, (DONE,))), tcp=tcp))
        return stubs[-1]

    yield open_stub
    for each in stubs:
        each.close()


def calls(application: FastcgiStub, **settings: object) -> Calls:
    return Calls(schema.FastcgiHandler(address=application.address, script=SCRIPT), **settings)


def in_a_run(running: Calls, *jobs: Delivery) -> list[Outcome]:
    """Outcomes of *jobs*: the first one alone, the others are all there when it has ended."""
    running.run_one(jobs[0])
    running.lane.accept(jobs[1:])
    eventually(lambda: len(running.desk.outcomes) == len(jobs), 10.0, lambda: f"outcomes: {running.desk.verdicts}")
    return [outcome for _, outcome in running.desk.outcomes]


def run(application: FastcgiStub, count: int = 5) -> list[Outcome]:
    """The clock stands still, so the connection stays hot."""
    with calls(application, clock=FakeClock()) as running:
        return in_a_run(running, *(delivery(n) for n in range(count)))


def jobs_of(application: FastcgiStub) -> list[FastcgiRequest]:
    return [request for request in application.requests if request.form["type"] == "data"]


def ids(application: FastcgiStub) -> list[str]:
    return [request.params["REQUEST_URI"].rpartition("-")[2] for request in jobs_of(application)]


@pytest.mark.parametrize("tcp", [False, True])
def test_jobs_follow_each_other_on_one_connection(application, tcp):
    there = application({}, tcp=tcp)
    outcomes = run(there, 40)
    assert [(outcome.verdict, outcome.output, outcome.status) for outcome in outcomes] == [
        (Verdict.DONE, b"ok", "200")
    ] * 40
    assert ids(there) == [str(n) for n in range(40)]
    assert there.accepted == 1


@pytest.mark.parametrize(
    ("plan", "verdict", "connections"),
    [
        ((OTHER,), Verdict.DONE, 1),
        ((stub.answer("Code: 500"),), Verdict.FAILED, 1),
        ((stub.answer("Content-type: text/html"),), Verdict.FAILED, 1),
        ((stub.answer("Code: 429\r\nRetry-After: 7"),), Verdict.BUSY, 1),
        ((stub.end(2),), Verdict.BUSY, 1),
        ((Drip(DONE, 0.0005),), Verdict.DONE, 1),
        ((DONE[:20], Pause(0.02), DONE[20:]), Verdict.DONE, 1),
        ((stub.stderr(b"PHP Warning: x"), DONE), Verdict.DONE, 1),
        ((DONE + b"more",), Verdict.DONE, 2),
        ((b"HTTP/1.1 200 OK\r\n\r\n",), Verdict.FAILED, 2),
        ((DONE[:20], CLOSE), Verdict.CRASHED, 3),  # one of them asks whether the server has gone
        ((DONE[:20], RESET), Verdict.CRASHED, 3),
    ],
)
def test_odd_answer_among_others_is_what_it_is_alone(application, plan, verdict, connections):
    there = application({2: plan})
    outcomes = run(there)
    assert [outcome.verdict for outcome in outcomes] == [*[Verdict.DONE] * 2, verdict, *[Verdict.DONE] * 2]
    assert [outcome.resent for outcome in outcomes] == [False] * 5
    assert ids(there) == ["0", "1", "2", "3", "4"]
    assert there.accepted == connections


def test_busy_answer_among_others_makes_the_window_small(application):
    there = application({2: (stub.answer("Code: 429"),)})
    with calls(there, clock=FakeClock()) as running:
        in_a_run(running, *(delivery(n) for n in range(4)))
        assert running.lane.backend.addresses[0].refusals == 1


def test_stderr_and_another_output_are_kept(application):
    there = application({2: (stub.stderr(b"careful"), OTHER)})
    outcomes = run(there)
    assert (outcomes[2].stderr, outcomes[2].output, outcomes[2].headers["x-number"]) == (b"careful", b"another", "2")
    assert (outcomes[3].stderr, outcomes[3].output, outcomes[3].headers["code"]) == (b"", b"ok", "200")


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("tcp", [False, True])
def test_connection_that_ends_without_an_answer_is_sent_once_more(application, end, tcp):
    there = application({2: (end,)}, tcp=tcp)
    outcomes = run(there)
    assert [(outcome.verdict, outcome.resent) for outcome in outcomes] == [
        (Verdict.DONE, n == 2) for n in range(5)
    ]
    assert ids(there) == ["0", "1", "2", "2", "3", "4"]
    assert [request.params.get("HTTP_X_PBUS_REDELIVERED") for request in jobs_of(there)] == [
        None, None, None, "1", None, None
    ]


def test_time_of_each_attempt_begins_with_it(application):
    there = application({1: (Pause(0.2), DONE), 2: (Pause(0.2), DONE), 3: (HANG,)})
    with calls(there, timeout_s=0.3) as running:
        begun_s = time.monotonic()
        outcomes = in_a_run(running, *(delivery(n) for n in range(4)))
        took_s = time.monotonic() - begun_s
    assert [outcome.verdict for outcome in outcomes] == [*[Verdict.DONE] * 3, Verdict.TIMEOUT]
    assert 0.68 < took_s < 1.5
    assert outcomes[3].error == "no answer within 0.3 s"
    assert 0.29 < outcomes[3].run_s < 0.6


def test_drips_do_not_prolong_an_attempt(application):
    there = application({2: (Drip(DONE, 0.05),)})
    with calls(there, timeout_s=0.3) as running:
        outcomes = in_a_run(running, *(delivery(n) for n in range(4)))
    assert [outcome.verdict for outcome in outcomes] == [*[Verdict.DONE] * 2, Verdict.TIMEOUT, Verdict.DONE]


def test_request_larger_than_the_socket_takes_goes_out_in_pieces(application):
    there = application({1: (Pause(0.05), DONE), 2: (Pause(0.05), DONE)})
    bodies = [b"{}", b"{}", b"x" * 3_000_000, b"y" * 3_000_000, b"{}"]
    with calls(there, clock=FakeClock()) as running:
        outcomes = in_a_run(running, *(delivery(n, body) for n, body in enumerate(bodies)))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE] * 5
    assert [len(request.form["jobs"]) > 3_000_000 for request in jobs_of(there)] == [len(body) > 2 for body in bodies]


def test_job_that_must_not_be_sent_is_told_among_others(application):
    there = application({})
    backend = schema.Backend(fastcgi=[there.address], max_post_bytes=10_000)
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend, clock=FakeClock()) as running:
        outcomes = in_a_run(running, *(delivery(n, b"x" * (20_000 if n == 2 else 2)) for n in range(4)))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE, Verdict.DONE, Verdict.UNSENT, Verdict.DONE]
    assert ids(there) == ["0", "1", "3"]


def test_server_that_closes_after_answers_gets_no_request_at_once_any_more(application):
    """As php-fpm does after ``pm.max_requests``; the first one may meet a request, those after it are seen."""
    there = application(dict.fromkeys(range(2, 40, 4), (DONE, CLOSE)))
    outcomes = run(there, 40)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
    assert sum(outcome.resent for outcome in outcomes) <= 5, "ten connections were closed"


def test_kill_reports_what_is_under_way_once(application):
    there = application({2: (HANG,)})
    with calls(there, clock=FakeClock()) as running:
        running.run_one(delivery(0))
        running.lane.accept([delivery(n) for n in range(1, 5)])
        eventually(lambda: len(jobs_of(there)) == 3, 5.0, "job 2 is under way")
        running.lane.kill()
        gevent.sleep(0.02)
        assert running.desk.verdicts == ["done", "done", "released", "released", "unsure"]
        eventually(lambda: not there.open, 5.0, "its connection is closed")
    assert running.lane.busy == 0


def test_drain_lets_the_call_under_way_end(application):
    there = application({2: (Pause(0.05), DONE)})
    with calls(there, clock=FakeClock()) as running:
        running.run_one(delivery(0))
        running.lane.accept([delivery(n) for n in range(1, 5)])
        eventually(lambda: len(jobs_of(there)) == 3, 5.0, "job 2 is under way")
        running.lane.drain()
        eventually(lambda: not running.lane.busy, 5.0, "it has ended")
    assert running.desk.verdicts == ["done", "done", "released", "released", "done"]
    assert ids(there) == ["0", "1", "2"]


def test_a_connection_is_given_up_after_a_while_between_two_jobs(application):
    there = application({n: (Pause(0.03), DONE) for n in range(20)})
    with calls(there) as running:
        outcomes = in_a_run(running, *(delivery(n) for n in range(12)))
    assert [(outcome.verdict, outcome.resent) for outcome in outcomes] == [(Verdict.DONE, False)] * 12
    assert 3 <= there.accepted <= 6
    assert there.peak == 1


def test_http_answers_follow_each_other_too():
    endpoint = HttpStub(lambda _, n: (response(500 if n == 2 else 200),))
    try:
        with Calls(schema.HttpHandler(url=endpoint.url, contract="plain"), clock=FakeClock()) as running:
            outcomes = in_a_run(running, *(delivery(n) for n in range(5)))
        assert [outcome.status for outcome in outcomes] == ["200", "200", "500", "200", "200"]
        assert endpoint.accepted == 1
    finally:
        endpoint.close()
