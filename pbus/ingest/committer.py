"""
Group commit: the pushes of all connections of one loop turn become one durable append.

    connections --submit--> waiting --take--> append (one at a time) --> answered, in order
                              |                  |
                              +-- what comes meanwhile is the next batch

Rule: a ticket is answered exactly once, and positively only after the store has it. Nobody waits longer
than the store's ``call_timeout``: what waits behind a slow write is refused after a third of it, and a
write that does not return is answered as unknown. Beyond a bound in bytes connections are not read from,
beyond another one pushes are refused.

    |<-- waits: at most PATIENCE -->|<-- written: the driver's own limit, WRITE -->| cut: CUT
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.core.job import Push
from pbus.core.plain import Plain
from pbus.errors import Conflict, MaybeStored, StorageError, StoreFull
from pbus.ingest.gate import Gate, away, no_room
from pbus.storage.driver import Appended

BATCH_BYTES: Final = 8 * 1024 * 1024
BATCH_PUSHES: Final = 8192
"""Where a batch ends; a single command may be larger and goes alone."""
FULL_BYTES: Final = 4 * BATCH_BYTES
FULL_PUSHES: Final = 4 * BATCH_PUSHES
"""What may wait before connections are paused."""
OVER_BYTES: Final = 2 * FULL_BYTES
OVER_PUSHES: Final = 2 * FULL_PUSHES
"""What may wait before pushes are refused: those of connections that nobody has paused yet."""
PATIENCE: Final = 0.3
WRITE: Final = 0.55
CUT: Final = 0.6
"""Shares of the store's call_timeout; with a tick they are less than one."""
_TICKS: Final = 8
"""Looks at the clock during PATIENCE, while a write runs."""
GATHER_SHARE: Final = 0.7
"""
Of the time of a write: the longest wait for company before the next one. It begins before those of the last one are
answered: with 0.3 it was over before 50 clients had come back, and every second batch was half of one.
"""
GATHER_ELSEWHERE: Final = 200
"""
Pushes that wait for no company where another process writes them: it works while they are parsed (pipelines of 32 on
Redis: 1.16 times as many a second, SQLite 0.95 times).
"""
GATHER_MOST_S: Final = 0.02
"""However long writes took lately: they may have been slow for once."""
_SMOOTHING: Final = 0.1
_OVERHEAD_BYTES: Final = 64


class Form(Protocol):
    """
    How a kind of push is answered.

    Attributes:
        alike: Pushes of one queue that an append stored are all answered with the same bytes.
    """

    alike: bool

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        """The reply, or with *each* one reply a push; none of them was refused."""

    def refused(self, text: str, commands: int) -> bytes:
        """So many refusals."""


class Telling(Protocol):
    """Who keeps what became of pushes (``stories.Stories``)."""

    def received(self, batch: Sequence[Ticket], appended: Sequence[Appended], all_stored: bool) -> None:
        """These were answered."""

    def refused(self, queue: str, text: str, connection: Any, bodies: Sequence[bytes] = ()) -> None:
        """These were not stored."""


class Spanning(Protocol):
    """Who tells others of pushes (``spans.IngestSpans``)."""

    def received(self, batch: Sequence[Ticket], appended: Sequence[Appended], took_s: float) -> None:
        """These were answered, so long after their append began."""


class Submitter(Protocol):
    """A connection, as its tickets see it."""

    def answered(self, ticket: Ticket) -> None:
        """*ticket* has its reply now; order among tickets is the connection's business."""

    def proceed(self) -> None:
        """All tickets of a batch are answered: send what can be sent, and go on."""

    def settled(self, ticket: Ticket) -> None:
        """``answered`` and ``proceed`` at once, for its only ticket of a batch."""


