"""
The alarm that a store cannot keep: that it is away, or not fit to keep anything. Each node decides and tells it by
itself, out of its memory.

Rule: a restart tells it anew, and so does each node: nobody could know what others have said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pbus.clock import Clock
from pbus.core import notices
from pbus.core.alarms import Because, Board, Policy, Reading
from pbus.core.notices import Message
from pbus.scheduler.notify import Post
from pbus.scheduler.standing import Standing


class Outages:
    """One owner: the scheduler, that calls ``tick`` about once a second."""

    def __init__(
        self, wrong: Mapping[str, Callable[[], str]], policy: Policy, node: str, post: Post, clock: Clock
    ) -> None:
        """*wrong*: storage -> what is wrong with it; empty: nothing."""
        self._wrong = wrong
        self._board = Board(policy)
        self._policy = policy
        self._node = node
        self._post = post
        self._clock = clock
        self._messages: dict[str, Message] = {}
        self._ended: list[tuple[Message, str]] = []
        self.standing = Standing()

    def tick(self) -> None:
        """Look, and tell what is to be told."""
        now_s = self._clock.wall_s()
        found = {name: wrong() for name, wrong in self._wrong.items()}
        readings = [Reading(kind="storage", subject=name, value=float(bool(text))) for name, text in found.items()]
        self._board.look(readings, now_s, lambda bad: Because(cause=f"on node {self._node}: {found[bad.subject]}"))
        self.standing.see(self._board, now_s)
        for batch in self._board.due(now_s):
            name = f"{int(now_s * 1000)}-{batch.status}-{self._node}"
            self._board.told(batch, name, now_s)
            for notifier, alarms in batch.by_notifier(self._policy).items():
                message = notices.composed(name, notifier, batch.status, alarms, now_s, self._node)
                self._messages[message.name] = message
        self._deliver(now_s)

    def _deliver(self, now_s: float) -> None:
        ends, self._ended[:] = self._ended[:], []
        for message, error in ends:
            self._messages[message.name] = notices.ended(message, now_s, error, self._post.retry_first_s)
        for name, message in list(self._messages.items()):
            if not message.is_open:
                del self._messages[name]
            elif message.next_s <= now_s and self._post.has_room:
                self._messages[name] = notices.tried(message, now_s, self._post.lease_s(message))
                self._post.send(self._messages[name], self._ended)
