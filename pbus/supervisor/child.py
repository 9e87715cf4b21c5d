"""
A child from inside: what a role may ask of its process.

One signature ``run(child)``, one life: boot -> ready -> drain -> exit. The role imports what it
needs (gevent patches first) inside its own module; this file works patched and unpatched alike
because it says ``import socket`` and looks names up at call time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from pbus.clock import Clock
from pbus.core.names import Owner
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard, Slot


class Child:
    """
    What the master hands to ``run``.

    Attributes:
        spec: The role; ``spec.args`` holds its settings.
        index: 0-based number among the children of the role.
        owner: Its identity as a holder of claims; ``str(owner)`` goes to the store.
        slot: Its own row of the scoreboard (one writer: this process).
        scoreboard: All rows, for reading.
        listeners: Name -> listening socket that the spec keeps.
        log: Structured logger bound to role, index and pid.
        clock: The clock to use.
        run_dir: Directory of sockets and locks.
    """

    spec: RoleSpec
    index: int
    owner: Owner
    slot: Slot
    scoreboard: Scoreboard
    listeners: Mapping[str, Any]
    log: structlog.typing.FilteringBoundLogger
    clock: Clock
    run_dir: str

    def start(self) -> None:
        """
        Begin to listen to the master and to TERM (a thread; a greenlet once gevent is patched in).

        Call it first thing in ``run``, after patching.
        """

    def ready(self) -> None:
        """Boot is over: the master may count on this child."""

    def problem(self, name: str, text: str) -> None:
        """Raise (or, with an empty *text*, lift) a problem that ``pbus status`` shows."""

    def fail(self, text: str, exit_status: int = 1) -> None:
        """Boot failure: tell the master why and exit with *exit_status*. Does not return."""

    @property
    def draining(self) -> bool:
        """The master wants this child to finish what runs and to exit."""
        return False

    def on_drain(self, act: Callable[[], None]) -> None:
        """Call *act* once when draining begins (at once if it has begun)."""

    def wait_drain(self, timeout_s: float | None = None) -> bool:
        """Wait until draining begins; True when it has."""
        return False

    def on_frame(self, kind: str, act: Callable[[dict[str, Any]], None]) -> None:
        """Call *act* with each frame of that kind that the master sends."""

    def tell(self, kind: str, **fields: Any) -> None:
        """Send a frame to the master; bounded, dropped (and counted) when the master does not read."""

    @property
    def watched(self) -> bool:
        """Somebody follows job events (``pbus tail jobs``, ``pbus push --wait``)."""
        return False

    def publish(self, event: Mapping[str, Any]) -> None:
        """Send a job event to whoever follows; free when nobody does, lossy when they are slow."""
