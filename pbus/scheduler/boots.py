"""
Earlier boots of this run directory, as the master tells of them: it holds the locks that prove it.

Rule: a boot's lock goes when every storage is done with the boot, so a scheduler that dies in
between leaves something for the next one to find.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable


class Boots:
    """
    Which earlier boots are over, and which storages are done with them.

    One owner: the scheduler; shared by the duties of its storages.
    """

    def __init__(self, stores: Collection[str], forgotten: Callable[[str], None]) -> None:
        """*forgotten* is called with a boot once, when the last of *stores* is done with it."""
        self._stores = frozenset(stores)
        self._forgotten = forgotten
        self._done: dict[str, set[str]] = {}
        self.living: frozenset[str] | None = None
        """Earlier boots of which somebody still lives; None before the master has told."""
        self.changes = 0

    def told(self, over: Iterable[str], living: Iterable[str]) -> None:
        """The master tells which earlier boots are over, and which live on."""
        for boot in over:
            self._done.setdefault(boot, set())
        self.living = frozenset(living)
        self.changes += 1

    def over(self, store: str) -> set[str]:
        """Boots of which nobody lives and that *store* is not done with."""
        return {boot for boot, done in self._done.items() if store not in done}

    def known(self) -> set[str]:
        """Every earlier boot of this run directory: its lock tells more, and sooner, than its counter."""
        return self._done.keys() | (self.living or frozenset())

    def finish(self, boot: str, store: str) -> None:
        """*store* holds nothing of *boot* any more."""
        done = self._done.get(boot)
        if done is None:
            return
        done.add(store)
        if done >= self._stores:
            del self._done[boot]
            self._forgotten(boot)
