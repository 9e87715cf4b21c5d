"""The plan: bounds and orders, what is shared, capacity, the reason in words, and properties that always hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.autoscale import State, bounds, decide, taken_over
from pbus.core.autoscale_terms import (
    BackendSample, Decision, Kind, Limit, MachineSample, NodeSample, Override, Plan, TopicRules, TopicSample,
)

RULES = TopicRules(least=1, most=32)
BUSY = TopicSample(arrivals_per_s=200.0, done_per_s=200.0, service_s=0.05, running=10, places=10)
"""Ten places are busy, and the spare is missing."""
CALLS = replace(RULES, most=64, kind=Kind.CALLS, backend="php")
HUNGRY = replace(BUSY, ready=20_000)
MIB = 1024 * 1024


class Node:
    """A state that goes from tick to tick."""

    def __init__(self, **rules: TopicRules) -> None:
        self.rules = rules
        self.state = State()
        self.at_s = 0.0

    def tick(self, backends: dict[str, BackendSample] | None = None, machine: MachineSample | None = None,
             overrides: dict[str, Override] | None = None, wall_s: float = 0.0, **topics: TopicSample) -> Plan:
        self.at_s += 1.0
        sample = NodeSample(at_s=self.at_s, wall_s=wall_s, topics=topics, backends=backends or {},
                            machine=machine or MachineSample(), overrides=overrides or {})
        self.state, plan = decide(self.state, self.rules, sample)
        return plan

    def settle(self, ticks: int = 30, **given: object) -> Plan:
        for _ in range(ticks):
            plan = self.tick(**given)  # type: ignore[arg-type]
        return plan


def one(sample: TopicSample, rules: TopicRules = RULES, ticks: int = 30, **given: object) -> Decision:
    return Node(t=rules).settle(ticks, t=sample, **given).topics["t"]


# -- a topic alone --------------------------------------------------------------------------------------


def test_a_new_topic_starts_at_its_least() -> None:
    assert Node(t=replace(RULES, least=3)).tick(t=TopicSample()).topics["t"].wanted == 3


def test_arrivals_times_service_time_are_kept_busy_with_some_to_spare() -> None:
    decision = one(BUSY)

    assert decision.wanted == 12  # 10 and half of its root
    assert decision.limited_by is Limit.NONE
    assert "200 jobs/s of 50 ms keep 10 busy" in decision.reason


def test_a_backlog_is_to_be_gone_within_catch_up() -> None:
    decision = one(replace(BUSY, ready=1000), ticks=12)

    assert decision.wanted >= 15  # 10, and 1,000 jobs of 50 ms in 10 s
    assert "1,000 waiting are to be gone within" in decision.reason


def test_max_ends_it_and_is_named() -> None:
    decision = one(replace(BUSY, ready=100_000))

    assert decision.wanted == 32
    assert decision.limited_by is Limit.MAX
    assert "max is 32" in decision.reason


def test_what_is_too_much_goes_when_idle_and_never_in_the_middle_of_a_job() -> None:
    decision = one(replace(BUSY, places=20))

    assert decision.surplus == 8
    assert "8 consumer processes stop when idle, none in the middle of a job" in decision.reason


def test_processes_that_are_starting_are_counted() -> None:
    assert one(replace(BUSY, places=10, starting=4)).surplus == 2


def test_a_topic_without_jobs_to_hand_out_goes_to_its_least() -> None:
    node = Node(t=RULES)
    node.settle(t=replace(BUSY, ready=1000))

    decision = node.settle(60, t=TopicSample(ready=5000, places=20, is_open=False)).topics["t"]

    assert decision.wanted == 1
    assert "no jobs are handed out" in decision.reason


def test_without_a_sample_the_last_number_holds() -> None:
    node = Node(t=RULES)
    before = node.settle(t=BUSY).topics["t"].wanted

    after = node.settle(100).topics["t"]

    assert after.wanted == before
    assert "what it has holds" in after.reason


def test_a_topic_that_is_configured_away_is_forgotten() -> None:
    node = Node(t=RULES, u=RULES)
    node.settle(t=BUSY, u=BUSY)
    del node.rules["u"]

    assert list(node.tick(t=BUSY).topics) == ["t"]
    assert list(node.state.topics) == ["t"]


def test_as_long_as_no_attempt_has_ended_it_doubles() -> None:
    node = Node(t=RULES)
    wanted = [1]
    for _ in range(4):
        sample = TopicSample(ready=100, running=wanted[-1], places=wanted[-1])
        wanted.append(node.tick(t=sample).topics["t"].wanted)

    assert wanted == [1, 2, 4, 8, 16]


def test_no_more_places_than_jobs() -> None:
    """Ten jobs of a minute are to be gone in ten seconds: that takes ten places, not sixty."""
    sample = TopicSample(arrivals_per_s=0.01, done_per_s=0.01, service_s=60.0, ready=9, running=1, places=1)

    assert one(sample, replace(RULES, most=100)).wanted <= 11


def test_a_rate_limits_what_is_needed() -> None:
    decision = one(replace(BUSY, ready=100_000), replace(RULES, rate_per_s=40.0))

    assert decision.wanted <= 3  # 40/s of 50 ms
    assert decision.limited_by is Limit.RATE
    assert decision.capacity.limited_by == "its rate of 40/s"


# -- what the backend says ------------------------------------------------------------------------------


def test_a_backend_that_says_busy_gets_less_and_is_left_alone_for_as_long_as_it_asks() -> None:
    node = Node(t=replace(RULES, least=1, kind=Kind.CALLS))
    before = node.settle(t=replace(BUSY, ready=200)).topics["t"].wanted

    busy = node.tick(t=replace(BUSY, ready=200, busy_per_s=5.0, retry_after_s=20.0)).topics["t"]
    later = [node.tick(t=replace(BUSY, ready=200)).topics["t"].wanted for _ in range(60)]

    assert busy.wanted == 7  # seven tenths of ten
    assert busy.limited_by is Limit.BUSY
    assert "busy" in busy.reason
    assert set(later[:18]) == {7}
    assert later[-1] >= before - 2


class Backend:
    """Processes that do a job in 20 ms; with more calls at once they are slower, and do no more."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.service_s = 0.02

    def sample(self, places: int) -> TopicSample:
        service_s = self.service_s * max(1.0, places / self.processes)
        return TopicSample(arrivals_per_s=800.0, done_per_s=places / service_s, service_s=service_s,
                           ready=5000, running=places, places=places)

    def queue(self, places: int) -> dict[str, BackendSample]:
        return {"php": BackendSample(listen_queue=max(0, places - self.processes))}


