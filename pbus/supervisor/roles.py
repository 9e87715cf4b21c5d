"""
Roles as data: what kinds of child there are is decided in ``app.py``, never by a method here.

Rule: a new kind of child is a new RoleSpec. The master knows a role only by these fields; the
module is named by a string and imported after the fork, in the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

AFTER_DRAIN: Final = "drained"
AFTER_END: Final = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """
    One kind of child, and how many of it are wanted.

    Attributes:
        role: ingest, delivery, scheduler, dashboard, consumer, program.
        module: Module whose ``run(child)`` is the child's whole life.
        count: How many there are at first; each has an index from 0.
        title: After ``pbus: `` in the process list; ``{index}`` is replaced.
        path: ``queue/topic`` of a consumer, name of a program, else empty.
        keeps: Names of the listeners that its child keeps; every other descriptor is closed.
            ``{index}`` is replaced.
        args: Section of the settings (and whatever else) that the role is handed.
        own_group: It runs user code and gets a process group of its own.
        drain_stage: Children of a lower stage drain first on stop; the next stage is told to
            when the one before has exited (or half of the grace is over).
        needed: The bus is not ``running`` before one of them is ready.
        holds_claims: It may own claims, so it inherits the boot lock.
        checks_tokens: It gets the key that the tokens of this master are made with; user code never does.
        hears: Kinds of frames that the master passes on to it: ``boots`` (earlier boots of this
            node), ``numbers`` (of topics, to be answered), ``delayed`` (a retry is due soon),
            ``news`` (what another child found out about a backend), ``watch`` (somebody follows job events),
            ``work`` and ``machine`` (what was measured), ``order`` (of a person, to be answered),
            ``shares`` and ``expected`` (how much of each topic is its part).
        most: How many there may ever be; 0: ``count``. The plan decides between 0 and this.
        user: Run it as this user instead of the node's; empty: as the node's.
        stays_master: It keeps the user of the master, because it starts a program as another one.
        nice: Its scheduling priority.
        stop_timeout_s: How long a drain may take where that is less than the grace; 0: the grace.
        max_rss_bytes: It replaces itself above this, between two jobs; far above it is killed. 0: no bound.
        weighs_group: Its memory and processor time are those of its whole family (it runs a program).
        alone: Nobody is born at its place before the last one there has gone (it may hold a port).
        watch: One of it watches its files, so that new code is rolled out.
        measures: It counts in the histograms, so it is lent a column.
        turn: When one of a new generation begins its duties where older ones still live: empty: at once;
            ``drained``: when these have been told to drain; ``gone``: when these have gone.
        patient: Its drain takes as long as what it runs while the bus goes on.
        hands_over: Before it drains while the bus goes on it is told who takes its connections: ``handover {to}``, the
            index of a ready child of the same role, whose door is ``handover.INDEX``.
        dumps: Its stacks are worth writing down before it is killed: it gets QUIT first.
    """

    role: str
    module: str
    count: int = 1
    title: str = ""
    path: str = ""
    keeps: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    own_group: bool = False
    drain_stage: int = 0
    needed: bool = True
    holds_claims: bool = False
    checks_tokens: bool = False
    hears: tuple[str, ...] = ()
    most: int = 0
    user: str = ""
    stays_master: bool = False
    nice: int = 0
    stop_timeout_s: float = 0.0
    max_rss_bytes: int = 0
    weighs_group: bool = False
    alone: bool = False
    watch: bool = False
    measures: bool = False
    turn: str = ""
    patient: bool = False
    hands_over: bool = False
    dumps: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What tells this role from another: (role, path)."""
        return (self.role, self.path)
