"""
Calls to one Redis: when to repeat, when to give up, and what the caller is told.

    reply        -> the answer
    refusal      -> Unavailable (table in redis_errors), Conflict (fenced), ``NotDeclared``
    no reply     -> repeated on a new connection where repeating is harmless, until the deadline;
                    then Unavailable, or ``Unknown`` when the command may have been executed
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import redis

from pbus.clock import Clock
from pbus.errors import Conflict, StorageError, StoreFull, Unavailable
from pbus.storage.redis_address import Address
from pbus.storage.redis_errors import (
    HANG_UP, IS_FENCED, IS_LATE, NOT_DECLARED, Kind, Lost, Refused, first_word, refusal,
)
from pbus.storage.redis_link import Link, Session, Words
from pbus.storage.redis_scripts import Call

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.25
"""Between repetitions of a call whose reply was lost; the growth is twofold."""


def jittered(pause_s: float) -> float:
    """Half to all of *pause_s*: whoever lost one server together does not come back together."""
    return pause_s * random.uniform(0.5, 1.0)


class NotDeclared(Unavailable):
    """A queue, or a topic of it, is not in the store (any more). ``queue`` is its name."""

    def __init__(self, text: str, queue: str) -> None:
        self.queue = queue
        super().__init__(text)


class Unknown(Unavailable):
    """No reply came in time, and the command may have been executed."""


def raising(answers: list[Any]) -> list[Any]:
    """*answers*, or the first exception among them."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


class Calls:
    """
    One storage as one process calls it.

    Args:
        address: Where it is; texts begin with it, and who tells them says of which storage they are.
        timeout_s: No call takes longer.
        clock: For deadlines and pauses.
    """

    def __init__(self, address: Address, timeout_s: float, clock: Clock) -> None:
        self._who = str(address)
        self._timeout_s = timeout_s
        self._clock = clock
        self._link = Link(address, clock)

    def close(self) -> None:
        self._link.close()

    def say(self, what: str) -> str:
        """*what* is wrong, and with which server."""
        return f"{self._who}: {what}"

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session for one call of the driver; its time runs from here."""
        try:
            with self._link.session(self._timeout_s) as session:
                yield session
        except Lost as error:
            raise Unavailable(self.say(error.text)) from None

    def one(self, command: Call | Words, *, repeat: bool = True) -> Any:
        """The answer to one command, in a session of its own."""
        return self.all([command], repeat=repeat)[0]

    def all(self, commands: Sequence[Call | Words], *, repeat: bool = True) -> list[Any]:
        """The answers to several commands sent in one piece, in a session of their own."""
        with self.session() as session:
            return raising(self.each(session, commands, repeat=repeat))

    def each(self, session: Session, commands: Sequence[Call | Words], *, repeat: bool) -> list[Any]:
        """
        The answers to *commands*, sent in one piece; an exception in the place of one that failed.

        Args:
            session: Borrowed; its deadline counts.
            commands: Scripts, or plain commands.
            repeat: Executing them twice is harmless, so a lost reply means sending them again.

        Returns:
            Answers, or: Unavailable (refused), Conflict (a boot was fenced), NotDeclared (a queue is
            missing), StorageError (an error that nobody expects).

        Raises:
            Unavailable: certainly none was executed.
            Unknown: perhaps executed, and no reply until the deadline.
        """
        until_s = session.deadline.at_s
        replies, sent_before = self._repeated(lambda: self._exchange(session, commands), session, repeat=repeat)
        session.deadline.at_s = until_s
        if any(self._ends_connection(reply) for reply in replies):
            session.close()
        return [
            self._meaning(reply, sent_before) if isinstance(reply, redis.exceptions.ResponseError) else reply
            for reply in replies
        ]

    def _repeated(
        self, attempt: Callable[[], list[Any]], session: Session, *, repeat: bool
    ) -> tuple[list[Any], bool]:
        """The replies, and whether an attempt before theirs may have been executed."""
        until_s, sent, stale_before, pause_s = session.deadline.at_s, False, False, FIRST_PAUSE_S
        while True:
            now_s = self._clock.monotonic_s()
            session.deadline.at_s = until_s
            if repeat and session.quiet_s() > self._timeout_s:
                # It may have died without telling: leave time for another one.
                session.deadline.at_s = now_s + (until_s - now_s) / 2
            try:
                return attempt(), sent
            except Refused as error:
                problem, again = error.text, sent
            except Lost as error:
                problem, stale = error.text, error.stale and not stale_before
                stale_before = stale_before or error.stale
                sent = sent or error.sent
                again = (repeat and sent) or (stale and not error.sent)
                pause_s = 0.0 if stale else pause_s
            left_s = until_s - self._clock.monotonic_s()
            if not again or left_s <= pause_s:
                raise (Unknown if sent else Unavailable)(self.say(problem))
            self._clock.sleep(jittered(pause_s))
            pause_s = min(max(FIRST_PAUSE_S, pause_s * 2), LONGEST_PAUSE_S)

    def _exchange(self, session: Session, commands: Sequence[Call | Words]) -> list[Any]:
        """One attempt; scripts that Redis does not know are sent again as text."""
        replies = session.exchange([item.by_digest() if isinstance(item, Call) else item for item in commands])
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            texts = [item.by_text() for item in map(commands.__getitem__, unknown) if isinstance(item, Call)]
            try:
                answers = session.exchange(texts)
            except Lost as error:
                raise Lost(error.text, sent=error.sent or len(texts) < len(commands)) from None
            for place, reply in zip(unknown, answers, strict=True):
                replies[place] = reply
        return replies

    @staticmethod
    def _ends_connection(reply: Any) -> bool:
        refused = refusal(reply) if isinstance(reply, redis.exceptions.RedisError) else None
        return refused is not None and refused.kind in HANG_UP

    def _meaning(self, reply: redis.exceptions.ResponseError, sent_before: bool) -> Exception:
        word = first_word(reply)
        if word == NOT_DECLARED:
            queue = str(reply).split(" ")[1]
            return NotDeclared(self.say(f"queue {queue}, or a topic of it, was never declared to it"), queue)
        if word == IS_FENCED:
            return Conflict(self.say("this boot was declared dead by another node"))
        if word == IS_LATE:
            return Conflict(self.say("a later append of the same owner was stored already: not stored"))
        refused = refusal(reply)
        if refused is not None:
            kind = StoreFull if refused.kind is Kind.FULL else Unavailable
            return (Unknown if sent_before else kind)(self.say(refused.text))
        return StorageError(self.say(f"unexpected answer: {reply}"))