def test_a_backend_that_grows_is_used_and_one_that_shrinks_is_spared() -> None:
    node, backend, places = Node(t=replace(RULES, most=64)), Backend(4), 1
    node.settle(t=TopicSample(arrivals_per_s=10, done_per_s=10, service_s=0.02, places=1))
    wanted = []
    for processes in (4, 16, 4):
        backend.processes = processes
        for _ in range(60):
            places = node.tick(t=backend.sample(places)).topics["t"].wanted
        wanted.append(places)

    assert wanted[0] in (5, 6)
    assert 16 <= wanted[1] <= 21
    assert wanted[2] in (5, 6)


def test_a_limit_that_holds_is_tried_with_fewer_now_and_then_and_given_up_when_that_is_not_faster() -> None:
    """A full backend of 4; later it has room for everybody, but a job takes 28 ms, whatever the number at once."""
    node, backend, places, wanted = Node(t=replace(RULES, most=30)), Backend(4), 1, []
    node.settle(t=TopicSample(arrivals_per_s=10, done_per_s=10, service_s=0.02, places=1))
    for tick in range(150):
        if tick == 60:
            backend.processes, backend.service_s = 1000, 0.028
        decision = node.tick(t=backend.sample(places)).topics["t"]
        places = decision.wanted
        wanted.append(places)

    assert wanted[59] in (5, 6)
    assert wanted[-1] == 30


