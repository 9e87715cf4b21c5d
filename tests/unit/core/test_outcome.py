"""Every row of the outcome table: what was observed, and what becomes of the delivery."""

from __future__ import annotations

import dataclasses

import pytest

from pbus.core.job import Delivery, Move
from pbus.core.outcome import ERROR_TEXT_BYTES, Outcome, Rules, Verdict, judge, of_http_status, of_pepper_code
from pbus.core.retry import RetryPolicy

POLICY = RetryPolicy(attempts=3, for_s=100.0, first_s=2.0, factor=2.0, cap_s=60.0, jitter=0.0)
RULES = Rules(retry=POLICY, crash_limit=3)
FIRST_MS = 1_000_000

DELIVERY = Delivery("1-1", "gift", "credit", b"{}", 1, 0, False, "", "", 0, "n/b/0.1")


def settle(verdict: Verdict, delivery: Delivery = DELIVERY, **fields: object):
    return judge(delivery, Outcome(verdict=verdict, error="why", **fields), RULES, FIRST_MS, 0.0)


@pytest.mark.parametrize(
    ("verdict", "move", "counts", "crash", "redelivered", "reason"),
    [
        (Verdict.DONE, Move.ACK, False, False, False, ""),
        (Verdict.FAILED, Move.RETRY, True, False, True, "failed"),
        (Verdict.RETRY_ASKED, Move.RETRY, True, False, True, "retry"),
        (Verdict.PERMANENT, Move.BURY, True, False, True, "permanent"),
        (Verdict.TIMEOUT, Move.RETRY, True, False, True, "timeout"),
        (Verdict.CRASHED, Move.RETRY, True, True, True, "crashed"),
        (Verdict.BUSY, Move.RETRY, False, False, False, "busy"),
        (Verdict.DOWN, Move.RELEASE, False, False, False, ""),
        (Verdict.NOT_REGISTERED, Move.RELEASE, False, False, False, ""),
        (Verdict.MISCONFIGURED, Move.RELEASE, False, False, False, ""),
        (Verdict.RELEASED, Move.RELEASE, False, False, False, ""),
        (Verdict.UNSURE, Move.RELEASE, False, False, True, ""),
    ],
)
def test_judge_first_attempt(verdict, move, counts, crash, redelivered, reason):
    settlement = settle(verdict)
    seen = (settlement.move, settlement.counts, settlement.crash, settlement.redelivered, settlement.reason)
    assert seen == (move, counts, crash, redelivered, reason)
    assert (settlement.owner, settlement.queue, settlement.topic, settlement.id) == ("n/b/0.1", "gift", "credit", "1-1")


def test_judge_table_knows_every_verdict():
    for verdict in Verdict:
        assert settle(verdict).move in Move


def test_judge_done_carries_no_text():
    settlement = judge(DELIVERY, Outcome(verdict=Verdict.DONE), RULES, FIRST_MS, 0.0)
    assert (settlement.error, settlement.reason, settlement.delay_s) == ("", "", 0.0)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.TIMEOUT, Verdict.CRASHED, Verdict.RETRY_ASKED])
def test_judge_last_attempt_is_dead(verdict):
    settlement = settle(verdict, dataclasses.replace(DELIVERY, attempt=3))
    assert (settlement.move, settlement.counts) == (Move.BURY, True)
    assert settlement.error == "attempt 3 of 3 failed: why"
    assert settlement.crash is (verdict is Verdict.CRASHED)


def test_judge_attempts_1_is_never_run_twice_even_after_a_crash():
    rules = Rules(retry=dataclasses.replace(POLICY, attempts=1), crash_limit=3)
    assert judge(DELIVERY, Outcome(verdict=Verdict.CRASHED), rules, FIRST_MS, 0.0).move is Move.BURY


