"""
What one attempt ended with, and what that means for its delivery.

``Verdict`` names what was observed (the outcome table in docs/handlers.md); ``of_http_status`` and
``of_pepper_code`` read it from an answer; ``judge`` turns it into the settlement of the claim:

    verdict                  attempt counts   then
    done                     -                ack
    failed, retry, timeout   yes              retry by the policy, dead when it is exhausted
    crashed                  yes, and crash   the same, dead at crash_limit
    permanent                yes              dead
    busy                     no               retry after Retry-After or 1 s
    down, not-registered,
    misconfigured, released  no               back as it was; backend or topic rests
    unsure                   no               back, marked as redelivered

Pure: time, chance and limits are passed in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pbus.core.job import Delivery, Move, Settlement
from pbus.core.retry import RetryPolicy, is_exhausted, next_delay_s

ERROR_TEXT_BYTES: Final = 2048
BUSY_DELAY_S: Final = 1.0


class Verdict(enum.StrEnum):
    """What was observed of one attempt."""

    DONE = "done"
    FAILED = "failed"                   # the handler said so, or answered something else than success
    RETRY_ASKED = "retry"               # the handler asked for another attempt (pbus.Retry)
    PERMANENT = "permanent"             # can never work: dead at once (400.., pbus.Dead, too large)
    TIMEOUT = "timeout"                 # no answer within the topic's timeout: may have run
    CRASHED = "crashed"                 # it killed its consumer, or EOF on a fresh connection
    BUSY = "busy"                       # 429, 503, FCGI_OVERLOADED: no attempt counted
    DOWN = "down"                       # nothing reached the handler: no attempt counted
    NOT_REGISTERED = "not-registered"   # pepper 404, HTTP 404/410: topic pauses and pings
    MISCONFIGURED = "misconfigured"     # 3xx, contract broken by configuration: topic pauses
    RELEASED = "released"               # never started (drain, slow consumer): back as it was
    UNSURE = "unsure"                   # our own process died with it, may have run: back, redelivered


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    One attempt as it was seen.

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
    """What a topic allows: its retry policy and how many consumers a job may kill."""

    retry: RetryPolicy = RetryPolicy()
    crash_limit: int = 3


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


def judge(delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float) -> Settlement:
    """
    How the claim on *delivery* ends after *outcome*.

    Args:
        delivery: The claimed delivery; its ``attempt`` is the number of the attempt just made.
        outcome: What was observed.
        rules: The topic's bounds.
        now_ms: Wall clock, unix ms (ages are judged against the store's ``first_ms``).
        draw: Uniform draw in [0, 1) for the jitter.
    """
    verdict = outcome.verdict
    if verdict is Verdict.DONE:
        return _settlement(delivery, Move.ACK)
    if verdict in _BACK:
        return _settlement(delivery, Move.RELEASE, redelivered=verdict is Verdict.UNSURE)
    if verdict is Verdict.BUSY:
        delay_s = BUSY_DELAY_S if outcome.delay_s is None else outcome.delay_s
        return _settlement(delivery, Move.RETRY, delay_s=delay_s, reason="busy", error=outcome.error)
    if verdict is Verdict.PERMANENT:
        return _bury(delivery, "permanent", outcome.error)
    if verdict is Verdict.CRASHED and delivery.crashes + 1 >= rules.crash_limit:
        text = f"killed its consumer {delivery.crashes + 1} times: {outcome.error}"
        return _bury(delivery, "killed its consumer", text, crash=True)
    return _again(delivery, outcome, rules, now_ms, draw)


def _again(delivery: Delivery, outcome: Outcome, rules: Rules, now_ms: int, draw: float) -> Settlement:
    """A counted failure: another attempt later, or the dead letters."""
    crash = outcome.verdict is Verdict.CRASHED
    age_s = (now_ms - delivery.first_ms) / 1000.0 if delivery.first_ms else 0.0
    given_up = is_exhausted(delivery.attempt, age_s, rules.retry)
    if given_up:
        return _bury(delivery, outcome.verdict.value, f"{given_up}: {outcome.error}", crash=crash)
    delay_s = outcome.delay_s
    if delay_s is None:
        delay_s = next_delay_s(delivery.attempt + 1, rules.retry, draw)
    return _settlement(
        delivery, Move.RETRY, counts=True, crash=crash, redelivered=True, delay_s=delay_s,
        reason=outcome.verdict.value, error=outcome.error,
    )


def _bury(delivery: Delivery, reason: str, error: str, *, crash: bool = False) -> Settlement:
    return _settlement(
        delivery, Move.BURY, counts=True, crash=crash, redelivered=True, reason=reason, error=error
    )


def _settlement(
    delivery: Delivery, move: Move, *, counts: bool = False, crash: bool = False, redelivered: bool = False,
    delay_s: float = 0.0, reason: str = "", error: str = "",
) -> Settlement:
    return Settlement(
        owner=delivery.owner, queue=delivery.queue, topic=delivery.topic, id=delivery.id, move=move,
        counts=counts, crash=crash, redelivered=redelivered or delivery.redelivered, delay_s=delay_s,
        reason=reason, error=error.encode("utf-8", "replace")[:ERROR_TEXT_BYTES].decode("utf-8", "ignore"),
    )
