"""
Who follows job events, and how events reach them without ever holding up a job.

    caller --watch--> master --watch {id, queues}--> children --watching {id}--> master --ok--> caller
    child --event--> master --event--> every follower of its queue

Rule: children publish only while somebody follows. A follower is told ``ok`` when every child that
publishes has begun to (or has not answered for a second), so what it starts afterwards is seen.
A slow follower loses events and is told how many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.clock import Clock
from pbus.codec import frames
from pbus.supervisor.control import Caller
from pbus.supervisor.handle import Handle

HEARS: Final = "watch"
_ANSWER_S: Final = 1.0
_BACKLOG_BYTES: Final = 1024 * 1024
_ALL: Final = "*"
_MOST_QUEUES: Final = 1000


@dataclass(slots=True, eq=False)
class Follower:
    """
    One caller that follows.

    Attributes:
        queues: Names, or ``*``.
        waits_for: Serial numbers of children that have not begun to publish; answered when empty.
        answer_by: When it is answered all the same.
        lost: Events it missed because it did not read.
    """

    caller: Caller
    queues: frozenset[str]
    waits_for: set[int] = field(default_factory=set)
    answer_by: float = 0.0
    answered: bool = False
    lost: int = 0

    def answer(self) -> None:
        """It may go on; once."""
        if not self.answered:
            self.answered = True
            self.caller.answer()


class Followers:
    """All of them. One owner: the master."""

    def __init__(self, publishers: Callable[[], Iterable[Handle]], clock: Clock) -> None:
        """*publishers* answers the children that publish events now."""
        self._publishers = publishers
        self._clock = clock
        self._followers: set[Follower] = set()
        self._id = 0

    def begin(self, caller: Caller, frame: dict[str, Any]) -> None:
        """A caller asks to follow ``queues`` (absent: all); who follows already follows these instead."""
        follower = Follower(caller, _names(frame.get("queues") or [_ALL]))
        self._followers = {one for one in self._followers if one.caller is not caller} | {follower}
        caller.gone = lambda: self._end(follower)
        follower.answer_by = self._clock.monotonic_s() + _ANSWER_S
        follower.waits_for = {child.n for child in self._tell_children()}
        self.settle()

    def introduce(self, child: Handle) -> None:
        """A publisher has become ready: it is told who follows."""
        if self._followers and HEARS in child.spec.hears:
            child.tell(HEARS, id=self._id, queues=self._queues())

    def watching(self, child: Handle) -> None:
        """*child* publishes now."""
        for follower in self._followers:
            follower.waits_for.discard(child.n)
        self.settle()

    def spread(self, event: dict[str, Any]) -> None:
        """Pass a job event on to whoever follows its queue."""
        data = frames.encode("event", event=event)
        for follower in self._followers:
            if event.get("queue") in follower.queues or _ALL in follower.queues:
                self._pass_on(follower, data)

    def settle(self) -> None:
        """Answer who need not wait any longer; a duty of every turn."""
        alive = {child.n for child in self._publishers()}
        now = self._clock.monotonic_s()
        for follower in self._followers:
            if not follower.answered and (not follower.waits_for & alive or now >= follower.answer_by):
                follower.answer()

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself."""
        return min((one.answer_by for one in self._followers if not one.answered), default=float("inf"))

    def _pass_on(self, follower: Follower, data: bytes) -> None:
        channel = follower.caller.channel
        if channel.waiting_bytes + len(data) > _BACKLOG_BYTES:
            follower.lost += 1
            return
        if follower.lost:
            channel.send(frames.encode("lost", count=follower.lost))
            follower.lost = 0
        channel.send(data)

    def _end(self, follower: Follower) -> None:
        self._followers.discard(follower)
        self._tell_children()

    def _tell_children(self) -> list[Handle]:
        self._id += 1
        publishers = list(self._publishers())
        for child in publishers:
            child.tell(HEARS, id=self._id, queues=self._queues())
        return publishers

    def _queues(self) -> list[str]:
        return sorted(set().union(*(follower.queues for follower in self._followers)))


def _names(queues: Any) -> frozenset[str]:
    """
    What a caller may ask for; it comes from outside.

    Raises:
        ValueError: no list of a bounded number of names.
    """
    if not isinstance(queues, list) or len(queues) > _MOST_QUEUES or not all(isinstance(name, str) for name in queues):
        raise ValueError(f"'queues' is a list of at most {_MOST_QUEUES} names")
    return frozenset(queues)
