"""Pauses of a ``pbus deploy`` that is not there any more are ended: its topics are resumed."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from pbus.clock import Clock
from pbus.core.names import split_topic_path
from pbus.scheduler.roster import Store
from pbus.storage.documents import Document
from pbus.storage.leases import KIND, parse

EVERY_S: Final = 2.0
_LONGEST_S: Final = 300.0


class Leases:
    """The duty. It knows since when it has seen which version of a note."""

    name = "leases"

    def __init__(self, store: Store, clock: Clock, log: Any) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._seen: dict[str, tuple[int, float]] = {}

    def turn(self) -> float:
        now_s = self._clock.monotonic_s()
        notes = self._store.driver.documents(KIND)
        self._seen = {note.name: self._since(note, now_s) for note in notes}
        for note in notes:
            if now_s - self._seen[note.name][1] >= _lease_s(note):
                self._end(note)
        return EVERY_S

    def interrupted(self) -> None:
        """Who could not renew while the store was away gets its time anew."""
        self._seen.clear()

    def _since(self, note: Document, now_s: float) -> tuple[int, float]:
        version, since_s = self._seen.get(note.name, (0, now_s))
        return (note.version, since_s if version == note.version else now_s)

    def _end(self, note: Document) -> None:
        """Written first, so that of several nodes one does it; if we die here, the next one sees an old note again."""
        driver = self._store.driver
        version = driver.write_document(KIND, note.name, note.text, note.version)
        if not version:
            return
        self._resume(note.name)
        driver.drop_document(KIND, note.name, version)
        with contextlib.suppress(ValueError):
            queue, topic = split_topic_path(note.name)
            by = parse(note.text).by
            self._log.warning("deploy.expired", queue=queue, topic=topic, by=by)

    def _resume(self, path: str) -> None:
        """If it is still there."""
        driver = self._store.driver
        with contextlib.suppress(ValueError):
            queue, topic = split_topic_path(path)
            if (queue, topic) in driver.numbers([queue]):
                driver.pause(queue, topic, False)


def _lease_s(note: Document) -> float:
    try:
        return min(_LONGEST_S, parse(note.text).lease_s)
    except ValueError:
        return 0.0
