"""Every row of the outcome table: what was observed, and what becomes of the delivery."""

from __future__ import annotations

import dataclasses

import pytest

from pbus.core.fingerprint import fingerprint
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
        (Verdict.UNSENT, Move.BURY, False, False, False, "unsent"),
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


# -- attempts that do not count ----------------------------------------------------------------------


def test_judge_attempts_that_were_given_back_do_not_count():
    delivery = dataclasses.replace(DELIVERY, attempt=7, forgiven=5)
    assert (settle(Verdict.FAILED, delivery).move, settle(Verdict.FAILED, delivery).delay_s) == (Move.RETRY, 4.0)
    last = settle(Verdict.FAILED, dataclasses.replace(DELIVERY, attempt=7, forgiven=4))
    assert (last.move, last.error) == (Move.BURY, "attempt 3 of 3 failed: why")


@pytest.mark.parametrize("forgiven", [7, 8, 100])
def test_judge_the_attempt_just_made_counts_however_many_were_given_back(forgiven):
    delivery = dataclasses.replace(DELIVERY, attempt=7, forgiven=forgiven)
    once = Rules(retry=dataclasses.replace(POLICY, attempts=1))
    assert judge(delivery, Outcome(verdict=Verdict.FAILED), once, FIRST_MS, 0.0).move is Move.BURY


# -- busy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit_s", "busy_s", "counts"), [(60.0, 59.9, False), (60.0, 60.0, True), (60.0, 1e6, True), (0.0, 1e6, False)]
)
def test_judge_busy_counts_as_failed_after_the_limit(limit_s, busy_s, counts):
    rules = Rules(retry=POLICY, busy_limit_s=limit_s)
    outcome = Outcome(verdict=Verdict.BUSY, error="why", delay_s=7.0)
    settlement = judge(DELIVERY, outcome, rules, FIRST_MS, 0.0, busy_s=busy_s)
    assert (settlement.move, settlement.counts, settlement.delay_s) == (Move.RETRY, counts, 7.0)
    assert settlement.reason == "busy"
    last = judge(dataclasses.replace(DELIVERY, attempt=3), outcome, rules, FIRST_MS, 0.0, busy_s=busy_s)
    assert last.move is (Move.BURY if counts else Move.RETRY)


# -- on_unknown = "hold" -----------------------------------------------------------------------------


HOLD = dataclasses.replace(RULES, hold=True)


@pytest.mark.parametrize("verdict", Verdict)
def test_judge_hold_what_may_have_run_is_dead_as_unknown_and_nothing_else_changes(verdict):
    held = judge(DELIVERY, Outcome(verdict=verdict, error="why"), HOLD, FIRST_MS, 0.0)
    if verdict in (Verdict.TIMEOUT, Verdict.CRASHED, Verdict.UNSURE):
        assert (held.move, held.reason, held.redelivered) == (Move.BURY, "unknown", True)
        assert held.error == "may have run, and nobody knows how it ended: why"
        assert held.fingerprint == fingerprint("unknown", "why")
    else:
        assert held == settle(verdict)


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.CRASHED, Verdict.UNSURE])
def test_judge_hold_is_stronger_than_the_brake(verdict):
    assert judge(DELIVERY, Outcome(verdict=verdict), HOLD, FIRST_MS, 0.0, spared_s=60.0).reason == "unknown"


