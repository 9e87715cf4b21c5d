"""
From a master that runs to what an exec carries, and back: who is executed in its place adopts all of it.

    collect: Children, House, memory --> State         restore: State --> Children, House, memory

Rule: a child that is adopted does not notice. Where the new code counts in memory of another layout the children go
on, and are replaced one by one. What the new code does not know of a child is left out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.supervisor import upgrade
from pbus.supervisor.channel import Channel
from pbus.supervisor.children import FROM_CHILD_BYTES, TO_CHILD_BYTES, Children
from pbus.supervisor.difference import is_user_code
from pbus.supervisor.handle import Handle
from pbus.supervisor.histograms import Histograms
from pbus.supervisor.listeners import stream
from pbus.supervisor.plan import Plan
from pbus.supervisor.reconcile import Key
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import LayoutError, Scoreboard, Slot
from pbus.supervisor.upgrade import ChildState, State
from pbus.telemetry import log as logs

_SAME: Final = (
    "index", "n", "boot", "generation", "pid", "born_s", "ready_s", "draining_since", "killed", "condemned",
    "overdue_since", "dumped", "busy_s", "leaving", "code", "trial", "too_big", "failure", "column", "waits", "patient",
)
"""Fields that a ``Handle`` and a ``ChildState`` have in common."""

NO_ARGS: Final = "other code"
"""An argument of specs whose own are not known any more; so they equal no other."""


def collect(children: Iterable[Handle]) -> list[ChildState]:
    """What is carried of *children*."""
    return [_child_state(child) for child in children]


def _child_state(child: Handle) -> ChildState:
    unread, unsent = child.channel.on_its_way
    spec = {each.name: getattr(child.spec, each.name) for each in dataclasses.fields(child.spec) if each.name != "args"}
    digest = child.spec.args.get(NO_ARGS) or upgrade.digest_of(child.spec)
    return ChildState(
        spec=spec, digest=digest, slot=child.slot.slot, fd=child.channel.fileno(), stale=list(child.stale),
        problems=dict(child.problems), lanes=[[*key, lane] for key, lane in child.lanes.items()],
        backends=[[*key, row] for key, row in child.backends.items()], unread=unread, unsent=unsent,
        **{name: getattr(child, name) for name in _SAME},
    )


def keep_for_us(state: State) -> None:
    """What came through the exec is not for programs that we start."""
    for descriptor in state.descriptors:
        os.set_inheritable(descriptor, False)


def let_through(state: State, inheritable: bool) -> None:
    """Have the descriptors of *state* survive an exec, or (it has failed) not."""
    for descriptor in state.descriptors:
        os.set_inheritable(descriptor, inheritable)


class Memory:
    """
    Scoreboard and histograms, those that the children write to where this version can read them.

    Attributes:
        is_same: Whether it can.
    """

    def __init__(self, plan: Plan, state: State | None, clock: Clock) -> None:
        topics = [(topic.queue, topic.topic) for topic in plan.topics]
        self.is_same = True
        if state is not None:
            try:
                self.scoreboard = Scoreboard(0, clock, state.scoreboard)
                self.histograms = Histograms(topics, 0, fd=state.histograms)
                return
            except LayoutError as error:
                logs.get().warning("upgrade.other_layout", err=str(error))
                self.is_same = False
        self.scoreboard = Scoreboard(plan.slots, clock)
        self.histograms = Histograms(topics, plan.columns, plan.rows)
        if state is not None:
            for child in state.children:
                self._move(child)

    def _move(self, child: ChildState) -> None:
        """A row for who writes to another scoreboard: whoever looks for the dead must not find it missing."""
        self.scoreboard.occupy(
            child.slot, n=child.n, pid=child.pid, role=child.spec["role"], path=child.spec["path"], index=child.index,
            generation=child.generation, stage=child.spec["drain_stage"], own_group=child.spec["own_group"],
            started_s=child.born_s, state="draining" if child.draining_since is not None else
            "ready" if child.ready_s is not None else "boot",
        )
        child.column = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Adopts:
    """What a master adopts: the state, and the plan of the new code."""

    state: State
    plan: Plan


def fits(state: State, clock: Clock | None = None) -> bool:
    """Whether this version reads the memory that the children of *state* write to."""
    try:
        Scoreboard(0, clock, state.scoreboard)
        Histograms((), 0, fd=state.histograms)
    except LayoutError:
        return False
    return True


def plan_of(plan: Plan, state: State, *, same_memory: bool = True) -> Plan:
    """
    The plan that those who are adopted were born for, in the terms of *plan*, the one of the new code.

    A reload from the answer to *plan* replaces just who has to be replaced.
    """
    newest: dict[Key, ChildState] = {}
    for child in state.children:
        key = (str(child.spec["role"]), str(child.spec["path"]))
        if key not in newest or newest[key].n < child.n:
            newest[key] = child
    wanted = {(str(role), str(path)) for role, path, _ in state.indexes}
    specs = {spec.key: spec for spec in plan.roles}
    roles = [
        specs[key] if _is_known(key, specs, newest, same_memory) else _spec(newest[key])
        for key in sorted(wanted) if key in specs or key in newest
    ]
    return dataclasses.replace(plan, roles=tuple(roles))


def _is_known(key: Key, specs: dict[Key, RoleSpec], newest: dict[Key, ChildState], same_memory: bool) -> bool:
    if key not in specs or key not in newest:
        return key in specs
    same = same_memory and upgrade.digest_of(specs[key]) == newest[key].digest
    return same or not is_user_code(specs[key])


def _spec(child: ChildState) -> RoleSpec:
    """As much as is known of what an adopted child was born for."""
    known = {each.name for each in dataclasses.fields(RoleSpec)} - {"args"}
    said = child.spec.items()
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said}
    fields = {name: value for name, value in fields.items() if name in known}
    return RoleSpec(**fields, args={NO_ARGS: child.digest})


def restore(children: Children, state: State, roles: Sequence[RoleSpec]) -> None:
    """
    Have *children* go on with those of *state*.

    *roles*: of the plan of the new code; who is born from now on is born for one of them.
    """
    specs = {spec.key: spec for spec in roles}
    for child in state.children:
        key = (str(child.spec["role"]), str(child.spec["path"]))
        known = specs.get(key)
        is_same = known is not None and upgrade.digest_of(known) == child.digest
        children.take_in(_handle(child, known if known is not None and is_same else _spec(child), children))
    children.resume(state)
    for spec in roles:
        if spec.key in children.specs:
            children.swap(spec)


def _handle(child: ChildState, spec: RoleSpec, children: Children) -> Handle:
    channel = Channel(stream(child.fd), send_bytes=TO_CHILD_BYTES, receive_bytes=FROM_CHILD_BYTES)
    channel.go_on(child.unread, child.unsent)
    slot: Slot = children.scoreboard.slot(child.slot)
    fields: dict[str, Any] = {name: getattr(child, name) for name in _SAME}
    return Handle(
        spec=spec, slot=slot, channel=channel, stale=tuple(child.stale), problems=dict(child.problems),
        lanes={(queue, topic): lane for queue, topic, lane in child.lanes},
        backends={(name, address): row for name, address, row in child.backends}, **fields,
    )
