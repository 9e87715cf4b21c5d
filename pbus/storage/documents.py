"""
Documents: small texts that must survive, and be one over all nodes (what alarms know, how far a replay is).

Each has a version that no other of its kind ever had, so who writes says which one it has seen, and only one of
several that saw the same one succeeds.

Rule: few and small. Whoever lists a kind gets all of it in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pbus.core.names import is_name
from pbus.errors import StorageError, StoreFull

TEXT_BYTES: Final = 64 * 1024
"""Longest text, in UTF-8."""
NAME_BYTES: Final = 512
MOST: Final = 10_000
"""Documents of a kind."""


@dataclass(frozen=True, slots=True)
class Document:
    """*text* as it is since *version*."""

    kind: str
    name: str
    version: int
    text: str


class KeepsDocuments(Protocol):
    """A part of ``driver.Driver``. Nothing of it needs an owner or a declaration."""

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        """All documents of that kind, or those of *names* that are there, by name. One read."""

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        """
        Make or replace a document, if it is still as the caller saw it. Atomic, durable.

        Idempotent within the call: the driver repeats it after a lost reply, and it counts once.
        If we die here: the old text or the new one.

        Args:
            kind: A name (``core.names``).
            name: Any text of 1 to NAME_BYTES bytes.
            version: That the caller saw; 0: there was none.

        Returns:
            Its new version, larger than all of its kind before; 0: somebody was faster, nothing is changed.

        Raises:
            Unavailable: not written, or nobody knows: read it again.
            StoreFull: there are MOST of that kind.
            StorageError: a text or a name that is too long.
        """

    def drop_document(self, kind: str, name: str, version: int) -> bool:
        """
        Remove a document, if it is still as the caller saw it. Atomic, durable.

        False: it is not there any more (after a lost reply: perhaps by this call), or another one.
        """


def check(kind: str, name: str, text: str) -> bytes:
    """
    *text* as it is stored.

    Raises:
        StorageError: nobody can keep that.
    """
    if not is_name(kind) or not 1 <= len(name.encode("utf-8", "replace")) <= NAME_BYTES:
        raise StorageError(f"no document can be called {kind!r} {name[:80]!r}")
    try:
        stored = text.encode()
    except UnicodeEncodeError:
        raise StorageError(f"the text of document {kind} {name} is none") from None
    if len(stored) > TEXT_BYTES:
        raise StorageError(f"the text of document {kind} {name} has {len(stored)} bytes, {TEXT_BYTES} are possible")
    return stored


def too_many(kind: str) -> StoreFull:
    """What to raise when there is no room for another one."""
    return StoreFull(f"there are {MOST} documents of kind {kind}, that is the most")
