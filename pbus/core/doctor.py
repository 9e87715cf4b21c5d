"""
What is wrong, or will be, with a bus and what surrounds it: a list of rules over facts. Pure: facts in, findings out.

    rule      of: what it judges     holds (subject) -> bool      when: the same in words, for docs/doctor.md
              what: is so            effect: what comes of it     fix: what to do, mostly a line to write

    error     jobs are lost, refused or not run, or will be soon
    warning   it works until something else happens
    note      could not be looked at, or is good to know

Rule: every finding has an effect and a fix. What is not known is None, and no rule holds because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pbus.core.doctor_facts import Certificate, Child, Door, Facts, Node, Pool, Queue, Store, Subject, Topic

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"
SEVERITIES: Final = (ERROR, WARNING, NOTE)

AWAY: Final = frozenset({"bus-silent", "store-away"})
"""Checks that say: not everything could be asked."""

FEW_DESCRIPTORS: Final = 256
"""Who may have fewer open, and needs more, is soon at the end."""
CLOCK_NOTED_S: Final = 1.0
CLOCK_WRONG_S: Final = 5.0
NEARLY: Final = 0.9
"""Of the share at which pushes are refused."""
BACKLOG_HIGH: Final = 0.8
NOBODY_S: Final = 600.0
"""So long a job of a pull topic waits where nobody reads."""
PAUSED_LONG_S: Final = 86_400.0
EXPIRES_SOON_S: Final = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """*check* is a stable word; *subject* what it is about (``storage main``); the others are sentences."""

    severity: str
    check: str
    subject: str
    what: str
    effect: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of ``RULES``; texts name attributes of the subject, ``{it.queue}``."""

    check: str
    of: type
    severity: str
    when: str
    holds: Callable[[Any], bool]
    what: str
    effect: str
    fix: str