# -- keys of handlers that nobody can kill ------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "key", "killable", "rests"),
    [
        (Verdict.TIMEOUT, "user-7", False, True), (Verdict.TIMEOUT, "user-7", True, False),
        (Verdict.TIMEOUT, "", False, False), (Verdict.FAILED, "user-7", False, False),
        (Verdict.UNSURE, "user-7", False, True), (Verdict.UNSURE, "user-7", True, False),
        (Verdict.UNSURE, "", False, False),
    ],
)
def test_judge_a_key_rests_for_the_timeout_while_the_handler_may_still_run(verdict, key, killable, rests):
    rules = dataclasses.replace(RULES, timeout_s=33.0, killable=killable)
    delivery = dataclasses.replace(DELIVERY, key=key)
    again = judge(delivery, Outcome(verdict=verdict), rules, FIRST_MS, 0.0)
    assert (again.delay_s == 33.0) is rests
    assert again.counts is (verdict is not Verdict.UNSURE)
    if verdict is Verdict.TIMEOUT:
        dead = judge(dataclasses.replace(delivery, attempt=3), Outcome(verdict=verdict), rules, FIRST_MS, 0.0)
        assert (dead.move, dead.key_rest_s) == (Move.BURY, 33.0 if rests else 0.0)


def test_judge_a_retry_of_a_resting_key_waits_for_the_longer_of_both():
    rules = Rules(retry=dataclasses.replace(POLICY, first_s=50.0), timeout_s=33.0, killable=False)
    delivery = dataclasses.replace(DELIVERY, key="user-7")
    assert judge(delivery, Outcome(verdict=Verdict.TIMEOUT), rules, FIRST_MS, 0.0).delay_s == 50.0


# -- while the topic is braked -----------------------------------------------------------------------


@pytest.mark.parametrize("verdict", Verdict)
def test_judge_braked_a_failure_uses_up_nothing_and_waits(verdict):
    delivery = dataclasses.replace(DELIVERY, attempt=3, crashes=2)
    spared = judge(delivery, Outcome(verdict=verdict, error="why"), RULES, FIRST_MS, 0.0, spared_s=60.0)
    if verdict in (Verdict.FAILED, Verdict.TIMEOUT, Verdict.CRASHED):
        assert (spared.move, spared.counts, spared.crash, spared.delay_s) == (Move.RETRY, False, False, 60.0)
        assert (spared.redelivered, spared.reason, spared.error) == (True, verdict.value, "why")
    else:
        assert spared == settle(verdict, delivery)


def test_judge_braked_age_still_ends_it():
    delivery = dataclasses.replace(DELIVERY, first_ms=FIRST_MS - 100_000)
    settlement = judge(delivery, Outcome(verdict=Verdict.FAILED), RULES, FIRST_MS, 0.0, spared_s=60.0)
    assert settlement.move is Move.BURY


def test_judge_braked_a_topic_that_tries_once_tries_once():
    once = Rules(retry=dataclasses.replace(POLICY, attempts=1))
    assert judge(DELIVERY, Outcome(verdict=Verdict.FAILED), once, FIRST_MS, 0.0, spared_s=60.0).move is Move.BURY


# -- groups -------------------------------------------------------------------------------------------


def test_judge_every_dead_letter_has_the_group_of_its_error_whatever_attempt_it_was():
    dead = [
        judge(dataclasses.replace(DELIVERY, attempt=attempt), Outcome(verdict=Verdict.FAILED, error=f"no user {user}"),
              Rules(retry=dataclasses.replace(POLICY, attempts=attempt)), FIRST_MS, 0.0)
        for attempt, user in ((1, 7), (3, 8_000), (100, 9))
    ]
    assert {one.fingerprint for one in dead} == {fingerprint("failed", "no user 7")}
    assert all(not settle(verdict).fingerprint for verdict in Verdict if settle(verdict).move is not Move.BURY)


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


@pytest.mark.parametrize("verdict", Verdict)
def test_judge_of_a_shadow_ends_or_puts_back_and_never_retries(verdict):
    rules = dataclasses.replace(RULES, shadow=True)
    move = judge(DELIVERY, Outcome(verdict=verdict, error="why"), rules, FIRST_MS, 0.0, spared_s=1.0).move
    back = {Verdict.DOWN, Verdict.NOT_REGISTERED, Verdict.MISCONFIGURED, Verdict.RELEASED, Verdict.UNSURE}

    assert move is (Move.RELEASE if verdict in back else Move.ACK)
