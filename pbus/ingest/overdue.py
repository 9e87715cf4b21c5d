"""
Programs whose job is out of time: their process is ended by the master, and says itself how.

Rule: one ingest child looks for all of them, the one in the lowest slot, so whoever handed the job out may be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pbus.core.names import Owner
from pbus.ingest.access import TopicEntry
from pbus.ingest.holder import Holder
from pbus.supervisor.child import Child

AGAIN_S: Final = 10.0
"""The master is told again so much later, should the process live on with that job."""


class Overdue:
    """The watch of one store. One owner: its ``Store``."""

    def __init__(self, holder: Holder, programs: Sequence[TopicEntry], child: Child) -> None:
        self._holder = holder
        self._timeouts_s = {topic.path: topic.rules.timeout_s for topic in programs if topic.rules.timeout_s}
        self._child = child
        self._told_s: dict[tuple[Owner, str], float] = {}

    def look(self) -> None:
        """
        Have those ended whose job has taken longer than the topic's ``timeout``.

        Raises:
            StorageError: the store cannot be asked now.
        """
        if not self._timeouts_s:
            return
        own, now_s = self._child.owner, self._child.clock.monotonic_s()
        living = self._child.scoreboard.living()
        if own.slot != min((row.slot for row in living if row.role == self._child.spec.role), default=own.slot):
            return
        self._told_s = {key: at_s for key, at_s in self._told_s.items() if now_s - at_s < AGAIN_S}
        for row in living:
            timeout_s = self._timeouts_s.get(row.path)
            if timeout_s is None or row.role != "consumer":
                continue
            owner = Owner(own.node, own.boot, row.slot, row.n)
            job_id = self._holder.overdue(owner, timeout_s, now_s)
            if job_id and (owner, job_id) not in self._told_s:
                self._told_s[owner, job_id] = now_s
                self._child.log.warning("consumer.overdue", owner=str(owner), job=job_id, timeout_s=timeout_s)
                self._child.tell("kill", owner=str(owner))
