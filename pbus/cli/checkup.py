"""
``pbus doctor`` looks around: facts for the rules of core/doctor.py, from whatever can be asked.

Rule: what cannot be asked is a fact, too, never an error. Stores come last: opening one may make us its owner, and then
we may not look at other users' processes any more.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final

from pbus.cli import php_fpm
from pbus.cli.stores import Stock, opened
from pbus.clock import SystemClock
from pbus.codec import x509
from pbus.config import schema, values
from pbus.core import doctor_facts as facts
from pbus.core.statistics import DAY_S, quantile, total
from pbus.errors import NotRunning, PbusError, StorageError
from pbus.telemetry.metrics import BOUNDS

if TYPE_CHECKING:
    from pbus.storage.driver import Fill
    from pbus.storage.open import StoreTarget

_STATUS_S: Final = 5.0
_SPARE_FILES: Final = 64
"""What a child opens beside its connections: stores, logs, sockets."""
_HOUR_S: Final = 3600
_SLOWEST: Final = 0.99


def look(settings: schema.Settings, script: str) -> facts.Facts:
    """
    Everything there is to know.

    Args:
        settings: The configuration.
        script: Path of pbus-doctor.php as php-fpm sees it; empty: not given.
    """
    status, problem = _status(settings)
    targets = _targets(settings)
    found = {target.key: _look_at(target, script) for target in targets}
    children = tuple(_children(settings, status, targets))
    certificates = tuple(_certificates(settings.ingest.tls))
    node = _node(settings, status, problem)
    stock = Stock(settings, storage_of={name: section.storage for name, section in settings.queue.items()})
    took_s: dict[str, float] = {}
    stores = tuple(_stores(settings, stock, took_s))
    return facts.Facts(
        node=node, children=children, stores=stores, certificates=certificates, doors=tuple(_doors(settings)),
        queues=tuple(_queue(stock, name) for name in stock.queue_names() if stock.section(name)),
        topics=tuple(_topic(stock, name, found) for name in stock.topic_names()),
        pools=tuple(_pool(settings, target, found[target.key], took_s) for target in targets),
    )


# -- the bus ----------------------------------------------------------------------------------------


def _status(settings: schema.Settings) -> tuple[Mapping[str, Any], str]:
    """What the bus says, and why it says nothing."""
    from pbus.supervisor.control import call

    try:
        return call(settings.node.run_dir, "status", _STATUS_S, reads=True)["status"], ""
    except NotRunning:
        return {"state": "stopped"}, ""
    except PbusError as error:
        return {"state": "unknown"}, str(error)


def _node(settings: schema.Settings, status: Mapping[str, Any], problem: str) -> facts.Node:
    log_dir = "" if settings.node.log_dir == "-" else settings.node.log_dir
    state = "running" if status["state"] == "degraded" else str(status["state"])
    return facts.Node(
        bus=state, problem=problem, log_dir=log_dir, log_free_bytes=_free(log_dir) if log_dir else None,
        log_needs_bytes=max(storage.min_free_bytes for storage in settings.storage.values()),
    )


def _free(path: str) -> int | None:
    """Bytes that are free where *path* is, or will be."""
    while path and not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    try:
        disk = os.statvfs(path or "/")
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _children(
    settings: schema.Settings, status: Mapping[str, Any], targets: Sequence[Target]
) -> Iterator[facts.Child]:
    calls = sum(target.connections for target in targets)
    consumers = sum(
        topic.concurrency.max for queue in settings.queue.values() for topic in queue.topic.values()
        if topic.python is not None or topic.command is not None
    )
    wanted = {
        "ingest": (settings.ingest.limits.connections, "ingest.limits.connections"),
        "delivery": (calls + consumers, "the concurrency of all topics"),
    }
    for role, (count, key) in wanted.items():
        pids = [int(row["pid"]) for row in status.get("processes", ()) if row["role"] == role]
        limits = [limit for limit in map(_descriptors, pids) if limit is not None]
        if pids:
            least = min(limits, default=None)
            yield facts.Child(role=role, descriptors=least, wants=count + _SPARE_FILES, key=key)


def _descriptors(pid: int) -> int | None:
    """Files that *pid* may have open."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            row = next(line for line in file if line.startswith("Max open files"))
        return int(row.split()[3])
    except (OSError, StopIteration, ValueError):
        return None


# -- doors ------------------------------------------------------------------------------------------


def _is_reached(address: values.Address) -> bool:
    """Whether other machines can connect to *address*."""
    if address.path or address.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return True


def _doors(settings: schema.Settings) -> Iterator[facts.Door]:
    owners: list[schema.Queue | schema.System] = [*settings.queue.values(), *settings.system.values()]
    topics = [topic for queue in settings.queue.values() for topic in queue.topic.values()]
    asks = any(owner.passwords for owner in (*owners, *topics))
    for door in settings.ingest.doors:
        yield facts.Door(
            address=str(door.address), is_reached=_is_reached(door.address), is_plain=door.plain, asks_passwords=asks
        )


