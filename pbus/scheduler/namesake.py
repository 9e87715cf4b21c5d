"""
Whether another node uses a storage under our name: two of one name would take each other's orders and numbers.

    condition of our name in the store --> of a boot that is none of ours, and whose counter moves --> it lives

Rule: asked once, when a bus starts; who shares no storage shares no name. A boot of this run directory is an earlier
life of ours, and one that ended in good order has no counter: only then is nothing waited for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final

from pbus.errors import BootError, Exit
from pbus.scheduler.conditions import KIND
from pbus.storage.driver import Driver

BEATS: Final = 1.5
"""So many heartbeats is a counter watched: it moves within one, if anybody lives there."""
_STEP_S: Final = 0.1


def refuse(
    driver: Driver, node: str, boot: str, run_dir: str, heartbeat_s: float, rest: Callable[[float], bool]
) -> None:
    """
    End the start if somebody else bears our name.

    Args:
        driver: Of a storage that several nodes may use.
        node, boot: Ours.
        run_dir: Where the locks of earlier boots of ours are.
        heartbeat_s: How often a node moves its counter.
        rest: Waits so many seconds; answers whether it is in vain.

    Raises:
        BootError: there is one (75).
        StorageError: the store could not be asked.
    """
    other = _boot_of(driver, node)
    if other in ("", boot) or os.path.exists(os.path.join(run_dir, "boot", f"{other}.lock")):
        return
    first = driver.beats().get(other)
    for _ in range(round(BEATS * heartbeat_s / _STEP_S)):
        now = driver.beats().get(other)
        if first is None or now is None or rest(_STEP_S):
            return
        if now != first:
            raise BootError(
                f"node.name: another bus uses this storage as node {node!r}: give each node a name of its own",
                Exit.TEMPORARY,
            )


def _boot_of(driver: Driver, node: str) -> str:
    """The boot that told last how node *node* is; empty: none."""
    for document in driver.documents(KIND, [node]):
        try:
            return str(json.loads(document.text)["boot"])
        except (ValueError, LookupError, TypeError):
            return ""
    return ""
