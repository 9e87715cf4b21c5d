"""
The composition root: settings become roles, roles become a master. Start reading here.

    Settings -> RoleSpecs, doors, topics -> Plan -> Master

Rule: roles are named by strings and imported in their own processes; nothing of them is imported
here. Each is handed its sections of the settings and no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from pbus.config import orphans
from pbus.config.difference import changes, touched
from pbus.config.load import Loaded, load_with_origins
from pbus.config.schema import CommandHandler, ConsumerProcess, PullHandler, Settings, Topic
from pbus.config.standing import keep_standing
from pbus.config.values import Address, address
from pbus.errors import PbusError
from pbus.storage.open import StoreTarget
from pbus.storage.traces import TraceLimits
from pbus.storage.traces_writer import TracePlan
from pbus.supervisor import own_code
from pbus.supervisor.plan import Plan, Rehearsed, TopicFact
from pbus.supervisor.roles import AFTER_DRAIN, AFTER_END, RoleSpec
from pbus.telemetry.redact import secrets_of
from pbus.telemetry.spans import SpanPlan, plan_of

INGEST: Final = "ingest"
DELIVERY: Final = "delivery"
DASHBOARD: Final = "dashboard"
HANDOVER: Final = "handover"

# Who drains first on stop: the door, then the work, then whoever cleans up behind the work.
_DOOR, _WORK, _CLEANING = range(3)


def rehearsal(directory: str, running: Settings) -> Callable[[Plan], Rehearsed]:
    """What reads the files of *directory* again for a bus that was started with *running*."""
    code = own_code.mark()

    def rehearse(before: Plan) -> Rehearsed:
        """
        What becomes of *before*. For a throw-away process.

        Raises:
            ConfigError: it cannot be taken over; carries every problem.
            PbusError: it would be read by other code than runs.
        """
        if own_code.mark() != code:
            raise PbusError("the files of pbus itself are not those that this bus was started from: use 'pbus upgrade'")
        said = load_with_origins(directory)
        settings, waiting = keep_standing(said.settings, running)
        kept = Loaded(settings, said.tree)
        after = plan(kept, waiting)
        from pbus.supervisor.dry import try_out  # a master has all of that, a command that looks something up has not

        try_out(before, after, _folders(settings))
        if before.settings is None:
            return Rehearsed(plan=after)
        assert after.settings is not None
        found = tuple(str(change) for change in changes(orphans.said(before.settings), said))
        return Rehearsed(plan=after, changes=found, touched=touched(before.settings, after.settings))

    return rehearse


def plan(loaded: Loaded, waiting: tuple[str, ...] = ()) -> Plan:
    """
    Everything the master needs to run *loaded*, and topics that are gone from it and still hold jobs.

    *waiting*: keys that files say otherwise, see ``Plan``.
    """
    loaded = orphans.adopted(loaded)
    settings = loaded.settings
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
        roles=tuple(_roles(loaded)),
        doors=_doors(settings),
        topics=tuple(_fact(loaded, queue, name, topic) for queue, name, topic in _topics(settings)),
        settings=loaded,
        waiting=waiting,
    )


def _folders(settings: Settings) -> dict[str, str]:
    """Key -> folder that has to be written to, of every storage that is a file, and of the logs."""
    files = {f"storage.{name}.url": storage.url for name, storage in settings.storage.items()}
    found = {key: os.path.dirname(url.partition(":")[2]) for key, url in files.items() if url.startswith("sqlite:")}
    return found | ({"node.log_dir": settings.node.log_dir} if settings.node.log_dir != "-" else {})


def listening(settings: Settings) -> list[str]:
    """Where the bus is reached, for people: the addresses of ``[ingest] listen`` and the dashboard."""
    web = [f"http://{settings.dashboard.listen}"] if settings.dashboard.listen else []
    doors = [str(door.address) + ("" if door.plain else " (TLS)") for door in settings.ingest.doors]
    return [*doors, *web]


def _roles(loaded: Loaded) -> list[RoleSpec]:
    settings = loaded.settings
    shared: dict[str, Any] = {
        "queues": settings.queue, "stores": stores(settings), "node": settings.node, "traces": traces(settings),
    }
    otel = spans(settings)
    roles = [
        RoleSpec(
            role=INGEST, module="pbus.ingest.main", title="ingest {index}", count=_processes(settings.ingest.processes),
            keeps=(f"{INGEST}.*", f"{HANDOVER}.{{index}}"), hands_over=True,
            args={
                "ingest": settings.ingest, "systems": settings.system, "otel": otel, "gone": orphans.gone(loaded),
                **shared,
            },
            drain_stage=_DOOR, holds_claims=True, checks_tokens=True, measures=True, hears=("watch",), turn=AFTER_DRAIN,
        ),
        RoleSpec(
            role=DELIVERY, module="pbus.delivery.main", count=settings.delivery.processes, title="delivery {index}",
            keeps=(f"{DELIVERY}.{{index}}",), drain_stage=_WORK, holds_claims=True, measures=True,
            hears=("watch", "news", "shares", "expected"), turn=AFTER_DRAIN, patient=True,
            args={
                "backends": settings.backend, "delivery": settings.delivery, "consumers": _consumer_bounds(settings),
                "systems": settings.system, "otel": otel,
                **shared,
            },
        ),
        RoleSpec(
            role="scheduler", module="pbus.scheduler.main", title="scheduler",
            args={
                "log": settings.log, "backends": settings.backend, "systems": settings.system,
                "alarm": settings.alarm, "notify": settings.notify, "orphans": _orphans(loaded), **shared,
            },
            drain_stage=_CLEANING, turn=AFTER_END,
            hears=("boots", "numbers", "delayed", "work", "machine", "order", "sample_please", "deployed"),
        ),
    ]
    if settings.dashboard.listen:
        roles.append(RoleSpec(
            role=DASHBOARD, module="pbus.dashboard.main", title="dashboard", keeps=(DASHBOARD,), drain_stage=_DOOR,
            needed=False, hears=("sampled",),
            args={"dashboard": settings.dashboard, "systems": settings.system, **shared},
        ))
    return [*roles, *_consumers(settings), *_programs(settings)]


def _orphans(loaded: Loaded) -> Mapping[str, Any]:
    """What the scheduler has to know to see them off."""
    return {
        "topics": loaded.orphans, "gone": orphans.gone(loaded), "over": loaded.over, "tables": orphans.to_keep(loaded),
    }


def _consumers(settings: Settings) -> list[RoleSpec]:
    """One role a topic that runs in processes of its own."""
    topics = [(queue, name, topic) for queue, name, topic in _topics(settings) if _has_consumers(topic)]
    return [_consumer(settings, queue, name, topic) for queue, name, topic in topics]


def _consumer(settings: Settings, queue: str, name: str, topic: Topic) -> RoleSpec:
    handler = topic.handler
    assert isinstance(handler, ConsumerProcess)
    is_command = isinstance(handler, CommandHandler)
    # A pepper program takes and settles its jobs through the door, so it has to finish while that is open.
    stage = _DOOR if isinstance(handler, CommandHandler) and handler.protocol == "pepper" else _WORK
    other_user = handler.user if handler.user != settings.node.user else ""
    return RoleSpec(
        role="consumer", module="pbus.consumer.command" if is_command else "pbus.consumer.main",
        title=f"consumer {queue}/{name} {{index}}", path=f"{queue}/{name}",
        count=topic.concurrency.min, most=topic.concurrency.max, own_group=True, drain_stage=stage, needed=False,
        holds_claims=True, user="" if is_command else other_user, stays_master=is_command and bool(other_user),
        nice=0 if is_command else handler.nice, stop_timeout_s=handler.stop_timeout_s,
        max_rss_bytes=handler.max_rss_bytes, weighs_group=is_command, dumps=not is_command, watch=handler.watch,
        args={
            "queue": queue, "topic": name, "handler": handler, "log_dir": settings.node.log_dir,
            "deliveries": settings.delivery.processes, **_way_in(settings, is_command),
            "spans": spans(settings) is not None,
            # What is not handed over here is no reason to replace a process when it changes.
            **({"timeout_s": topic.timeout_s} if is_command else {}),
        },
    )


def _programs(settings: Settings) -> list[RoleSpec]:
    """One role a daemon that is no consumer."""
    return [
        RoleSpec(
            role="program", module="pbus.consumer.program", title=f"program {name} {{index}}", path=name,
            count=program.processes, own_group=True, drain_stage=_WORK, needed=False, alone=True, weighs_group=True,
            stays_master=program.user not in ("", settings.node.user), stop_timeout_s=program.stop_timeout_s,
            watch=program.watch,
            args={"name": name, "program": program, "log_dir": settings.node.log_dir},
        )
        for name, program in settings.program.items()
    ]


def _has_consumers(topic: Topic) -> bool:
    return isinstance(topic.handler, ConsumerProcess)


def _consumer_bounds(settings: Settings) -> dict[str, int]:
    """``queue/topic`` -> consumer processes that it may have."""
    return {spec.path: spec.most for spec in _consumers(settings)}


def _way_in(settings: Settings, is_command: bool) -> dict[str, Any]:
    """How user code of a topic reaches the port, to push and to take jobs by itself."""
    if is_command:
        return {"gateway": _gateway(settings)}
    door = settings.ingest.inner_door
    return {"door": door, "tls": None if door.plain else settings.ingest.tls}


def _gateway(settings: Settings) -> tuple[str, int] | None:
    """Host and port of the first door without TLS that is no unix socket, for programs that speak to such only."""
    found = (door.address for door in settings.ingest.doors if door.plain)
    return next(((where.host, where.port) for where in found if not where.path), None)


def _doors(settings: Settings) -> dict[str, Address]:
    """Every socket that somebody may connect to, by the name its role knows."""
    doors = {f"{INGEST}.{place}": door.address for place, door in enumerate(settings.ingest.doors)}
    if settings.dashboard.listen:
        doors[DASHBOARD] = address(settings.dashboard.listen)
    for index in range(settings.delivery.processes):
        doors[f"{DELIVERY}.{index}"] = Address(path=os.path.join(settings.node.run_dir, f"{DELIVERY}.{index}.sock"))
    for index in range(_processes(settings.ingest.processes)):
        doors[f"{HANDOVER}.{index}"] = Address(path=os.path.join(settings.node.run_dir, f"{HANDOVER}.{index}.sock"))
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


def traces(settings: Settings) -> TracePlan:
    """What is kept of jobs' stories, and by how many processes of this node it is written."""
    trace = settings.trace
    limits = TraceLimits(trace.keep_s, trace.keep_failed_s, trace.max_bytes)
    return TracePlan(limits, _processes(settings.ingest.processes) + settings.delivery.processes)


def spans(settings: Settings) -> SpanPlan | None:
    """What is told to an OpenTelemetry receiver; None: nothing."""
    return plan_of(settings.otel, settings.node.name, os.environ)


def _processes(configured: int | str) -> int:
    return len(os.sched_getaffinity(0)) if configured == "auto" else int(configured)


def _topics(settings: Settings) -> list[tuple[str, str, Topic]]:
    return [(queue, name, topic) for queue, section in settings.queue.items() for name, topic in section.topic.items()]


def _fact(loaded: Loaded, queue: str, name: str, topic: Topic) -> TopicFact:
    return TopicFact(
        orphaned=(queue, name) in loaded.orphans,
        queue=queue, topic=name, at_least=topic.concurrency.min, at_most=topic.concurrency.max,
        has_consumers=_has_consumers(topic), pulled=isinstance(topic.handler, PullHandler),
        shadow_of=topic.shadow_of,
    )
