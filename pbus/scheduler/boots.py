"""Earlier boots of this run directory, over all storages: a boot's lock goes when every storage is done with it."""

from __future__ import annotations

from collections.abc import Collection

from pbus.supervisor.lock import BootLocks


class Boots:
    """One owner: the scheduler; shared by the duties of its storages."""

    def __init__(self, locks: BootLocks, own: str, stores: Collection[str]) -> None:
        self._locks = locks
        self._own = own
        self._stores = frozenset(stores)
        self._finished: dict[str, set[str]] = {}

    def earlier(self, store: str) -> tuple[set[str], set[str]]:
        """Boots of which nobody lives and that *store* is not done with; boots of which somebody lives."""
        over, living = self._locks.others(self._own)
        return {boot for boot in over if store not in self._finished.get(boot, ())}, set(living)

    def finished(self, boot: str, store: str) -> None:
        """*store* holds nothing of *boot* any more; the last one to say so removes its lock."""
        done = self._finished.setdefault(boot, set())
        done.add(store)
        if done >= self._stores:
            self._locks.forget(boot)
            del self._finished[boot]
