"""
Group commit: the pushes of all connections of one loop turn become one durable append.

    connections --submit--> waiting --take--> append (one at a time) --> answered, in order
                              |                  |
                              +-- what comes meanwhile is the next batch

Rule: a ticket is answered exactly once, and positively only after the store has it. Nothing waits
for a store that is known to be away, so what waits is bounded by one call of the store; beyond a
bound in bytes connections are not read from.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.core.job import Push
from pbus.errors import Conflict, MaybeStored, StorageError
from pbus.storage.driver import Appended

BATCH_BYTES: Final = 8 * 1024 * 1024
BATCH_PUSHES: Final = 8192
"""Where a batch ends; a single command may be larger and goes alone."""
FULL_BYTES: Final = 4 * BATCH_BYTES
FULL_PUSHES: Final = 4 * BATCH_PUSHES
"""What may wait before connections are paused."""
GATHER_SHARE: Final = 0.3
"""Of the time of a write: the longest wait for company before the next one."""
_SMOOTHING: Final = 0.1
_OVERHEAD_BYTES: Final = 64


class Form(Protocol):
    """How a kind of push is answered."""

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        """The reply, or with *each* one reply a push."""

    def refused(self, text: str, commands: int) -> bytes:
        """So many refusals."""


class Submitter(Protocol):
    """A connection, as its tickets see it."""

    def answered(self, ticket: Ticket) -> None:
        """*ticket* has its reply now; order among tickets is the connection's business."""

    def proceed(self) -> None:
        """All tickets of a batch are answered: send what can be sent, and go on."""


class Ticket:
    """
    Pushes of one connection that are answered together.

    Attributes:
        connection: Whose they are.
        pushes: In order.
        size: Bytes of their bodies (and, once made, of what keeps them).
        each: One command a push; else all are one command.
        form: How they are answered; None: with *reply*, which was known at once.
        reply: The answer, once there is one.
    """

    __slots__ = ("connection", "each", "form", "pushes", "reply", "size")

    def __init__(
        self, connection: Submitter, pushes: Sequence[Push] = (), size: int = 0, each: bool = False,
        form: Form | None = None, reply: bytes | None = None,
    ) -> None:
        self.connection = connection
        self.pushes = pushes
        self.size = size + _OVERHEAD_BYTES * len(pushes)
        self.each = each
        self.form = form
        self.reply = reply

    def store(self, appended: Sequence[Appended]) -> None:
        """They are stored."""
        if self.form is not None:
            self.reply = self.form.stored(appended, self.each)

    def refuse(self, text: str) -> None:
        """They are not stored; *text* is the error."""
        if self.form is not None:
            self.reply = self.form.refused(text, self.commands)

    @property
    def commands(self) -> int:
        """How many replies it stands for."""
        return len(self.pushes) if self.each else 1


