from __future__ import annotations

from typing import Any

import pytest

from pbus.core.job import Delivery, Move, Settlement
from pbus.core.outcome import Outcome, Verdict
from pbus.core.story import ChildJob, Story, Whereabouts, at, lasting, lines
from pbus.core.trace import (
    Attempt, Received, Shelf, attempt_of, brief, decision, is_plain, reclaim_of, replayed, shelf_of, slow_us,
)
from pbus.telemetry.metrics import BOUNDS

T0 = 1_800_000_000_000
JOB = f"{T0}-0"


def attempt(number: int, ended: int, verdict: str = "done", move: str = "ack", **more: Any) -> Attempt:
    return Attempt(JOB, "credit", number, T0 + ended, 5, 2, 3_000, verdict, move, "unix:/php.sock", more)


def story(*told: Any, **fields: Any) -> Story:
    known = {"queue": "gift", "id": JOB, "pushed_ms": T0, "now_ms": T0 + 99_000} | fields
    return Story(told=[("n1/delivery.0", one) for one in told], **known)


def text_of(made: Story) -> str:
    return "\n".join(lines(made.hops(), T0))


def test_hops_are_in_the_order_of_time_and_once_each() -> None:
    retry = attempt(1, 10, "failed", "retry", next_ms=T0 + 60, error="no\nmoney")
    done = attempt(2, 80)
    made = story(done, retry, retry, Received(JOB, JOB, ("10.0.0.1:5", "live", "shop", "phpredis 6")))
    assert text_of(made) == """\
       +0 ms  received from 10.0.0.1:5 (as live, client shop, phpredis 6) by n1/delivery.0, stored
      +10 ms  credit: attempt 1 at unix:/php.sock, claimed by n1/delivery.0 after 5 ms, 2 ms until there was a place, \
ran 3 ms: failed, again at +60 ms
              error: no
                     money
      +80 ms  credit: attempt 2 at unix:/php.sock, claimed by n1/delivery.0 after 15 ms, 2 ms until there was a place, \
ran 3 ms: done"""


def test_replays_are_told_at_both_ends_and_once() -> None:
    copy = f"{T0 + 9}-0"
    first, of_copy = replayed(JOB, copy, "credit", T0 / 1000 + 2, "r1")
    again = first._replace(ended_ms=T0 + 7_000)
    old = story(first, again, places={"credit": Whereabouts("ended")})
    assert text_of(old).count(f"credit: run again as {copy} by replay r1") == 1
    assert dict(old.now()) == {"credit": f"run again as {copy} by replay r1"}
    assert f"credit: made by replay r1 of {JOB}" in text_of(story(of_copy))


def test_children_and_decisions_are_hops() -> None:
    made = story(decision(JOB, "", "cancel", T0 / 1000 + 2, "ann"), children=[ChildJob("mail", f"{T0 + 5}-0", T0 + 5)])
    assert text_of(made) == (
        f"       +5 ms  pushed mail {T0 + 5}-0 in its trace\n    +2.000 s  all topics: cancelled by ann"
    )


@pytest.mark.parametrize(("told", "place", "expires_ms", "says"), [
    ([attempt(1, 5)], Whereabouts("ended"), 0, "done"),
    ([decision(JOB, "", "cancel", T0 / 1000, "ann")], Whereabouts("ended"), 0, "cancelled"),
    ([], Whereabouts("ended"), T0 + 1, "over: done, or expired by its ttl; nothing is kept that says which"),
    ([], Whereabouts("ended"), 0, "over; nothing is kept that says how it ended"),
    ([], Whereabouts("ready"), 0, "ready, waits to be claimed"),
    ([], Whereabouts("running", owner="n/b/1.2"), 0, "claimed by n/b/1.2"),
    ([], Whereabouts("delayed", due_ms=T0 + 61_000), 0, "delayed until +1 min 1 s"),
    ([], Whereabouts("dead", at_ms=T0 + 7, error="trace\nno money"), 0, "dead letter since +7 ms: no money"),
])
def test_where_it_is_now_says_no_more_than_is_known(told: Any, place: Whereabouts, expires_ms: int, says: str) -> None:
    assert dict(story(*told, places={"credit": place}, expires_ms=expires_ms).now()) == {"credit": says}


@pytest.mark.parametrize(("ms", "text"), [
    (0, "0 ms"), (12.34, "12.3 ms"), (999, "999 ms"), (1_204, "1.204 s"), (200_000, "3 min 20 s"),
    (7_260_000, "2 h 1 min"), (90_000_000, "1 d 1 h"),
])
def test_spans_are_said_as_people_compare_them(ms: float, text: str) -> None:
    assert lasting(ms) == text


