"""
What a new plan touches of what runs: children that are always new, topics and programs one by one. Pure.

Rule: a topic whose processes would be the same is not touched, whatever else changes; how many of them there are is
no reason to replace one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pbus.supervisor.plan import Plan
from pbus.supervisor.reconcile import Key
from pbus.supervisor.roles import RoleSpec

TOLD: Final = ("deliveries",)
"""
Arguments of consumers that a living one is told when they change. One that runs as another user reaches only the doors
that there were at its birth (``foreign``), and is replaced.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    From one plan to the next.

    Attributes:
        renewed: Roles of which a new generation is born in any case.
        ended: Roles of that kind that are not there any more.
        changed: Consumers and programs whose processes have to be replaced.
        resized: Those of which only the number may be another one.
        added: New ones.
        removed: Those that are not there any more.
    """

    renewed: tuple[RoleSpec, ...]
    ended: tuple[Key, ...]
    changed: tuple[RoleSpec, ...] = ()
    resized: tuple[RoleSpec, ...] = ()
    added: tuple[RoleSpec, ...] = ()
    removed: tuple[Key, ...] = ()

    @property
    def touched(self) -> tuple[str, ...]:
        """Paths of topics and programs that it concerns."""
        specs = (*self.changed, *self.resized, *self.added)
        return tuple(sorted({spec.path for spec in specs}.union(path for _, path in self.removed)))


def between(before: Plan, after: Plan) -> Difference:
    """What becomes of the children of *before* when *after* holds."""
    old, new = _by_key(before.roles), _by_key(after.roles)
    kept = [(old[key], spec) for key, spec in new.items() if key in old and is_user_code(spec)]
    return Difference(
        renewed=tuple(spec for spec in new.values() if not is_user_code(spec)),
        ended=tuple(key for key, spec in old.items() if key not in new and not is_user_code(spec)),
        changed=tuple(spec for was, spec in kept if not same_processes(was, spec)),
        resized=tuple(spec for was, spec in kept if was != spec and same_processes(was, spec)),
        added=tuple(spec for key, spec in new.items() if key not in old and is_user_code(spec)),
        removed=tuple(key for key, spec in old.items() if key not in new and is_user_code(spec)),
    )


def is_user_code(spec: RoleSpec) -> bool:
    """It runs what the configuration names, and is replaced only when that is another."""
    return spec.own_group


def same_processes(one: RoleSpec, other: RoleSpec) -> bool:
    """A process of *one* is as good as one of *other*, if it is told what it is told anyway (``TOLD``)."""
    told = {name: other.args[name] for name in TOLD if name in other.args and not other.user}
    return replace(one, count=other.count, most=other.most, args={**one.args, **told}) == other


def _by_key(specs: Iterable[RoleSpec]) -> dict[Key, RoleSpec]:
    return {spec.key: spec for spec in specs}
