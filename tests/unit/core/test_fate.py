"""What would become of a delivery, in a sentence."""

from __future__ import annotations

import pytest

from pbus.core.fate import fate
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Rules, Verdict
from pbus.core.retry import RetryPolicy

RULES = Rules(retry=RetryPolicy(attempts=3, first_s=4.0, factor=2.0, cap_s=60.0, jitter=0.5), timeout_s=5.0)
HOLD = Rules(retry=RULES.retry, hold=True)


def job(attempt: int = 1, crashes: int = 0, forgiven: int = 0) -> Delivery:
    return Delivery("1-0", "gift", "credit", b"x", attempt, crashes, False, "", "", 0, "", "", forgiven)


@pytest.mark.parametrize(
    ("delivery", "outcome", "rules", "told"),
    [
        (job(), Outcome(verdict=Verdict.DONE), RULES, "settled"),
        (job(), Outcome(verdict=Verdict.FAILED, error="x"), RULES, "again in 2 to 4 s, attempt 1 of 3 is used up"),
        (job(3, forgiven=1), Outcome(verdict=Verdict.FAILED, error="x"), RULES,
         "again in 4 to 8 s, attempt 2 of 3 is used up"),
        (job(), Outcome(verdict=Verdict.RETRY_ASKED, error="x", delay_s=7.0), RULES,
         "again in 7 s, attempt 1 of 3 is used up"),
        (job(3), Outcome(verdict=Verdict.FAILED, error="x"), RULES, "dead letter: attempt 3 of 3 failed"),
        (job(), Outcome(verdict=Verdict.PERMANENT, error="x: y"), RULES, "dead letter: permanent"),
        (job(), Outcome(verdict=Verdict.UNSENT, error="too large"), RULES, "dead letter: unsent"),
        (job(1, 2), Outcome(verdict=Verdict.CRASHED, error="x"), RULES, "dead letter: killed its consumer 3 times"),
        (job(), Outcome(verdict=Verdict.TIMEOUT, error="late"), HOLD,
         "dead letter: may have run, and nobody knows how it ended"),
        (job(), Outcome(verdict=Verdict.BUSY, error="x", delay_s=3.0), RULES, "again in 3 s, no attempt is used up"),
        (job(), Outcome(verdict=Verdict.RELEASED), RULES, "back as it was"),
        (job(), Outcome(verdict=Verdict.NOT_REGISTERED), RULES, "back as it was; the topic pauses and asks again"),
    ],
)
def test_fate_is_what_the_bus_would_do(delivery: Delivery, outcome: Outcome, rules: Rules, told: str) -> None:
    assert fate(delivery, outcome, rules, 1_000) == told


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_fate(verdict: Verdict) -> None:
    assert fate(job(), Outcome(verdict=verdict, error="x"), RULES, 1_000)


def test_fate_of_what_a_shadow_fails_is_only_a_comparison() -> None:
    told = fate(job(), Outcome(verdict=Verdict.FAILED, error="no"), Rules(shadow=True), 0)

    assert told == "compared as it is: a shadow makes one attempt"