def findings(facts: Facts) -> list[Finding]:
    """Whatever holds, the worst first, then in the order of the subjects."""
    found = [
        Finding(
            rule.severity, rule.check, subject.name, rule.what.format(it=subject), rule.effect.format(it=subject),
            rule.fix.format(it=subject),
        )
        for subject in facts.subjects for rule in rules_of(subject) if rule.holds(subject)
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def rules_of(subject: Subject) -> list[Rule]:
    """Rules that judge things such as *subject*."""
    return [rule for rule in RULES if isinstance(subject, rule.of)]


def worst(found: Sequence[Finding]) -> str:
    """The worst severity; empty: nothing was found."""
    return next((each for each in SEVERITIES if any(finding.severity == each for finding in found)), "")


# -- conditions -----------------------------------------------------------------------------------


def _is_unfit(it: Store) -> bool:
    """For a reason that has no rule of its own."""
    return bool(it.unfit) and not it.old and not _evicts(it)


def _evicts(it: Store) -> bool:
    return it.policy not in (None, "noeviction")


def _is_full(it: Store) -> bool:
    return it.share is not None and it.share >= it.high_water


def _lacks_room(it: Store) -> bool:
    return it.free_bytes is not None and it.kind == "sqlite" and it.free_bytes < it.min_free_bytes


def _nearly_full(it: Store) -> bool:
    """Of the share, or of the room."""
    near = it.share is not None and NEARLY * it.high_water <= it.share < it.high_water
    little = it.kind == "sqlite" and it.free_bytes is not None and it.free_bytes < 2 * it.min_free_bytes
    return (near or little) and not _is_full(it) and not _lacks_room(it)


def _clock_off(it: Store) -> float:
    return abs(it.clock_ahead_s or 0.0)


def _few_children(it: Pool) -> bool:
    return it.max_children is not None and bool(it.connections) and it.max_children < it.needed


def _post_too_small(it: Pool) -> bool:
    return it.post_bytes is not None and 0 < it.post_bytes < it.max_post_bytes


def _runs_on(it: Pool) -> bool:
    return bool(it.terminate_s and it.timeout_s and it.terminate_s >= it.timeout_s)


def _reload_cuts(it: Pool) -> bool:
    return bool(it.control_s and it.slowest_s and it.control_s < it.slowest_s)


def _nobody_fetches(it: Topic) -> bool:
    waits = bool(it.ready) and it.running == 0 and (it.oldest_wait_s or 0.0) >= NOBODY_S
    return it.is_configured and it.is_pulled and waits and it.paused_s is None


def _filling(it: Queue) -> bool:
    return BACKLOG_HIGH <= it.filled < 1.0


RULES: Final[tuple[Rule, ...]] = (
    # -- the bus ------------------------------------------------------------------------------------
    Rule(
        check="bus-silent", of=Node, severity=ERROR, when="the bus runs and does not answer",
        holds=lambda it: it.bus == "unknown", what="the bus does not answer: {it.problem}",
        effect="what only a running bus knows was not looked at",
        fix="'pbus status' says more; where permission lacks, run this as root or as the user of the bus",
    ),
    Rule(
        check="bus-stopped", of=Node, severity=NOTE, when="the bus does not run",
        holds=lambda it: it.bus == "stopped", what="the bus does not run here",
        effect="what only a running bus knows was not looked at: its limits of open files",
        fix="'pbus start', then 'pbus doctor' again",
    ),
    Rule(
        check="log-space", of=Node, severity=WARNING, when="less is free in `log_dir` than the largest `min_free`",
        holds=lambda it: it.log_free_bytes is not None and it.log_free_bytes < it.log_needs_bytes,
        what="{it.free} are free in {it.log_dir}",
        effect="logs lose lines when the disk is full; jobs go on", fix="free space there, or fewer [log] days",
    ),
    # -- stores -------------------------------------------------------------------------------------
    Rule(
        check="store-away", of=Store, severity=ERROR, when="a store cannot be reached",
        holds=lambda it: bool(it.away), what="it is away: {it.away}",
        effect="pushes are refused, nothing is run; what depends on it was not looked at",
        fix="start it, or correct [storage.{it.storage}] url",
    ),
    Rule(
        check="store-unfit", of=Store, severity=ERROR, when="a start would refuse a store, or this user may not use it",
        holds=_is_unfit, what="{it.unfit}", effect="a bus does not start on it",
        fix="do what the text says, then 'pbus doctor' again",
    ),
    Rule(
        check="store-old", of=Store, severity=ERROR, when="Redis or SQLite is older than pbus can trust",
        holds=lambda it: bool(it.old), what="{it.old}", effect="a bus does not start on it", fix="install a newer one",
    ),
    Rule(
        check="store-new", of=Store, severity=NOTE, when="SQLite: the file is not made yet",
        holds=lambda it: not it.is_made, what="there is no {it.place} yet",
        effect="nothing of it was looked at", fix="the first 'pbus start' makes it",
    ),
    Rule(
        check="eviction", of=Store, severity=ERROR, when="Redis: `maxmemory-policy` is not `noeviction`",
        holds=_evicts, what="maxmemory-policy is {it.policy}",
        effect="Redis may delete jobs when its memory is full; a bus does not start on it",
        fix="redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    ),
    Rule(
        check="replica", of=Store, severity=ERROR, when="Redis: it is a replica",
        holds=lambda it: it.role not in (None, "master"), what="it is a replica, not a master",
        effect="every push is refused", fix="name the master in [storage.{it.storage}] url",
    ),
    Rule(
        check="not-durable", of=Store, severity=ERROR, when="Redis: neither `appendonly` nor snapshots",
        holds=lambda it: it.aof is False and it.saves is False, what="Redis writes nothing to the disk",
        effect="a restart of Redis loses every job, although its push was answered as stored",
        fix="redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
    ),
    Rule(
        check="snapshots", of=Store, severity=WARNING, when="Redis: snapshots, but no `appendonly`",
        holds=lambda it: it.aof is False and it.saves is True, what="Redis keeps snapshots only",
        effect="a crash of Redis loses what was pushed since the last snapshot, and runs again what was done since",
        fix="redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
    ),
    Rule(
        check="fsync-never", of=Store, severity=WARNING, when="Redis: `appendfsync no`",
        holds=lambda it: bool(it.aof) and it.fsync == "no", what="appendfsync is no",
        effect="a machine that dies loses what the kernel had not written, half a minute of jobs or more",
        fix="redis-cli CONFIG SET appendfsync everysec (or always), and the same in redis.conf",
    ),
    Rule(
        check="fsync-everysec", of=Store, severity=NOTE, when="Redis: `appendfsync everysec`, its default",
        holds=lambda it: bool(it.aof) and it.fsync == "everysec", what="appendfsync is everysec",
        effect="a machine that dies loses the last second or two of jobs that were answered as stored",
        fix="appendfsync always where that is too much; each push then waits for the disk",
    ),
    Rule(
        check="store-writes", of=Store, severity=ERROR, when="Redis: its last write of a file failed",
        holds=lambda it: bool(it.write_problem), what="{it.write_problem}",
        effect="Redis refuses writes, or will not have them after a restart",
        fix="look into Redis' log: mostly its disk is full, or it may not write to its folder",
    ),
    Rule(
        check="memory-unbound", of=Store, severity=WARNING, when="Redis: no `maxmemory`",
        holds=lambda it: it.unbound, what="maxmemory is not set",
        effect="a backlog grows until the machine kills Redis; with a bound, pushes are refused and all else goes on",
        fix="redis-cli CONFIG SET maxmemory 4gb (what the machine can spare), and the same in redis.conf",
    ),
    Rule(
        check="store-full", of=Store, severity=ERROR, when="more of its memory or disk is used than `high_water`",
        holds=_is_full, what="{it.percent} are used, pushes are refused from {it.bound} on",
        effect="pushes to queues of importance 3 are refused, at 92 % of 2, at 97 % of 1",
        fix="'pbus queue ls' tells who holds most; free space, or raise maxmemory",
    ),
    Rule(
        check="store-room", of=Store, severity=ERROR, when="SQLite: less is free than `min_free`",
        holds=_lacks_room, what="{it.free} are free for it, min_free is {it.least}",
        effect="every push is refused; what is stored is run",
        fix="free space on the disk of {it.place}",
    ),
    Rule(
        check="store-filling", of=Store, severity=WARNING,
        when="nine tenths of `high_water` are used, or, SQLite, less than twice `min_free` is free",
        holds=_nearly_full, what="{it.percent} are used and {it.free} free; from {it.bound} on pushes are refused",
        effect="a backlog of a few minutes more and producers get errors",
        fix="'pbus queue ls' tells who holds most; free space, or raise maxmemory",
    ),
    Rule(
        check="network-disk", of=Store, severity=ERROR, when="SQLite: its file is on a network file system",
        holds=lambda it: bool(it.network), what="{it.place} is on {it.network}",
        effect="locks and fsync do not hold there: jobs can be lost and the file damaged",
        fix="move node.data_dir to a disk of this machine; for several nodes take a Redis",
    ),
    Rule(
        check="clock", of=Store, severity=ERROR, when=f"Redis: its clock is more than {CLOCK_WRONG_S:g} s off ours",
        holds=lambda it: _clock_off(it) > CLOCK_WRONG_S, what="its clock is {it.clock}",
        effect="delays, retries and ttl are wrong by that much, and so is every time that is shown",
        fix="keep both machines by NTP (timedatectl, chronyc tracking)",
    ),
    Rule(
        check="clock-drifts", of=Store, severity=WARNING, when=f"more than {CLOCK_NOTED_S:g} s",
        holds=lambda it: CLOCK_NOTED_S < _clock_off(it) <= CLOCK_WRONG_S, what="its clock is {it.clock}",
        effect="delays and waits that are shown are wrong by that much",
        fix="keep both machines by NTP (timedatectl, chronyc tracking)",
    ),
    Rule(
        check="store-unread", of=Store, severity=NOTE, when="Redis does not tell something",
        holds=lambda it: bool(it.unread), what="could not look at {it.untold}",
        effect="whether a crash of Redis loses jobs is not known", fix="ACL SETUSER NAME +config|get, or look yourself",
    ),
    # -- doors --------------------------------------------------------------------------------------
    Rule(
        check="plain-door", of=Door, severity=WARNING,
        when="an address that other machines reach has no TLS, and there are passwords",
        holds=lambda it: it.is_reached and it.is_plain and it.asks_passwords,
        what="other machines reach it, without TLS", effect="passwords and jobs can be read on their way",
        fix="[ingest] tls = {{ cert = \"..\", key = \"..\" }}, or listen on 127.0.0.1 and unix sockets only",
    ),
    Rule(
        check="tls-expired", of=Certificate, severity=ERROR, when="a certificate of `[ingest] tls` has expired",
        holds=lambda it: it.left_s is not None and it.left_s <= 0, what="{it.path} expired {it.left} ago",
        effect="clients that check it do not connect", fix="renew it; the bus takes the new file by itself",
    ),
    Rule(
        check="tls-expires", of=Certificate, severity=WARNING, when="or will within 14 days",
        holds=lambda it: it.left_s is not None and 0 < it.left_s < EXPIRES_SOON_S,
        what="{it.path} expires in {it.left}", effect="then clients that check it do not connect",
        fix="renew it; the bus takes the new file by itself",
    ),
    # -- children -----------------------------------------------------------------------------------
    Rule(
        check="few-descriptors", of=Child, severity=ERROR,
        when=f"children may have fewer than {FEW_DESCRIPTORS} files open, and need more",
        holds=lambda it: it.is_short and it.descriptors < FEW_DESCRIPTORS,
        what="each may have {it.descriptors} files open, {it.key} asks for {it.wants}",
        effect="connections are refused under load that is not even high",
        fix="raise 'ulimit -Hn' of who starts the bus (systemd: LimitNOFILE=65536), 'pbus restart'",
    ),
    Rule(
        check="descriptors", of=Child, severity=WARNING, when="or fewer than what is configured needs",
        holds=lambda it: it.is_short and it.descriptors >= FEW_DESCRIPTORS,
        what="each may have {it.descriptors} files open, {it.key} asks for {it.wants}",
        effect="fewer connections than are configured; who comes when none is left has to wait",
        fix="raise 'ulimit -Hn' of who starts the bus (systemd: LimitNOFILE=65536), 'pbus restart'",
    ),
    # -- queues -------------------------------------------------------------------------------------
    Rule(
        check="no-topics", of=Queue, severity=WARNING, when="a queue has no topic",
        holds=lambda it: not it.topics, what="nobody reads it; {it.pushes} were pushed to it so far",
        effect="what is pushed is answered as stored, and is run by nobody",
        fix="add a [queue.{it.queue}.topic.NAME], or remove the queue",
    ),
    Rule(
        check="backlog-full", of=Queue, severity=ERROR, when="a queue has reached `max_backlog`",
        holds=lambda it: it.filled >= 1.0, what="{it.backlog} of {it.max_backlog} jobs wait",
        effect="pushes are refused with -QUEUEFULL",
        fix="'pbus queue show {it.queue}' tells whose jobs wait; 'pbus topic why {it.queue}/TOPIC' tells why",
    ),
    Rule(
        check="backlog-high", of=Queue, severity=WARNING, when="or four fifths of it",
        holds=_filling, what="{it.backlog} of {it.max_backlog} jobs wait",
        effect="at the bound pushes are refused with -QUEUEFULL",
        fix="'pbus queue show {it.queue}' tells whose jobs wait; 'pbus topic why {it.queue}/TOPIC' tells why",
    ),
    Rule(
        check="no-password", of=Queue, severity=WARNING,
        when="a queue has no password, and `listen` has an address that other machines reach",
        holds=lambda it: it.is_reached and not it.has_password, what="it has no password, nor has its system",
        effect="every program of this machine may push to it, and producers on other machines are refused",
        fix="[queue.{it.queue}] password_file = \"..\"",
    ),
    # -- topics -------------------------------------------------------------------------------------
    Rule(
        check="handler-missing", of=Topic, severity=ERROR, when="the handler's file is not there",
        holds=lambda it: bool(it.missing) and it.is_missing_for_sure, what="there is no {it.missing}",
        effect="its jobs wait, or fail until they are dead",
        fix="deploy it, or correct [queue.{it.queue}.topic.{it.topic}]",
    ),
    Rule(
        check="handler-unseen", of=Topic, severity=NOTE, when="or cannot be seen from here",
        holds=lambda it: bool(it.missing) and not it.is_missing_for_sure, what="there is no {it.missing} here",
        effect="only php-fpm knows whether it has it",
        fix="'pbus topic debug {it.path} BODY' calls it; no matter if php-fpm has a root of its own",
    ),
    Rule(
        check="orphaned", of=Topic, severity=WARNING, when="a topic is in the store, not in the configuration",
        holds=lambda it: not it.is_configured, what="it is not in the configuration, {it.waiting} wait in it",
        effect="nobody takes them, and the backlog of {it.queue} grows up to its bound",
        fix="put it back and 'pbus reload', or 'pbus topic rm {it.path} --purge'",
    ),
    Rule(
        check="nobody-fetches", of=Topic, severity=WARNING,
        when=f"a pull topic's oldest job waits for {NOBODY_S / 60:g} min, and nobody has one in hand",
        holds=_nobody_fetches, what="{it.waiting} wait for consumers that fetch them, the oldest for {it.oldest}",
        effect="the backlog of {it.queue} grows; at max_backlog pushes are refused, for its other topics too",
        fix="start a consumer: XREADGROUP GROUP {it.topic} NAME STREAMS {it.queue} >; or remove the topic",
    ),
    Rule(
        check="paused-long", of=Topic, severity=WARNING, when="a topic has been paused for a day",
        holds=lambda it: (it.paused_s or 0.0) >= PAUSED_LONG_S,
        what="it has been paused for {it.paused}, {it.waiting} wait",
        effect="the backlog of {it.queue} grows; at max_backlog pushes are refused, for its other topics too",
        fix="'pbus topic resume {it.path}', or remove the topic",
    ),
    Rule(
        check="pull-endless", of=Topic, severity=WARNING, when="a pull topic has `timeout = \"0s\"`",
        holds=lambda it: it.is_configured and it.is_pulled and not it.timeout_s, what="its consumers have no timeout",
        effect="one that hangs and stays connected keeps its jobs for ever",
        fix="[queue.{it.queue}.topic.{it.topic}] timeout = \"10m\" (longer than any job)",
    ),
    Rule(
        check="pull-holds", of=Topic, severity=NOTE, when="a pull topic has `on_unknown = \"hold\"`",
        holds=lambda it: it.is_configured and it.is_pulled and it.holds,
        what="on_unknown is hold, and clients fetch its jobs",
        effect="each consumer that goes away with jobs in hand leaves all of them as dead letters",
        fix="settle them with 'pbus dead show {it.path}'; on_unknown = \"retry\" hands them to the next consumer",
    ),
    # -- backends -----------------------------------------------------------------------------------
    Rule(
        check="backend-away", of=Pool, severity=ERROR, when="nobody answers at an address of a backend",
        holds=lambda it: bool(it.away), what="nobody is reached: {it.away}",
        effect="jobs of {it.paths} wait, unless another address of it takes them",
        fix="start it, or correct the address; for a socket, listen.owner and listen.mode of the pool",
    ),
    Rule(
        check="post-unread", of=Pool, severity=ERROR, when="php: `enable_post_data_reading` is off",
        holds=lambda it: it.reads_post is False, what="enable_post_data_reading is off",
        effect="scripts find nothing in $_POST: no job of {it.paths} is ever acknowledged",
        fix="php_admin_flag[enable_post_data_reading] = on {it.where}",
    ),
    Rule(
        check="post-small", of=Pool, severity=ERROR, when="php: `post_max_size` is less than the backend's `max_post`",
        holds=_post_too_small, what="post_max_size is {it.post}, pbus sends up to {it.max_post}",
        effect="php throws larger jobs away before the script runs; they fail until they are dead",
        fix="php_admin_value[post_max_size] = {it.wanted_post} {it.where}, "
        "or {it.key} max_post = \"{it.wanted_max_post}\"",
    ),
    Rule(
        check="body-large", of=Pool, severity=WARNING,
        when="the port takes larger bodies than the backend's `max_post`",
        holds=lambda it: it.is_php and it.max_body_bytes > it.max_post_bytes > 0,
        what="ingest.max_body is {it.max_body}, its max_post {it.max_post}",
        effect="larger jobs are answered as stored, and become dead letters without a call",
        fix="a smaller ingest.max_body, or {it.key} max_post (and php's post_max_size) above it",
    ),
    Rule(
        check="terminate-none", of=Pool, severity=WARNING, when="php-fpm: `request_terminate_timeout` is 0",
        holds=lambda it: it.terminate_s == 0, what="request_terminate_timeout is 0",
        effect="a script that hangs keeps its process for ever; when pbus gives up, the job runs beside it once more",
        fix="request_terminate_timeout = {it.wanted_terminate} {it.where}: shorter than the timeout of its topics",
    ),
    Rule(
        check="terminate-late", of=Pool, severity=WARNING,
        when="or not shorter than the shortest `timeout` of its topics",
        holds=_runs_on, what="request_terminate_timeout is {it.terminate}, a topic's timeout {it.timeout}",
        effect="pbus gives up on a call that still runs, so the job runs beside itself",
        fix="request_terminate_timeout = {it.wanted_terminate} {it.where}, or a longer timeout of the topics",
    ),
    Rule(
        check="control-none", of=Pool, severity=WARNING, when="php-fpm: `process_control_timeout` is 0",
        holds=lambda it: it.control_s == 0, what="process_control_timeout is 0",
        effect="each reload of php-fpm cuts off running calls; it counts as an attempt, and the job runs twice",
        fix="process_control_timeout = {it.wanted_control} in the global section of php-fpm",
    ),
    Rule(
        check="control-short", of=Pool, severity=WARNING,
        when="or shorter than calls take: 99 of 100 in the last day, or one that is seen",
        holds=_reload_cuts, what="process_control_timeout is {it.control}, calls take up to {it.slowest}",
        effect="a reload of php-fpm cuts off such calls; it counts as an attempt, and the job runs twice",
        fix="process_control_timeout = {it.wanted_control} in the global section of php-fpm",
    ),
    Rule(
        check="few-children", of=Pool, severity=WARNING,
        when="php-fpm: `pm.max_children` is less than the backend's connections and its `reserve`",
        holds=_few_children,
        what="pm.max_children is {it.max_children}, pbus may open {it.connections} and {it.reserve} are for others",
        effect="calls queue up before php-fpm, and the web site behind the same pool with them",
        fix="{it.key} max_connections = {it.room}, or pm.max_children = {it.needed} {it.where}",
    ),
    Rule(
        check="pool-unread", of=Pool, severity=NOTE, when="something of php-fpm cannot be looked at",
        holds=lambda it: it.is_php and not it.away and bool(it.unread), what="could not look at {it.unknown}",
        effect="what would be wrong with that is not known",
        fix="--script PATH of pbus-doctor.php (contrib/php) and status_path tell some; 'php-fpm -tt' there the rest",
    ),
)
"""In the order in which they are told."""
