"""
Roles as data: what kinds of child there are is decided in ``app.py``, never by a method here.

Rule: a new kind of child is a new RoleSpec. The master knows a role only by these fields; the
module is named by a string and imported after the fork, in the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """
    One kind of child, and how many of it are wanted.

    Attributes:
        role: ingest, delivery, scheduler, dashboard, consumer.
        module: Module whose ``run(child)`` is the child's whole life.
        count: How many; each has an index from 0.
        title: After ``pbus: `` in the process list; ``{index}`` is replaced.
        path: ``queue/topic`` of a consumer, else empty.
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
            ``news`` (what another child found out about a backend), ``watch`` (somebody follows job events).
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

    @property
    def key(self) -> tuple[str, str]:
        """What tells this role from another: (role, path)."""
        return (self.role, self.path)