def _certificates(tls: schema.Tls) -> Iterator[facts.Certificate]:
    """A chain is good until its first expires; of authorities that are trusted, one that is left will do."""
    now_s = SystemClock().wall_s()
    for key, path, pick in (("cert", tls.cert, min), ("client_ca", tls.client_ca, max)):
        if path:
            ends = _ends(path)
            yield facts.Certificate(key=key, path=path, left_s=pick(ends) - now_s if ends else None)


def _ends(path: str) -> list[float]:
    """When each certificate in a PEM file expires, unix time; none: that cannot be read."""
    try:
        with open(path, encoding="latin-1") as file:
            return x509.expiries(file.read())
    except (OSError, ValueError):
        return []


# -- stores -----------------------------------------------------------------------------------------


def _stores(settings: schema.Settings, stock: Stock, took_s: dict[str, float]) -> Iterator[facts.Store]:
    """Of every storage; *stock* gets the numbers of those that can be read, *took_s* how long calls take."""
    from pbus.app import stores

    for name, target in stores(settings).items():
        yield _store(stock, took_s, name, target)


def _store(stock: Stock, took_s: dict[str, float], name: str, target: StoreTarget) -> facts.Store:
    from pbus.storage.condition import condition

    found = condition(target)
    fill, away, unfit = None, found.away, ""
    if found.is_made and not away:
        try:
            fill = _take(stock, took_s, name)
        except StorageError as error:
            away = str(error).removeprefix(f"storage {name}: ")
        except PbusError as error:
            unfit = str(error).removeprefix(f"storage {name}: ")
    known = dataclasses.asdict(found)
    used, bound = known.pop("used_bytes"), known.pop("bound_bytes")
    share, free_bytes = _filled(used, bound, fill)
    if found.kind == "sqlite" and fill is None:
        free_bytes = _free(found.place)
    return facts.Store(
        storage=name, unfit=unfit, unbound=bound == 0, share=share, high_water=target.high_water,
        free_bytes=free_bytes, min_free_bytes=target.min_free_bytes, **(known | {"away": away}),
    )


def _filled(used: int | None, bound: int | None, fill: Fill | None) -> tuple[float | None, int | None]:
    """Share that is used, and bytes that are left."""
    if used is not None and bound:
        return used / bound, max(0, bound - used)
    return (fill.share, fill.free_bytes) if fill is not None and fill.free_bytes is not None else (None, None)


def _take(stock: Stock, took_s: dict[str, float], name: str) -> Fill:
    """
    Read the numbers of one store; of topics that php-fpm runs also how long 99 of 100 calls took at most.

    Raises:
        StorageError: it is away. PbusError: it is not for us as it is.
    """
    with opened(stock.settings, name) as driver:
        topics, queues, fill = driver.numbers(), driver.queue_numbers(), driver.fill()
        for queue, topic in stock.topic_names():
            section = stock.topic_section((queue, topic))
            if section is not None and section.fastcgi is not None and stock.storage_of[queue] == name:
                now_s = int(SystemClock().wall_s())
                run = total(driver.statistics(queue, topic, now_s - DAY_S, now_s + 1, _HOUR_S)).run
                took_s[f"{queue}/{topic}"] = quantile(run, _SLOWEST, BOUNDS) or 0.0
    stock.topics.update(topics)
    stock.queues.update(queues)
    for queue in queues:
        stock.storage_of.setdefault(queue, name)
    return fill


# -- queues and topics ------------------------------------------------------------------------------


def _queue(stock: Stock, name: str) -> facts.Queue:
    section, numbers = stock.settings.queue[name], stock.queues.get(name)
    system = stock.settings.system.get(section.system)
    return facts.Queue(
        queue=name, topics=len(section.topic), has_password=bool(section.passwords or (system and system.passwords)),
        is_reached=any(_is_reached(door.address) for door in stock.settings.ingest.doors),
        pushed=numbers.pushed_total if numbers else None, backlog=numbers.backlog if numbers else None,
        max_backlog=section.max_backlog,
    )


def _topic(stock: Stock, name: tuple[str, str], pools: Mapping[str, php_fpm.Pool]) -> facts.Topic:
    section, numbers = stock.topic_section(name), stock.topics.get(name)
    missing, for_sure = _missing(section, pools) if section else ("", False)
    paused_ms = numbers.paused_ms if numbers else 0
    counted = ("ready", "running", "delayed", "oldest_wait_s")
    return facts.Topic(
        path="/".join(name), is_configured=section is not None,
        is_pulled=section is not None and section.pull is not None,
        holds=section is not None and section.on_unknown == "hold", timeout_s=section.timeout_s if section else 0.0,
        missing=missing, is_missing_for_sure=for_sure,
        paused_s=max(0.0, SystemClock().wall_s() - paused_ms / 1000) if paused_ms else None,
        **({field: getattr(numbers, field) for field in counted} if numbers else {}),
    )


