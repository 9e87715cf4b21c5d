"""
What would become of a delivery after an outcome, in a sentence.

Rule: ``outcome.judge`` decides; here it is only told. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pbus.core.job import Delivery, Move
from pbus.core.outcome import Outcome, Rules, Verdict, judge

_LAST_DRAW: Final = 0.999999

_BACK: Final[Mapping[Verdict, str]] = {
    Verdict.DOWN: "back as it was; the backend is left alone until it can be reached",
    Verdict.NOT_REGISTERED: "back as it was; the topic pauses and asks again",
    Verdict.MISCONFIGURED: "back as it was; the topic pauses until its configuration is right",
    Verdict.UNSURE: "handed out again, marked as redelivered",
}


def fate(delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int) -> str:
    """
    What the bus would do with *delivery* after *outcome*: ``again in 2.5 to 5 s, attempt 1 of 10 is used up``.

    Args:
        delivery: With the number of the attempt just made.
        outcome: What was observed.
        rules: The topic's.
        now_ms: Wall clock, unix ms.
    """
    told = judge(delivery, outcome, rules, now_ms, 0.0)
    if told.move is Move.ACK:
        return "settled" if outcome.verdict is Verdict.DONE else "compared as it is: a shadow makes one attempt"
    if told.move is Move.BURY:
        return f"dead letter: {told.error.partition(': ')[0] if outcome.error in told.error[1:] else told.reason}"
    if told.move is Move.RELEASE:
        return _BACK.get(outcome.verdict, "back as it was")
    soonest_s = judge(delivery, outcome, rules, now_ms, _LAST_DRAW).delay_s
    wait = f"{soonest_s:.3g} to {told.delay_s:.3g} s" if soonest_s < told.delay_s * 0.99 else f"{told.delay_s:.3g} s"
    used = f"attempt {max(1, delivery.attempt - delivery.forgiven)} of {rules.retry.attempts} is used up"
    return f"again in {wait}, {used if told.counts else 'no attempt is used up'}"
