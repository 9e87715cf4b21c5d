from __future__ import annotations

import dataclasses
from typing import Any

from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.span import Sampler, Span, send_id
from pbus.ingest.committer import Ticket
from pbus.ingest.spans import REMEMBERED, IngestSpans
from pbus.storage.driver import Appended
from pbus.supervisor.attempt_spans import AttemptSpans
from tests.unit.ingest.door import MovableClock
from tests.unit.ingest.test_stories import FakeClient

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PUSHED = f"00-{TRACE}-{CALLER}-01"
OWNER, PROGRAM = "n/b/1.1", "n/b/7.1"
DONE = Outcome(verdict=Verdict.DONE, run_s=2.0)


class Desk:
    """Spans of an ingest child, and what they would export."""

    def __init__(self, share: float = 1.0) -> None:
        self.clock = MovableClock()
        self.told: list[Span] = []
        self.lost_total = 0
        self.spans = IngestSpans(AttemptSpans(self, Sampler(share)), OWNER, self.clock)  # type: ignore[arg-type]

    def tell(self, span: Span) -> None:
        self.told.append(span)

    def lost(self) -> None:
        self.lost_total += 1


def ticket(*pushes: Push, client: Any = None) -> Ticket:
    return Ticket(client or FakeClient(), pushes, 1, False, None)


def claimed(desk: Desk, owner: str = OWNER, id: str = "1800000000000-1", traceparent: str = PUSHED) -> Delivery:
    delivery = Delivery(id, "gift", "log", b"body", 1, 0, False, traceparent, "", 0, owner, claimed_s=5.0)
    desk.spans.claimed([delivery])
    return delivery


def ack(delivery: Delivery) -> Settlement:
    return Settlement(owner=delivery.owner, queue="gift", topic="log", id=delivery.id, move=Move.ACK)


def test_each_stored_push_has_a_span_of_its_own() -> None:
    desk = Desk()
    stored = [Appended("1-0", 1, 1), Appended("1-1", 1, 1), Appended("", 1, 1, refused="backlog")]
    stored.append(Appended("1-0", 1, 1, duplicate=True))
    push = Push("gift", b"x", PUSHED)
    desk.spans.received([ticket(push, push), ticket(push, push)], stored, 0.25)
    assert [span.id for span in desk.told] == [send_id("gift", "1-0"), send_id("gift", "1-1")]
    first = desk.told[0]
    assert (first.trace, first.parent, first.end_ns - first.start_ns) == (TRACE, CALLER, 250_000_000)
    assert (first.attributes["network.peer.address"], first.attributes["messaging.client.id"]) == ("10.0.0.1:5", "shop")


def test_push_that_is_not_sampled_has_none() -> None:
    desk = Desk(share=0.0)
    desk.spans.received([ticket(Push("gift", b"x", ""))], [Appended("1-0", 1, 1)], 0.1)
    delivery = claimed(desk, traceparent="")
    desk.spans.ended(delivery, DONE, ack(delivery))
    assert (desk.told, delivery.span) == ([], "")


def test_client_that_pulls_is_handed_the_span_that_its_ack_ends() -> None:
    desk = Desk()
    delivery = claimed(desk)
    desk.spans.ended(delivery, DONE, ack(delivery))
    (span,) = desk.told
    assert delivery.span == f"00-{TRACE}-{span.id}-01"
    assert (span.parent, span.end_ns - span.start_ns) == (send_id("gift", delivery.id), 2_000_000_000)


def test_batch_that_a_client_reads_is_one_more_span_and_a_single_job_is_not() -> None:
    desk = Desk()
    one, two, bare = claimed(desk), claimed(desk, id="1800000000000-2"), claimed(desk, traceparent=PUSHED[:-2] + "00")
    desk.spans.read([one, bare])
    assert desk.told == []
    desk.spans.read([one, two, bare])
    (span,) = desk.told
    assert span.links == tuple((TRACE, send_id("gift", each.id)) for each in (one, two))


def test_pop_is_a_span_from_the_claim_on() -> None:
    desk = Desk()
    delivery = claimed(desk)
    delivery.claimed_s = desk.clock.wall_s() - 3.0
    desk.spans.popped([delivery], Outcome(verdict=Verdict.DONE, target="handed out to a client"))
    (span,) = desk.told
    assert abs(span.end_ns - span.start_ns - 3_000_000_000) < 1_000_000


def test_program_comes_back_with_a_name_only_and_has_its_span_all_the_same() -> None:
    desk = Desk()
    delivery = claimed(desk, owner=PROGRAM)
    bare = dataclasses.replace(delivery, body=b"", traceparent="", span="", claimed_s=0.0)
    desk.spans.ended(bare, DONE, ack(bare))
    desk.spans.ended(bare, DONE, ack(bare))
    (span,) = desk.told
    assert (span.trace, delivery.span[36:52]) == (TRACE, span.id)


def test_programs_that_never_answer_are_forgotten() -> None:
    desk = Desk()
    first = claimed(desk, owner=PROGRAM, id="1-0")
    for number in range(REMEMBERED):
        claimed(desk, owner=PROGRAM, id=f"2-{number}")
    bare = dataclasses.replace(first, span="", traceparent="")
    desk.spans.ended(bare, DONE, ack(bare))
    assert desk.told == []


def test_mistake_of_ours_is_a_lost_span_and_nothing_else() -> None:
    desk = Desk()
    desk.spans.received([ticket(Push("gift", b"x", PUSHED), client=object())], [Appended("1-0", 1, 1)], 0.1)
    delivery = claimed(desk)
    delivery.claimed_s = delivery.span = "no time"  # type: ignore[assignment]
    desk.spans.ended(delivery, Outcome(verdict=Verdict.DONE), ack(delivery))
    assert (desk.told, desk.lost_total) == ([], 2)