def test_judge_too_old_is_dead():
    delivery = dataclasses.replace(DELIVERY, attempt=2, first_ms=FIRST_MS - 100_000)
    settlement = settle(Verdict.FAILED, delivery)
    assert settlement.move is Move.BURY
    assert "still failing 100 s after its first attempt" in settlement.error


@pytest.mark.parametrize(("crashes", "move"), [(0, Move.RETRY), (1, Move.RETRY), (2, Move.BURY), (7, Move.BURY)])
def test_judge_crash_limit_counts_apart_from_attempts(crashes, move):
    settlement = settle(Verdict.CRASHED, dataclasses.replace(DELIVERY, crashes=crashes))
    assert (settlement.move, settlement.crash) == (move, True)


def test_judge_third_crash_says_so():
    settlement = settle(Verdict.CRASHED, dataclasses.replace(DELIVERY, crashes=2))
    assert (settlement.reason, settlement.error) == ("killed its consumer", "killed its consumer 3 times: why")


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 2.0), (2, 4.0)])
def test_judge_retry_waits_by_the_policy(attempt, delay_s):
    assert settle(Verdict.FAILED, dataclasses.replace(DELIVERY, attempt=attempt)).delay_s == delay_s


def test_judge_retry_waits_as_the_handler_asked():
    assert settle(Verdict.RETRY_ASKED, delay_s=17.0).delay_s == 17.0


@pytest.mark.parametrize(("asked", "delay_s"), [(None, 1.0), (0.0, 0.0), (30.0, 30.0)])
def test_judge_busy_waits_retry_after_or_a_second(asked, delay_s):
    assert settle(Verdict.BUSY, delay_s=asked).delay_s == delay_s


@pytest.mark.parametrize("verdict", [Verdict.BUSY, Verdict.DOWN, Verdict.NOT_REGISTERED, Verdict.MISCONFIGURED])
def test_judge_what_uses_up_no_attempt_never_kills_a_job(verdict):
    delivery = dataclasses.replace(DELIVERY, attempt=3, crashes=2, first_ms=1)
    settlement = settle(verdict, delivery)
    assert settlement.move is not Move.BURY
    assert not settlement.counts


def test_judge_redelivered_is_never_forgotten():
    delivery = dataclasses.replace(DELIVERY, redelivered=True)
    assert all(settle(verdict, delivery).redelivered for verdict in Verdict)


def test_judge_error_is_cut_to_whole_characters():
    outcome = Outcome(verdict=Verdict.FAILED, error="错" * 3000)
    error = judge(DELIVERY, outcome, RULES, FIRST_MS, 0.0).error
    assert len(error.encode()) <= ERROR_TEXT_BYTES
    assert set(error) == {"错"}


HTTP = {
    Verdict.DONE: [200, 201, 202, 204, 299],
    Verdict.MISCONFIGURED: [300, 301, 302, 303, 304, 307, 308, 399],
    Verdict.PERMANENT: [400, 401, 403, 413, 415, 422],
    Verdict.NOT_REGISTERED: [404, 410],
    Verdict.BUSY: [429, 503],
    Verdict.FAILED: [101, 402, 405, 406, 407, 408, 409, 418, 425, 451, 499, 500, 501, 502, 504, 599, 999],
}


@pytest.mark.parametrize(("verdict", "status"), [(verdict, status) for verdict in HTTP for status in HTTP[verdict]])
def test_of_http_status(verdict, status):
    assert of_http_status(status) is verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("200", Verdict.DONE), (" 200 ", Verdict.DONE), ("404", Verdict.NOT_REGISTERED), ("429", Verdict.BUSY),
        ("503", Verdict.BUSY), ("", Verdict.FAILED), ("500", Verdict.FAILED), ("201", Verdict.FAILED),
        ("0200", Verdict.FAILED), ("200, 500", Verdict.FAILED), ("ok", Verdict.FAILED), ("400", Verdict.FAILED),
    ],
)
def test_of_pepper_code(code, verdict):
    assert of_pepper_code(code) is verdict