def _missing(section: schema.Topic, pools: Mapping[str, php_fpm.Pool]) -> tuple[str, bool]:
    """What of the handler is not there, and whether that is sure. (Programs are looked for with the configuration.)"""
    if section.python is not None:
        module = section.python.call.partition(":")[0].partition(".")[0]
        places = [section.python.path] if section.python.path else []
        # Only the first name: to look for the others would run code of the package.
        if PathFinder.find_spec(module, [*places, *_import_path()]) is None:
            return f"Python module {module} in {section.python.path or 'sys.path'}", True
    if section.fastcgi is not None:
        return _missing_script(section.fastcgi, pools)
    return "", False


def _import_path() -> list[str]:
    import sys

    return sys.path


def _missing_script(handler: schema.FastcgiHandler, pools: Mapping[str, php_fpm.Pool]) -> tuple[str, bool]:
    """Looked for where php-fpm looks, where that can be seen."""
    key = handler.backend or handler.address
    of_it = [pool for name, pool in pools.items() if name == key or name.startswith(f"{key} ")]
    roots = [pool.root for pool in of_it if pool.root is not None]
    if roots:
        gone = not any(os.path.exists(root + handler.script) for root in roots)
        return (handler.script, True) if gone else ("", False)
    return ("", False) if os.path.exists(handler.script) else (handler.script, False)


# -- backends ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    An address that topics call.

    Attributes:
        name, section: Of the backend; the name is empty where a topic names the address.
        text: The address as configured; *address* where to connect.
        is_php: php-fpm, not an HTTP host.
        topics: Path and section of who calls it.
    """

    name: str
    section: schema.Backend
    text: str
    address: values.Address
    is_php: bool
    topics: Sequence[tuple[str, schema.Topic]]

    @property
    def key(self) -> str:
        """Of the tables here."""
        return f"{self.name} {self.text}" if self.name else self.text

    @property
    def connections(self) -> int:
        """As configured: a limit, or as many as its topics may have."""
        return self.section.max_connections or sum(topic.concurrency.max for _, topic in self.topics)


def _targets(settings: schema.Settings) -> list[Target]:
    """Every address that some topic calls, those of named backends first."""
    users: dict[tuple[str, str], list[tuple[str, schema.Topic]]] = {}
    for queue, section in settings.queue.items():
        for name, topic in section.topic.items():
            for place in _called(settings, topic):
                users.setdefault(place, []).append((f"{queue}/{name}", topic))
    return [_target(settings, place, topics) for place, topics in sorted(users.items(), key=lambda row: not row[0][0])]


def _called(settings: schema.Settings, topic: schema.Topic) -> Iterable[tuple[str, str]]:
    """(Backend, address) of each place where jobs of *topic* are called."""
    if topic.fastcgi is not None:
        backend = topic.fastcgi.backend
        if not backend:
            return [("", topic.fastcgi.address)]
        return [(backend, text) for text in settings.backend[backend].fastcgi]
    if topic.http is not None:
        where = _host_and_port(topic.http.url)
        named = (name for name, each in settings.backend.items() if where in map(_host_and_port, each.http))
        return [(next(named, ""), where)]
    return []


def _host_and_port(url: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or 80}" if ":" in host else f"{host}:{parts.port or 80}"


def _target(
    settings: schema.Settings, place: tuple[str, str], topics: Sequence[tuple[str, schema.Topic]]
) -> Target:
    name, text = place
    return Target(
        name=name, section=settings.backend[name] if name else schema.Backend(), text=text,
        address=values.address(text), is_php=topics[0][1].fastcgi is not None, topics=topics,
    )


def _look_at(target: Target, script: str) -> php_fpm.Pool:
    if target.is_php:
        scripts = [topic.fastcgi.script for _, topic in target.topics if topic.fastcgi is not None]
        ours = {*scripts, *map(os.path.realpath, scripts)}
        return php_fpm.look(target.address, target.section.status_path, script, ours)
    return php_fpm.Pool(away=php_fpm.absence(target.address))


def _pool(
    settings: schema.Settings, target: Target, found: php_fpm.Pool, took_s: Mapping[str, float]
) -> facts.Pool:
    section = target.section
    slowest_s = max([found.slowest_s or 0.0, *(took_s.get(path, 0.0) for path, _ in target.topics)])
    timeouts = [topic.timeout_s for _, topic in target.topics if topic.timeout_s]
    measured = bool(section.status_path) and not section.max_connections
    return facts.Pool(
        backend=target.name, address=target.text, is_php=target.is_php, topics=[path for path, _ in target.topics],
        away=found.away, file=found.file, terminate_s=found.terminate_s, control_s=found.control_s,
        max_children=found.max_children, post_bytes=found.post_bytes, reads_post=found.reads_post,
        slowest_s=slowest_s or None, timeout_s=min(timeouts, default=0.0),
        connections=0 if measured else target.connections, reserve=section.reserve,
        max_post_bytes=section.max_post_bytes, max_body_bytes=settings.ingest.max_body_bytes, unread=found.unread,
    )
