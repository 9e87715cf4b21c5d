"""
What can go wrong between pbus and a Redis, and whom it is told to.

Rule: redis-py's exceptions end here. A reply that refuses a command means that it was not executed;
a connection that ends before its reply means that nobody knows (``Lost.sent``).
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

import redis

class Kind(enum.Enum):
    """What a refusal asks of us."""

    RECONNECT = "the next connection may find the right server, or find it ready"
    FULL = "there is no room for pushes; the rest goes on"
    WRITES = "it takes no writes until somebody has repaired it"
    AUTH = "it does not let us in, or not there"
    BUSY = "it is occupied; nothing is wrong with the connection"


class Meaning(NamedTuple):
    """A kind of refusal, and what it says to people."""

    kind: Kind
    text: str


REFUSALS: Final[dict[str, Meaning]] = {
    "LOADING": Meaning(Kind.RECONNECT, "it is reading its data from disk; it answers again when it is done"),
    "READONLY": Meaning(Kind.RECONNECT, "it is a replica now; point the storage's url at the master"),
    "MASTERDOWN": Meaning(Kind.RECONNECT, "it is a replica without its master; point the storage's url at the master"),
    "CLUSTERDOWN": Meaning(Kind.RECONNECT, "the cluster is down"),
    "MOVED": Meaning(Kind.RECONNECT, "it is one node of a cluster, which this url does not name"),
    "MAXCLIENTS": Meaning(Kind.RECONNECT, "it has too many clients (maxclients)"),
    "OOM": Meaning(Kind.FULL, "its memory is full; raise maxmemory or let the topics catch up"),
    "MISCONF": Meaning(Kind.WRITES, "it cannot write to its disk and refuses writes; free its disk (see its log)"),
    "NOREPLICAS": Meaning(Kind.WRITES, "too few replicas are connected (min-replicas-to-write)"),
    "BUSY": Meaning(Kind.BUSY, "another client's script blocks it (SCRIPT KILL ends it)"),
    "NOAUTH": Meaning(Kind.AUTH, "it wants a password; set password_file of the storage"),
    "WRONGPASS": Meaning(
        Kind.AUTH, "it does not take this password; set password_file of the storage to the current one"
    ),
    "NOPERM": Meaning(Kind.AUTH, "its ACL does not allow this user what pbus needs (+@all ~pbus:* &pbus:*)"),
}
"""
First word of an error reply -> what it asks of us and says to people. The command was not executed.
Whatever is not here is a bug, or a key that somebody else wrote. Of scripts: NODECL (missing), FENCED, LATE.
"""

HANG_UP: Final = frozenset({Kind.RECONNECT, Kind.AUTH})
"""After these the connection is not used again: the next one may lead elsewhere, and gives the password again."""

_WORD: Final = re.compile(r"\b(" + "|".join(REFUSALS) + r")\b")

NOT_DECLARED: Final = "NODECL"
"""First word of our scripts' refusal: the queue or a topic of it is not there (FLUSHALL, DEL)."""
IS_FENCED: Final = "FENCED"
"""First word of our scripts' refusal: the boot was declared dead."""
IS_LATE: Final = "LATE"
"""First word of our scripts' refusal: a later append of the same owner was answered already."""


class Lost(Exception):
    """
    No reply came.

    Attributes:
        text: What happened, for people.
        sent: Redis may have executed the command; False: certainly not.
        stale: The connection had been idle and was dead when it was used: a fresh one may work.
    """

    def __init__(self, text: str, *, sent: bool, stale: bool = False) -> None:
        self.text = text
        self.sent = sent
        self.stale = stale
        super().__init__(text)


class Refused(Exception):
    """Redis answered with an error: the command was not executed. ``word`` is a key of REFUSALS."""

    def __init__(self, word: str, text: str) -> None:
        self.word = word
        self.kind = REFUSALS[word].kind
        self.text = text
        super().__init__(text)


def first_word(error: Exception) -> str:
    """The first word of an error reply (redis-py strips those it knows and keeps them aside)."""
    code: str | None = getattr(error, "status_code", None)
    return code or str(error).partition(" ")[0]


def refusal(error: Exception) -> Refused | None:
    """
    The known refusal that *error* is, or None.

    Redis 6.2 wraps what a script's command met (``ERR Error running script ..: -OOM command not
    allowed``), so the words are looked for in the whole text; and it has no word for AUTH without
    need, which is a matter of passwords all the same.
    """
    word = first_word(error)
    if word not in REFUSALS:
        if isinstance(error, redis.exceptions.AuthenticationError):
            return Refused("WRONGPASS", f"it has no password, but one is configured ({error})")
        if "max number of clients" in str(error):
            return Refused("MAXCLIENTS", f"MAXCLIENTS: {REFUSALS['MAXCLIENTS'].text}")
        if not isinstance(error, redis.exceptions.ResponseError):
            return None
        found = _WORD.search(str(error)) if word == "ERR" else None
        if found is None:
            return None
        word = found[1]
    return Refused(word, f"{word}: {REFUSALS[word].text}")


def lost(error: Exception, *, sent: bool, stale: bool) -> Lost:
    """What a failed connection, or bytes that are no reply, mean."""
    if isinstance(error, redis.exceptions.TimeoutError):
        return Lost("it does not answer in time", sent=sent)
    return Lost(str(error).rstrip("."), sent=sent, stale=stale)
