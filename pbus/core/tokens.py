"""
Tokens: how a consumer process proves to an ingest child who it is.

    kind:owner:path:mac       mac = HMAC-SHA256(key, "kind:owner:path"), hex

Rule: nothing is stored. The master makes a key at its start and hands it to ingest children; a token is made for
one process (its owner, its topic) and is void as soon as that process is gone, which the scoreboard tells, not the
token. A ``pepper`` token stands in argv, where every user of the machine can read it: so it opens its own topic only.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from pbus.core.names import Owner

PEPPER: Final = "pepper"
"""May take jobs of its topic, settle what it took, and give it back."""
PUSH: Final = "push"
"""May push to every queue (``job.push``)."""
KINDS: Final = (PEPPER, PUSH)


@dataclass(frozen=True, slots=True)
class Token:
    """
    What a token says, once it is known to be genuine.

    Attributes:
        kind: ``pepper`` or ``push``.
        owner: The process it was made for.
        path: ``queue/topic`` of that process.
    """

    kind: str
    owner: Owner
    path: str


def make(key: bytes, kind: str, owner: Owner, path: str) -> str:
    """The token of *kind* for the process *owner*, which runs the topic *path*."""
    said = f"{kind}:{owner}:{path}"
    return f"{said}:{_mac(key, said)}"


def read(key: bytes, text: str) -> Token | None:
    """What *text* says; None: it is no token that was made with *key*. Takes the same time for any wrong mac."""
    if not key:
        return None  # anybody could make one
    said, _, mac = text.rpartition(":")
    if not hmac.compare_digest(_mac(key, said).encode(), mac.encode("utf-8", "replace")):
        return None
    kind, owner, path = said.split(":")  # we wrote it: names have no colon
    return Token(kind, Owner.parse(owner), path)


def _mac(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
