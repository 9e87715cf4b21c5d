"""The call lane: order, room, pings, rests, drain."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import gevent
import pytest

from pbus.clock import SystemClock
from pbus.codec.fastcgi import ReplyReader
from pbus.config import schema
from pbus.core.outcome import Verdict
from pbus.delivery.backends import Backends
from pbus.delivery.prefetch import Prefetch
from pbus.delivery.rests import Rests
from pbus.delivery.exchange import exchange
from tests.support import fastcgi_stub
from tests.support.call_desk import OWNER, Calls, delivery, eventually
from tests.support.fastcgi_stub import DONE, FastcgiRequest, FastcgiStub, answering
from tests.support.http_stub import HttpStub, response
from tests.support.talker import HANG, Pause, Plan

SCRIPT = "/srv/credit.php"
QUICK = Rests(first_s=0.05, max_s=0.2, misconfigured_s=0.1)


class Switch:
    """A plan that the test changes while it runs."""

    def __init__(self, *plan: object) -> None:
        self.plan = plan
        self.ping: tuple[object, ...] = (DONE,)

    def __call__(self, request: object, _: int) -> Plan:
        if isinstance(request, FastcgiRequest) and request.form["type"] == "ping":
            return self.ping
        return self.plan


@pytest.fixture
def switch() -> Switch:
    return Switch(DONE)


@pytest.fixture
def application(switch: Switch) -> Iterator[FastcgiStub]:
    stub = FastcgiStub(switch)
    yield stub
    stub.close()


@pytest.fixture
def endpoint() -> Iterator[tuple[HttpStub, Switch]]:
    switch = Switch(response(200))
    stub = HttpStub(switch)
    yield stub, switch
    stub.close()


def fastcgi(stub: FastcgiStub, **settings: object) -> Calls:
    return Calls(schema.FastcgiHandler(address=stub.address, script=SCRIPT), **settings)


def kinds(stub: FastcgiStub) -> list[str]:
    return [request.form["type"] for request in stub.requests]


def ids(stub: FastcgiStub) -> list[str]:
    return [request.params["REQUEST_URI"].rpartition("/")[2] for request in stub.requests]


# -- room and order -----------------------------------------------------------------------------------------


def test_concurrency_1_keeps_the_order_and_asks_exclusively(application):
    with fastcgi(application) as calls:
        jobs = [delivery(n) for n in range(300)]
        calls.run(*jobs)
        (want,) = calls.lane.wants()
    assert want.exclusive
    assert ids(application)[1:] == [job.id for job in jobs]


def test_more_slots_are_not_exclusive_and_run_at_once():
    together = threading.Barrier(4)

    def plan(_: FastcgiRequest, __: int) -> Plan:
        together.wait(5.0)  # breaks unless four calls are under way
        return (DONE,)

    stub = FastcgiStub(answering(plan))
    try:
        with fastcgi(stub, slots=4) as calls:
            assert {outcome.verdict for outcome in calls.run(*(delivery(n) for n in range(8)))} == {Verdict.DONE}
            assert not calls.lane.wants()[0].exclusive
    finally:
        stub.close()


def test_slow_topic_hoards_nothing(switch, application):
    switch.plan = (Pause(0.1), DONE)
    with fastcgi(application, slots=2) as calls:
        for round_ in range(4):
            calls.run(delivery(2 * round_), delivery(2 * round_ + 1))
        eventually(lambda: calls.lane.wants(), 2.0, "room")
        assert calls.lane.wants()[0].count == 2 + 1  # 20 jobs a second: one in 40 ms
        assert calls.lane.wants()[0].owner == OWNER


def test_fast_topic_asks_for_many_at_once(application):
    with fastcgi(application) as calls:
        calls.run(*(delivery(n) for n in range(1000)))
        assert calls.lane.wants()[0].count > 10


def test_full_lane_wants_nothing(switch, application):
    switch.plan = (HANG,)
    with fastcgi(application, slots=3, timeout_s=60.0) as calls:
        eventually(lambda: calls.lane.wants(), 5.0, "the ping is answered")
        calls.lane.accept([delivery(n) for n in range(3)])
        assert calls.lane.wants() == []
        assert calls.lane.busy == 3
        assert calls.lane.known(OWNER) == {"1800000000000-0", "1800000000000-1", "1800000000000-2"}
        assert calls.lane.known("somebody/else/1.1") == set()


def test_desk_is_told_about_room(switch, application):
    with fastcgi(application, slots=2) as calls:
        calls.run(delivery(1))
        before = calls.desk.wakes
        calls.run(delivery(2), delivery(3))
        assert calls.desk.wakes > before


@pytest.mark.parametrize(("size", "most"), [(100, 1000), (1024 * 1024, 8), (64 * 1024 * 1024, 0)])
def test_prefetch_is_bounded_in_jobs_and_bytes(size, most):
    rate = Prefetch()
    for n in range(20_000):
        rate.count(100.0 + n / 100_000.0, size)
    assert rate.jobs == most


def test_prefetch_is_forty_milliseconds_of_work():
    rate = Prefetch()
    for n in range(5000):
        rate.count(100.0 + n / 1000.0, 100)
    assert 38 <= rate.jobs <= 45


def test_prefetch_forgets_after_a_quiet_time():
    rate = Prefetch()
    for n in range(5000):
        rate.count(100.0 + n / 1000.0, 100)
    rate.count(500.0, 100)
    assert rate.jobs == 0


# -- pings ------------------------------------------------------------------------------------------------------


def test_topic_is_pinged_once_before_it_is_consumed(application):
    with fastcgi(application) as calls:
        calls.run(delivery(1), delivery(2))
    assert kinds(application) == ["ping", "data", "data"]
    assert ids(application)[0] == "ping"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fastcgi_stub.answer("Code: 404", b"unknown topic"), "ping: Code: 404; unknown topic"),
        (fastcgi_stub.answer("Code: 200\r\nConsume-Topics: gift/mail"), "ping: the handler takes gift/mail, not gift/"),
        (fastcgi_stub.answer("Code: 200", b"gift/b,gift/a"), "ping: the handler takes gift/a, gift/b, not gift/credit"),
        (fastcgi_stub.answer("A: b", b"nothing"), "ping: not acknowledged: the answer has no Code header; nothing"),
        (fastcgi_stub.answer("Status: 404 Not Found", b"File not found.\n"), "ping: php-fpm finds no script at "),
    ],
)
def test_topic_whose_ping_is_refused_is_paused_until_it_is_taken(switch, application, answer, reason):
    switch.ping = (answer,)
    with fastcgi(application, rests=QUICK) as calls:
        calls.lane.wants()
        eventually(lambda: len(application.requests) >= 3, 5.0, "pinged again and again")
        assert (calls.lane.state, calls.lane.wants()) == ("paused", [])
        assert calls.lane.reason.startswith(reason)
        switch.ping = (fastcgi_stub.answer("Code: 200", b"gift/mail,gift/credit\n"),)
        assert calls.run_one().verdict is Verdict.DONE
        assert (calls.lane.state, calls.lane.reason) == ("running", "")


def test_job_answered_404_pauses_the_topic_and_pings(switch, application):
    with fastcgi(application, rests=QUICK, slots=4) as calls:
        calls.run(delivery(1))
        switch.plan, switch.ping = (fastcgi_stub.answer("Code: 404"),), (fastcgi_stub.answer("Code: 404"),)
        calls.lane.accept([delivery(n) for n in range(2, 12)])
        eventually(lambda: len(calls.desk.outcomes) == 11, 5.0, "every delivery has come back")
        assert set(calls.desk.verdicts[1:]) == {"not-registered", "released"}
        assert calls.lane.state == "paused"
        before = len(application.requests)
        eventually(lambda: kinds(application)[before:].count("ping") >= 2, 5.0, "pinged with back-off")
        assert "data" not in kinds(application)[before:]
        switch.plan, switch.ping = (DONE,), (DONE,)
        assert calls.run_one(delivery(20)).verdict is Verdict.DONE


def test_backoff_grows_while_jobs_go_on_being_refused(switch, application):
    switch.plan = (fastcgi_stub.answer("Code: 404"),)  # it answers pings and takes no job
    with fastcgi(application, rests=Rests(first_s=0.02, max_s=0.3)) as calls:
        for number in range(5):
            assert calls.run_one(delivery(number)).verdict is Verdict.NOT_REGISTERED
        assert calls.lane._rest_s == 0.3
        switch.plan = (DONE,)
        calls.run_one(delivery(9))
        assert calls.lane._rest_s == 0.0


def test_backend_that_came_back_is_pinged_again(switch, application):
    circuit = schema.Circuit(probe_first_s=0.05, probe_max_s=0.1)
    backend = schema.Backend(fastcgi=[application.address], circuit=circuit)
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend) as calls:
        calls.run_one()
        application.stop()
        calls.lane.accept([delivery(n) for n in range(2, 30)])
        eventually(lambda: calls.lane.state == "down", 5.0, "down")
        eventually(lambda: not calls.lane.busy, 5.0, "everything went back")
        assert set(calls.desk.verdicts[1:]) <= {"down", "released", "unsure"}
        assert len(calls.desk.outcomes) == 29
        application.listen()
        assert calls.run_one(delivery(50)).verdict is Verdict.DONE
    assert kinds(application) == ["ping", "data", "ping", "data"]


# -- plain topics rest and try ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(response(404), Verdict.NOT_REGISTERED), (response(410), Verdict.NOT_REGISTERED),
     (response(302, Location="/x"), Verdict.MISCONFIGURED)],
)
def test_plain_topic_that_is_refused_rests_and_tries_one_job(endpoint, answer, verdict):
    stub, switch = endpoint
    switch.plan = (Pause(0.01), answer)
    with Calls(schema.HttpHandler(url=stub.url), slots=4, rests=QUICK) as calls:
        calls.lane.accept([delivery(n) for n in range(10)])
        eventually(lambda: len(calls.desk.outcomes) == 10, 5.0, "every delivery has come back")
        assert set(calls.desk.verdicts) == {verdict.value, "released"}
        assert calls.lane.state == "paused"
        assert calls.lane.wants() == []
        for number in range(3):
            eventually(lambda: calls.lane.wants(), 5.0, "one job may try")
            assert calls.lane.wants()[0].count == 1
            calls.lane.accept([delivery(100 + number)])
            assert calls.lane.wants() == []
            eventually(lambda: not calls.lane.busy, 5.0, "it was tried")
            assert calls.lane.state == "paused"
        switch.plan = (response(500),)
        assert calls.run_one(delivery(200)).verdict is Verdict.FAILED
        assert (calls.lane.state, calls.lane.reason) == ("running", "")
        assert calls.lane.wants()[0].count >= 4


def test_trial_that_reaches_nobody_is_tried_again(endpoint):
    stub, switch = endpoint
    switch.plan = (response(404),)
    with Calls(schema.HttpHandler(url=stub.url), rests=QUICK) as calls:
        calls.run_one()
        stub.stop()
        assert calls.run_one(delivery(2)).verdict is Verdict.DOWN
        switch.plan = (response(200),)
        stub.listen()
        assert calls.run_one(delivery(3)).verdict is Verdict.DONE


# -- the end --------------------------------------------------------------------------------------------------------


def test_drain_releases_what_has_not_begun_and_lets_the_rest_finish(switch, application):
    switch.plan = (Pause(0.2), DONE)
    with fastcgi(application, slots=2) as calls:
        calls.run_one()
        calls.lane.accept([delivery(n) for n in range(2, 8)])
        eventually(lambda: len(application.requests) == 4, 5.0, "two calls are under way")
        calls.lane.drain()
        assert calls.desk.verdicts[1:] == ["released"] * 4
        assert (calls.lane.busy, calls.lane.wants()) == (2, [])
        eventually(lambda: not calls.lane.busy, 5.0, "both finished")
        assert calls.desk.verdicts[5:] == ["done", "done"]
        calls.lane.accept([delivery(20)])  # claimed by a call that was open when draining began
        assert calls.desk.verdicts[-1] == "released"


def test_kill_reports_what_still_runs_as_unsure_and_once(switch, application):
    switch.plan = (HANG,)
    with fastcgi(application, slots=2, timeout_s=60.0) as calls:
        eventually(lambda: calls.lane.wants(), 5.0, "the ping is answered")
        calls.lane.accept([delivery(n) for n in range(5)])
        eventually(lambda: len(application.requests) == 3, 5.0, "two calls are under way")
        calls.lane.drain()
        calls.lane.kill()
        assert sorted(calls.desk.verdicts) == ["released"] * 3 + ["unsure"] * 2
        eventually(lambda: application.open == 0, 5.0, "the connections are closed")
        gevent.sleep(0.05)
        assert len(calls.desk.outcomes) == 5


def test_kill_while_the_first_ping_hangs(switch, application):
    switch.ping = (HANG,)
    with fastcgi(application) as calls:
        calls.lane.wants()
        eventually(lambda: application.requests, 5.0, "pinged")
        calls.lane.drain()
        eventually(lambda: application.open == 0, 5.0, "the ping is given up")
        assert calls.lane.wants() == []


def test_mistake_in_pbus_costs_one_attempt_and_not_the_topic(application):
    with fastcgi(application) as calls:
        calls.run_one()
        broken = delivery(2, attempt=None)
        assert calls.run_one(broken).error.startswith("pbus itself failed: ")
        assert calls.run_one(delivery(3)).verdict is Verdict.DONE


def test_concurrency_1_keeps_the_order_when_its_handler_is_away_for_a_moment():
    """Too short for the circuit: what did not reach the handler goes first again, before what came after it."""
    stub = HttpStub(Switch(response(200)))
    settings = schema.Backend(http=[stub.url], circuit=schema.Circuit(failures=100_000))
    stub.stop()
    back = threading.Timer(0.05, stub.listen)
    back.start()
    try:
        with Calls(schema.HttpHandler(url=stub.url), backend=settings) as calls:
            jobs = [delivery(n) for n in range(1000)]
            calls.lane.accept(jobs)
            eventually(lambda: len(calls.desk.outcomes) >= 1000, 10.0, lambda: calls.lane.reason)
        assert calls.desk.outcomes[0][1].verdict is Verdict.DONE
        assert [job_id for job_id, _ in calls.desk.outcomes] == [job.id for job in jobs]
    finally:
        back.join()
        stub.close()


def test_trial_that_was_given_back_before_it_began_is_made_again(endpoint):
    stub, switch = endpoint
    switch.plan = (response(404),)
    backend = schema.Backend(http=[stub.url], max_connections=1, circuit=schema.Circuit(failures=1))
    with Calls(schema.HttpHandler(url=stub.url), backend=backend, rests=QUICK) as calls:
        calls.run(delivery(1))
        eventually(calls.lane.wants, 2.0, "the trial")
        pool = calls.backends.of_http(schema.HttpHandler(url=stub.url))
        seat = pool.take(pool.join("another/topic", slots=1, slots_of_node=1))
        calls.lane.accept([delivery(2)])
        gevent.sleep(0.02)  # it queues for the seat
        pool.failed(seat.address, "refused")
        pool.give(seat)
        eventually(lambda: calls.desk.verdicts[1:] == ["released"], 2.0, "the trial given back")
        switch.plan = (response(200),)
        assert calls.run(delivery(2))[-1].verdict is Verdict.DONE


def test_topic_that_became_slow_with_many_in_hand_tells_when_it_has_room(switch, application):
    with fastcgi(application) as calls:
        calls.run(delivery(1))
        calls.lane._prefetch.jobs = 200  # as after many fast jobs
        switch.plan = (Pause(0.02), DONE)
        calls.lane.accept([delivery(n) for n in range(2, 60)])
        eventually(lambda: calls.lane._prefetch.jobs < 10, 5.0, "the new rate")
        assert not calls.lane.wants()
        told = calls.desk.wakes
        eventually(lambda: calls.lane.busy <= 1, 10.0, "room")
        assert calls.desk.wakes > told


def test_topic_that_begins_at_once_tells_of_its_room_although_its_limit_has_sunk_meanwhile(switch, application):
    with fastcgi(application, slots=3, on_unknown="hold") as calls:
        (address,) = calls.lane._backend.addresses
        calls.run(delivery(1))
        before = calls.desk.wakes
        switch.plan = (Pause(0.3), DONE)
        calls.lane.accept([delivery(2), delivery(3)])
        eventually(lambda: len(kinds(application)) == 4, 5.0, "two calls under way")
        switch.plan = (DONE,)
        calls.lane.accept([delivery(4)])
        eventually(lambda: calls.desk.wakes > before, 5.0, "the first one's room")
        calls.lane._backend.busy(address, calls.lane._clock.monotonic_s())
        assert not calls.lane.wants()
        told = calls.desk.wakes
        eventually(lambda: not calls.lane.busy, 10.0, "room")
        assert calls.desk.wakes > told


def test_timeout_while_connecting_bounds_the_whole_attempt():
    """The second address takes the connection and never answers."""
    silent, full = FastcgiStub(answering(lambda _, __: (HANG,))), socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    where = full.getsockname()
    stuffing = [socket.socket() for _ in range(4)]
    for each in stuffing:
        each.setblocking(False)
        each.connect_ex(where)
    backend = schema.Backend(fastcgi=[f"127.0.0.1:{where[1]}", silent.address], connect_timeout_s=5.0)
    pools = Backends({"b": backend}, processes=1, index=0, clock=SystemClock())
    pool = pools.of_fastcgi(schema.FastcgiHandler(backend="b", script=SCRIPT))
    try:
        with gevent.Timeout(3.0):
            run = exchange(pool, pool.take(pool.join("t", slots=1, slots_of_node=1)), b"x", ReplyReader, 0.3)
        assert run.broken is Verdict.DOWN
        assert "no connection" in run.error
        assert pool.addresses[0].problem
    finally:
        pools.close()
        silent.close()
        for each in (full, *stuffing):
            each.close()


# -- another share while it runs --------------------------------------------------------------------------


def test_lane_that_shrinks_finishes_what_runs_and_starts_no_more():
    release, running = threading.Event(), threading.Semaphore(0)

    def plan(_: FastcgiRequest, __: int) -> Plan:
        running.release()
        release.wait(10.0)
        return (Pause(0.05), DONE)

    stub = FastcgiStub(answering(plan))
    try:
        with fastcgi(stub, slots=6) as calls:
            eventually(lambda: calls.lane.wants(), 5.0, "the ping is answered")
            calls.lane.accept([delivery(n) for n in range(12)])
            eventually(lambda: running._value == 6, 5.0, "six run")
            calls.lane.resize(2, 2)
            assert (calls.lane.concurrency, calls.lane.busy) == (2, 12), "nothing is killed, nothing is given back"
            release.set()
            at_once: list[int] = []

            def is_over() -> bool:
                if len(calls.desk.outcomes) >= 6:
                    at_once.append(len(calls.lane._running))
                return len(calls.desk.outcomes) == 12

            eventually(is_over, 10.0, "all are done")
        assert {outcome.verdict for _, outcome in calls.desk.outcomes} == {Verdict.DONE}
        assert max(at_once) == 2
    finally:
        release.set()
        stub.close()


def test_lane_that_grows_begins_what_waits_at_once():
    together = threading.Barrier(4)

    def plan(_: FastcgiRequest, __: int) -> Plan:
        together.wait(10.0)  # breaks unless four calls are under way
        return (DONE,)

    stub = FastcgiStub(answering(plan))
    try:
        with fastcgi(stub, slots=1) as calls:
            eventually(lambda: calls.lane.wants(), 5.0, "the ping is answered")
            calls.lane.accept([delivery(n) for n in range(4)])
            wakes = calls.desk.wakes
            calls.lane.resize(4, 4)
            assert calls.desk.wakes > wakes, "there is room"
            eventually(lambda: len(calls.desk.outcomes) == 4, 10.0, "all are done")
        assert {outcome.verdict for _, outcome in calls.desk.outcomes} == {Verdict.DONE}
    finally:
        stub.close()


def test_lane_whose_share_is_nothing_gives_back_what_has_not_begun(switch, application):
    switch.plan = (Pause(0.2), DONE)
    with fastcgi(application, slots=2) as calls:
        eventually(lambda: calls.lane.wants(), 5.0, "the ping is answered")
        calls.lane.accept([delivery(n) for n in range(5)])
        eventually(lambda: calls.lane._running, 5.0, "two run")
        calls.lane.resize(0, 1)
        eventually(lambda: len(calls.desk.outcomes) == 5, 10.0, "all have ended")
        assert calls.lane.wants() == []
        verdicts = [outcome.verdict for _, outcome in calls.desk.outcomes]
        assert verdicts.count(Verdict.DONE) == 2
        assert verdicts.count(Verdict.RELEASED) == 3
        calls.lane.resize(1, 1)
        assert calls.lane.wants()


def test_rate_of_a_topic_is_shared_by_the_share_of_its_calls(application):
    with fastcgi(application, slots=4, rate_per_s=100.0) as calls:
        calls.lane.resize(1, 4)
        assert calls.lane._throttle.rate_per_s == 25.0
        calls.lane.resize(3, 4)
        assert calls.lane._throttle.rate_per_s == 75.0