class Committer:
    """
    The one writer of pushes of this child to one store.

    Args:
        storage: Name of the store, for texts.
        append: ``Driver.append`` without the owner.
        lost: Called with the error when the store turned out to be away, or refused this boot.
        clock: For how long a write takes.
    """

    def __init__(
        self, storage: str, append: Callable[[int, Sequence[Push]], Sequence[Appended]],
        lost: Callable[[StorageError], None], clock: Clock,
    ) -> None:
        self.stored_total = 0
        self.refused_total = 0
        self._storage = storage
        self._append = append
        self._lost = lost
        self._clock = clock
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._bytes = 0
        self._pushes = 0
        self._batch = 0
        self._wake = gevent.event.Event()
        self._busy = False
        self._unanswered = 0
        self._company = 0                             # tickets of the last batch and those that came meanwhile
        self._gathered = gevent.event.Event()
        self._write_s = 0.0                           # how long a write takes, smoothed
        self._paused: dict[Submitter, None] = {}

    @property
    def full(self) -> bool:
        """So much waits that nothing more should be read."""
        return self._bytes > FULL_BYTES or self._pushes > FULL_PUSHES

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is being written, everything is answered."""
        return not self._waiting and not self._busy and not self._unanswered

    def submit(self, ticket: Ticket) -> bool:
        """Have *ticket* stored with the next batch; False: it is ``full`` now. Never blocks."""
        self._waiting.append(ticket)
        self._bytes += ticket.size
        self._pushes += len(ticket.pushes)
        if not self._busy:
            self._wake.set()
        elif len(self._waiting) >= self._company:
            self._gathered.set()
        return self._bytes <= FULL_BYTES and self._pushes <= FULL_PUSHES

    def pause(self, connection: Submitter) -> None:
        """Call its ``proceed`` when there is room again."""
        self._paused[connection] = None

    def run(self) -> None:
        """Write batch after batch, for ever; the life of a greenlet."""
        while True:
            self._wake.wait()
            self._wake.clear()
            self._busy = True
            while self._waiting:
                self._gather()
                self._write(self._take())
            self._busy = False

    def _gather(self) -> None:
        """
        Wait a little for those who were in the last batch: half the clients in each of two batches
        cost twice the fsyncs of all of them in one (measured: 24 us of processor a push, or 17).
        """
        if len(self._waiting) < self._company:
            self._gathered.clear()
            self._gathered.wait(self._write_s * GATHER_SHARE)

    def _take(self) -> list[Ticket]:
        """The next batch: whole tickets, oldest first."""
        batch: list[Ticket] = []
        size = pushes = 0
        waiting = self._waiting
        while waiting and (not batch or (size < BATCH_BYTES and pushes < BATCH_PUSHES)):
            ticket = waiting.popleft()
            batch.append(ticket)
            size += ticket.size
            pushes += len(ticket.pushes)
        self._bytes -= size
        self._pushes -= pushes
        return batch

    def _write(self, batch: list[Ticket]) -> None:
        pushes = [push for ticket in batch for push in ticket.pushes] if len(batch) > 1 else batch[0].pushes
        self._batch += 1
        begin_s = self._clock.monotonic_s()
        try:
            appended = self._append(self._batch, pushes)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for an answer for ever
            failure = error if isinstance(error, StorageError) else MaybeStored(repr(error))
            self._lost(failure)
            self._refuse(batch, failure)
            return
        self._write_s += (self._clock.monotonic_s() - begin_s - self._write_s) * _SMOOTHING
        self._company = len(batch) + len(self._waiting)
        self.stored_total += len(pushes)
        # Answered while the next batch is being written, not before: the disk does not wait for sockets.
        self._unanswered += 1
        gevent.get_hub().loop.run_callback(self._answer, batch, appended)

    def _answer(self, batch: list[Ticket], appended: Sequence[Appended]) -> None:
        self._unanswered -= 1
        at = 0
        for ticket in batch:
            end = at + len(ticket.pushes)
            ticket.store(appended[at:end])
            at = end
            ticket.connection.answered(ticket)
        self._proceed(batch)

    def _refuse(self, batch: list[Ticket], error: StorageError) -> None:
        """
        Refuse *batch* with what happened, and what waits because the store is away.

        What waits has not been sent, so it is certainly not stored.
        """
        text = refusal(self._storage, error)
        for ticket in batch:
            ticket.refuse(text)
        text = away(self._storage, str(error))
        rest = list(self._waiting)
        self._waiting.clear()
        self._bytes = self._pushes = 0
        for ticket in rest:
            ticket.refuse(text)
        for ticket in batch + rest:
            self.refused_total += len(ticket.pushes)
            ticket.connection.answered(ticket)
        self._proceed(batch + rest)

    def _proceed(self, batch: list[Ticket]) -> None:
        for connection in dict.fromkeys([ticket.connection for ticket in batch]):
            connection.proceed()
        if self._paused and not self.full:
            paused, self._paused = self._paused, {}
            for connection in paused:
                connection.proceed()


def refusal(storage: str, error: StorageError) -> str:
    """What a producer is told when its write ended with *error*."""
    if isinstance(error, MaybeStored):
        return (
            f"MAYBESTORED the store '{storage}' went away in the middle of the write ({error}): maybe stored, "
            "push again only if a duplicate does no harm"
        )
    if isinstance(error, Conflict):
        return f"UNAVAILABLE this node was taken for dead and is coming back ({error}): not stored, try again in 1 s"
    return away(storage, str(error))


def away(storage: str, reason: str) -> str:
    """What a producer is told while the store is away."""
    return f"UNAVAILABLE the store '{storage}' is away ({reason}): not stored, try again in 1 s"