class Ticket:
    """
    Pushes of one connection that are answered together.

    Attributes:
        connection: Whose they are.
        pushes: In order.
        count: How many.
        size: Bytes of their bodies (and, once made, of what keeps them).
        each: One command a push; else all are one command.
        form: How they are answered; None: with *reply*, which was known at once.
        reply: The answer, once there is one.
    """

    __slots__ = ("connection", "count", "each", "form", "pushes", "reply", "size")

    def __init__(
        self, connection: Submitter, pushes: Sequence[Push] = (), size: int = 0, each: bool = False,
        form: Form | None = None, reply: bytes | None = None,
    ) -> None:
        self.connection = connection
        self.pushes = pushes
        self.count = count = len(pushes)
        self.size = size + _OVERHEAD_BYTES * count
        self.each = each
        self.form = form
        self.reply = reply

    def store(self, appended: Sequence[Appended]) -> None:
        """They are stored."""
        if self.form is not None:
            self.reply = self.form.stored(appended, self.each)

    def store_some(self, appended: Sequence[Appended], full: Callable[[str, Appended, int], str]) -> None:
        """As the store answered: some are refused, because of what *full* says (queue, answer, bodies)."""
        form, pushes = self.form, self.pushes
        if form is None:
            return
        if not self.each:
            answer = appended[0]
            text = full(pushes[0].queue, answer, len(pushes)) if answer.refused else ""
            self.reply = form.refused(text, 1) if text else form.stored(appended, False)
            return
        self.reply = b"".join([
            form.refused(full(push.queue, answer, 1), 1) if answer.refused else form.stored([answer], False)
            for push, answer in zip(pushes, appended, strict=True)
        ])

    def refuse(self, text: str) -> None:
        """They are not stored; *text* is the error."""
        if self.form is not None:
            self.reply = self.form.refused(text, self.commands)

    @property
    def commands(self) -> int:
        """How many replies it stands for."""
        return self.count if self.each else 1


