"""
Who failed to prove who they are, since that was told last.

Rule: an AUTH that fails takes the same time whatever was wrong with it, so it is noted as it came, and looked at once
a second. What is told never shows a password (``Directory.showable``). Bounded memory, and bounded work.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pbus.ingest.access import Directory
from pbus.ingest.words import shown

NOTED: Final = 1000
"""Between two looks, which are a second apart; what is beyond is counted by the tally alone."""
COMPARED: Final = 5
"""Names a look that are compared with those that somebody bears: that takes long where there are many."""


class Failure(NamedTuple):
    """One failed AUTH; *alone*: it had one argument, so what is taken for the name may be (part of) a password."""

    peer: str
    name: str
    alone: bool


class Failures:
    """Of one ingest child. One owner: the server."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._noted: list[Failure] = []

    def note(self, failure: Failure) -> None:
        """One has failed."""
        if len(self._noted) < NOTED:
            self._noted.append(failure)

    def take(self) -> list[tuple[str, str, str, int]]:
        """
        Rows of ``(address, identity, tried, count)``; they are given once.

        ``identity`` is empty for names that nobody bears, ``tried`` is the last of these, as it may be shown.
        """
        noted, self._noted = self._noted, []
        last: dict[tuple[str, str], Failure] = {}
        counts: dict[tuple[str, str], int] = {}
        for failure in noted:
            key = (host_of(failure.peer), failure.name if self._directory.is_identity(failure.name) else "")
            last[key] = failure
            counts[key] = counts.get(key, 0) + 1
        compare = COMPARED
        rows = []
        for (address, identity), failure in last.items():
            compare -= not identity
            tried = self._directory.showable(failure.name, failure.alone) if identity or compare >= 0 else ""
            rows.append((address, identity, shown(tried.encode()), counts[address, identity]))
        return rows


def host_of(peer: str) -> str:
    """``10.0.0.7`` of ``10.0.0.7:5123``; ``unix`` is itself."""
    return peer.rpartition(":")[0].removeprefix("::ffff:") or peer
