"""
The trace that a job belongs to, and how its children get into it.

    00-<trace id, 32 hex digits>-<span id, 16>-<flags, 2>

A job that was pushed without a trace has one made of its id, the same for every attempt and every topic: what it
pushes is found with it all the same.
Source: W3C Trace Context, section 3.2.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

PATTERN: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})\Z")
"""Trace id and flags of one that can be used."""

SPAN_DIGITS: Final = 16
_NOT_SAMPLED: Final = "00"


def trace_id(traceparent: str, seed: str) -> str:
    """
    The trace a job belongs to, 32 hex digits.

    Args:
        traceparent: W3C trace context as pushed, or empty.
        seed: What names the job where it brought none (its id): the same for every attempt.
    """
    match = PATTERN.match(traceparent)
    return match[1] if match else hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()


def is_made(traceparent: str) -> bool:
    """Whether pbus has begun that trace itself: its span id is the first half of the trace id, and no span has it."""
    return traceparent[3:19] == traceparent[36:52]


def is_sampled(traceparent: str) -> bool:
    """Whether whoever begun that trace has it recorded."""
    match = PATTERN.match(traceparent)
    return match is not None and bool(int(match[2], 16) & 1)


def child_of(traceparent: str, job_id: str, span: bytes) -> str:
    """
    The trace context of what a job pushes.

    Args:
        traceparent: The job's own, or empty.
        job_id: The job.
        span: Eight bytes that name the push, drawn at random.

    Returns:
        The trace and the flags of the job, with a span of its own; a made trace is not sampled.
    """
    return children_of(traceparent, job_id, span)[0]


def children_of(traceparent: str, job_id: str, spans: bytes) -> list[str]:
    """``child_of`` for several pushes, eight bytes of *spans* each."""
    match = PATTERN.match(traceparent)
    head = f"00-{trace_id(traceparent, job_id)}-"
    tail = f"-{match[2] if match else _NOT_SAMPLED}"
    digits = spans.hex()
    return [f"{head}{digits[at:at + SPAN_DIGITS]}{tail}" for at in range(0, len(digits), SPAN_DIGITS)]
