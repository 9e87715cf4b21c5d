"""
The configuration as a tree of frozen dataclasses: every key, its unit, help and how it takes effect.

Rule: one field, one key. The loader, the checks, ``pbus config show`` and the reference in docs/
read the metadata here; nothing else knows a key's name, unit or default. Attribute names carry the
unit (``timeout_s``), keys do not (``timeout = "60s"``). A room is handed its own section only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pbus.config.values import Door, door
from pbus.core.brake import BrakePolicy
from pbus.core.outcome import Rules
from pbus.core.retry import RetryPolicy

Kind = Literal[
    "str", "text", "name", "int", "float", "bool", "duration", "size", "rate", "share", "percent",
    "strings", "table", "tables", "address", "addresses", "doors", "path", "params", "json",
]
"""
How a value is written: ``duration`` '250ms 10s 5m 2h' -> seconds (float); ``size`` '64KiB 1MiB' ->
bytes (int); ``rate`` '100/s' -> per second (float, 0: none); ``share`` 0..1; ``percent`` '1%' ->
0..1; ``table`` one nested dataclass, ``tables`` a mapping of name to nested dataclass; ``params`` a
table of strings; ``path`` relative to DIR's parent.
"""

Effect = Literal["live", "respawn", "restart"]
"""``live``: at once; ``respawn``: children of the role are replaced; ``restart``: ``pbus restart``."""


def setting(
    help: str,
    kind: Kind = "str",
    default: Any = dataclasses.MISSING,
    *,
    key: str = "",
    of: type | None = None,
    one_of: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    effect: Effect = "respawn",
    later: bool = False,
    secret: bool = False,
) -> Any:
    """
    One key of the configuration.

    Args:
        help: What it does, one line; goes into the reference.
        kind: How it is written (see ``Kind``).
        default: Value when absent; none makes the key required. Lists and tables are copied.
        key: Its name in TOML where that is not the attribute's name.
        of: Nested dataclass of kinds ``table`` and ``tables``.
        one_of: The only values allowed.
        least, most: Bounds of a number, in the attribute's unit.
        effect: How a change takes effect.
        later: Read and checked, but its feature is not part of this version: any value other than
            the default is an error that says so.
        secret: Never shown or logged.
    """
    metadata = {
        "help": help, "kind": kind, "key": key, "of": of, "one_of": one_of, "least": least,
        "most": most, "effect": effect, "later": later, "secret": secret,
    }
    if default is dataclasses.MISSING and kind == "table" and of is not None:
        return dataclasses.field(default_factory=of, metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """``[node]``: this machine's bus."""

    name: str = setting("name of this node, unique among the nodes of a storage; default: host name", "name", "", effect="restart")
    run_dir: str = setting("pid file, sockets, locks (created 0700)", "path", "var", effect="restart")
    data_dir: str = setting("embedded store", "path", "var", effect="restart")
    log_dir: str = setting("logs, or '-' for standard output", "path", "var/log", effect="restart")
    environment: str = setting("'production' asks before it destroys", "str", "", effect="live", later=True)
    consume: str = setting("which topics this node runs", "str", "all", one_of=("all", "tagged", "none"), later=True)
    tags: list[str] = setting("with consume = 'tagged': topics that carry one of these", "strings", [], later=True)
    grace_s: float = setting("how long running jobs may finish on stop", "duration", 30.0, key="grace", least=0.1, effect="live")
    heartbeat_s: float = setting("how often the node moves its beat counter", "duration", 5.0, key="heartbeat", least=0.05)
    lost_after_s: float = setting("a node whose counter stood still so long is declared dead", "duration", 15.0, key="lost_after", least=0.2)
    user: str = setting("run the children as this user (start as root)", "str", "", effect="restart")
    status_group: str = setting("this group may read status.sock", "str", "", effect="restart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``[ingest] limits``: what a client may ask of the port."""

    elements: int = setting("elements of one command", "int", 10_000, least=16, most=1_048_576)
    elements_before_auth: int = setting("elements of one command before AUTH", "int", 1024, least=16, most=1_048_576)
    bulk_before_auth_bytes: int = setting("longest argument before AUTH", "size", 16 * 1024, key="bulk_before_auth", least=256)
    inline_bytes: int = setting("longest inline command", "size", 4 * 1024, key="inline", least=64)
    command_time_s: float = setting("a started command is complete within", "duration", 10.0, key="command_time", least=0.1)
    unread_bytes: int = setting("replies a client may leave unread before it is not read from", "size", 1024 * 1024, key="unread", least=1024)
    unread_time_s: float = setting("then it is closed after", "duration", 30.0, key="unread_time", least=0.1)
    connections: int = setting("connections of one ingest child", "int", 10_000, least=1)
    memory_bytes: int = setting("unfinished commands, unread replies and transactions of all clients of a child; beyond it the largest are closed; at least four commands", "size", 256 * 1024 * 1024, key="memory", least=1024 * 1024)
    option_bytes: int = setting("longest dedupe key, key, traceparent and name of a consumer", "size", 256, key="option", least=64, most=4096)
    keepalive_s: float = setting("TCP keepalive of idle connections, three tries; in whole seconds", "duration", 60.0, key="keepalive", least=1, most=7200)
    keepalive_reader_s: float = setting("the same for a client with open claims", "duration", 5.0, key="keepalive_reader", least=1, most=7200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """``[ingest] tls``: every TCP address speaks TLS 1.2 or later."""

    cert: str = setting("PEM file: the certificate, and those between it and its authority; empty: no TLS", "path", "")
    key: str = setting("PEM file: its private key, without a passphrase, readable by node.user", "path", "")
    client_ca: str = setting("PEM file: clients must show a certificate of one of these authorities; empty: they need none", "path", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """``[ingest]``: the door for producers and pull consumers."""

    listen: list[str] = setting("HOST:PORT or unix:PATH, one or more; with tls, plain:HOST:PORT is one without", "doors", ["127.0.0.1:12018"])
    processes: int | str = setting("ingest children, or 'auto' (a core each)", "int", 1, one_of=("auto",), least=1, most=256)
    max_body_bytes: int = setting("largest body of a job", "size", 1024 * 1024, key="max_body", least=1, most=256 * 1024 * 1024)
    limits: Limits = setting("what a client may ask of the port", "table", of=Limits)
    tls: Tls = setting("certificate of every HOST:PORT of listen; unix sockets never speak TLS", "table", of=Tls)

    @property
    def doors(self) -> tuple[Door, ...]:
        """Every address of ``listen`` in its order, and whether it speaks without TLS."""
        doors = (door(text) for text in self.listen)
        return tuple(Door(each.address, each.plain or bool(each.address.path) or not self.tls.cert) for each in doors)

    @property
    def inner_door(self) -> Door:
        """What pbus itself goes by: the first that speaks without TLS, else the first."""
        return next((each for each in self.doors if each.plain), self.doors[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRole:
    """``[delivery]``: the children that call handlers."""

    processes: int = setting("delivery children", "int", 1, least=1, most=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """``[dashboard]``: health endpoints and metrics (pages come later)."""

    listen: str = setting("HOST:PORT of /-/livez, /-/readyz and /metrics; '' turns it off", "address", "127.0.0.1:19840")
    public_url: str = setting("address people reach it by", "str", "", later=True)
    base_path: str = setting("path it is served below", "str", "", later=True)
    read_only: bool = setting("nothing can be changed through it", "bool", False, later=True)
    require_reason: bool = setting("unsafe actions ask for a reason", "bool", False, later=True)
    mask: list[str] = setting("what is hidden in bodies", "strings", [], later=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """``[log]``: log_dir/pbus.log."""

    level: str = setting("least level that is written", "str", "info", one_of=("debug", "info", "warning", "error"), effect="live")
    format: str = setting("json lines, or text for people", "str", "json", one_of=("json", "text"), effect="live")
    days: int = setting("days that files are kept", "int", 7, least=1, most=3650, effect="live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """``[trace]``: the story of each job."""

    keep_s: float = setting("everything is kept for", "duration", 3_600.0, key="keep", least=1, most=31 * 86_400)
    keep_failed_s: float = setting("failures, slow ones and refused pushes are kept for", "duration", 7 * 86_400.0, key="keep_failed", least=1, most=366 * 86_400)
    max_bytes: int = setting("of each storage, in a file beside it (SQLite) or in its memory (Redis); above it whole jobs are left out; 0B: nothing is kept", "size", 256 * 1024 * 1024, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Otel:
    """``[otel]``: spans of pushes and attempts go to an OpenTelemetry receiver (OTLP over HTTP)."""

    endpoint: str = setting("base URL of the receiver, http or https; '': OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318", "str", "")
    headers: Mapping[str, str] = setting("of each request, beside those of OTEL_EXPORTER_OTLP_HEADERS", "params", {}, secret=True)
    sample: float = setting("share of the jobs whose producer began no trace; what a producer has decided holds", "percent", 1.0)
    service_name: str = setting("service.name; '': OTEL_SERVICE_NAME, else pbus", "str", "")
    timeout_s: float = setting("longest request, its repetitions included; 0s: OTEL_EXPORTER_OTLP_TIMEOUT, else 10s", "duration", 0.0, key="timeout", least=0, most=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """``[supervise] backoff``: between the lives of a process that exits by itself."""

    first_s: float = setting("wait before the first respawn", "duration", 0.1, key="first", least=0.01, effect="live")
    factor: float = setting("growth of the wait", "float", 2.0, least=1.0, most=100.0, effect="live")
    max_s: float = setting("longest wait", "duration", 60.0, key="max", least=0.01, effect="live")
    fatal: int = setting("so many fast exits within the window: FATAL", "int", 10, least=1, effect="live")
    window_s: float = setting("the window of that count", "duration", 300.0, key="window", least=1.0, effect="live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervise:
    """``[supervise]``: how children are kept alive."""

    backoff: Backoff = setting("between the lives of a process", "table", of=Backoff, effect="live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """``[storage.NAME]``: where jobs are kept."""

    url: str = setting("sqlite:PATH (relative to data_dir), redis://.., redis+unix://..", "str", effect="restart")
    password: str = setting("password of a Redis; rather use password_file", "str", "", secret=True)
    password_file: str = setting("file that holds the password", "path", "")
    tls: dict[str, str] = setting("cert, key, ca of a Redis", "params", {}, later=True)
    min_free_bytes: int = setting("SQLite: pushes stop below this free space", "size", 64 * 1024 * 1024, key="min_free", least=0)
    high_water: float = setting("share of maxmemory (Redis) or of the disk (SQLite) at which pushes of importance 3 are refused; 2 at 0.92, 1 at 0.97", "share", 0.85)
    call_timeout_s: float = setting("longest wait for one call", "duration", 5.0, key="call_timeout", least=0.05, most=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """``[system.NAME]``: a business system that owns queues."""

    title: str = setting("name for people", "text", "")
    owner: str = setting("team that answers for it", "text", "")
    oncall: list[str] = setting("who hears of its alarms: names of [notify.NAME]; none: those of [alarm] oncall", "strings", [])
    cost_center: str = setting("for the monthly report", "text", "")
    password: str = setting("AUTH NAME PW may push to all its queues; rather use password_file", "str", "", secret=True)
    password_file: str = setting("file that holds the password; two lines: both are valid while one replaces the other", "path", "")
    weight: int = setting("fair share when something is short", "int", 1, least=1, most=1000)

    @property
    def passwords(self) -> tuple[str, ...]:
        """What AUTH accepts: none, one, or two while one replaces the other (see ``password_file``)."""
        return tuple(self.password.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """``[backend.NAME] circuit``: when an address is left alone for a while."""

    failures: int = setting("failures within the window that open it", "int", 5, least=1)
    window_s: float = setting("that window", "duration", 2.0, key="window", least=0.01)
    probe_first_s: float = setting("first probe after", "duration", 0.5, key="probe_first", least=0.01)
    probe_max_s: float = setting("longest wait between probes", "duration", 2.0, key="probe_max", least=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """``[backend.NAME]``: an address shared by topics; one pool, one limit, whoever uses it."""

    fastcgi: list[str] = setting("unix:PATH or HOST:PORT of a php-fpm pool", "addresses", [])
    http: list[str] = setting("http://HOST:PORT", "strings", [])
    max_connections: int = setting("per address and node, all topics together; 0: their sum, or the measured size of the pool", "int", 0, least=0)
    reserve: int = setting("php-fpm processes left to the web site", "int", 0, least=0)
    prefer: str = setting("which of several addresses: unix and loopback first, or evenly", "str", "local", one_of=("local", "spread"))
    connect_timeout_s: float = setting("longest wait for a connection", "duration", 0.2, key="connect_timeout", least=0.01)
    status_path: str = setting("php-fpm's pm.status_path, read about once a second while there is work", "str", "")
    max_post_bytes: int = setting("largest encoded request (php: post_max_size)", "size", 8 * 1024 * 1024, key="max_post", least=1024)
    rate_per_s: float = setting("calls a second of this node, begun evenly", "rate", 0.0, key="rate")
    circuit: Circuit = setting("when an address is left alone", "table", of=Circuit)


@dataclass(frozen=True, slots=True, kw_only=True)
class FastcgiHandler:
    """``fastcgi = { .. }``: a php-fpm script."""

    backend: str = setting("a [backend.NAME] with fastcgi addresses", "name", "")
    address: str = setting("instead: unix:PATH or HOST:PORT (an unnamed backend)", "address", "")
    script: str = setting("path of the script as php-fpm sees it; symlinks are resolved for each job", "path")
    contract: str = setting("what is sent and what counts as done", "str", "pepper", one_of=("pepper",))
    params: Mapping[str, str] = setting("further FastCGI parameters", "params", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHandler:
    """``http = { .. }``: an HTTP endpoint."""

    url: str = setting("http://HOST[:PORT]/PATH", "str")
    contract: str = setting("what is sent and what counts as done", "str", "plain", one_of=("plain", "pepper"))
    host: str = setting("Host header", "str", "")
    headers: Mapping[str, str] = setting("further headers", "params", {})
    done_when: str = setting("2xx is done, or only X-Pbus-Ack: 1", "str", "status", one_of=("status", "header"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerProcess:
    """Keys of handlers that run in processes of their own."""

    max_jobs: int = setting("a process is replaced after so many jobs; 0: never", "int", 0, least=0)
    max_rss_bytes: int = setting("a process is replaced when it has grown above, between two jobs; 0: never", "size", 0, key="max_rss")
    max_age_s: float = setting("a process is replaced after; 0s: never", "duration", 0.0, key="max_age")
    stop_signal: str = setting("signal that asks it to finish (programs of the pepper protocol: INT)", "str", "TERM")
    stop_timeout_s: float = setting("then it is killed after; 0s: the node's grace", "duration", 0.0, key="stop_timeout")
    nice: int = setting("scheduling priority: -20 (first) to 19", "int", 0, least=-20, most=19)
    user: str = setting("run as", "str", "")
    watch: bool = setting("new code is noticed and rolled out", "bool", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonHandler(ConsumerProcess):
    """``python = { .. }``: a Python function."""

    call: str = setting("MODULE:FUNCTION", "str")
    path: str = setting("directory put in front of sys.path", "path", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHandler(ConsumerProcess):
    """``command = { .. }``: any program."""

    argv: list[str] = setting("program and arguments; a name without a slash is looked up in PATH", "strings")
    protocol: str = setting("how jobs are spoken", "str", "lines", one_of=("lines", "pepper"))
    entry: str = setting("-H of the pepper protocol", "str", "")
    cwd: str = setting("working directory; default: the folder that holds the configuration folder", "path", "")
    env: Mapping[str, str] = setting("environment", "params", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """``[program.NAME]``: another daemon, kept running; it takes no jobs."""

    argv: list[str] = setting("program and arguments; a name without a slash is looked up in PATH", "strings")
    processes: int = setting("how many of it", "int", 1, least=1, most=1000)
    system: str = setting("business system it belongs to", "name", "default")
    user: str = setting("run as", "str", "")
    cwd: str = setting("working directory; default: the folder that holds the configuration folder", "path", "")
    env: Mapping[str, str] = setting("environment", "params", {})
    stop_signal: str = setting("signal that asks it to finish", "str", "TERM")
    stop_timeout_s: float = setting("then it is killed after; 0s: the node's grace", "duration", 0.0, key="stop_timeout", least=0)
    max_age_s: float = setting("replaced after; 0s: never", "duration", 0.0, key="max_age", least=0)
    nice: int = setting("scheduling priority: -20 (first) to 19", "int", 0, least=-20, most=19)
    watch: bool = setting("restarted when its files change", "bool", False)
    log: bool = setting("its output goes to log_dir/program/NAME.log; false: nowhere", "bool", True)
    tags: list[str] = setting("nodes with consume = 'tagged' look for these", "strings", [], later=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullHandler:
    """``pull = { .. }``: consumers fetch by Redis protocol."""

    max_open: int = setting("open claims in each ingest child: jobs that were read and are not acked yet", "int", 1000, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """``concurrency = { min, max }`` or one number."""

    min: int = setting("processes or calls at once; concurrency = 8 is { min = 8, max = 8 }; 0: a process is started when there is a job", "int", 1, least=0, most=10_000)
    max: int = setting("at most; default: min; how many of them there are follows the work", "int", 1, least=1, most=10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """``retry = { .. }``: when a failed delivery is tried again; whichever bound ends first."""

    attempts: int = setting("attempts in all", "int", 10, least=1, most=1_000_000, effect="live")
    for_s: float = setting("no attempt later than this after the first; 0s: no bound", "duration", 86_400.0, key="for", least=0, effect="live")
    first_s: float = setting("wait before attempt 2", "duration", 1.0, key="first", least=0, effect="live")
    factor: float = setting("growth of the wait", "float", 2.0, least=1.0, most=100.0, effect="live")
    max_s: float = setting("longest wait", "duration", 600.0, key="max", least=0, effect="live")
    jitter: float = setting("share of the wait drawn at random", "share", 0.5, effect="live")

    @property
    def policy(self) -> RetryPolicy:
        """The same, as core/retry.py judges by it."""
        return RetryPolicy(
            attempts=self.attempts, for_s=self.for_s, first_s=self.first_s, factor=self.factor,
            cap_s=self.max_s, jitter=self.jitter,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """``brake = { .. }``: a topic that fails almost always is tried gently."""

    failed_percent: int = setting("share of failures that trips it", "int", 90, least=1, most=100)
    min_jobs: int = setting("and at least so many jobs", "int", 50, least=1)
    window_s: float = setting("within", "duration", 30.0, key="window", least=0.1)
    probe_first_s: float = setting("first probe after", "duration", 1.0, key="probe_first", least=0.01)
    probe_max_s: float = setting("longest wait between probes", "duration", 30.0, key="probe_max", least=0.01)

    @property
    def policy(self) -> BrakePolicy:
        """The same, as core/brake.py judges by it."""
        return BrakePolicy(
            failed_percent=self.failed_percent, min_jobs=self.min_jobs, window_s=self.window_s,
            probe_first_s=self.probe_first_s, probe_max_s=self.probe_max_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """``dead = { .. }``: how long and how many dead letters are kept."""

    keep_s: float = setting("kept for", "duration", 30 * 86_400.0, key="keep", least=0)
    max: int = setting("at most; 0: no bound", "int", 100_000, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicAlarm:
    """``alarm = { .. }``: bounds of a topic; at and above each somebody hears of it."""

    oldest_wait_s: float = setting("the oldest job that is ready waits for so long", "duration", 0.0, key="oldest_wait", least=0)
    backlog: int = setting("so many jobs are ready", "int", 0, least=0)
    gone_in_s: float = setting("at the present rate the backlog is not gone within this time, or never", "duration", 0.0, key="gone_in", least=0)
    failed_percent: float = setting("so many of a hundred attempts of the last minute failed (of ten at least)", "float", 0.0, least=0.0, most=100.0)
    latency_p90_s: float = setting("one of ten attempts of the last minute took so long (of ten at least)", "duration", 0.0, key="latency_p90", least=0)
    dead_growth: int = setting("so many jobs became dead letters within 10 min", "int", 0, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """``shadow = { .. }``: how a shadow topic is compared with the one that it shadows."""

    ignore: list[str] = setting("values of JSON answers that are not compared, as $.time or $.rows[*].at", "strings", [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """``[queue.Q.topic.T]``: one subscription of a queue, with exactly one handler."""

    fastcgi: FastcgiHandler | None = setting("a php-fpm script", "table", None, of=FastcgiHandler)
    http: HttpHandler | None = setting("an HTTP endpoint", "table", None, of=HttpHandler)
    python: PythonHandler | None = setting("a Python function", "table", None, of=PythonHandler)
    command: CommandHandler | None = setting("any program", "table", None, of=CommandHandler)
    pull: PullHandler | None = setting("consumers fetch by Redis protocol", "table", None, of=PullHandler)
    concurrency: Concurrency = setting("calls or processes at once", "table", of=Concurrency)
    catch_up_s: float = setting("the backlog should be gone within this time", "duration", 10.0, key="catch_up", least=0.1)
    timeout_s: float = setting("longest attempt; 0s: none", "duration", 60.0, key="timeout", least=0)
    retry: Retry = setting("when a failed delivery is tried again; whichever bound ends first", "table", of=Retry)
    on_unknown: str = setting("an attempt that may have run and has no known end: again, or a dead letter that a person settles", "str", "retry", one_of=("retry", "hold"))
    brake: Brake = setting("gentleness after a poisoned deploy", "table", of=Brake)
    rate_per_s: float = setting("jobs a second of this node, begun evenly; the others stay ready", "rate", 0.0, key="rate")
    batch: int = setting("jobs a call", "int", 1, least=1, most=1000, later=True)
    weight: int = setting("fair share when the node is short", "int", 1, least=1)
    crash_limit: int = setting("a job that killed its consumer so often is dead", "int", 3, least=1, effect="live")
    busy_limit_s: float = setting("a job that is answered busy for longer than this fails; 0s: never", "duration", 3_600.0, key="busy_limit", least=0)
    start: str = setting("where a new topic starts", "str", "now", key="from", one_of=("now", "history"))
    shadow_of: str = setting("runs jobs of this topic of the queue once more, and only compares: nothing waits for it, nothing is tried again", "str", "")
    sample: float = setting("share of the jobs that a shadow sees, 0.01% to 100%, drawn by their ids", "percent", 1.0)
    shadow: Shadow = setting("how a shadow is compared", "table", of=Shadow)
    password: str = setting("for pull consumers of this topic", "str", "", secret=True)
    password_file: str = setting("file that holds the password; two lines: both are valid while one replaces the other", "path", "")
    tags: list[str] = setting("nodes with consume = 'tagged' look for these", "strings", [], later=True)
    dead: DeadLetters = setting("how long dead letters are kept", "table", of=DeadLetters)
    alarm: TopicAlarm = setting("what is worth waking somebody; 0 or 0s: nothing", "table", of=TopicAlarm)

    @property
    def passwords(self) -> tuple[str, ...]:
        """What AUTH accepts (see ``System.passwords``); none: those of the queue."""
        return tuple(self.password.splitlines())

    @property
    def handler(self) -> FastcgiHandler | HttpHandler | PythonHandler | CommandHandler | PullHandler:
        """The one handler (the check has made sure that there is exactly one)."""
        for candidate in (self.fastcgi, self.http, self.python, self.command, self.pull):
            if candidate is not None:
                return candidate
        raise ValueError("a topic without a handler passed the check")

    @property
    def rules(self) -> Rules:
        """What core/outcome.py judges an attempt by."""
        return Rules(
            retry=self.retry.policy, crash_limit=self.crash_limit, hold=self.on_unknown == "hold",
            busy_limit_s=self.busy_limit_s, timeout_s=self.timeout_s,
            killable=self.python is not None or self.command is not None,  # what was pulled runs who knows where
            shadow=bool(self.shadow_of),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """``[queue.NAME]``: a log that producers push to."""

    description: str = setting("for people", "text", "", effect="live")
    system: str = setting("business system it belongs to", "name", "default")
    storage: str = setting("which [storage.NAME] keeps it", "name", "main", effect="restart")
    password: str = setting("none: no AUTH from loopback and unix sockets, refused from elsewhere", "str", "", secret=True)
    password_file: str = setting("file that holds the password; two lines: both are valid while one replaces the other", "path", "")
    alias: list[str] = setting("further names for pushes, pops, LLEN", "strings", [])
    pepper: bool = setting("the Pepperbus contract for producers and RPOP", "bool", False)
    retention_s: float = setting("settled jobs stay readable for", "duration", 3_600.0, key="retention", least=0, effect="live")
    retention_bytes: int = setting("and at most so many bytes of them", "size", 256 * 1024 * 1024, least=0, effect="live")
    max_backlog: int = setting("pushes are refused above; 0: no bound", "int", 1_000_000, least=0)
    max_backlog_bytes: int = setting("pushes are refused above; 0: no bound", "size", 4 * 1024**3, least=0)
    importance: int = setting("3 is refused first when the store fills", "int", 2, least=1, most=3)
    dedupe_window_s: float = setting("a dedupe key counts for", "duration", 600.0, key="dedupe_window", least=0.001)
    ttl_s: float = setting("jobs older than this are not run; 0s: never", "duration", 0.0, key="ttl", least=0)
    index: list[str] = setting("JSON values by which 'pbus job find' finds jobs, as $.uid or $.order.id", "strings", [])
    topic: Mapping[str, Topic] = setting("a subscription: sees every job of the queue, has exactly one handler (fastcgi, http, python, command or pull)", "tables", {}, of=Topic)

    @property
    def passwords(self) -> tuple[str, ...]:
        """What AUTH accepts (see ``System.passwords``)."""
        return tuple(self.password.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """``[alarm]``: what is told of the whole bus, and how."""

    oncall: list[str] = setting("who hears of what is no system's, and of systems without oncall: names of [notify.NAME]", "strings", [])
    look_s: float = setting("how often it is looked whether something is wrong; the numbers of a store half as often, where nothing happens", "duration", 1.0, key="look", least=0.1, most=60.0)
    clear_percent: float = setting("an alarm is over when its value is below so many percent of its limit ..", "float", 80.0, least=1.0, most=100.0)
    clear_after_s: float = setting(".. for so long; three times as long what is of the last minute, and backends", "duration", 5.0, key="clear_after", least=0, most=3_600.0)
    group_wait_s: float = setting("what comes within this time is one message", "duration", 1.0, key="group_wait", least=0, most=60.0)
    escalate_to: list[str] = setting("who is told when nobody acknowledged an alarm", "strings", [])
    escalate_after_s: float = setting("so long after it fired; 0s: never", "duration", 900.0, key="escalate_after", least=0)
    retry_first_s: float = setting("a message that was not taken is sent again after this, then after twice as long, up to 5 min, for 6 h", "duration", 2.0, key="retry_first", least=0.1, most=300.0)
    fatal: bool = setting("a topic whose processes are given up", "bool", True)
    circuit: bool = setting("a backend that is left alone because it does not answer", "bool", True)
    node: bool = setting("a node that was lost", "bool", True)
    error_back: bool = setting("an error of which all dead letters had been settled, and that kills jobs again", "bool", True)
    storage: bool = setting("a storage that does not answer", "bool", True)
    fill_percent: float = setting("a storage that is so full; 0: not told", "float", 85.0, least=0.0, most=100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """``[notify.NAME]``: where alarms go."""

    webhook: str = setting("URL that is sent a POST with JSON (http, https); often it is a secret itself", "str", "", secret=True)
    shape: str = setting("what the webhook takes", "str", "json", one_of=("json", "dingtalk", "wecom", "feishu", "slack"))
    secret: str = setting("dingtalk, feishu: signs each message", "str", "", secret=True)
    ca: str = setting("file with the certificates of who vouches for the https or mail server; none: those of this system", "path", "")
    mail: list[str] = setting("addresses", "strings", [])
    smtp: str = setting("server of the mail, HOST:PORT", "address", "127.0.0.1:25")
    smtp_tls: str = setting("starttls, tls from the first byte, or none", "str", "none", one_of=("none", "starttls", "tls"))
    sender: str = setting("address that it comes from; default: pbus@ and the name of this host", "str", "")
    user: str = setting("name for the mail server; none: no login", "str", "")
    password: str = setting("password for the mail server; rather use password_file", "str", "", secret=True)
    password_file: str = setting("file that holds it", "path", "")
    command: list[str] = setting("program and its arguments; gets the JSON of a webhook on its standard input", "strings", [])
    timeout_s: float = setting("longest try", "duration", 10.0, key="timeout", least=0.1, most=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree. Read-only; a reload makes a new one."""

    node: Node = setting("this machine's bus", "table", of=Node)
    ingest: Ingest = setting("the door for producers and pull consumers", "table", of=Ingest)
    delivery: DeliveryRole = setting("the children that call handlers", "table", of=DeliveryRole)
    dashboard: Dashboard = setting("health endpoints", "table", of=Dashboard)
    log: Log = setting("logs", "table", of=Log)
    trace: Trace = setting("the story of each job", "table", of=Trace)
    otel: Otel | None = setting("spans for an OpenTelemetry receiver; needs the extra pbus[otel]", "table", None, of=Otel)
    supervise: Supervise = setting("how children are kept alive", "table", of=Supervise)
    storage: Mapping[str, Storage] = setting("where jobs are kept; without any: main = sqlite:pbus.db", "tables", {}, of=Storage)
    system: Mapping[str, System] = setting("a business system that owns queues; queues without one belong to 'default'", "tables", {}, of=System)
    backend: Mapping[str, Backend] = setting("an address shared by topics: one pool, one limit, whoever uses it", "tables", {}, of=Backend)
    queue: Mapping[str, Queue] = setting("a log that producers push to", "tables", {}, of=Queue)
    cron: Mapping[str, Any] = setting("timed jobs", "json", {}, later=True)
    program: Mapping[str, Program] = setting("other daemons that are kept running", "tables", {}, of=Program)
    alarm: Alarm = setting("what is told of the whole bus, and how", "table", of=Alarm)
    notify: Mapping[str, Notify] = setting("where alarms go: one of webhook, mail, command", "tables", {}, of=Notify)
