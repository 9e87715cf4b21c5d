"""
The story of one job, as people read it: every hop in the order of time, relative to its push.

    records of its blocks, where it is now, what it pushed --> Story --> lines, JSON

Rule: pure. What is not known is said, never made up: records are lossy, and gone after their time.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pbus.core.trace import PARDON, PURGE, REPLAY, REPLAYED, Attempt, Received, Record

_TEXTS: Final = ("status", "reason", "error", "headers", "output", "stderr", "fingerprint")
_AGAIN: Final = {
    "retry": "again", "bury": "a dead letter now", "release": "back as it was", "ack": "",
}
_DECIDED: Final = {
    "expire": "expired", "cancel": "cancelled", PURGE: "cancelled with everything that waited",
    PARDON: "one attempt given back",
    "revive": "made ready again", "accept": "settled as done", "forget": "dead letter deleted",
}
_ALL: Final = "all topics"


class Whereabouts(NamedTuple):
    """Where the delivery to a topic is: as ``storage.driver.Place`` says it, times in unix ms, 0: none."""

    state: str
    due_ms: int = 0
    at_ms: int = 0
    owner: str = ""
    reason: str = ""
    error: str = ""


class ChildJob(NamedTuple):
    """A job of the same trace that was pushed while an attempt ran."""

    queue: str
    id: str
    at_ms: int


class Hop(NamedTuple):
    """
    One line of a story.

    Attributes:
        at_ms: When, unix ms.
        kind: ``received``, ``attempt``, ``decision`` or ``child``.
        topic: Whose; empty: the job's.
        text: What happened, one sentence.
        more: (label, text) of what was said, each of one or many lines.
        facts: The same for programs.
    """

    at_ms: int
    kind: str
    topic: str
    text: str
    more: tuple[tuple[str, str], ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """
    What is known of a job.

    Attributes:
        queue, id: Which one.
        pushed_ms: When it was stored, unix ms (its id says so).
        now_ms: When it was looked.
        told: (writer, record) of its blocks; one may be there twice.
        places: Topic -> where it is now; empty: the store has the job no more.
        expires_ms: By its ttl; 0: never.
        size: Of its body; -1: it is gone.
        children: What was pushed in its trace while it ran.
    """

    queue: str
    id: str
    pushed_ms: int
    now_ms: int
    told: Sequence[tuple[str, Record]] = ()
    places: Mapping[str, Whereabouts] = field(default_factory=dict)
    expires_ms: int = 0
    size: int = -1
    children: Sequence[ChildJob] = ()

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it by itself."""
        return all(place.state in ("ended", "dead") for place in self.places.values())

    def attempts(self) -> list[tuple[str, Attempt]]:
        """(writer, attempt), once each, in the order of their ends; decisions of people among them."""
        found = {_once(by, one): (by, one) for by, one in self.told if isinstance(one, Attempt)}
        return sorted(found.values(), key=lambda each: each[1].ended_ms)

    def hops(self) -> list[Hop]:
        """Everything that happened to it, as far as that is kept."""
        hops = [_received(by, one, self.pushed_ms) for by, one in self._received()]
        due: dict[str, int] = {}
        for by, attempt in self.attempts():
            hops.append(_decision(by, attempt) if not attempt.attempt else _attempt(by, attempt, due, self.pushed_ms))
        hops += [
            Hop(each.at_ms, "child", "", f"pushed {each.queue} {each.id} in its trace", (), each._asdict())
            for each in self.children
        ]
        return sorted(hops, key=lambda hop: hop.at_ms)

    def now(self) -> Iterator[tuple[str, str]]:
        """(topic, where it is now), a sentence each."""
        attempts = [one for _, one in self.attempts()]
        for topic, place in sorted(self.places.items()):
            last = next((one for one in reversed(attempts) if one.topic in (topic, "")), None)
            yield topic, _where(place, last, self)

    def _received(self) -> list[tuple[str, Received]]:
        found = [(by, one) for by, one in self.told if isinstance(one, Received)]
        return list({one: (by, one) for by, one in found}.values())


def lines(hops: Iterable[Hop], pushed_ms: int) -> Iterator[str]:
    """*hops* for people; texts of several lines are indented below their hop."""
    for hop in hops:
        topic = f"{hop.topic}: " if hop.topic else ""
        yield f"{relative(hop.at_ms - pushed_ms):>12}  {topic}{hop.text}"
        for label, text in hop.more:
            first, *rest = text.rstrip().split("\n") or [""]
            yield f"{'':14}{label}: {first}"
            yield from (f"{'':14}{'':{len(label) + 2}}{line}" for line in rest)


