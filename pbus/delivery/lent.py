"""
Connections that delivery children of an older generation still have: ``max_connections`` is for all of them together.

    older child, draining --news ("lent", n) {taken}--> younger ones: so many fewer, until they are given back

Rule: whoever takes over waits for the first word of that, a moment at most; who has died has given everything back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import gevent.event

from pbus.delivery.backends import Backends
from pbus.delivery.news import News

KIND: Final = "lent"
FIRST_WORD_S: Final = 0.25


class Lent:
    """
    One per delivery child.

    Args:
        n: Our serial number.
        backends: Ours.
        news: By which the children of a node tell one another.
        part: Which part of a number is this child's, of those of a generation.
        living: Serial numbers of the delivery children that live.
    """

    def __init__(
        self, n: int, backends: Backends, news: News, part: Callable[[int], int], living: Callable[[], set[int]]
    ) -> None:
        self._n = n
        self._backends = backends
        self._news = news
        self._part = part
        self._living = living
        self._told: dict[str, int] | None = None
        self._of_others: dict[int, Mapping[str, int]] = {}
        self._heard = gevent.event.Event()
        news.listen_to_all(KIND, self._hear)

    # -- the older one --------------------------------------------------------------------------

    def tell(self) -> None:
        """What we still have; again and again while we drain."""
        taken = {
            address.name: address.taken for backend in self._backends for address in backend.addresses
            if address.taken and address.is_limited
        }
        if taken != self._told:
            self._told = taken
            self._news.tell((KIND, str(self._n)), taken=taken)

    # -- the younger one ------------------------------------------------------------------------

    def wait(self) -> None:
        """Hear of it before the first call."""
        self._heard.wait(FIRST_WORD_S)

    @property
    def heard(self) -> bool:
        """One that lives, and is older, has told."""
        return bool(self._heard.is_set())

    def look(self) -> None:
        """Now and then: who has died has nothing any more."""
        if self._of_others:
            gone = self._of_others.keys() - self._living()
            if gone:
                self._of_others = {n: taken for n, taken in self._of_others.items() if n not in gone}
                self._apply()

    def _hear(self, frame: Mapping[str, Any]) -> None:
        n, taken = int(frame["about"][1]), dict(frame["taken"])
        if n >= self._n:
            return  # of a younger one
        self._of_others[n] = taken
        self._apply()
        if n in self._living():
            self._heard.set()  # what one told that has gone since is repeated to us, too: it is not whom we wait for

    def _apply(self) -> None:
        for backend in self._backends:
            for address in backend.addresses:
                total = sum(taken.get(address.name, 0) for taken in self._of_others.values())
                backend.lend(address, self._part(total))
