"""Pools: bounded, fair, hot reuse only, down and back."""

from __future__ import annotations

import socket
import threading
from collections import Counter

import gevent
import pytest

from pbus.clock import FakeClock, SystemClock
from pbus.config import schema
from pbus.core.outcome import Verdict
from pbus.delivery.backend import HOT_S, LINGER_S
from pbus.delivery.backends import Backends
from pbus.delivery.connection import Connection
from tests.support.call_desk import Calls, JobClock, delivery, eventually
from tests.support.fastcgi_stub import DONE, FastcgiStub, answering
from tests.support.talker import Pause

SCRIPT = "/srv/credit.php"
HOT_JOBS = 20
"""For so many jobs a connection is hot where a ``JobClock`` says what time it is."""


@pytest.fixture
def application():
    stub = FastcgiStub(answering(lambda _, __: (Pause(0.002), DONE)))
    yield stub
    stub.close()


def handler_of(stub: FastcgiStub) -> schema.FastcgiHandler:
    return schema.FastcgiHandler(address=stub.address, script=SCRIPT)


def pools(stub: FastcgiStub, processes: int = 1, **settings: object) -> Backends:
    settings = {"fastcgi": [stub.address], **settings}
    return Backends({"b": schema.Backend(**settings)}, processes=processes, index=0, clock=SystemClock())


def test_ten_topics_never_exceed_max_connections_and_none_starves(application):
    backends = pools(application, max_connections=3)
    lanes = [
        Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backends=backends, slots=8, topic=f"t{n}")
        for n in range(10)
    ]
    progress: list[str] = []

    def feed(calls: Calls, topic: str) -> None:
        calls.run(*(delivery(n, topic=topic) for n in range(60)), timeout_s=30.0)
        progress.append(topic)

    feeders = [gevent.spawn(feed, calls, f"t{n}") for n, calls in enumerate(lanes)]
    while len(application.requests) < 400:
        gevent.sleep(0.01)
    begun = Counter(request.form["topic"] for request in application.requests if request.form["type"] == "data")
    gevent.joinall(feeders, raise_error=True)
    assert application.peak <= 3
    assert min(begun.values()) > 0.5 * max(begun.values())
    assert all(set(calls.desk.verdicts) == {"done"} for calls in lanes)
    for calls in lanes:
        calls.lane.kill()
    backends.close()


def test_idle_connections_are_closed_soon(application):
    with Calls(handler_of(application), slots=4) as calls:
        calls.run(*(delivery(n) for n in range(50)))
        naps = 0
        (address,) = calls.lane._backend.addresses
        while address.taken or address.parked:  # a machine that stands still delays the naps as it does the sweeper
            gevent.sleep(LINGER_S / 2)
            naps += 1
        assert naps <= 6
        eventually(lambda: application.open == 0, 10.0, "the application sees them closed")


def test_no_connection_is_kept_longer_than_it_may_be_hot(application):
    with Calls(handler_of(application), clock=JobClock(HOT_S / HOT_JOBS)) as calls:
        calls.run(*(delivery(n) for n in range(10 * HOT_JOBS)))
    assert application.accepted >= 10 * HOT_JOBS / (HOT_JOBS + 2)  # the first use of a connection does not count


def test_hot_connection_is_used_again(application):
    with Calls(handler_of(application), clock=FakeClock()) as calls:
        calls.run(*(delivery(n) for n in range(100)))
    assert application.accepted == 1


def test_successor_opens_after_the_old_one_was_shut_down(application):
    with Calls(handler_of(application), clock=JobClock(HOT_S / HOT_JOBS)) as calls:
        calls.run(*(delivery(n) for n in range(10 * HOT_JOBS)))
    assert application.accepted > 5
    assert application.peak == 1


def test_connection_that_retires_waits_for_the_server_to_close():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(ours)
    closed: list[bool] = []

    def server() -> None:
        with theirs:
            while theirs.recv(100):
                pass
            threading.Event().wait(0.05)
            closed.append(True)

    thread = threading.Thread(target=server)
    thread.start()
    connection.retire(within_s=10.0)
    assert closed
    connection.close()
    thread.join()


def test_more_slots_than_processes_do_not_starve_each_other():
    """An application that serves one connection at a time, in the order of their coming, as a php-fpm process does."""

    class OneAtATime(FastcgiStub):
        def _spawn(self, target, *args):
            if target == self._serve:
                target(*args)  # in the thread that accepts
            else:
                super()._spawn(target, *args)

    slots = 4
    stub = OneAtATime(answering(lambda _, __: (DONE,)))
    try:
        with Calls(handler_of(stub), slots=slots, timeout_s=30.0, clock=JobClock(HOT_S / HOT_JOBS)) as calls:
            calls.run(*(delivery(n) for n in range(1000)), timeout_s=30.0)
    finally:
        stub.close()
    assert set(calls.desk.verdicts) == {"done"}
    begun = (int(job_id.partition("-")[2]) for job_id, _ in calls.desk.outcomes)
    assert max(end - number for end, number in enumerate(begun)) <= slots * (HOT_JOBS + 2)


