"""
The composition root: settings become roles, roles become a master. Start reading here.

    Settings -> RoleSpecs, doors, topics -> Plan -> Master

Rule: roles are named by strings and imported in their own processes; nothing of them is imported
here. Each is handed its sections of the settings and no more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from pbus.config.schema import PullHandler, PythonHandler, Settings, Topic
from pbus.config.values import Address, address
from pbus.storage.open import StoreTarget
from pbus.supervisor.plan import Plan
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.status import TopicFact
from pbus.telemetry.redact import secrets_of

INGEST: Final = "ingest"
DELIVERY: Final = "delivery"
DASHBOARD: Final = "dashboard"

# Who drains first on stop: the door, then the work, then whoever cleans up behind the work.
_DOOR, _WORK, _CLEANING = range(3)


def plan(settings: Settings) -> Plan:
    """Everything the master needs to run *settings*."""
    node = settings.node
    return Plan(
        node=node.name,
        run_dir=node.run_dir,
        data_dir=node.data_dir,
        log_dir=node.log_dir,
        grace_s=node.grace_s,
        user=node.user,
        status_group=node.status_group,
        backoff=settings.supervise.backoff,
        log=settings.log,
        secrets=tuple(secrets_of(settings)),
        roles=tuple(_roles(settings)),
        doors=_doors(settings),
        topics=tuple(_fact(queue, name, topic) for queue, name, topic in _topics(settings)),
    )


def listening(settings: Settings) -> list[str]:
    """Where the bus is reached, for people: the addresses of ``[ingest] listen`` and the dashboard."""
    web = [f"http://{settings.dashboard.listen}"] if settings.dashboard.listen else []
    return [*settings.ingest.listen, *web]


def _roles(settings: Settings) -> list[RoleSpec]:
    shared: dict[str, Any] = {"queues": settings.queue, "stores": stores(settings), "node": settings.node}
    roles = [
        RoleSpec(
            role=INGEST, module="pbus.ingest.main", title="ingest {index}", count=_processes(settings.ingest.processes),
            keeps=(f"{INGEST}.*",), args={"ingest": settings.ingest, "systems": settings.system, **shared},
            drain_stage=_DOOR, holds_claims=True, checks_tokens=True, hears=("watch",),
        ),
        RoleSpec(
            role=DELIVERY, module="pbus.delivery.main", count=settings.delivery.processes, title="delivery {index}",
            keeps=(f"{DELIVERY}.{{index}}",), drain_stage=_WORK, holds_claims=True, hears=("watch", "news"),
            args={
                "backends": settings.backend, "delivery": settings.delivery, "consumers": _consumer_counts(settings),
                "systems": settings.system,
                **shared,
            },
        ),
        RoleSpec(
            role="scheduler", module="pbus.scheduler.main", title="scheduler", args={"log": settings.log, **shared},
            drain_stage=_CLEANING, hears=("boots", "numbers", "delayed"),
        ),
    ]
    if settings.dashboard.listen:
        roles.append(RoleSpec(
            role=DASHBOARD, module="pbus.dashboard.main", title="dashboard", keeps=(DASHBOARD,), drain_stage=_DOOR,
            needed=False, args={"dashboard": settings.dashboard, **shared},
        ))
    return roles + _consumers(settings)


def _consumers(settings: Settings) -> list[RoleSpec]:
    """One role a topic that runs in processes of its own."""
    return [
        RoleSpec(
            role="consumer", module="pbus.consumer.main", title=f"consumer {queue}/{name} {{index}}",
            path=f"{queue}/{name}", count=topic.concurrency.min, own_group=True, drain_stage=_WORK, needed=False,
            holds_claims=True,
            args={
                "queue": queue, "topic": name, "handler": topic.python, "log_dir": settings.node.log_dir,
                "deliveries": settings.delivery.processes,
            },
        )
        for queue, name, topic in _topics(settings)
        if isinstance(topic.handler, PythonHandler)
    ]


def _consumer_counts(settings: Settings) -> dict[str, int]:
    """``queue/topic`` -> consumer processes of it."""
    return {spec.path: spec.count for spec in _consumers(settings)}


def _doors(settings: Settings) -> dict[str, Address]:
    """Every socket that somebody may connect to, by the name its role knows."""
    doors = {f"{INGEST}.{place}": address(text) for place, text in enumerate(settings.ingest.listen)}
    if settings.dashboard.listen:
        doors[DASHBOARD] = address(settings.dashboard.listen)
    for index in range(settings.delivery.processes):
        doors[f"{DELIVERY}.{index}"] = Address(path=os.path.join(settings.node.run_dir, f"{DELIVERY}.{index}.sock"))
    return doors


def stores(settings: Settings) -> Mapping[str, StoreTarget]:
    """Every storage, as this node reaches it."""
    return {
        name: StoreTarget(
            name=name, url=storage.url, password=storage.password, call_timeout_s=storage.call_timeout_s,
            node=settings.node.name, min_free_bytes=storage.min_free_bytes, high_water=storage.high_water,
        )
        for name, storage in settings.storage.items()
    }


def _processes(configured: int | str) -> int:
    return len(os.sched_getaffinity(0)) if configured == "auto" else int(configured)


def _topics(settings: Settings) -> list[tuple[str, str, Topic]]:
    return [(queue, name, topic) for queue, section in settings.queue.items() for name, topic in section.topic.items()]


def _fact(queue: str, name: str, topic: Topic) -> TopicFact:
    return TopicFact(
        queue=queue, topic=name, at_least=topic.concurrency.min, at_most=topic.concurrency.max,
        has_consumers=isinstance(topic.handler, PythonHandler), pulled=isinstance(topic.handler, PullHandler),
    )
