"""
Who bears a token: a consumer process of this machine, as long as it lives.

    AUTH TOKEN     AUTH any TOKEN     AUTH any:TOKEN     HELLO 2 AUTH any TOKEN

Rule: whether a token is genuine is said by its text, whether it still counts by the scoreboard, at AUTH and at
each command. A genuine one is never slowed down; a forged one is a wrong password like any other.
"""

from __future__ import annotations

from typing import Final, Protocol

from pbus.core import tokens
from pbus.core.names import Owner
from pbus.core.tokens import Token
from pbus.supervisor.scoreboard import Scoreboard

LONGEST_BYTES: Final = 512
"""A token is shorter: two names of 64 characters, an owner and a mac."""
_KINDS: Final = tuple(f"{kind}:".encode() for kind in tokens.KINDS)


class Bearer(Protocol):
    """The child, as tokens see it."""

    token_key: bytes
    owner: Owner
    scoreboard: Scoreboard


class Tokens:
    """The tokens of this boot, as an ingest child reads them. One owner: the server."""

    def __init__(self, child: Bearer) -> None:
        self._key = child.token_key
        self._own = child.owner
        self._scoreboard = child.scoreboard

    def read(self, user: bytes, password: bytes) -> Token | None:
        """
        The genuine token among what a client gave; None: there is none.

        Args:
            user: Of AUTH with two arguments; else empty.
            password: The last argument; with an empty user also ``name:TOKEN``.
        """
        texts = [password]
        if user in (b"", b"default"):
            texts.append(password.partition(b":")[2])
        for text in texts:
            if len(text) <= LONGEST_BYTES and text.startswith(_KINDS):
                token = tokens.read(self._key, text.decode("utf-8", "replace"))
                if token is not None:
                    return token
        return None

    def lives(self, owner: Owner) -> bool:
        """Whether the process that a token was made for lives; one of another boot or node does not."""
        if (owner.node, owner.boot) != (self._own.node, self._own.boot):
            return False
        return self._scoreboard.slot(owner.slot).lives(owner.n)
