"""
What the delivery children of a node tell one another of the addresses they call.

    child --news--> master (keeps the last of each) --news--> the other children

So an address is probed, its status page read and its handlers pinged once per node, not once per
child. Nobody is in charge: each child would do it, and the first of them does it first; the others
wait a little longer (``later_s``), and do not when they hear that it was done. When that child dies
the next one is only so much later.

Rule: lossy. Whoever hears nothing does the work itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import gevent.event

STEP_S: Final = 0.15
MOST_S: Final = 0.6
CATCH_UP_S: Final = 1.0

About = tuple[str, ...]
"""
What is told of: (``circuit``, address), (``pool``, address), (``ping``, address, endpoint), (``lent``, serial number).
"""

Ear = Callable[[Mapping[str, Any]], None]


class Tell(Protocol):
    """``Child.tell``."""

    def __call__(self, kind: str, /, **fields: Any) -> None:
        """Send a frame to the master."""


class News:
    """
    One per delivery child.

    Args:
        tell: Sends a frame to the master.
        index: Which child this is.
    """

    def __init__(self, tell: Tell | None = None, index: int = 0) -> None:
        self._tell = tell
        self._ears: dict[About, Ear] = {}
        self._ears_of: dict[str, Ear] = {}
        self._last: dict[About, Mapping[str, Any]] = {}
        self._caught_up = gevent.event.Event()
        self.later_s = min(index * STEP_S, MOST_S)

    def catch_up(self) -> None:
        """Hear what is known already, before anything is asked again; a moment at most."""
        if self._tell is not None:
            self._tell("news_please")
            self._caught_up.wait(CATCH_UP_S)

    def listen(self, about: About, ear: Ear) -> None:
        """Call *ear* with what others tell about that, the last thing they told first."""
        self._ears[about] = ear
        if about in self._last:
            ear(self._last[about])

    def listen_to_all(self, kind: str, ear: Ear) -> None:
        """The same for everything whose ``about`` begins with *kind*."""
        self._ears_of[kind] = ear
        for about, frame in list(self._last.items()):
            if about[0] == kind:
                ear(frame)

    def tell(self, about: About, **fields: Any) -> None:
        """Tell the others."""
        if self._tell is not None:
            self._tell("news", about=list(about), **fields)

    def hear(self, frame: Mapping[str, Any]) -> None:
        """What another child told."""
        about = tuple(frame["about"])
        if not about:
            self._caught_up.set()  # that was all
            return
        self._last[about] = frame
        ear = self._ears.get(about) or self._ears_of.get(about[0])
        if ear is not None:
            ear(frame)
