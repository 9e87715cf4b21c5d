"""
Leftovers: processes that user code has started and left behind.

    consumer -> fork -> setsid -> fork        its parent has gone, its session is its own
                                   \\--> our child, because the master adopts orphans (a subreaper)

Rule: a child of ours that we did not fork is somebody's leftover. It bears the mark of the consumer that it comes
from (``process.brand``), and is killed once that one has gone; until then it is left alone. What bears no mark is
none of our business, except that it is reaped. A consumer's own group is killed with it, without any of this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection

from pbus.supervisor import process
from pbus.telemetry import log as logs


class Leftovers:
    """One owner: the master."""

    def __init__(self) -> None:
        self._log = logs.get()
        self._killed: set[int] = set()

    def look(self, ours: Collection[int], living: Collection[int]) -> bool:
        """
        Kill what has no consumer any more.

        Args:
            ours: Pids of the children that we forked.
            living: Serial numbers of those.

        Returns:
            Whether something was killed and is not reaped yet: what it leaves behind in turn comes to us next.
        """
        strangers = [pid for pid in process.children(os.getpid()) if pid not in ours]
        self._killed.intersection_update(strangers)
        for pid in strangers:
            n = process.brand_of(pid)
            if n and n not in living and pid not in self._killed:
                self._end(pid, n)
        return bool(self._killed)

    def _end(self, pid: int, n: int) -> None:
        """A child of ours is a zombie until we reap it: its number is nobody else's."""
        self._killed.add(pid)
        self._log.warning("leftover.killed", leftover_pid=pid, name=process.name(pid), n=n)
        process.kill(pid, signal.SIGKILL, group=False)