class Committer:
    """
    The one writer of pushes of this child to one store.

    Args:
        storage: Name of the store, for texts.
        append: ``Driver.append`` without the owner.
        lost: Called with the error when the store turned out to be away, to have no room, or refused this boot.
        full: What a producer is told whose queue is full: (queue, answer, bodies of the command) -> text.
        gate: Closed while a write is far too slow, or too much waits for the next one.
        call_timeout_s: Of the storage; nobody waits longer.
        clock: For how long a write takes.
        elsewhere: Another process does the writing, on a processor of its own.

    Attributes:
        full: So much waits that nothing more should be read.
        stored_total, refused_total: Pushes; a duplicate is neither.
        refusing: Called with each refusal that this writes, and how many commands it is for; who counts them sets it.
        stories: Told of every ticket after its answer; None: nobody keeps that.
        spans: The same, with what the append took, for an OpenTelemetry receiver; None: there is none.
    """

    def __init__(
        self, storage: str, append: Callable[[int, Sequence[Push]], Sequence[Appended]],
        lost: Callable[[StorageError], None], full: Callable[[str, Appended, int], str], gate: Gate,
        call_timeout_s: float, clock: Clock, *, elsewhere: bool = False,
    ) -> None:
        self.full = False
        self.stored_total = 0
        self.refused_total = 0
        self._storage = storage
        self._append = append
        self._lost = lost
        self._full_text = full
        self.refusing: Callable[[str, int], None] = lambda _text, _commands: None
        self.stories: Telling | None = None
        self.spans: Spanning | None = None
        self._gate = gate
        self._clock = clock
        self._gather_pushes = GATHER_ELSEWHERE if elsewhere else BATCH_PUSHES
        self._patience_s = PATIENCE * call_timeout_s
        self._cut_s = CUT * call_timeout_s
        self._ticker = gevent.get_hub().loop.timer(self._patience_s / _TICKS, self._patience_s / _TICKS)
        self._ticking = False
        self._taken = 0                               # tickets, ever
        self._marks: collections.deque[tuple[float, int]] = collections.deque()  # when how many had come, ever
        self._writing: list[Ticket] | None = None     # the batch that is being written, until it is answered
        self._begin_s = 0.0
        self._crowded = False
        self._slow = False
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
    def idle(self) -> bool:
        """Nothing waits, nothing is being written, everything is answered."""
        return not self._waiting and not self._busy and not self._unanswered

    def submit(self, ticket: Ticket) -> bool:
        """Have *ticket* stored with the next batch; False: it is ``full`` now. Never blocks."""
        self._waiting.append(ticket)
        self._bytes += ticket.size
        self._pushes += ticket.count
        if not self._busy:
            self._wake.set()
        elif len(self._waiting) >= self._company:
            self._gathered.set()
        if self._bytes > FULL_BYTES or self._pushes > FULL_PUSHES:
            self._fills()
            return False
        return True

    def _fills(self) -> None:
        self.full = True
        if (self._bytes > OVER_BYTES or self._pushes > OVER_PUSHES) and not self._crowded:
            self._crowded = True
            self._gate.crowded(self._bytes)

    def _empties(self) -> None:
        """Less waits than before."""
        self.full = self._bytes > FULL_BYTES or self._pushes > FULL_PUSHES
        if self._crowded and not self.full:
            self._crowded = False
            self._gate.crowded(0)

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
                if batch := self._take():  # none: who waited was refused meanwhile
                    self._write(batch)
            self._busy = False

    def _gather(self) -> None:
        """
        Wait a little for those who were in the last batch: half the clients in each of two batches
        cost twice the fsyncs of all of them in one (measured: 27 us of processor a push, or 17).
        """
        if len(self._waiting) < self._company and self._pushes < self._gather_pushes:
            self._gathered.clear()
            self._gathered.wait(min(self._write_s * GATHER_SHARE, GATHER_MOST_S))

    def _take(self) -> list[Ticket]:
        """The next batch: whole tickets, oldest first."""
        batch: list[Ticket] = []
        size = pushes = 0
        waiting = self._waiting
        while waiting and (not batch or (size < BATCH_BYTES and pushes < BATCH_PUSHES)):
            ticket = waiting.popleft()
            batch.append(ticket)
            size += ticket.size
            pushes += ticket.count
        self._taken += len(batch)
        self._bytes -= size
        self._pushes -= pushes
        if self.full:
            self._empties()
        return batch

    def _write(self, batch: list[Ticket]) -> None:
        pushes = _joined(batch)
        self._batch += 1
        begin_s = self._begin_s = self._clock.monotonic_s()
        self._writing = batch
        if not self._ticking:
            self._ticking = True
            self._ticker.start(self._tick)
        try:
            appended = self._append(self._batch, pushes)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for an answer for ever
            failure = error if isinstance(error, StorageError) else MaybeStored(repr(error))
            batch = self._returned()
            self._lost(failure)
            self._refuse(batch, failure)
            return
        written = self._returned()
        self._write_s += (self._clock.monotonic_s() - begin_s - self._write_s) * _SMOOTHING
        self._company = len(batch) + len(self._waiting)
        all_stored = _all_stored(appended)
        self._count(appended, all_stored)
        # Answered while the next batch is being written, not before: the disk does not wait for sockets.
        self._unanswered += 1
        answer = self._answer_plain if all_stored and type(pushes) is Plain else self._answer
        gevent.get_hub().loop.run_callback(answer, written, appended, all_stored, begin_s)

    def _returned(self) -> list[Ticket]:
        """The write has returned: whom to answer (nobody, when that took too long and they were told so)."""
        batch, self._writing = self._writing or [], None
        if self._slow:
            self._slow = False
            self._gate.slow(0.0)
        return batch

    def _count(self, appended: Sequence[Appended], all_stored: bool) -> None:
        if all_stored:
            self.stored_total += len(appended)
            return
        refused = sum([bool(one.refused) for one in appended])
        self.refused_total += refused
        self.stored_total += len(appended) - refused - sum([one.duplicate for one in appended])

    def _answer(self, batch: list[Ticket], appended: Sequence[Appended], all_stored: bool, begin_s: float) -> None:
        self._unanswered -= 1
        at = 0
        for ticket in batch:
            end = at + ticket.count
            if all_stored:
                ticket.store(appended[at:end])
            else:
                ticket.store_some(appended[at:end], functools.partial(self._refused, ticket))
            at = end
            ticket.connection.answered(ticket)
        self._proceed(batch)
        self._told(batch, appended, all_stored, begin_s)

    def _answer_plain(
        self, batch: list[Ticket], appended: Sequence[Appended], all_stored: bool, begin_s: float
    ) -> None:
        """The same, all of it in one queue: as a rule a client has one ticket, and all are told the same."""
        self._unanswered -= 1
        at, replies = 0, dict[Form, bytes]()
        for ticket in batch:
            end, form = at + ticket.count, ticket.form
            if form is None or not form.alike:
                ticket.store(appended[at:end])
            else:
                reply = replies.get(form)
                if reply is None:
                    reply = replies[form] = form.stored(appended[-1:], True)
                ticket.reply = reply * ticket.count
            at = end
        if len({ticket.connection for ticket in batch}) == len(batch):
            for ticket in batch:
                ticket.connection.settled(ticket)
            self._go_on()
        else:
            for ticket in batch:
                ticket.connection.answered(ticket)
            self._proceed(batch)
        self._told(batch, appended, all_stored, begin_s)

    def _told(self, batch: list[Ticket], appended: Sequence[Appended], all_stored: bool, begin_s: float) -> None:
        """Those who keep what became of pushes hear of it after the producers."""
        if self.stories is not None:
            self.stories.received(batch, appended, all_stored)
        if self.spans is not None:
            self.spans.received(batch, appended, self._clock.monotonic_s() - begin_s)

    def _refused(self, ticket: Ticket, queue: str, answer: Appended, bodies: int) -> str:
        """What a command is told whose bodies the store does not take."""
        text = self._full_text(queue, answer, bodies)
        self.refusing(text, 1)
        if self.stories is not None:
            self.stories.refused(queue, text, ticket.connection, [push.body for push in ticket.pushes])
        return text

    # -- while a write runs -------------------------------------------------------------------

    def _tick(self) -> None:
        """Refuse who has waited too long behind it, and answer for it when it does not return."""
        if not self._busy:
            self._ticker.stop()
            self._ticking = False
            self._marks.clear()
            return
        now_s = self._clock.monotonic_s()
        self._marks.append((now_s, self._taken + len(self._waiting)))
        late = 0
        while self._marks and now_s - self._marks[0][0] >= self._patience_s:
            late = self._marks.popleft()[1] - self._taken
        if late > 0:
            self._shed([self._waiting.popleft() for _ in range(late)])
        running_s = now_s - self._begin_s if self._writing is not None else 0.0
        if running_s >= self._patience_s:
            self._slow = True
            self._gate.slow(running_s)
        if running_s >= self._cut_s and self._writing:
            batch, self._writing = self._writing, []
            self._tell(batch, refusal(self._storage, MaybeStored(f"no answer for {running_s:.1f} s")))

    def _shed(self, late: list[Ticket]) -> None:
        """Refuse tickets that nobody has begun to write."""
        self._taken += len(late)
        self._bytes -= sum([ticket.size for ticket in late])
        self._pushes -= sum([ticket.count for ticket in late])
        self._empties()
        text = f"UNAVAILABLE the store '{self._storage}' is slow (this push waited for {self._patience_s:.1f} s)"
        self._tell(late, f"{text}: not stored, try again in 1 s")

    def _tell(self, tickets: list[Ticket], text: str) -> None:
        """Refuse all of them with *text*, and let their connections go on."""
        for ticket in tickets:
            ticket.refuse(text)
            self.refusing(text, ticket.commands)
            if self.stories is not None and ticket.count:
                bodies = [push.body for push in ticket.pushes]
                self.stories.refused(ticket.pushes[0].queue, text, ticket.connection, bodies)
            self.refused_total += ticket.count
            ticket.connection.answered(ticket)
        self._proceed(tickets)

    def _refuse(self, batch: list[Ticket], error: StorageError) -> None:
        """
        Refuse *batch* with what happened, and what waits because the store is away, or has no room.

        What waits has not been sent, so it is certainly not stored.
        """
        rest = list(self._waiting)
        self._waiting.clear()
        self._taken += len(rest)
        self._bytes = self._pushes = 0
        self._empties()
        self._tell(batch, refusal(self._storage, error))
        words = no_room if isinstance(error, StoreFull) else away
        self._tell(rest, words(self._storage, str(error)))

    def _proceed(self, batch: list[Ticket]) -> None:
        for connection in dict.fromkeys([ticket.connection for ticket in batch]):
            connection.proceed()
        self._go_on()

    def _go_on(self) -> None:
        """Those who waited for room are read from again."""
        if self._paused and not self.full:
            paused, self._paused = self._paused, {}
            for connection in paused:
                connection.proceed()


