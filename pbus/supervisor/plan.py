"""
What the composition root hands to the master: everything it needs to know, nothing it could look up.

Rule: read-only. The master never sees the settings of a role; they travel in ``RoleSpec.args``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pbus.config.schema import Backoff, Log
from pbus.config.values import Address
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.status import TopicFact

_SPARE_SLOTS: Final = 128
_SPARE_COLUMNS: Final = 4
_MOST_SLOTS: Final = 4096
"""Rows for what a plan may ask for: 2 MiB. A node with more processes than that has run out of something else."""


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

    @property
    def slots(self) -> int:
        """Rows of the scoreboard: for everybody and their successors, and for as many as a scaling plan may ask for."""
        more = sum(max(0, spec.most - spec.count) for spec in self.roles)
        return 2 * sum(spec.count for spec in self.roles) + min(more, _MOST_SLOTS) + _SPARE_SLOTS

    @property
    def columns(self) -> int:
        """Columns of the histograms: for everybody who measures and their successors."""
        return 2 * sum(spec.count for spec in self.roles if spec.measures) + _SPARE_COLUMNS