def test_a_listen_queue_tells_of_a_full_backend_that_was_never_seen_otherwise() -> None:
    """From the first sample on 16 calls are made to 4 processes: latency has nothing to be compared with."""
    node, backend, places = Node(t=replace(CALLS, least=1)), Backend(4), 16
    order = {"t": Override(least=16, most=16, until_wall_s=10.0)}
    for second in range(60):
        plan = node.tick(backends=backend.queue(places), overrides=order, wall_s=float(second),
                         t=backend.sample(places))
        places = plan.topics["t"].wanted

    assert places in (5, 6)


# -- orders of people -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Override(least=12, most=12), (12, 12)),
        (Override(least=40, most=120), (40, 120)),
        (Override(least=40), (40, 40)),
        (Override(most=8), (2, 8)),
        (Override(most=1), (1, 1)),
        (Override(least=12, until_wall_s=100.0), (2, 32)),
        (Override(least=12, from_wall_s=101.0), (2, 32)),
    ],
)
def test_an_order_replaces_the_bounds_while_it_holds(order: Override, expected: tuple[int, int]) -> None:
    assert bounds(replace(RULES, least=2), order, 100.0) == expected


def test_an_order_takes_effect_at_once_on_a_topic_at_rest_and_ends_by_itself() -> None:
    node = Node(t=RULES)
    node.settle(t=TopicSample(places=1))
    order = {"t": Override(least=12, most=12, until_wall_s=100.0)}

    during = node.tick(overrides=order, wall_s=50.0, t=TopicSample(places=1)).topics["t"]
    after = node.settle(60, overrides=order, wall_s=100.0, t=TopicSample(places=12)).topics["t"]

    assert (during.wanted, after.wanted) == (12, 1)


# -- what is shared -------------------------------------------------------------------------------------


def test_connections_of_a_backend_go_by_weight() -> None:
    node = Node(t=CALLS, u=replace(CALLS, weight=3))

    plan = node.settle(backends={"php": BackendSample(connections=48)}, t=HUNGRY, u=HUNGRY)

    assert (plan.topics["t"].wanted, plan.topics["u"].wanted) == (12, 36)
    assert plan.topics["t"].limited_by is Limit.BACKEND
    assert "backend php gives it 12 of" in plan.topics["t"].reason


def test_what_php_fpm_has_counts_when_it_is_less() -> None:
    node = Node(t=CALLS)

    plan = node.settle(backends={"php": BackendSample(connections=48, processes=4)}, t=HUNGRY)

    assert plan.topics["t"].wanted == 4


def test_business_systems_share_first_whatever_number_of_topics_they_have() -> None:
    node = Node(a=replace(CALLS, system="one"), b=replace(CALLS, system="two"), c=replace(CALLS, system="two"))

    plan = node.settle(backends={"php": BackendSample(connections=40)}, a=HUNGRY, b=HUNGRY, c=HUNGRY)

    assert [plan.topics[path].wanted for path in "abc"] == [20, 10, 10]


def test_a_business_system_gets_by_its_weight() -> None:
    node = Node(a=replace(CALLS, system="one", system_weight=3), b=replace(CALLS, system="two"))

    plan = node.settle(backends={"php": BackendSample(connections=40)}, a=HUNGRY, b=HUNGRY)

    assert [plan.topics[path].wanted for path in "ab"] == [30, 10]


def test_memory_ends_the_number_of_processes() -> None:
    machine = MachineSample(memory_bytes=1000 * MIB, memory_free_bytes=300 * MIB)

    decision = one(replace(HUNGRY, rss_bytes=500 * MIB), machine=machine)

    assert decision.wanted == 14  # 300 + 500 - 100 MiB, 50 each
    assert decision.limited_by is Limit.MEMORY


def test_processor_ends_the_number_of_processes_but_not_of_calls() -> None:
    machine = MachineSample(cores=4, cores_used=3.4)
    sample = replace(HUNGRY, cores=3.0)  # 10 are busy with 0.3 cores each; 0.4 cores are used by others

    assert one(sample, machine=machine).wanted == 11
    assert one(sample, machine=machine).limited_by is Limit.PROCESSOR
    assert one(sample, CALLS, machine=machine).wanted == 64


