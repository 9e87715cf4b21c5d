"""
What the composition root hands to the master: everything it needs to know, nothing it could look up.

Rule: read-only. The master never sees the settings of a role; they travel in ``RoleSpec.args``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pbus.config.load import Loaded
from pbus.config.schema import Backoff, Log
from pbus.config.values import Address
from pbus.supervisor.roles import RoleSpec

_SPARE_SLOTS: Final = 128
_LEAST_SLOTS: Final = 4096
"""Memory that nobody has written to costs nothing, and a later plan may want many more."""
_LEAST_COLUMNS: Final = 32
_LEAST_ROWS: Final = 1024
_GENERATIONS: Final = 4
"""So many of those who measure may be there at once: old ones drain for as long as their jobs take."""
_MOST_SLOTS: Final = 4096
"""Rows for what a plan may ask for: 2 MiB. A node with more processes than that has run out of something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFact:
    """
    A topic of the configuration.

    Attributes:
        queue, topic: Its name.
        at_least, at_most: Bounds of its concurrency.
        has_consumers: It is run by processes of its own.
        pulled: Its jobs are fetched; nothing of ours runs them.
        shadow_of: The topic of its queue that it shadows, or empty.
        orphaned: It is not in the files any more and finishes what it has.
    """

    queue: str
    topic: str
    at_least: int
    at_most: int
    has_consumers: bool = False
    pulled: bool = False
    shadow_of: str = ""
    orphaned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    One configuration, as far as the master is concerned.

    Attributes:
        node: Name of this node.
        run_dir, data_dir, log_dir: Absolute; log_dir may be ``-``.
        grace_s: How long running jobs may finish on stop.
        user, status_group: ``[node]``.
        backoff: ``[supervise.backoff]``.
        log: ``[log]``.
        secrets: Values that must not reach the log.
        roles: Kinds of children.
        doors: Listener name -> address, for everything that is bound.
        topics: For ``pbus status``.
        settings: What it was made of, to be compared with what files say later; None: of no files.
        waiting: Keys that have another value in the files than here, and wait for a restart.
        least_slots: Rows of the scoreboard, however few the plan asks for.
    """

    node: str
    run_dir: str
    data_dir: str
    log_dir: str
    grace_s: float
    user: str = ""
    status_group: str = ""
    backoff: Backoff = field(default_factory=Backoff)
    log: Log = field(default_factory=Log)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    roles: tuple[RoleSpec, ...]
    doors: Mapping[str, Address]
    topics: tuple[TopicFact, ...] = ()
    settings: Loaded | None = field(default=None, repr=False)
    waiting: tuple[str, ...] = ()
    least_slots: int = _LEAST_SLOTS

    @property
    def slots(self) -> int:
        """Rows of the scoreboard: for everybody and their successors, and for as many as a scaling plan may ask for."""
        more = sum(max(0, spec.most - spec.count) for spec in self.roles)
        return max(self.least_slots, 2 * sum(spec.count for spec in self.roles) + min(more, _MOST_SLOTS) + _SPARE_SLOTS)

    @property
    def columns(self) -> int:
        """Columns of the histograms: for everybody who measures and their successors."""
        return max(_LEAST_COLUMNS, _GENERATIONS * sum(spec.count for spec in self.roles if spec.measures))

    @property
    def rows(self) -> int:
        """Topics that the histograms have room for, with those of later plans."""
        return max(_LEAST_ROWS, 2 * len(self.topics))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """
    What the files say now, read and tried.

    Attributes:
        plan: It can be had.
        changes: What is another than in the plan that runs, one line a key.
        touched: Topics that differ.
    """

    plan: Plan
    changes: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
