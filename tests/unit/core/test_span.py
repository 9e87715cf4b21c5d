from __future__ import annotations

import dataclasses

import pytest

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.span import LINKS, TEXT_CHARS, Sampler, Span, context_of, has_span, processed, read, send_id, sent
from pbus.core.traceparent import PATTERN, trace_id

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PUSHED = f"00-{TRACE}-{CALLER}-01"
JOB = "1800000000000-7"
GIVEN = Delivery(JOB, "gift", "credit", b"body", 1, 0, False, PUSHED, "", 0, "n/b/1.1", claimed_s=5.0)
DONE = Outcome(verdict=Verdict.DONE, run_s=2.0, target="pid 7")
EVERY, NONE = Sampler(1.0), Sampler(0.0)


def settled(move: Move = Move.ACK, error: str = "", fingerprint: str = "") -> Settlement:
    return Settlement(
        owner="n/b/1.1", queue="gift", topic="credit", id=JOB, move=move, error=error, fingerprint=fingerprint
    )


def span_of(outcome: Outcome = DONE, settlement: Settlement | None = None, **given: object) -> Span:
    delivery = dataclasses.replace(GIVEN, **given)
    delivery.span = context_of(delivery, TRACE)
    return processed(delivery, outcome, settlement or settled(), 8.0, 10.0)


def test_sampler_lets_the_producer_decide() -> None:
    assert NONE.trace(PUSHED, JOB) == (TRACE, CALLER)
    assert EVERY.trace(PUSHED[:-2] + "00", JOB) is None
    assert NONE.trace(PUSHED[:-2] + "03", JOB) == (TRACE, CALLER)


@pytest.mark.parametrize("pushed", ["", "nonsense", f"00-{TRACE}-{TRACE[:16]}-01"], ids=["none", "bad", "made by us"])
def test_sampler_takes_its_share_of_jobs_without_a_producers_trace(pushed: str) -> None:
    trace = TRACE if pushed.startswith("00-") else trace_id("", JOB)
    assert EVERY.trace(pushed, JOB) == (trace, "")
    assert NONE.trace(pushed, JOB) is None


def test_sampler_takes_about_its_share_and_the_same_jobs_each_time() -> None:
    ids = [f"1800000000000-{number}" for number in range(2000)]
    taken = [job for job in ids if Sampler(0.25).trace("", job)]
    assert 400 < len(taken) < 600
    assert taken == [job for job in ids if Sampler(0.25).trace("", job)]
    assert set(taken) <= {job for job in ids if Sampler(0.5).trace("", job)}


def test_push_is_a_child_of_its_producer() -> None:
    span = sent(Push("gift", b"body", PUSHED), JOB, (TRACE, CALLER), ("10.0.0.1:5", "shop-\udcff"), (3, 9))
    assert (span.name, span.kind, span.trace, span.id) == ("send gift", "producer", TRACE, send_id("gift", JOB))
    assert (span.parent, span.links, span.start_ns, span.end_ns, span.error) == (CALLER, (), 3, 9, None)
    assert span.attributes["messaging.message.id"] == JOB
    assert span.attributes["messaging.message.body.size"] == 4
    assert span.attributes["messaging.client.id"] == "shop-?"


def test_push_of_nobody_known_says_nothing_of_a_client() -> None:
    span = sent(Push("gift", b"", ""), JOB, (TRACE, ""), ("", ""), (3, 9))
    assert not {"messaging.client.id", "network.peer.address"} & span.attributes.keys()


def test_first_attempt_is_a_child_of_its_push() -> None:
    span = span_of()
    assert (span.name, span.kind, span.trace) == ("process gift/credit", "consumer", TRACE)
    assert (span.parent, span.links, span.error) == (send_id("gift", JOB), (), None)
    assert (span.start_ns, span.end_ns) == (8_000_000_000, 10_000_000_000)
    assert "error.type" not in span.attributes


@pytest.mark.parametrize("again", [{"attempt": 2}, {"redelivered": True}])
def test_later_attempts_are_linked_to_the_push_and_nobodys_children(again: dict[str, object]) -> None:
    span = span_of(**again)
    assert (span.parent, span.links, span.trace) == ("", ((TRACE, send_id("gift", JOB)),), TRACE)


def test_replay_is_linked_to_the_push_of_the_job_that_it_repeats() -> None:
    old = "1700000000000-1"
    assert span_of(replay_of=old).links == ((TRACE, send_id("gift", old)),)
    assert span_of(replay_of=old, traceparent="").links == ((trace_id("", old), send_id("gift", old)),)


def test_each_attempt_and_claim_has_a_span_of_its_own() -> None:
    claims = [
        GIVEN, *(dataclasses.replace(GIVEN, **other) for other in (
            {"attempt": 2}, {"topic": "mail"}, {"owner": "n/b/2.1"}, {"claimed_s": 6.0}, {"id": "1800000000000-8"},
        ))
    ]
    contexts = {context_of(each, TRACE) for each in claims}
    assert len(contexts) == len(claims)
    assert all(PATTERN.match(context) for context in contexts)
    assert context_of(GIVEN, TRACE) == context_of(dataclasses.replace(GIVEN), TRACE)


def test_failure_is_an_error_with_its_class_and_text() -> None:
    outcome = Outcome(verdict=Verdict.TIMEOUT, error="no answer", status="504")
    span = span_of(outcome, settled(Move.BURY, "gave up: no answer \ud800" + "x" * 5000, "ab12"))
    assert span.attributes.items() >= {
        "error.type": "timeout", "pbus.settled": "bury", "pbus.status": "504", "pbus.fingerprint": "ab12",
    }.items()
    assert span.error is not None
    assert span.error.startswith("gave up: no answer ?x")
    assert len(span.error) == TEXT_CHARS


def test_clock_that_goes_back_makes_no_span_that_ends_before_it_begins() -> None:
    delivery = dataclasses.replace(GIVEN, span=context_of(GIVEN, TRACE))
    span = processed(delivery, DONE, settled(), 10.0, 9.0)
    assert span.end_ns == span.start_ns


def test_what_never_began_has_no_span() -> None:
    without = {verdict for verdict in Verdict if not has_span(Outcome(verdict=verdict))}
    assert without == {Verdict.RELEASED, Verdict.DOWN}


def test_batch_is_linked_to_all_its_pushes_and_is_nobodys_child() -> None:
    other = dataclasses.replace(GIVEN, id="1800000000000-8", traceparent="")
    one = dataclasses.replace(GIVEN, span=context_of(GIVEN, TRACE))
    other.span = context_of(other, "a" * 32)
    span = read([one, other], 7.0)
    assert (span.name, span.kind, span.parent) == ("receive gift/credit", "client", "")
    assert span.links == ((TRACE, send_id("gift", JOB)), ("a" * 32, send_id("gift", other.id)))
    assert span.attributes["messaging.batch.message_count"] == 2
    assert (span.start_ns, span.end_ns) == (5_000_000_000, 7_000_000_000)
    assert PATTERN.match(f"00-{span.trace}-{span.id}-01")
    assert len(read([one] * 500, 7.0).links) == LINKS