def test_places_of_a_topic_at_rest_are_not_given_away() -> None:
    node = Node(t=CALLS, idle=replace(CALLS, least=8))

    plan = node.settle(backends={"php": BackendSample(connections=20)}, t=HUNGRY, idle=TopicSample(places=8))

    assert (plan.topics["t"].wanted, plan.topics["idle"].wanted) == (12, 8)


# -- capacity -------------------------------------------------------------------------------------------


def test_capacity_names_what_ends_it() -> None:
    node = Node(t=CALLS, u=replace(CALLS, least=8, most=8))
    sample = TopicSample(arrivals_per_s=100.0, done_per_s=100.0, service_s=0.016, running=2, places=3)

    capacity = node.settle(backends={"php": BackendSample(connections=48)}, t=sample, u=sample).topics["t"].capacity

    assert capacity.max_per_s == pytest.approx(40 / 0.016)
    assert capacity.words == "can do 2,500/s at max, limited by backend php 48/48"
    assert capacity.now_per_s == pytest.approx(2 / 0.016)


def test_capacity_ends_at_max_when_nothing_is_short() -> None:
    assert one(BUSY).capacity.words == "can do 640/s at max, limited by its max of 32"


def test_capacity_is_not_made_up_before_an_attempt_has_ended() -> None:
    capacity = one(TopicSample()).capacity

    assert (capacity.now_per_s, capacity.max_per_s) == (None, None)
    assert capacity.words == "not measured yet, limited by its max of 32"


# -- always ---------------------------------------------------------------------------------------------


samples = st.builds(
    TopicSample, arrivals_per_s=st.floats(0, 1e5), done_per_s=st.floats(0, 1e5), ready=st.integers(0, 10**7),
    running=st.integers(0, 500), oldest_wait_s=st.floats(0, 1e6), service_s=st.none() | st.floats(1e-5, 1e4),
    places=st.integers(0, 500), starting=st.integers(0, 100), cores=st.floats(0, 64),
    rss_bytes=st.integers(0, 10**11), busy_per_s=st.sampled_from([0.0, 0.0, 0.0, 3.0]),
    retry_after_s=st.sampled_from([0.0, 2.0, 1e5]), is_open=st.sampled_from([True, True, True, False]),
)
topic_rules = st.builds(
    lambda least, more, **other: TopicRules(least=least, most=least + more, **other), least=st.integers(0, 20),
    more=st.integers(0, 200), catch_up_s=st.floats(0, 3600), kind=st.sampled_from(Kind),
    backend=st.sampled_from(["", "php"]), weight=st.integers(1, 100), system=st.sampled_from(["", "a"]),
    rate_per_s=st.sampled_from([0.0, 0.0, 50.0]),
)


@given(topic_rules, topic_rules, st.lists(st.tuples(samples, samples), min_size=1, max_size=8), st.integers(0, 60),
       st.integers(0, 40))
def test_whatever_is_measured_the_number_stays_within_min_and_max_and_the_backend(
    t: TopicRules, u: TopicRules, ticks: list[tuple[TopicSample, TopicSample]], connections: int, queue: int
) -> None:
    node = Node(t=t, u=u)
    backend = BackendSample(connections=connections, listen_queue=queue)
    users = [path for path, rules in node.rules.items() if rules.kind is Kind.CALLS and rules.backend]
    leasts = sum(node.rules[path].least for path in users)
    for one_sample, other in ticks:
        plan = node.tick(backends={"php": backend}, machine=MachineSample(cores=4, cores_used=2), t=one_sample, u=other)

        for path, rules in node.rules.items():
            decision = plan.topics[path]
            assert rules.least <= decision.wanted <= rules.most
            assert decision.surplus >= 0
            assert decision.reason
            assert (decision.capacity.max_per_s or 0) >= 0
        if connections:
            assert sum(plan.topics[path].wanted for path in users) <= max(connections, leasts)


@given(st.lists(samples, min_size=1, max_size=12), samples, st.integers(0, 10**6))
def test_a_larger_backlog_never_gets_less(before: list[TopicSample], last: TopicSample, more: int) -> None:
    node = Node(t=replace(RULES, most=500))
    for sample in before:
        node.tick(t=sample)
    fewer, larger = Node(t=node.rules["t"]), Node(t=node.rules["t"])
    for other in (fewer, larger):
        other.state, other.at_s = node.state, node.at_s
    last = replace(last, service_s=None, done_per_s=0.0)  # with attempts it could also tell that the backend is full

    assert (fewer.tick(t=last).topics["t"].wanted
            <= larger.tick(t=replace(last, ready=last.ready + more)).topics["t"].wanted)


