"""
What happens on the nodes that share a store: a ring of their events in Redis, for people at any of them.

    scheduler of each node --events of its pbus.log--> pbus:events (a stream, the last ENTRIES) --> pbus tail --nodes

Rule: lossy and bounded; the log of each node stays the whole truth. An embedded store is one node's, so it has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pbus.clock import Clock, SystemClock
from pbus.storage import keys
from pbus.storage.open import StoreTarget

if TYPE_CHECKING:
    from pbus.storage.redis_link import Words

ENTRIES: Final = 5_000
LINE_BYTES: Final = 1_024
"""A longer one is left out: whoever tells cuts."""
PAGE: Final = 1_000

_SCHEMES: Final = ("redis", "redis+unix")


class Told(NamedTuple):
    """*line* as *node* told it; *id* is larger than those before."""

    id: str
    node: str
    line: str


def home(stores: Mapping[str, StoreTarget]) -> StoreTarget | None:
    """Which of *stores* has the ring: the first by name that several nodes may share; None: none is."""
    shared = [stores[name] for name in sorted(stores) if stores[name].url.partition(":")[0] in _SCHEMES]
    return shared[0] if shared else None


class Bulletin:
    """The ring, as one process sees it. Plain calls; they raise nothing but ``errors.StorageError``."""

    def __init__(self, target: StoreTarget, clock: Clock | None = None) -> None:
        from pbus.storage.redis_address import parse        # a bus without a Redis never loads its library
        from pbus.storage.redis_calls import Calls

        self._calls = Calls(parse(target.url, target.password), target.call_timeout_s, clock or SystemClock())

    def tell(self, node: str, lines: Sequence[str]) -> None:
        """
        Append *lines*, those before ENTRIES go. One round trip; not idempotent.

        If we die here, or a reply is lost: some are told, or told twice.
        """
        fitting = [line for line in lines if len(line.encode()) <= LINE_BYTES]
        commands: list[Words] = [
            ("XADD", keys.EVENTS, "MAXLEN", ENTRIES, "*", "node", node, "line", line) for line in fitting
        ]
        if commands:
            self._calls.all(commands, repeat=False)

    def told(self, after: str = "") -> list[Told]:
        """The next PAGE lines after that id (empty: the oldest there are), in order; empty: that is all."""
        found = self._calls.one(("XRANGE", keys.EVENTS, f"({after}" if after else "-", "+", "COUNT", PAGE))
        return [
            Told(one.decode(), fields[1].decode("utf-8", "replace"), fields[3].decode("utf-8", "replace"))
            for one, fields in found if len(fields) == 4
        ]

    def close(self) -> None:
        """Give the connection back; idempotent."""
        self._calls.close()