def test_same_address_is_the_same_backend(application):
    backends = pools(application, max_connections=2)
    by_name = backends.of_fastcgi(schema.FastcgiHandler(backend="b", script=SCRIPT))
    by_address = backends.of_fastcgi(schema.FastcgiHandler(address=application.address, script=SCRIPT))
    unnamed = backends.of_fastcgi(schema.FastcgiHandler(address="127.0.0.1:9", script=SCRIPT))
    assert by_name is by_address is not unnamed
    assert backends.of_fastcgi(schema.FastcgiHandler(address="127.0.0.1:9", script=SCRIPT)) is unnamed
    backends.close()


def test_http_urls_of_one_host_share_a_backend():
    settings = {"api": schema.Backend(http=["http://127.0.0.1:8080"], max_connections=5)}
    backends = Backends(settings, processes=1, index=0, clock=SystemClock())
    named = backends.of_http(schema.HttpHandler(url="http://127.0.0.1:8080/a"))
    assert named is backends.of_http(schema.HttpHandler(url="http://127.0.0.1:8080/b?c"))
    assert named.seats == 5
    assert backends.of_http(schema.HttpHandler(url="http://127.0.0.1/a")) is not named


def test_child_without_a_share_wants_nothing(application):
    settings = {"b": schema.Backend(fastcgi=[application.address], max_connections=1)}
    backends = Backends(settings, processes=2, index=1, clock=SystemClock())
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backends=backends, slots=4) as calls:
        for _ in range(5):
            gevent.sleep(0.01)
            assert calls.lane.wants() == []
    assert application.accepted == 0


def test_backend_goes_down_after_five_failures_and_comes_back(application):
    circuit = schema.Circuit(probe_first_s=0.05, probe_max_s=0.1)
    application.stop()
    backend = schema.Backend(fastcgi=[application.address], circuit=circuit)
    with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend) as calls:
        calls.lane.wants()
        eventually(lambda: calls.lane.state == "down", 5.0, "down")
        assert "No such file" in calls.lane.reason
        application.listen()
        eventually(lambda: calls.lane.state != "down", 5.0, "the probe connects")
        assert calls.run_one().verdict is Verdict.DONE
        assert (calls.lane.state, calls.lane.reason) == ("running", "")


def test_second_address_takes_over_and_the_first_comes_back(application):
    second = FastcgiStub(answering(lambda _, __: (DONE,)))
    circuit = schema.Circuit(probe_first_s=0.05, probe_max_s=0.1)
    backend = schema.Backend(fastcgi=[application.address, second.address], max_connections=2, circuit=circuit)
    try:
        with Calls(schema.FastcgiHandler(backend="b", script=SCRIPT), backend=backend, slots=2) as calls:
            eventually(lambda: calls.lane.wants() and not calls.lane._flow.shut, 5.0, "both were pinged")
            assert calls.run_one().verdict is Verdict.DONE
            assert [request.form["type"] for request in second.requests] == ["ping"]
            application.stop()
            outcomes = calls.run(*(delivery(n) for n in range(40)))
            assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
            assert calls.lane.state == "running"
            application.listen()
            before = application.accepted
            eventually(
                lambda: calls.run_one().verdict is Verdict.DONE and application.accepted > before + 2, 5.0,
                "the first address is used again",
            )
            assert second.peak <= 2
    finally:
        second.close()


def test_topics_take_turns_however_many_callers_one_has(application):
    settings = {"b": schema.Backend(fastcgi=[application.address], max_connections=1)}
    backends = Backends(settings, processes=1, index=0, clock=FakeClock())
    backend = backends.of_fastcgi(schema.FastcgiHandler(backend="b", script=SCRIPT))
    flows = {topic: backend.join(topic, slots=1, slots_of_node=1) for topic in "abcz"}
    served: list[str] = []

    def sit(topic: str) -> None:
        seat = backend.take(flows[topic])
        served.append(topic)
        backend.give(seat)

    first = backend.take(flows["z"])
    callers = [gevent.spawn(sit, topic) for topic in ("a", "a", "a", "b", "c", "b")]
    gevent.sleep(0.01)
    backend.give(first)
    gevent.joinall(callers, timeout=2.0)
    assert served == ["a", "b", "c", "a", "b", "a"]
    backends.close()


def test_killed_caller_gives_its_place_back(application):
    backends = pools(application, max_connections=1)
    backend = backends.of_fastcgi(schema.FastcgiHandler(backend="b", script=SCRIPT))
    flows = [backend.join(topic, slots=1, slots_of_node=1) for topic in ("gift/a", "gift/b")]
    seated: list[int] = []

    def sit(number: int) -> None:
        seat = backend.take(flows[1])
        seated.append(number)
        try:
            gevent.sleep(60.0)
        finally:
            backend.give(seat)

    first = backend.take(flows[0])
    waiting = [gevent.spawn(sit, number) for number in range(4)]
    gevent.sleep(0.01)
    waiting[0].kill()                # while it queues
    backend.give(first)              # granted to number 1,
    waiting[1].kill(block=False)     # which is killed at the same moment
    eventually(lambda: 2 in seated, 2.0, "the next one in the queue has the seat")
    gevent.killall(waiting)
    assert 3 not in seated
    assert backend.addresses[0].taken == 0
    assert not backend.is_contended
    backends.close()
