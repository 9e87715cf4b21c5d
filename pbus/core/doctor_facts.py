"""
What ``pbus doctor`` judges by: a tree of what was found, a class a kind of thing.

    Facts -> node, children, stores, pools, topics, queues, doors, certificates

Rule: what could not be looked at is None (or False where only True means something), and nothing is concluded from it.
Properties are the words that sentences of core/doctor.py are made of; ``name`` says what a finding is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """
    The bus on this machine.

    Attributes:
        bus: ``running``, ``starting``, ``stopping``, ``stopped``, or ``unknown``: it does not answer.
        problem: Why it does not answer.
        log_dir: Empty: logs go to standard output.
        log_free_bytes: Free on the disk of ``log_dir``.
        log_needs_bytes: Less than that is little.
    """

    bus: str = "running"
    problem: str = ""
    log_dir: str = ""
    log_free_bytes: int | None = None
    log_needs_bytes: int = 0

    @property
    def name(self) -> str:
        return "node"

    @property
    def free(self) -> str:
        return size(self.log_free_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """
    The children of one role.

    Attributes:
        role: ``ingest``, ``delivery``.
        descriptors: Files that one of them may have open (the least of them).
        wants: Files that it needs when everything that is configured is connected.
        key: Of the configuration, what asks for most of them.
    """

    role: str
    descriptors: int | None
    wants: int
    key: str

    @property
    def name(self) -> str:
        return self.role

    @property
    def is_short(self) -> bool:
        """Not everything that is configured can be connected at once."""
        return self.descriptors is not None and self.descriptors < self.wants


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """
    One ``[storage.NAME]``.

    Attributes:
        storage: Its name.
        kind: ``redis``, ``sqlite``, or the scheme of a driver that was installed.
        place: URL or path, without a password.
        is_made: False: the first start makes it.
        away: Why it cannot be reached.
        unfit: Why a bus would not start on it.
        old: Its version, where that is too old; empty: it is not.
        policy: Redis' ``maxmemory-policy``.
        role: Redis' ``master`` or ``slave``.
        aof, saves: Redis keeps an append-only file; makes snapshots.
        fsync: Redis' ``appendfsync``.
        write_problem: Redis cannot write its files.
        unbound: Redis has no ``maxmemory``.
        share: 0..1 of what it may use (memory or disk).
        high_water: Share at which the first pushes are refused.
        free_bytes: What is left of it.
        min_free_bytes: Of SQLite: pushes stop below.
        network: SQLite: kind of the file system where that is another machine's (``nfs4``).
        clock_ahead_s: Redis' clock less ours.
        unread: What it would not tell.
    """

    storage: str
    kind: str
    place: str = ""
    is_made: bool = True
    away: str = ""
    unfit: str = ""
    old: str = ""
    policy: str | None = None
    role: str | None = None
    aof: bool | None = None
    saves: bool | None = None
    fsync: str | None = None
    write_problem: str = ""
    unbound: bool = False
    share: float | None = None
    high_water: float = 1.0
    free_bytes: int | None = None
    min_free_bytes: int = 0
    network: str = ""
    clock_ahead_s: float | None = None
    unread: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"storage {self.storage}"

    @property
    def percent(self) -> str:
        return f"{(self.share or 0.0) * 100:.0f} %"

    @property
    def bound(self) -> str:
        return f"{self.high_water * 100:.0f} %"

    @property
    def free(self) -> str:
        return size(self.free_bytes)

    @property
    def least(self) -> str:
        return size(self.min_free_bytes)

    @property
    def clock(self) -> str:
        """``40 s ahead of ours``."""
        ahead_s = self.clock_ahead_s or 0.0
        return f"{span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} ours"

    @property
    def untold(self) -> str:
        return ", ".join(self.unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """
    One address of a backend; of php-fpm, its pool.

    Attributes:
        backend: Its name; empty: a topic names the address.
        address: ``unix:PATH`` or ``HOST:PORT``.
        is_php: php-fpm, not an HTTP host.
        topics: Whose jobs are called there.
        away: Why nobody is reached.
        file: Configuration of php-fpm that the values are from.
        terminate_s: ``request_terminate_timeout``; 0: none.
        control_s: ``process_control_timeout``; 0: none.
        max_children: ``pm.max_children``.
        post_bytes: ``post_max_size``; 0: no bound.
        reads_post: ``enable_post_data_reading``.
        slowest_s: What 99 of 100 calls of the last day took at most, or one that a process has in hand, or had last.
        timeout_s: Shortest ``timeout`` of the topics; 0: none of them has one.
        connections: What pbus opens at most, as configured; 0: as many as it measures.
        reserve: Processes that are left to others.
        max_post_bytes: Largest request that pbus sends.
        max_body_bytes: Largest body that the port takes.
        unread: What could not be looked at.
    """

    backend: str
    address: str
    is_php: bool = True
    topics: Sequence[str] = ()
    away: str = ""
    file: str = ""
    terminate_s: float | None = None
    control_s: float | None = None
    max_children: int | None = None
    post_bytes: int | None = None
    reads_post: bool | None = None
    slowest_s: float | None = None
    timeout_s: float = 0.0
    connections: int = 0
    reserve: int = 0
    max_post_bytes: int = 0
    max_body_bytes: int = 0
    unread: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"backend {self.backend} {self.address}" if self.backend else f"backend {self.address}"

    @property
    def paths(self) -> str:
        return ", ".join(self.topics)

    @property
    def where(self) -> str:
        """Where php-fpm's own values are changed."""
        return f"in {self.file}" if self.file else "in the pool's configuration"

    @property
    def terminate(self) -> str:
        return span(self.terminate_s)

    @property
    def control(self) -> str:
        return span(self.control_s)

    @property
    def slowest(self) -> str:
        return span(self.slowest_s)

    @property
    def wanted_control(self) -> str:
        """Twice what was seen, and 10 s at least, as php-fpm writes it."""
        return f"{math.ceil(max(10.0, 2 * (self.slowest_s or 0.0)))}s"

    @property
    def timeout(self) -> str:
        return span(self.timeout_s)

    @property
    def wanted_terminate(self) -> str:
        """Nine tenths of the timeout, as php-fpm writes it."""
        return f"{max(1, int((self.timeout_s or 60.0) * 0.9))}s"

    @property
    def needed(self) -> int:
        """Processes for pbus and for everybody else."""
        return self.connections + self.reserve

    @property
    def room(self) -> int:
        """Connections that pbus may have."""
        return max(1, (self.max_children or 0) - self.reserve)

    @property
    def post(self) -> str:
        return size(self.post_bytes)

    @property
    def max_post(self) -> str:
        return size(self.max_post_bytes)

    @property
    def wanted_post(self) -> str:
        """As php writes it."""
        return f"{-(-self.max_post_bytes // 1024**2)}M"

    @property
    def wanted_max_post(self) -> str:
        """Not more than php takes, as our configuration writes it."""
        return f"{(self.post_bytes or 0) // 1024}KiB"

    @property
    def max_body(self) -> str:
        return size(self.max_body_bytes)

    @property
    def key(self) -> str:
        """Where its limits stand, or would."""
        return f"[backend.{self.backend}]" if self.backend else f'a [backend.NAME] with "{self.address}"'

    @property
    def unknown(self) -> str:
        return ", ".join(self.unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """
    One subscription.

    Attributes:
        path: ``gift/credit``.
        is_configured: False: only the store knows it.
        is_pulled: Clients fetch its jobs.
        holds: ``on_unknown = "hold"``.
        timeout_s: 0: none.
        missing: What of its handler is not on this machine.
        is_missing_for_sure: Nobody can see it anywhere else (php-fpm may, in a container).
        ready, running, delayed: Deliveries.
        oldest_wait_s: Of the oldest ready one.
        paused_s: How long it has been paused by a person; None: it is not.
    """

    path: str
    is_configured: bool = True
    is_pulled: bool = False
    holds: bool = False
    timeout_s: float = 0.0
    missing: str = ""
    is_missing_for_sure: bool = False
    ready: int | None = None
    running: int | None = None
    delayed: int | None = None
    oldest_wait_s: float | None = None
    paused_s: float | None = None

    @property
    def name(self) -> str:
        return f"topic {self.path}"

    @property
    def queue(self) -> str:
        return self.path.partition("/")[0]

    @property
    def topic(self) -> str:
        return self.path.partition("/")[2]

    @property
    def waiting(self) -> str:
        """``3 jobs``."""
        return jobs((self.ready or 0) + (self.delayed or 0))

    @property
    def oldest(self) -> str:
        return span(self.oldest_wait_s)

    @property
    def paused(self) -> str:
        return span(self.paused_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """
    One log.

    Attributes:
        queue: Its name.
        topics: How many read it.
        has_password: It has one, or its system has.
        is_reached: Some address of ``listen`` is open to other machines.
        pushed: Jobs, ever.
        backlog, max_backlog: Jobs that its slowest topic has not taken; bound (0: none).
    """

    queue: str
    topics: int = 1
    has_password: bool = False
    is_reached: bool = False
    pushed: int | None = None
    backlog: int | None = None
    max_backlog: int = 0

    @property
    def name(self) -> str:
        return f"queue {self.queue}"

    @property
    def pushes(self) -> str:
        return jobs(self.pushed or 0)

    @property
    def filled(self) -> float:
        """0..1 of its bound."""
        return (self.backlog or 0) / self.max_backlog if self.max_backlog else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """An address of ``[ingest] listen``: open to other machines, without TLS, while passwords are asked for?"""

    address: str
    is_reached: bool = False
    is_plain: bool = True
    asks_passwords: bool = False

    @property
    def name(self) -> str:
        return f"listen {self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A PEM file of ``[ingest] tls``: its *key* there, *path*, and seconds until it is of no more use."""

    key: str
    path: str
    left_s: float | None = None

    @property
    def name(self) -> str:
        return f"tls.{self.key}"

    @property
    def left(self) -> str:
        return span(abs(self.left_s or 0.0))


Subject = Node | Child | Store | Pool | Topic | Queue | Door | Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was found."""

    node: Node
    children: Sequence[Child] = ()
    stores: Sequence[Store] = ()
    pools: Sequence[Pool] = ()
    topics: Sequence[Topic] = ()
    queues: Sequence[Queue] = ()
    doors: Sequence[Door] = ()
    certificates: Sequence[Certificate] = ()

    @property
    def subjects(self) -> Sequence[Subject]:
        """All of them, in the order in which they are told."""
        return (
            self.node, *self.stores, *self.doors, *self.certificates, *self.children, *self.queues, *self.topics,
            *self.pools,
        )


# -- words ----------------------------------------------------------------------------------------


def span(seconds: float | None) -> str:
    """``0.4 s``, ``40 s``, ``3 min``, ``2 h``, ``5 d``: one number is enough to know what to do."""
    seconds = seconds or 0.0
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{seconds:.1f} s" if 0 < seconds < 10 and seconds != int(seconds) else f"{int(seconds)} s"


def size(count: int | None) -> str:
    """``512 B``, ``1.5 MiB``, ``8 MiB``."""
    value, units = float(count or 0), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f}".removesuffix(".0") + f" {units[0]}"


def jobs(count: int) -> str:
    """``1 job``, ``2 jobs``."""
    return "1 job" if count == 1 else f"{count} jobs"
