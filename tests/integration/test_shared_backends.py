"""What topics and delivery children share at a backend: rates, addresses, pings, probes, seats."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pbus.clock import FakeClock, SystemClock
from pbus.config import schema
from pbus.core.outcome import Verdict
from pbus.delivery.backend_board import BackendBoard
from pbus.delivery.backends import Backends
from pbus.delivery.news import News
from pbus.delivery.rests import Rests
from tests.support import fastcgi_stub
from tests.support.call_desk import Calls, delivery, eventually
from tests.support.fastcgi_stub import DONE, FastcgiRequest, FastcgiStub, answering
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.talker import Pause, Plan

SCRIPT = "/srv/credit.php"
NAMED = schema.FastcgiHandler(backend="b", script=SCRIPT)
QUICK = Rests(first_s=0.05, max_s=0.1, misconfigured_s=0.1)
CIRCUIT = schema.Circuit(probe_first_s=0.05, probe_max_s=0.1)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def application(stack: contextlib.ExitStack, *plan: object) -> FastcgiStub:
    stub = FastcgiStub(answering(lambda _, __: plan or (DONE,)))
    stack.callback(stub.close)
    return stub


def calls(stack: contextlib.ExitStack, backends: Backends, handler: Any = NAMED, **settings: Any) -> Calls:
    return stack.enter_context(Calls(handler, backends=backends, **settings))


def pools(stack: contextlib.ExitStack, **backend: Any) -> Backends:
    made = Backends({"b": schema.Backend(**backend)}, processes=1, index=0, clock=SystemClock())
    stack.callback(made.close)
    return made


def all_pinged(*lanes: Calls) -> None:
    """Each address is pinged by itself, and shut for a topic until it has answered."""
    for each in lanes:
        eventually(lambda lane=each.lane: lane.wants() and not lane._flow.shut, 5.0, "all were pinged")


class Node:
    """The delivery children of a node and the master between them: what one tells the others hear."""

    def __init__(self, stack: contextlib.ExitStack, children: int, **backend: Any) -> None:
        self._kept: dict[tuple[str, ...], dict[str, Any]] = {}
        self.news = [News(self._teller(index), index) for index in range(children)]
        self.alive = set(range(children))
        self.backends = [
            Backends({"b": schema.Backend(**backend)}, processes=children, index=index, clock=SystemClock(), news=news)
            for index, news in enumerate(self.news)
        ]
        for each in self.backends:
            stack.callback(each.close)

    def _teller(self, index: int) -> Any:
        def tell(kind: str, /, **fields: Any) -> None:
            if index in self.alive:
                for other in self.alive - {index}:
                    gevent.spawn(self.news[other].hear, fields)
        return tell

    def kill(self, index: int) -> None:
        self.alive.discard(index)
        self.backends[index].close()


def pings(stub: FastcgiStub) -> list[str]:
    return [request.form["topic"] for request in stub.requests if request.form["type"] == "ping"]


# -- rates ----------------------------------------------------------------------------------------------


def test_rate_of_a_topic_lets_jobs_begin_evenly_and_claims_no_more_than_that(stack):
    stub = application(stack)
    clock = SystemClock()
    with Calls(schema.FastcgiHandler(address=stub.address, script=SCRIPT), slots=8, rate_per_s=50.0) as lane:
        began_s = clock.monotonic_s()
        lane.run(*(delivery(n) for n in range(30)))
        took_s = clock.monotonic_s() - began_s
        assert max(want.count for want in [*lane.lane.wants(), *_asked_for(lane)]) <= 2
    assert took_s >= 28 / 50.0


def _asked_for(lane: Calls) -> list[Any]:
    """What it wants in the next moments, when there is more than enough to do."""
    found = []
    for _ in range(20):
        gevent.sleep(0.005)
        found += lane.lane.wants()
    return found


def test_rate_of_a_backend_bounds_all_of_its_topics_together_and_none_is_left_out(stack):
    stub = application(stack)
    backends = pools(stack, fastcgi=[stub.address], rate_per_s=100.0)
    lanes = [calls(stack, backends, topic=f"t{n}", slots=4) for n in range(3)]
    all_pinged(*lanes)
    begun_s = SystemClock().monotonic_s()
    feeders = [gevent.spawn(each.run, *(delivery(n, topic=f"t{i}") for n in range(20))) for i, each in enumerate(lanes)]
    eventually(lambda: sum(len(each.desk.outcomes) for each in lanes) >= 45, 10.0, "most are done")
    assert min(len(each.desk.outcomes) for each in lanes) >= 8
    gevent.joinall(feeders, raise_error=True)
    assert SystemClock().monotonic_s() - begun_s >= 57 / 100.0
    assert all(set(each.desk.verdicts) == {"done"} for each in lanes)


# -- several addresses ----------------------------------------------------------------------------------


def used(*stubs: FastcgiStub) -> list[int]:
    return [sum(request.form["type"] == "data" for request in stub.requests) for stub in stubs]


def test_local_addresses_come_first_and_others_when_they_are_full(stack):
    far, near = application(stack, Pause(0.02), DONE), application(stack, Pause(0.02), DONE)
    backends = pools(stack, fastcgi=[far.address, near.address], max_connections=2)
    backend = backends.of_fastcgi(NAMED)
    by_name = {address.name: address for address in backend.addresses}
    by_name[far.address].is_local = False  # as one on another machine; a test has only this one
    backend.addresses = (by_name[near.address], by_name[far.address])
    one, many = calls(stack, backends, slots=2), calls(stack, backends, topic="many", slots=4)
    all_pinged(one, many)
    one.run(*(delivery(n) for n in range(10)))
    assert used(near, far) == [10, 0]
    many.run(*(delivery(n, topic="many") for n in range(40)))
    assert min(used(near, far)) >= 10


def test_addresses_are_sorted_by_where_they_are():
    settings = {"b": schema.Backend(fastcgi=["10.0.0.9:9000", "unix:/run/a.sock", "10.0.0.8:9000", "127.0.0.1:9000"])}
    names = [each.name for each in Backends(
        settings, processes=1, index=0, clock=SystemClock()).of_fastcgi(NAMED).addresses]
    assert names == ["unix:/run/a.sock", "127.0.0.1:9000", "10.0.0.9:9000", "10.0.0.8:9000"]


@pytest.mark.parametrize("slots", [1, 4])
def test_spread_uses_addresses_evenly(stack, slots):
    stubs = [application(stack, Pause(0.003), DONE) for _ in range(2)]
    backends = pools(stack, fastcgi=[stub.address for stub in stubs], prefer="spread", max_connections=4)
    lane = calls(stack, backends, slots=slots)
    for number in range(10):
        lane.run(*(delivery(number * 10 + n) for n in range(10)))
        gevent.sleep(0.06)  # idle: the next round takes seats anew
    assert min(used(*stubs)) >= 0.3 * sum(used(*stubs))


def test_one_address_that_is_down_does_not_stop_the_others(stack):
    stubs = [application(stack) for _ in range(3)]
    backends = pools(stack, fastcgi=[stub.address for stub in stubs], prefer="spread", circuit=CIRCUIT)
    lane = calls(stack, backends, slots=3)
    lane.run(*(delivery(n) for n in range(10)))
    stubs[0].stop()
    outcomes = lane.run(*(delivery(n) for n in range(100)))
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.DONE, Verdict.UNSURE}
    assert lane.lane.state == "running"
    before = used(stubs[0])
    stubs[0].listen()
    eventually(
        lambda: lane.run(*(delivery(n) for n in range(12))) and used(stubs[0]) > before, 5.0, "it is used again")


def test_address_that_refuses_a_topic_is_left_out_for_that_topic(stack):
    old, new = application(stack), application(stack)
    old.plan = lambda request, _: (
        fastcgi_stub.answer("Code: 200\r\nConsume-Topics: gift/credit"),) if request.form["type"] == "ping" else (DONE,)
    backends = pools(stack, fastcgi=[old.address, new.address])
    mail = calls(stack, backends, topic="mail", rests=QUICK)
    credit = calls(stack, backends, rests=QUICK)
    assert {each.verdict for each in mail.run(*(delivery(n, topic="mail") for n in range(10)))} == {Verdict.DONE}
    assert {each.verdict for each in credit.run(*(delivery(n) for n in range(10)))} == {Verdict.DONE}
    assert [mail.lane.state, credit.lane.state] == ["running", "running"]
    assert "mail" not in {request.form["topic"] for request in old.requests if request.form["type"] == "data"}


# -- one child does it for all --------------------------------------------------------------------------


def test_one_ping_settles_every_topic_of_a_script_in_every_child(stack):
    topics = [f"t{n}" for n in range(4)]
    stub = FastcgiStub(lambda request, _: (
        fastcgi_stub.answer("Code: 200\r\nConsume-Topics: " + ",".join(f"gift/{topic}" for topic in topics)),
    ) if request.form["type"] == "ping" else (DONE,))
    stack.callback(stub.close)
    node = Node(stack, 3, fastcgi=[stub.address])
    lanes = [calls(stack, child, topic=topic, slots=1) for child in node.backends for topic in topics]
    for lane in lanes:
        lane.lane.wants()
    eventually(lambda: all(lane.lane.wants() for lane in lanes), 5.0, "all may be consumed")
    assert len(pings(stub)) == 1


def test_handler_that_lists_only_what_it_is_asked_for_is_asked_for_each_topic(stack):
    stub = FastcgiStub(lambda request, _: (
        fastcgi_stub.answer(f"Code: 200\r\nConsume-Topics: gift/{request.form['topic']}"),
    ) if request.form["type"] == "ping" else (DONE,))
    stack.callback(stub.close)
    backends = pools(stack, fastcgi=[stub.address])
    lanes = [calls(stack, backends, topic=topic) for topic in ("credit", "mail")]
    for lane in lanes:
        lane.run_one(delivery(1, topic=lane.lane.topic))
    assert sorted(pings(stub)) == ["credit", "mail"]


def test_topic_that_a_job_found_refused_is_refused_in_every_child_and_asked_again_once(stack):
    stub = application(stack)
    node = Node(stack, 2, fastcgi=[stub.address])
    first, second = (calls(stack, child, slots=1, rests=QUICK) for child in node.backends)
    assert first.run_one().verdict is Verdict.DONE
    eventually(second.lane.wants, 5.0, "the other child knows")
    refuse = [True]
    stub.plan = lambda request, _: (fastcgi_stub.answer("Code: 404") if refuse[0] else DONE,)
    assert first.run_one().verdict is Verdict.NOT_REGISTERED
    eventually(lambda: second.lane.state == "paused", 5.0, "the other child has heard")
    eventually(lambda: len(pings(stub)) >= 3, 5.0, "asked again")
    refuse[0] = False
    eventually(lambda: first.lane.wants() and second.lane.wants(), 5.0, "both go on")


def test_circuit_opens_in_every_child_and_one_of_them_probes(stack):
    stub = application(stack)
    node = Node(stack, 3, fastcgi=[stub.address], circuit=schema.Circuit(probe_first_s=0.3, probe_max_s=0.3))
    lanes = [calls(stack, child, slots=1) for child in node.backends]
    eventually(lambda: all(lane.lane.wants() for lane in lanes), 5.0, "all may be consumed")
    stub.stop()
    lanes[0].lane.accept([delivery(1)])
    eventually(lambda: {lane.lane.state for lane in lanes} == {"down"}, 2.0, "down everywhere")
    probed: Counter[int] = Counter()
    for index, child in enumerate(node.backends):
        address = child.of_fastcgi(NAMED).addresses[0]
        address.connect = _counted(address.connect, probed, index)
    gevent.sleep(1.0)
    assert set(probed) <= {0}, f"by child: {dict(probed)}"
    node.kill(0)
    stub.listen()
    eventually(lambda: all(lane.lane.wants() for lane in lanes[1:]), 3.0, "the others find it without the first")


def _counted(connect: Any, counts: Counter[int], index: int) -> Any:
    def counted() -> Any:
        counts[index] += 1
        return connect()
    return counted


# -- short backends -------------------------------------------------------------------------------------


def test_busy_answers_cut_the_calls_at_once_and_all_is_done_in_the_end(stack):
    """An endpoint that takes three calls at once and refuses more."""
    running = [0]

    def plan(request: HttpRequest, _: int) -> Plan:
        if running[0] >= 3:
            yield response(503)
            return
        running[0] += 1
        yield Pause(0.01)
        running[0] -= 1
        yield response(200)

    stub = HttpStub(plan)
    stack.callback(stub.close)
    with Calls(schema.HttpHandler(url=stub.url), slots=16) as lane:
        todo = [delivery(n) for n in range(300)]
        limits = []
        ((_, address),) = lane.backends.used()
        while todo:
            outcomes = dict(zip([job.id for job in todo], [None] * len(todo), strict=True))
            lane.run(*todo, timeout_s=30.0)
            outcomes.update(lane.desk.outcomes[-len(todo):])
            todo = [job for job in todo if outcomes[job.id].verdict is Verdict.BUSY]
            limits.append(address.limit)
    assert min(limits) <= 4
    assert address.refusals < 150, "it goes on being asked for sixteen"


def test_pause_that_is_prolonged_ends_all_the_same(stack):
    """The timer comes when the pause is not over: by the clock of the backend no time has passed."""
    stub, clock = application(stack), FakeClock()
    backends = Backends({"b": schema.Backend(fastcgi=[stub.address])}, processes=1, index=0, clock=clock)
    stack.callback(backends.close)
    backend = backends.of_fastcgi(NAMED)
    (address,) = backend.addresses
    seat = backend.take(backend.join("gift/credit", slots=2, slots_of_node=2))
    backend.busy(address, clock.monotonic_s())
    backend.busy(address, clock.monotonic_s(), 0.05)
    backend.give(seat)
    assert address.limit == 0
    gevent.sleep(0.12)
    assert address.limit == 0
    clock.advance(0.06)
    eventually(lambda: address.limit == 1, 5.0, "it goes on, with one call")


def test_flooding_system_leaves_the_others_their_part(stack):
    stub = application(stack, Pause(0.003), DONE)
    backends = pools(stack, fastcgi=[stub.address], max_connections=2)
    flood = [calls(stack, backends, topic=f"flood{n}", slots=8, system="flood") for n in range(4)]
    calm = calls(stack, backends, topic="calm", slots=4, system="calm")
    endless = [
        gevent.spawn(each.run, *(delivery(n, topic=each.lane.topic) for n in range(5000)), timeout_s=60.0)
        for each in flood
    ]
    calm.run(*(delivery(n, topic="calm") for n in range(150)), timeout_s=30.0)
    flooded = sum(len(each.desk.outcomes) for each in flood)
    gevent.killall(endless)
    assert flooded <= 150 / 0.8, f"{flooded} of the flooding system in the time of 150 of the other"


def test_board_tells_states_at_once_counters_seldom_and_nothing_twice(stack):
    stub, clock, told = application(stack), FakeClock(), []
    backends = Backends({"b": schema.Backend(fastcgi=[stub.address])}, processes=1, index=0, clock=clock)
    stack.callback(backends.close)
    board = BackendBoard(backends, lambda kind, **fields: told.append(fields), clock)
    board.tell()
    assert told == [], "no topic uses it"
    lane = calls(stack, backends)
    board.tell()
    board.tell()
    assert [(each["backend"], each["address"], each["state"]) for each in told] == [("b", stub.address, "up")]
    lane.run_one()
    board.tell()
    assert len(told) == 1
    clock.advance(1.0)
    board.tell()
    assert [each["calls_total"] for each in told] == [0, 1]
    backends.of_fastcgi(NAMED).shut_down(backends.of_fastcgi(NAMED).addresses[0], "gone")
    board.tell()
    assert (told[-1]["state"], told[-1]["reason"], told[-1]["topics"]) == ("open", "gone", ["gift/credit"])
    assert len(told) == 3


@pytest.mark.parametrize(("shadows", "alone"), [(["gift/credit"], True), (["gift/new"], False), ([], False)])
def test_board_tells_of_backends_that_shadows_alone_call(stack, shadows, alone):
    stub, told = application(stack), []
    backends = Backends({"b": schema.Backend(fastcgi=[stub.address])}, processes=1, index=0, clock=SystemClock())
    stack.callback(backends.close)
    calls(stack, backends)
    BackendBoard(backends, lambda kind, **fields: told.append(fields), SystemClock(), frozenset(shadows)).tell()

    assert [each["shadows"] for each in told] == [alone]


def test_request_that_goes_out_twice_says_so_the_second_time(stack):
    stub = FastcgiStub(answering(lambda _, number: (DONE,) if number != 1 else ("close",)))
    stack.callback(stub.close)
    with Calls(schema.FastcgiHandler(address=stub.address, script=SCRIPT)) as lane:
        outcomes = lane.run(delivery(1), delivery(2))
    data = [request for request in stub.requests if request.form["type"] == "data"]
    assert [outcome.resent for outcome in outcomes] == [False, True]
    assert [request.params.get("HTTP_X_PBUS_REDELIVERED", "0") for request in data] == ["0", "0", "1"]


def test_held_topic_is_never_sent_twice_and_never_meets_a_closing_connection(stack):
    stub = FastcgiStub(answering(lambda _, number: (DONE,) if number != 1 else ("close",)))
    stack.callback(stub.close)
    handler = schema.FastcgiHandler(address=stub.address, script=SCRIPT)
    with Calls(handler, on_unknown="hold") as lane:
        outcomes = lane.run(delivery(1), delivery(2), delivery(3))
        assert not any(want.count > 1 for want in lane.lane.wants())
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE, Verdict.CRASHED, Verdict.DONE]
    assert stub.accepted >= 4  # a ping, three calls (and the question whether it is still there)
    data = [request for request in stub.requests if isinstance(request, FastcgiRequest)]
    assert len([request for request in data if request.form["type"] == "data"]) == 3