@given(st.floats(0.1, 5000), st.floats(0.0005, 2.0))
def test_at_a_constant_load_the_number_never_moves_again(per_s: float, service_s: float) -> None:
    node, places, wanted = Node(t=replace(RULES, most=20_000)), 1, []
    for _ in range(120):
        done = min(per_s, places / service_s)
        busy = round(done * service_s)
        sample = TopicSample(arrivals_per_s=per_s, done_per_s=done, service_s=service_s, running=busy, places=places)
        places = node.tick(t=sample).topics["t"].wanted
        wanted.append(places)

    assert len(set(wanted[60:])) == 1
    assert places >= per_s * service_s


def test_deciding_changes_nothing_that_it_was_given() -> None:
    node = Node(t=RULES)
    node.settle(t=BUSY)
    before = node.state
    sample = NodeSample(at_s=99.0, topics={"t": HUNGRY})

    once, again = (decide(before, node.rules, sample) for _ in range(2))

    assert once == again
    assert before.topics["t"].decision == node.state.topics["t"].decision


def test_a_decision_can_be_sent() -> None:
    fields = one(BUSY).fields()

    assert fields["limited_by"] == "none"
    assert fields["capacity"]["limited_by"] == "its max of 32"
    assert one(BUSY).is_change is False


# -- who was there before, nobody there, and what more places do not help -------------------------------


def test_a_number_that_was_taken_over_holds_until_it_was_measured_and_is_no_change() -> None:
    node = Node(t=RULES)
    node.state = taken_over({"t": 12}, 0.0)

    first = node.tick(t=TopicSample(places=12)).topics["t"]

    assert (first.was, first.wanted, first.is_change) == (12, 12, False)
    assert node.settle(10, t=TopicSample(places=12)).topics["t"].wanted == 12
    assert node.settle(60, t=TopicSample(places=1)).topics["t"].wanted == 1


def test_a_topic_without_a_place_gets_one_with_its_first_job_and_loses_it_when_nothing_comes() -> None:
    node = Node(t=replace(RULES, least=0))
    assert node.settle(5, t=TopicSample()).topics["t"].wanted == 0
    assert node.tick(t=TopicSample(arrivals_per_s=1.0, ready=1)).topics["t"].wanted == 1
    node.settle(5, t=TopicSample(places=1, done_per_s=1.0, arrivals_per_s=1.0, service_s=0.01))
    assert node.settle(90, t=TopicSample(places=1)).topics["t"].wanted == 0


def test_jobs_that_wait_for_their_keys_start_nobody() -> None:
    node = Node(t=RULES)
    sample = TopicSample(arrivals_per_s=10.0, done_per_s=10.0, service_s=0.1, ready=5000, running=1, oldest_wait_s=90.0)

    last = node.settle(60, t=replace(sample, places=4)).topics["t"]

    assert last.wanted <= 4
    assert "they wait for their keys" in last.reason


def test_an_order_is_named_in_the_reason() -> None:
    node = Node(t=RULES)
    plan = node.settle(5, t=TopicSample(), overrides={"t": Override(least=5, most=5)})
    assert "min is 5 by order" in plan.topics["t"].reason


def test_what_else_runs_on_the_machine_takes_nothing_from_those_that_work() -> None:
    """Half of the machine is ours in any case; the kernel shares it."""
    machine = MachineSample(cores=4.0, cores_used=4.0)
    busy = replace(BUSY, cores=0.5)
    assert one(busy, machine=machine).wanted == 12
    hungry = replace(HUNGRY, cores=2.5, places=32, done_per_s=600.0, running=32)
    decision = one(hungry, replace(RULES, most=400), machine=machine)
    assert decision.limited_by is Limit.PROCESSOR
    assert 28 <= decision.wanted <= 34, "what ours have already is not taken away"
