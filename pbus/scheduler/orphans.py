"""
The end of topics that are gone from the files: when nothing of one is left, it is forgotten.

    began --> what runs now is written down (config.orphans)
    orphan: ready + running + delayed = 0 --> forget --> nothing else has changed in the files? --> reload
    orphan: another node runs jobs of it --> forget, it is theirs ..
    over: without jobs and dead letters, no other node on the store --> the store drops it

Rule: a reload that nobody asked for takes over nothing but that. As long as the files say something else than what
runs, the topic waits for the reload that takes those over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.config import orphans
from pbus.config.schema import Node
from pbus.core.names import Owner
from pbus.errors import PbusError
from pbus.scheduler.roster import Store
from pbus.storage.driver import TopicNumbers
from pbus.supervisor.control import call

EVERY_S: Final = 1.0
_CALL_S: Final = 60.0
_LATER_S: Final = 30.0

Name = tuple[str, str]


class Orphans:
    """Those of a node. *topics*, *gone*, *over*: as ``config.orphans`` has them."""

    def __init__(
        self, topics: Sequence[Name], gone: frozenset[str], over: Sequence[Name], node: Node, run_dir: str, log: Any
    ) -> None:
        self.topics = tuple(topics)
        self.gone = gone
        self.over = tuple(over)
        self.node = node
        self._run_dir = run_dir
        self._log = log
        self._asking = threading.Lock()

    @classmethod
    def noted(cls, told: Mapping[str, Any] | None, node: Node, run_dir: str, log: Any) -> Orphans:
        """As the plan has *told*; what runs now is written down for later."""
        if told is None:
            return cls((), frozenset(), (), node, run_dir, log)
        try:
            orphans.keep(node.data_dir, told["tables"])
        except OSError as error:
            log.error("orphans.not_kept", error=str(error))
        return cls(told["topics"], told["gone"], told["over"], node, run_dir, log)

    def duties(self, store: Store, living: Callable[[], int], clock: Clock) -> list[Watch]:
        """One, where the store has any of them. *living*: nodes that use it."""
        queues = {spec.name for spec in store.queues}
        mine = [name for name in self.topics if name[0] in queues]
        return [Watch(self, store, mine, living, clock)] if mine or self.over else []

    def forget(self, names: Sequence[Name]) -> bool:
        """They are not needed any more; whether the bus goes on without them now."""
        if not self._asking.acquire(blocking=False):
            return False
        try:
            orphans.forget(self.node.data_dir, names)
            if call(self._run_dir, "compare", _CALL_S, reads=True)["changes"]:
                return False
            call(self._run_dir, "reload", _CALL_S)
        except (OSError, PbusError) as error:
            self._log.warning("orphan.stays", error=str(error))
            return False
        finally:
            self._asking.release()
        for queue, topic in names:
            self._log.info("orphan.done", queue=queue, topic=topic)
        return True


class Watch:
    """The duty for one store: *names* are its orphans."""

    name = "orphans"

    def __init__(
        self, those: Orphans, store: Store, names: Sequence[Name], living: Callable[[], int], clock: Clock
    ) -> None:
        self._those = those
        self._store = store
        self._names = list(names)
        self._over = list(those.over)
        self._living = living
        self._clock = clock
        shared = store.driver.capabilities.many_nodes
        self._drop_at_s = clock.monotonic_s() + (those.node.lost_after_s if shared else 0.0)  # then others were seen

    def turn(self) -> float:
        queues = sorted({queue for queue, _ in self._names})
        known = self._store.driver.numbers(None if self._over else queues) if self._over or queues else {}
        if self._over and self._clock.monotonic_s() >= self._drop_at_s:
            self._drop(known)
        theirs = self._theirs()
        ended = [name for name in self._names if name in theirs or self._is_empty(name, known.get(name))]
        if ended:
            threading.Thread(target=self._those.forget, args=(ended,), daemon=True).start()
            return _LATER_S
        return EVERY_S if self._names or self._over else _LATER_S

    def _is_empty(self, name: Name, numbers: TopicNumbers | None) -> bool:
        """Dead letters keep a topic whose queue goes on: else nobody would take what is pushed to it."""
        if numbers is None:
            return True
        left = numbers.ready or numbers.running or numbers.delayed
        return not left and (name[0] in self._those.gone or not numbers.dead)

    def _drop(self, known: Mapping[Name, TopicNumbers]) -> None:
        """Not while other nodes use the store: it may be in their files."""
        over, self._over = self._over, []
        for name in over if self._living() <= 1 else ():
            numbers = known.get(name)
            if numbers and not (numbers.ready or numbers.running or numbers.delayed or numbers.dead):
                self._store.driver.drop_topic(*name)

    def _theirs(self) -> set[Name]:
        """Topics of which other nodes run jobs."""
        driver = self._store.driver
        if not self._names or self._living() <= 1:
            return set()
        others = [owner for owner in driver.owners() if Owner.parse(owner).node != self._those.node.name]
        return {(held.queue, held.topic) for owner in others for held in driver.held(owner)}

    def interrupted(self) -> None:
        """Nothing was concluded."""
