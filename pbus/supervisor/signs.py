"""
Signs of life: which children of pbus ought to give one and do not. Pure, but for reading the scoreboard.

Rule: consumers run the code of users and are judged by their process alone: one that is busy is no reason to start
the whole bus again. So is a store that is away: who waits for it gives signs of life.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from pbus.supervisor.handle import Handle
from pbus.supervisor.reconcile import Key
from pbus.supervisor.roles import RoleSpec

SILENT_S: Final = 10.0
"""People are told of a child that has been silent for so long."""


def silent(children: Iterable[Handle], now_s: float, after_s: float = SILENT_S) -> list[str]:
    """One sentence about each child that has given no sign of life for *after_s*."""
    return [
        f"{child.name}: no sign of life for {now_s - beat_s:.0f} s"
        for child in children
        if child.ready_s is not None and not child.spec.own_group
        and (beat_s := child.slot.read().beat_s) < now_s - after_s
    ]


def all_alive(
    children: Iterable[Handle], specs: Iterable[RoleSpec], given_up: Collection[Key], now_s: float, within_s: float
) -> bool:
    """
    What feeds the watchdog of a service manager.

    Args:
        children: Those that live.
        specs: Roles of the plan.
        given_up: Roles and topics that are not started any more.
        within_s: So young is a sign of life, ``SILENT_S`` at most.
    """
    if any(spec.needed and spec.key in given_up for spec in specs):
        return False
    return not silent(children, now_s, min(within_s, SILENT_S))
