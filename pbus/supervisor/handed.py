"""
Which job each program has in hand: of consumer processes that take their jobs by a token.

A file in the run directory, one row a slot of the scoreboard:

    boot n job-id since-ms crc32\n        padded to ROW_BYTES; anything else means nothing

Such a process holds its claims by name, not by a connection, and any ingest child may serve it. So what it was
really given must outlive the child that gave it: a claim that is not in its row was never (or only perhaps)
handed over, and is given back instead of being taken for done.

Rule: the row is written when the reply has left, and counts for one life of one process only. A row that could not
be written, or read, makes a job run twice, never vanish.
"""

from __future__ import annotations

import os
import zlib
from typing import Final, NamedTuple

from pbus.core.names import Owner

NAME: Final = "handed"
ROW_BYTES: Final = 256
_TRIES: Final = 3


class Hand(NamedTuple):
    """
    What a process was handed.

    Attributes:
        job_id: The job.
        since_s: When, monotonic seconds (one clock for all processes of a machine).
    """

    job_id: str
    since_s: float


class Handed:
    """The file, as one process sees it. Any process of the bus may read and write it."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, NAME)
        self._fd = -1

    def give(self, owner: Owner, job_id: str, since_s: float) -> bool:
        """*owner* has that job in hand now, and no other; whether that could be written."""
        return self._write(owner.slot, f"{owner.boot} {owner.n} {job_id} {round(since_s * 1000)}")

    def take(self, owner: Owner) -> None:
        """*owner* has nothing in hand any more."""
        if self.read(owner) is not None:
            self._write(owner.slot, f"{owner.boot} {owner.n} - 0")

    def read(self, owner: Owner) -> Hand | None:
        """What *owner* has in hand; None: nothing, or nobody knows."""
        words = self._words(owner.slot)
        if words[:2] != [owner.boot, str(owner.n)] or words[2] == "-":
            return None
        return Hand(words[2], int(words[3]) / 1000)

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _words(self, slot: int) -> list[str]:
        """The row, if it is whole; a writer may be in the middle of it."""
        for _ in range(_TRIES):
            try:
                row = os.pread(self._open(0), ROW_BYTES, slot * ROW_BYTES)
            except OSError:
                return []
            said, _, check = row.partition(b"\n")[0].rpartition(b" ")
            if check == b"%08x" % zlib.crc32(said):
                return said.decode("ascii").split(" ")
        return []

    def _write(self, slot: int, said: str) -> bool:
        text = said.encode("ascii")
        row = (b"%b %08x\n" % (text, zlib.crc32(text))).ljust(ROW_BYTES, b"\0")
        try:
            return os.pwrite(self._open(os.O_CREAT), row, slot * ROW_BYTES) == ROW_BYTES
        except OSError:                               # a full disk, or a folder that is gone
            return False

    def _open(self, create: int) -> int:
        """The writers make it: a reader may be another user, whose file they could not write."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
        return self._fd