def test_moments_are_utc() -> None:
    assert at(T0 + 7) == "2027-01-15 08:00:00.007 UTC"


def delivery(number: int = 1, claimed_s: float = T0 / 1000 + 0.020) -> Delivery:
    return Delivery(
        id=JOB, queue="gift", topic="credit", body=b"", attempt=number, crashes=0, redelivered=False, traceparent="",
        content_type="", first_ms=0, owner="n/b/1.2", claimed_s=claimed_s,
    )


def settled(move: Move, **fields: Any) -> Settlement:
    return Settlement(owner="n/b/1.2", queue="gift", topic="credit", id=JOB, move=move, **fields)


def test_an_attempt_is_told_with_its_times_and_texts() -> None:
    outcome = Outcome(
        verdict=Verdict.FAILED, error="HTTP 500", run_s=0.030, status="500", headers={"x": "y"}, output=b"oh",
        stderr=b"a" * 9_000, target="http://a/",
    )
    told = attempt_of(delivery(), outcome, settled(Move.RETRY, delay_s=1.0, reason="failed", error="HTTP 500"),
                      T0 / 1000 + 0.060)
    assert (told.wait_ms, told.pool_ms, told.run_us, told.ended_ms) == (20, 10, 30_000, T0 + 60)
    assert told.more["next_ms"] == T0 + 1_060
    assert (told.more["status"], told.more["output"], told.more["headers"]) == ("500", "oh", {"x": "y"})
    assert len(told.more["stderr"]) <= 4_100
    assert shelf_of(told, 0) is Shelf.KEPT


def test_a_plain_success_says_nothing_more() -> None:
    told = attempt_of(delivery(), Outcome(verdict=Verdict.DONE, run_s=0.001), settled(Move.ACK), T0 / 1000 + 0.021)
    assert not told.more
    assert told.target == "n/b/1.2"
    assert shelf_of(told, 0) is Shelf.RECENT


def test_what_php_says_on_the_way_is_kept_of_a_success_too() -> None:
    outcome = Outcome(verdict=Verdict.DONE, stderr=b"PHP Warning")
    assert attempt_of(delivery(), outcome, settled(Move.ACK), T0 / 1000).more == {"stderr": "PHP Warning"}


def test_what_never_began_takes_no_room_of_failures() -> None:
    told = attempt_of(delivery(), Outcome(verdict=Verdict.RELEASED), settled(Move.RELEASE), T0 / 1000)
    assert shelf_of(told, 0) is Shelf.RECENT


def test_slow_is_ten_medians_and_a_second_at_least() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    assert slow_us(counts, BOUNDS) == 0
    counts[BOUNDS.index(0.5)] = 100
    assert slow_us(counts, BOUNDS) == 5_000_000
    counts[BOUNDS.index(0.001)] = 1_000
    assert slow_us(counts, BOUNDS) == 1_000_000


def test_what_many_others_say_too_is_left_out_of_a_failure() -> None:
    outcome = Outcome(verdict=Verdict.FAILED, error="E" * 300 + "\nmore", stderr=b"PHP", output=b"<html>", status="500")
    short = brief(attempt_of(delivery(), outcome, settled(Move.RETRY, delay_s=60.0), T0 / 1000))
    assert short.more == {"status": "500", "error": "E" * 200, "next_ms": T0 + 60_000}


@pytest.mark.parametrize(("number", "outcome"), [
    (2, Outcome(verdict=Verdict.DONE)), (1, Outcome(verdict=Verdict.DONE, stderr=b"x")),
    (1, Outcome(verdict=Verdict.DONE, run_s=1.0)), (1, Outcome(verdict=Verdict.FAILED)),
])
def test_the_short_way_is_for_plain_successes_only(number: int, outcome: Outcome) -> None:
    assert not is_plain(delivery(number), outcome)


def test_a_claim_of_a_dead_process_is_told_without_times() -> None:
    told = reclaim_of(2, settled(Move.RETRY, delay_s=3.0, reason="crashed", error="signal 9"), T0 + 5)
    assert (told.attempt, told.verdict, told.move, told.target, told.run_us) == (2, "crashed", "retry", "n/b/1.2", 0)
    assert told.more == {"error": "signal 9", "next_ms": T0 + 3_005}
    back = reclaim_of(1, settled(Move.RELEASE, redelivered=True), T0)
    assert (back.verdict, back.more) == ("unsure", {"error": "its process is dead"})