def _joined(batch: Sequence[Ticket]) -> Sequence[Push]:
    """The pushes of all tickets, in order."""
    first = batch[0].pushes
    if len(batch) == 1:
        return first
    if type(first) is Plain:
        bodies = [
            ticket.pushes.bodies for ticket in batch
            if type(ticket.pushes) is Plain and ticket.pushes.queue == first.queue
        ]
        if len(bodies) == len(batch):
            return Plain(first.queue, list(itertools.chain.from_iterable(bodies)))
    return [push for ticket in batch for push in ticket.pushes]


def _all_stored(appended: Sequence[Appended]) -> bool:
    """None is refused or a duplicate; a driver's own kind of answer says so, so that nobody looks at each."""
    if getattr(appended, "all_stored", False):
        return True
    return not [answer for answer in appended if answer.refused or answer.duplicate]


def refusal(storage: str, error: StorageError) -> str:
    """What a producer is told when its write ended with *error*."""
    if isinstance(error, MaybeStored):
        return (
            f"MAYBESTORED the store '{storage}' went away in the middle of the write ({error}): maybe stored, "
            "push again only if a duplicate does no harm"
        )
    if isinstance(error, Conflict):
        return f"UNAVAILABLE this node was taken for dead and is coming back ({error}): not stored, try again in 1 s"
    if isinstance(error, StoreFull):
        return no_room(storage, str(error))
    return away(storage, str(error))
