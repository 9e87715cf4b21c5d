"""
Role delivery: claims jobs and has them run: by php-fpm, by HTTP endpoints, by consumer processes.

    boot: stores, lanes, door -> ready -> tick.. -> drain: claim nothing, let all finish -> exit

Rule: one path for every kind of handler. What differs is in its lane; claiming, settling, retries,
logs and events exist once.
"""

from __future__ import annotations

import gc
from typing import Final

from gevent import monkey

from pbus.supervisor.child import Child

_GC_OBJECTS: Final = 50_000
"""New objects before the collector looks: deliveries and their stories are many, and in no cycles."""


def run(child: Child) -> None:
    """The life of a delivery child."""
    monkey.patch_all()
    from pbus.delivery.role import DeliveryChild  # what it imports must find the patched modules

    child.start()
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 10, 10)
    DeliveryChild(child).live()
