"""
Where a job came from, as both drivers keep it: the one text beside a body that outlives the log with it.

    traceparent                                  of nearly all pushes
    only US replay_of US traceparent             of a push for one topic, or of a replay (US: 0x1f)

Rule: pure. A traceparent is printable, so the separator is in none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pbus.core.job import Delivery, Push

_SEPARATOR: Final = "\x1f"


class Origin(NamedTuple):
    """What ``written`` was made of."""

    traceparent: str
    replay_of: str = ""
    only: str = ""


def written(push: Push) -> str:
    """The text that is stored with *push*."""
    options = push.options
    if options is None or not (options.only or options.replay_of):
        return push.traceparent
    return _SEPARATOR.join((options.only, options.replay_of, push.traceparent))


def read(text: str) -> Origin:
    """What a stored text says."""
    if _SEPARATOR not in text:
        return Origin(text)
    only, replay_of, traceparent = text.split(_SEPARATOR, 2)
    return Origin(traceparent, replay_of, only)


def told(delivery: Delivery) -> Delivery:
    """*delivery*, whose ``traceparent`` is the stored text, with what that says."""
    if _SEPARATOR in delivery.traceparent:
        origin = read(delivery.traceparent)
        delivery.traceparent, delivery.replay_of = origin.traceparent, origin.replay_of
    return delivery
