"""
What clients were refused, by the first word of the error; why connections were closed; which limits were met.

    refused   NOAUTH, QUEUEFULL, ..    one a reply that is an error
    closed    command_time, memory, .. one a connection that was ended for that
    limited   bulk, elements, ..       one a command (or one who does not read): the connection lives

Rule: counting costs who is refused, never a push that is stored. Words and reasons are ours, so there are few of them.
"""

from __future__ import annotations

import collections
import re
from typing import Final

WORDS_MOST: Final = 64
"""Of each kind; a mistake of ours must not become memory."""
SLOW: Final = {
    "command_time": "did not complete its command",
    "unread_time": "does not read its replies",
    "memory": "kept the most unfinished input when all clients together kept too much",
    "memory_replies": "kept the most unread replies when all clients together kept too much",
}
"""Why a client is too slow to stay."""
_WORD: Final = re.compile(rb"-([A-Z]+)\b")
_PEPPER: Final = re.compile(rb'"error":"([A-Z]+)\b')
"""The old contract: an error is a bulk of JSON."""

Counts = dict[str, int]


class Tally:
    """
    The counters of one ingest child since its birth. One owner: the server.

    Attributes:
        refused, closed, limited: Counts by word, reason, limit.
    """

    def __init__(self) -> None:
        self.refused: Counts = collections.Counter()
        self.closed: Counts = collections.Counter()
        self.limited: Counts = collections.Counter()
        self._told: tuple[Counts, Counts, Counts] = ({}, {}, {})

    def error(self, reply: bytes) -> None:
        """That reply was sent, or will be; what is no error is not counted."""
        kind = reply[:1]
        found = _WORD.match(reply) if kind == b"-" else _PEPPER.search(reply, 0, 512) if kind == b"$" else None
        if found is not None:
            self._count(self.refused, found[1].decode("ascii"), 1)

    def refuse(self, text: str, commands: int = 1) -> None:
        """So many commands were refused with *text*."""
        self._count(self.refused, text.partition(" ")[0], commands)

    def close(self, reason: str) -> None:
        """A connection is closed for that."""
        self._count(self.closed, reason, 1)

    def limit(self, name: str) -> None:
        """A command was over that limit, or a client left that much unread."""
        self._count(self.limited, name, 1)

    def news(self) -> dict[str, Counts]:
        """What has been counted since the last call; empty when that is nothing."""
        now = (dict(self.refused), dict(self.closed), dict(self.limited))
        if now == self._told:
            return {}
        news = [
            {name: count - before.get(name, 0) for name, count in counts.items() if count != before.get(name, 0)}
            for counts, before in zip(now, self._told, strict=True)
        ]
        self._told = now
        return dict(zip(("refused", "closed", "limited"), news, strict=True))

    @staticmethod
    def _count(counts: Counts, name: str, by: int) -> None:
        if name in counts or len(counts) < WORDS_MOST:
            counts[name] += by
