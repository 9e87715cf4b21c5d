"""
Role delivery: claims jobs and has them run: by php-fpm, by HTTP endpoints, by consumer processes.

    boot: stores, lanes, door -> ready -> tick.. -> drain: claim nothing, let all finish -> exit

Rule: one path for every kind of handler. What differs is in its lane; claiming, settling, retries,
logs and events exist once.
"""

from __future__ import annotations

from gevent import monkey

from pbus.supervisor.child import Child


def run(child: Child) -> None:
    """The life of a delivery child."""
    monkey.patch_all()
    from pbus.delivery.role import DeliveryChild  # what it imports must find the patched modules

    child.start()
    DeliveryChild(child).live()
