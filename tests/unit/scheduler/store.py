"""The in-memory storage with what only the scheduler asks of it: owners, beats, fences, housekeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from pbus.clock import FakeClock
from pbus.core.job import Settlement
from pbus.core.names import Owner
from pbus.core.statistics import Bucket
from pbus.scheduler.roster import Store
from pbus.storage.documents import Document
from pbus.storage.driver import (
    Capabilities, Fill, Held, Promoted, QueueNumbers, QueueSpec, TopicNumbers, TopicSpec, Want,
)
from pbus.storage.statistics import Known
from tests.support.memory_store import AWAY, MemoryStore

OWN = Owner("bus-1", "own", 0, 1)
QUEUES = (QueueSpec("gift", (TopicSpec("credit"),), 3_600.0, 0),)


class SchedulerStore(MemoryStore):
    """
    Attributes:
        counters: Boot -> beat counter, of boots that are not fenced.
        fenced, forgotten: Boots, in the order of the calls.
        given_back: (owner, settlement) that took effect.
        promoted, dropped: Answers to the next calls; the last one stays.
        buckets: Answers to ``statistics``.
        put_rows: (time, rows, totals) of statistics that were put.
        texts: Documents, by kind and name.
        write_limit: So many more documents can be written.
    """

    def __init__(self, many_nodes: bool = True) -> None:
        super().__init__()
        self.capabilities = Capabilities(blocking=False, many_nodes=many_nodes, atomic_fan_out=True)
        self.counters: dict[str, int] = {}
        self.fenced: list[str] = []
        self.forgotten: list[str] = []
        self.given_back: list[tuple[str, Settlement]] = []
        self.promoted: list[Promoted] = [Promoted()]
        self.log_bytes = 0
        self.dropped: list[int] = [0]
        self.known: dict[tuple[str, str], TopicNumbers] = {("gift", "credit"): TopicNumbers(ready=1)}
        self.put_rows: list[tuple[int, Sequence[Bucket], Mapping[tuple[str, str], Known]]] = []
        self.buckets: list[Bucket] = []
        self.attempts = 0
        self.crashes = 0
        self.texts: dict[tuple[str, str], Document] = {}
        self.write_limit = 1 << 30
        self._version = 0

    def claimed_by(self, owner: Owner, *ids: str) -> None:
        """*owner* holds claims on these jobs of gift/credit."""
        self.put(*ids)
        self.claim([Want(str(owner), "gift", "credit", len(ids))])
        self.calls.clear()

    def open(self) -> None:
        self._enter("open")

    def close(self) -> None:
        self.calls.append("close")

    def check(self) -> None:
        self._enter("check")

    def owners(self) -> list[str]:
        self._enter("owners")
        return sorted({claim.owner for claim in self._claims.values()})

    def held(self, owner: str) -> list[Held]:
        return [
            Held(one.queue, one.topic, one.id, self.attempts, self.crashes) for one in super().held(owner)
        ]

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        self._enter("give_back")
        took_effect = [self._settle(one) for one in settlements]
        self.given_back += [(owner, one) for one, ok in zip(settlements, took_effect, strict=True) if ok]
        return took_effect

    def promote_due(self, limit: int = 1000) -> Promoted:
        self._enter("promote_due")
        return self.promoted.pop(0) if len(self.promoted) > 1 else self.promoted[0]

    def trim(self) -> int:
        self._enter("trim")
        return self.dropped.pop(0) if len(self.dropped) > 1 else self.dropped[0]

    def checkpoint(self) -> int:
        self._enter("checkpoint")
        return self.log_bytes

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        self._enter("numbers")
        return {path: known for path, known in self.known.items() if queues is None or path[0] in queues}

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        self._enter("queue_numbers")
        return {queue: QueueNumbers() for queue, _ in self.known}

    def put_statistics(
        self, at_s: int, rows: Sequence[Bucket], known: Mapping[tuple[str, str], Known] | None = None
    ) -> None:
        self._enter("put_statistics")
        self.put_rows.append((at_s, rows, known or {}))

    def statistics(self, queue: str, topic: str | None, since_s: int, until_s: int, span_s: int) -> list[Bucket]:
        self._enter("statistics")
        return [row for row in self.buckets if row.queue == queue and since_s <= row.at_s < until_s]

    def fill(self) -> Fill:
        self._enter("fill")
        return Fill()

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        self._enter("documents")
        return [
            one for _, one in sorted(self.texts.items()) if one.kind == kind and (names is None or one.name in names)
        ]

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        """Fails when ``write_limit`` writes are done: as if the process died there."""
        self._enter("write_document")
        if self.write_limit <= 0:
            raise AWAY
        known = self.texts.get((kind, name))
        if (known.version if known else 0) != version:
            return 0
        self.write_limit -= 1
        self._version += 1
        self.texts[kind, name] = Document(kind, name, self._version, text)
        return self._version

    def drop_document(self, kind: str, name: str, version: int) -> bool:
        self._enter("drop_document")
        known = self.texts.get((kind, name))
        if known is None or known.version != version:
            return False
        del self.texts[kind, name]
        return True

    def beat(self, node: str, boot: str) -> None:
        self._enter("beat")
        self.counters[boot] = self.counters.get(boot, 0) + 1

    def beats(self) -> dict[str, int]:
        self._enter("beats")
        return dict(self.counters)

    def fence(self, boot: str) -> None:
        self._enter("fence")
        self.counters.pop(boot, None)
        self.fenced.append(boot)

    def forget(self, boot: str) -> None:
        self._enter("forget")
        self.counters.pop(boot, None)
        self.forgotten.append(boot)


def prepared(driver: SchedulerStore) -> Store:
    """A store over *driver* that is open and declared."""
    store = Store("main", driver, QUEUES)  # type: ignore[arg-type] # what the scheduler does not call is not there
    store.prepare()
    driver.calls.clear()
    return store


class Bench:
    """What duties share: a clock that is moved by hand, and a log."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = structlog.get_logger()
