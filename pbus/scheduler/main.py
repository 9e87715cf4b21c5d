"""
The scheduler child: everything that time triggers, once per node.

Rule: gevent is patched in before anything of this role is imported, so that threads are greenlets
and sleeping gives way; the role itself (life.py) knows nothing of gevent but its thread pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbus.supervisor.child import Child


def run(child: Child) -> None:
    """The scheduler's whole life."""
    from gevent import monkey

    monkey.patch_all()
    from pbus.scheduler.life import Scheduler

    child.start()
    Scheduler(child).live()