def relative(ms: int) -> str:
    """``+1.204 s``, ``+3 min 20 s``: since the push."""
    return ("-" if ms < 0 else "+") + lasting(abs(ms))


def lasting(ms: float) -> str:
    """*ms* as people say it, exact enough to compare."""
    seconds = ms / 1000
    if seconds < 1:
        return f"{ms:.3g} ms" if ms < 100 else f"{ms:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def at(ms: int) -> str:
    """A moment, UTC."""
    when = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03} UTC"


def _once(by: str, one: Attempt) -> tuple[Any, ...]:
    """What makes it another one than all others: who goes on with a replay after a kill tells of a job anew."""
    if one.verdict in (REPLAYED, REPLAY):
        return one.topic, one.target, one.verdict
    return by, one.topic, one.attempt, one.ended_ms, one.verdict


def _received(by: str, one: Received, pushed_ms: int) -> Hop:
    address, identity, client, library = one.peer
    whom = ", ".join(part for part in (identity and f"as {identity}", client and f"client {client}", library) if part)
    facts = {"address": address, "identity": identity, "client": client, "library": library, "by": by}
    text = f"received from {address or 'an unknown address'}{f' ({whom})' if whom else ''} by {by}, stored"
    return Hop(pushed_ms, "received", "", text, (), facts)


def _decision(by: str, one: Attempt) -> Hop:
    match one.verdict:
        case "replayed":
            text = run_again(one)
        case "replay":
            text = f"made by replay {one.target} of {one.more.get('of', '')}"
        case _:
            text = f"{_DECIDED.get(one.verdict, one.verdict)} by {one.target or by}"
    facts = {"decision": one.verdict, "who": one.target, "by": by, **one.more}
    return Hop(one.ended_ms, "decision", one.topic or _ALL, text, (), facts)


def run_again(one: Attempt) -> str:
    """Of a record whose verdict is REPLAYED."""
    return f"run again as {one.more.get('as', '')} by replay {one.target}"


def _attempt(by: str, one: Attempt, due: dict[str, int], pushed_ms: int) -> Hop:
    """*due*: topic -> when the next attempt was due; brought up to date."""
    run_ms = one.run_us / 1000
    began_ms = one.ended_ms - run_ms
    claimed_ms = began_ms - one.pool_ms
    ready_ms = due.get(one.topic, pushed_ms)
    wait_ms = one.wait_ms if one.attempt == 1 and one.topic not in due else max(0.0, claimed_ms - ready_ms)
    next_ms = one.more.get("next_ms", 0)
    due[one.topic] = next_ms or one.ended_ms
    pool = f", {lasting(one.pool_ms)} until there was a place" if one.pool_ms else ""
    then = _AGAIN.get(one.move, one.move)
    if next_ms:
        then = f"again at {relative(next_ms - pushed_ms)}"
    what = f"attempt {one.attempt} at {one.target}, claimed by {by} after {lasting(wait_ms)}{pool}"
    text = f"{what}, ran {lasting(run_ms)}: {one.verdict}{f', {then}' if then else ''}"
    said = [(name, _text(one.more[name])) for name in _TEXTS if one.more.get(name)]
    facts = {
        "attempt": one.attempt, "by": by, "target": one.target, "verdict": one.verdict, "move": one.move,
        "claimed_ms": int(claimed_ms), "wait_ms": int(wait_ms), "pool_ms": one.pool_ms, "run_ms": round(run_ms, 3),
        "ended_ms": one.ended_ms, **one.more,
    }
    return Hop(one.ended_ms, "attempt", one.topic, text, tuple(said), facts)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {text}" for name, text in value.items())
    return str(value)


def _last(error: str) -> str:
    """The line of an error that says what it was; the attempt has all of it."""
    return error.rstrip().rpartition("\n")[2].strip()


def _where(place: Whereabouts, last: Attempt | None, story: Story) -> str:
    match place.state:
        case "ready":
            return "ready, waits to be claimed"
        case "running":
            return f"claimed by {place.owner}" if place.owner else "claimed"
        case "delayed":
            why = f" ({place.reason})" if place.reason else ""
            return f"delayed until {relative(place.due_ms - story.pushed_ms)}{why}"
        case "dead":
            return f"dead letter since {relative(place.at_ms - story.pushed_ms)}: {_last(place.error) or place.reason}"
    if last is not None and last.verdict == REPLAYED:
        return run_again(last)
    if last is not None and last.move in ("ack", "accept"):
        return "done"
    if last is not None and last.move == "expire":
        return "expired"
    if last is not None and last.move in ("cancel", PURGE):
        return "cancelled"
    if story.expires_ms and story.expires_ms <= story.now_ms:
        return "over: done, or expired by its ttl; nothing is kept that says which"
    return "over; nothing is kept that says how it ended"
