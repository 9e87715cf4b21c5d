"""
What one attempt ended with, and what that means for its delivery.

``Verdict`` names what was observed (the outcome table in docs/handlers.md); ``of_http_status`` and
``of_pepper_code`` read it from an answer; ``judge`` turns it into the settlement of the claim:

    verdict                  attempt counts   then
    done                     -                ack
    failed, retry, timeout   yes              retry by the policy, dead when it is exhausted
    crashed                  yes, and crash   the same, dead at crash_limit
    permanent                yes              dead
    unsent                   no               dead
    busy                     no               retry after Retry-After or 1 s; as failed after busy_limit
    down, not-registered,
    misconfigured, released  no               back as it was; backend or topic rests
    unsure                   no               back, marked as redelivered

With ``hold`` an attempt that may have run and has no known end (timeout, crashed, unsure) is dead as ``unknown``.
While the topic is braked a failure uses up no attempt (``spared_s``). In a shadow every one that is not put back ends
in an ack.

Pure: time, chance and limits are passed in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pbus.core.fingerprint import fingerprint
from pbus.core.job import Delivery, Move, Settlement
from pbus.core.retry import RetryPolicy, is_exhausted, next_delay_s

ERROR_TEXT_BYTES: Final = 2048
BUSY_DELAY_S: Final = 1.0


class Verdict(enum.StrEnum):
    """What was observed of one attempt."""

    DONE = "done"
    FAILED = "failed"                   # the handler said so, or answered something else than success
    RETRY_ASKED = "retry"               # the handler asked for another attempt (pbus.Retry)
    PERMANENT = "permanent"             # the handler says that it can never work: dead at once (400.., pbus.Dead)
    UNSENT = "unsent"                   # it can never be sent (larger than max_post): dead, no attempt made
    TIMEOUT = "timeout"                 # no answer within the topic's timeout: may have run
    CRASHED = "crashed"                 # it killed its consumer, or EOF on a fresh connection
    BUSY = "busy"                       # 429, 503, FCGI_OVERLOADED: no attempt counted
    DOWN = "down"                       # nothing reached the handler: no attempt counted
    NOT_REGISTERED = "not-registered"   # pepper 404, HTTP 404/410: topic pauses and pings
    MISCONFIGURED = "misconfigured"     # 3xx, contract broken by configuration: topic pauses
    RELEASED = "released"               # never started (drain, slow consumer): back as it was
    UNSURE = "unsure"                   # it may have run, and that is no fault of its own: back, redelivered


@dataclass(slots=True, kw_only=True)
class Outcome:
    """
    One attempt as it was seen; read-only by agreement (freezing it doubles the cost of making one).

    Attributes:
        verdict: The class of the observation.
        error: Text for people; empty when done.
        delay_s: What the handler asked to wait (Retry-After, pbus.Retry); None: the policy decides.
        run_s: Seconds from the first byte sent to the verdict.
        status: Answer status as sent (``200``), or empty.
        headers: Answer headers that matter to people.
        output: Excerpt of the answer's body, at most 64 KiB.
        stderr: Excerpt of STDERR, at most 64 KiB.
        target: Where it ran: address and script, URL, or pid.
        resent: A kept connection ended without a byte of an answer, so the job was sent once more.
    """

    verdict: Verdict
    error: str = ""
    delay_s: float | None = None
    run_s: float = 0.0
    status: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    output: bytes = b""
    stderr: bytes = b""
    target: str = ""
    resent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """
    What a topic allows.

    Attributes:
        retry: When a failed delivery is tried again.
        crash_limit: How many consumers a job may kill.
        hold: ``on_unknown = "hold"``: an attempt that may have run is never repeated by itself.
        busy_limit_s: A delivery that is answered busy for longer than this fails each time; 0: never.
        timeout_s: Bound of one attempt; 0: none.
        killable: What runs too long is killed (a process); else it may still run (php-fpm, HTTP).
        shadow: It only compares: whatever came of an attempt ends the delivery.
    """

    retry: RetryPolicy = RetryPolicy()
    crash_limit: int = 3
    hold: bool = False
    busy_limit_s: float = 0.0
    timeout_s: float = 0.0
    killable: bool = True
    shadow: bool = False


UNKNOWN: Final = "unknown"
"""Reason of a dead letter of which nobody knows whether it ran."""

_PERMANENT_STATUS: Final = frozenset({400, 401, 403, 413, 415, 422})


def of_http_status(status: int) -> Verdict:
    """What the status of an HTTP response says about the attempt (contract ``plain``)."""
    if 200 <= status < 300:
        return Verdict.DONE
    if 300 <= status < 400:
        return Verdict.MISCONFIGURED
    if status in (404, 410):
        return Verdict.NOT_REGISTERED
    if status in (429, 503):
        return Verdict.BUSY
    return Verdict.PERMANENT if status in _PERMANENT_STATUS else Verdict.FAILED


_PEPPER: Final = {
    "200": Verdict.DONE,
    "404": Verdict.NOT_REGISTERED,
    "429": Verdict.BUSY,
    "503": Verdict.BUSY,
}


def of_pepper_code(code: str) -> Verdict:
    """What the answer header ``Code`` says about the attempt (contract ``pepper``); empty: none came."""
    return _PEPPER.get(code.strip(), Verdict.FAILED)


_BACK: Final = frozenset(
    {Verdict.DOWN, Verdict.NOT_REGISTERED, Verdict.MISCONFIGURED, Verdict.RELEASED, Verdict.UNSURE}
)


_MAY_HAVE_RUN: Final = frozenset({Verdict.TIMEOUT, Verdict.CRASHED, Verdict.UNSURE})
_SPARED: Final = frozenset({Verdict.FAILED, Verdict.TIMEOUT, Verdict.CRASHED})


def judge(
    delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float, *,
    busy_s: float = 0.0, spared_s: float | None = None,
) -> Settlement:
    """
    How the claim on *delivery* ends after *outcome*.

    Args:
        delivery: The claimed delivery; its ``attempt`` is the number of the attempt just made.
        outcome: What was observed.
        rules: The topic's bounds.
        now_ms: Wall clock, unix ms (ages are judged against the store's ``first_ms``).
        draw: Uniform draw in [0, 1) for the jitter.
        busy_s: For how long this delivery has been answered busy.
        spared_s: The topic is braked: a failure uses up no attempt and waits at least so long. None: it is not.
    """
    verdict = outcome.verdict
    if verdict is Verdict.DONE or (rules.shadow and verdict not in _BACK):  # nearly every one: made without a detour
        return Settlement(
            owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=Move.ACK,
            redelivered=delivery.redelivered,
        )
    if rules.hold and verdict in _MAY_HAVE_RUN:
        text = f"may have run, and nobody knows how it ended: {outcome.error}"
        return _bury(delivery, outcome, UNKNOWN, text, rest_s=_rest_s(delivery, outcome, rules))
    if verdict in _BACK:
        return _back(delivery, outcome, rules)
    if verdict is Verdict.BUSY:
        return _busy(delivery, outcome, rules, now_ms, draw, busy_s)
    if verdict in (Verdict.PERMANENT, Verdict.UNSENT):
        return _bury(delivery, outcome, verdict.value, outcome.error, counts=verdict is Verdict.PERMANENT)
    if spared_s is not None and verdict in _SPARED and rules.retry.attempts > 1:
        return _spare(delivery, outcome, rules, now_ms, draw, spared_s)
    if verdict is Verdict.CRASHED and delivery.crashes + 1 >= rules.crash_limit:
        text = f"killed its consumer {delivery.crashes + 1} times: {outcome.error}"
        return _bury(delivery, outcome, "killed its consumer", text)
    return _again(delivery, outcome, rules, now_ms, draw)


def _back(delivery: Delivery, outcome: Outcome, rules: Rules) -> Settlement:
    """Not its fault: back as it was. A key rests first where what nobody could kill may still run."""
    unsure = outcome.verdict is Verdict.UNSURE
    if unsure and delivery.key and rules.timeout_s and not rules.killable:
        return _settlement(
            delivery, Move.RETRY, redelivered=True, delay_s=rules.timeout_s, reason=UNKNOWN, error=outcome.error
        )
    return _settlement(delivery, Move.RELEASE, redelivered=unsure)


def _busy(delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float, busy_s: float) -> Settlement:
    if rules.busy_limit_s and busy_s >= rules.busy_limit_s:
        return _again(delivery, outcome, rules, now_ms, draw, f"busy for {busy_s:.0f} s: ")
    delay_s = BUSY_DELAY_S if outcome.delay_s is None else outcome.delay_s
    return _settlement(delivery, Move.RETRY, delay_s=delay_s, reason=Verdict.BUSY.value, error=outcome.error)


def _again(
    delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float, prefix: str = ""
) -> Settlement:
    """A counted failure: another attempt later, or the dead letters."""
    crash = outcome.verdict is Verdict.CRASHED
    made = _made(delivery)
    given_up = is_exhausted(made, _age_s(delivery, now_ms), rules.retry)
    if given_up:
        text = f"{given_up}: {prefix}{outcome.error}"
        return _bury(delivery, outcome, outcome.verdict.value, text, rest_s=_rest_s(delivery, outcome, rules))
    delay_s = outcome.delay_s
    if delay_s is None:
        delay_s = next_delay_s(made + 1, rules.retry, draw)
    return _settlement(
        delivery, Move.RETRY, counts=True, crash=crash, redelivered=True,
        delay_s=max(delay_s, _rest_s(delivery, outcome, rules)), reason=outcome.verdict.value,
        error=prefix + outcome.error,
    )


def _spare(
    delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float, spared_s: float
) -> Settlement:
    """A failure in a braked topic: only ``retry.for`` ends it."""
    made = _made(delivery)
    given_up = is_exhausted(0, _age_s(delivery, now_ms), rules.retry)
    if given_up:
        return _again(delivery, outcome, rules, now_ms, draw)
    delay_s = max(spared_s, next_delay_s(made + 1, rules.retry, draw), _rest_s(delivery, outcome, rules))
    return _settlement(
        delivery, Move.RETRY, redelivered=True, delay_s=delay_s, reason=outcome.verdict.value, error=outcome.error
    )


def _made(delivery: Delivery) -> int:
    """How many attempts the policy counts, with the one just made; at least that one."""
    return max(1, delivery.attempt - delivery.forgiven)


def _age_s(delivery: Delivery, now_ms: int) -> float:
    """Seconds since its first counted attempt ended."""
    return (now_ms - delivery.first_ms) / 1000.0 if delivery.first_ms else 0.0


def _rest_s(delivery: Delivery, outcome: Outcome, rules: Rules) -> float:
    """How long the key rests: a handler that nobody could kill may run on for as long as it may run at all."""
    overdue = outcome.verdict is Verdict.TIMEOUT
    return rules.timeout_s if overdue and delivery.key and not rules.killable else 0.0


def _bury(
    delivery: Delivery, outcome: Outcome, reason: str, error: str, *, counts: bool = True, rest_s: float = 0.0
) -> Settlement:
    """The dead letters. The group of its error is that of the outcome: how often it was tried is no part of it."""
    return _settlement(
        delivery, Move.BURY, counts=counts, crash=outcome.verdict is Verdict.CRASHED, redelivered=counts,
        key_rest_s=rest_s, reason=reason, error=error, group=fingerprint(reason, outcome.error),
    )


def _settlement(
    delivery: Delivery, move: Move, *, counts: bool = False, crash: bool = False, redelivered: bool = False,
    delay_s: float = 0.0, key_rest_s: float = 0.0, reason: str = "", error: str = "", group: str = "",
) -> Settlement:
    return Settlement(
        owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=move,
        counts=counts, crash=crash, redelivered=redelivered or delivery.redelivered, delay_s=delay_s,
        key_rest_s=key_rest_s, reason=reason, fingerprint=group,
        error=error.encode("utf-8", "replace")[:ERROR_TEXT_BYTES].decode("utf-8", "ignore"),
    )
