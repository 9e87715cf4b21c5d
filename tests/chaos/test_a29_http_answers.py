"""
A29: an HTTP endpoint that answers with every class of status, with resets and drips, without end, with bombs.

Each answer ends its job as the table in docs/handlers.md says, and none of them costs the delivery child memory.
"""

from __future__ import annotations

from tests.support.http_cases import Case, Endpoint, cases
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.memory_use import Memory
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

GROWTH_MB = 20


def test_every_answer_ends_as_the_table_says_and_costs_no_memory(scenario: Scenario) -> None:
    wanted = {case.name: case for case in cases()}
    endpoint = Endpoint(wanted)
    stub = HttpStub(endpoint.plan)
    try:
        more = 'concurrency = 8\ntimeout = "2s"\nretry = { attempts = 1 }'
        bus = scenario.start({"answers": f'http = {{ url = "{stub.url}" }}\n{more}'})
        client = scenario.client()
        client.lpush(QUEUE, *(f"warm-{number}" for number in range(500)))
        scenario.settled()
        memory = Memory(bus.pids("delivery")[0])
        ids = {name: client.xadd(QUEUE, {"body": name}).decode() for name in wanted}  # type: ignore[union-attr]
        scenario.settled()
        growth_mb = memory.growth_mb()
    finally:
        stub.close()
    with scenario.driver() as driver:
        dead = {letter.id: letter.reason for letter in driver.dead_letters(QUEUE, "answers", 1000)}
    print(f"{len(ids)} answers, {len(dead)} dead, memory grew by {growth_mb:.1f} MB")
    assert {name: dead.get(job, "done") for name, job in ids.items()} == {each.name: each.end for each in cases()}
    for case in wanted.values():
        tries = endpoint.tries[case.name]
        assert {each.attempt for each in tries} == {"1"}, case.name
        assert len(tries) == (2 if case.after_s else 1) or (case.always and tries[1].redelivered == "1"), case.name
        assert tries[-1].at_s - tries[0].at_s >= case.after_s, case.name
    assert growth_mb < GROWTH_MB
    assert not bus.events("child.exited")


def test_topics_that_are_not_taken_wait_and_use_up_no_attempt(scenario: Scenario) -> None:
    plans = {"404": (response(404),), "410": (response(410),), "308": (response(308, Location="/elsewhere"),)}
    endpoint = Endpoint({name: Case(name, plan, "") for name, plan in plans.items()})
    stubs = {name: HttpStub(lambda request, _, name=name: endpoint.plan(_named(request, name), _)) for name in plans}
    try:
        bus = scenario.start({f"t{name}": f'http = {{ url = "{stub.url}" }}' for name, stub in stubs.items()})
        scenario.client().lpush(QUEUE, "job")
        until(lambda: bus.topic(QUEUE, "t308")["state"] == "paused", 10, "the redirected topic is paused")
        until(lambda: [bus.topic(QUEUE, f"t{name}")["done_total"] for name in ("404", "410")] == [1, 1], 15, "done")
        moved = bus.topic(QUEUE, "t308")
    finally:
        for stub in stubs.values():
            stub.close()
    assert {name: [each.attempt for each in tries] for name, tries in endpoint.tries.items()} == {
        "404": ["1", "1"], "410": ["1", "1"], "308": ["1"],
    }
    assert (moved["ready"], moved["failed_total"], moved["dead"]) == (1, 0, 0)
    assert "/elsewhere" in moved["reason"]


def _named(request: HttpRequest, name: str) -> HttpRequest:
    return HttpRequest(request.line, request.headers, name.encode())
