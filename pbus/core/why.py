"""
Why the jobs of a topic are not done, or not seen: a list of rules, asked from the top. Pure: facts in, reasons out.

    rule      holds (facts) -> bool      text: what is so      todo: what to do next, mostly a command
              ends: whoever it holds for needs no further rule
              holds_up: it keeps a job that is ready from being run, so it is told of single jobs too (why_job.py)

Rule: the first reason is the one to look at first. What is not known is None, and no rule holds because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

FAILED_MANY: Final = 3
"""So many failed AUTHs of one address within ten minutes are worth the first line."""
STORED: Final = "stored"
"""Handler of a topic that has left the configuration and finishes what it has."""
_MOST_ADDRESSES: Final = 3

F = TypeVar("F")
"""The facts that rules are asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAuth:
    """
    Who failed to prove who they are.

    Attributes:
        address: Where they are.
        identity: Whose name they gave; empty: a name that nobody bears.
        tried: That name, where it may be shown.
        recent: How often within the last ten minutes.
        ago_s: Since the last time.
    """

    address: str
    identity: str
    tried: str
    recent: int
    ago_s: float


@dataclass(frozen=True, slots=True)
class Address:
    """Where a handler is called: ``up``, ``busy``, ``probing`` or ``open`` (left alone for a while), and why."""

    name: str
    state: str
    reason: str = ""

    @property
    def is_left_alone(self) -> bool:
        """Its circuit is open: no job is spent on it."""
        return self.state in ("open", "probing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    What is known of a topic.

    Attributes:
        queue, topic, system: Its name, and whose its queue is.
        handler: ``fastcgi``, ``http``, ``python``, ``command``, ``pull``; empty: it is not in the configuration;
            STORED: the same, and the handler that it had last goes on.
        bus: ``running``, ``starting``, ``stopping``, ``stopped``, or ``unknown``: it does not answer us.
        store_away: Why the store cannot be read; empty: it can.
        state, reason: Of the topic, as ``pbus status`` says.
        paused: By a person; paused_s: how long ago; paused_by: who, as far as that is known.
        ready, running, delayed, dead: Deliveries; None: not known.
        waiting: Of the ready ones, those whose key another one holds.
        oldest_wait_s, done_total, pushed_total: See ``storage.driver``; None: not known.
        slots, most: Calls or processes now, and at most (with ``pull``: claims); 0: nobody is counted.
        limited_by: What keeps it from having more, as the autoscaler says.
        rate_per_s: Jobs a second that it may begin on this node; 0: no bound.
        addresses: Where its handler is called, of ``fastcgi`` and ``http``.
        backlog, max_backlog: Of the queue, jobs; 0: no bound.
        failed_auths: Of the last hour, the latest first.
        shadow_of, sample: The topic that it shadows, and of how many of the jobs ("1%"); empty: it is no shadow.
    """

    queue: str
    topic: str
    system: str = "default"
    handler: str
    bus: str = "running"
    store_away: str = ""
    state: str = "running"
    reason: str = ""
    paused: bool = False
    paused_s: float | None = None
    paused_by: str = ""
    ready: int | None = None
    running: int | None = None
    delayed: int | None = None
    dead: int | None = None
    waiting: int = 0
    oldest_wait_s: float | None = None
    done_total: int | None = None
    pushed_total: int | None = None
    slots: int = 0
    most: int = 0
    limited_by: str = ""
    rate_per_s: float = 0.0
    addresses: Sequence[Address] = ()
    backlog: int | None = None
    max_backlog: int = 0
    failed_auths: Sequence[FailedAuth] = ()
    shadow_of: str = ""
    sample: str = ""

    @property
    def path(self) -> str:
        """``gift/credit``."""
        return f"{self.queue}/{self.topic}"


@dataclass(frozen=True, slots=True)
class Reason:
    """*why* is a stable word, *text* a sentence, *todo* what to do next (mostly a command)."""

    why: str
    text: str
    todo: str


@dataclass(frozen=True, slots=True)
class Rule(Generic[F]):
    """One row of a list; *text* and *todo* name words of the facts in braces."""

    why: str
    holds: Callable[[F], bool]
    text: str
    todo: str
    ends: bool = False
    holds_up: bool = False


def told(rules: Sequence[Rule[F]], facts: F, words: Mapping[str, str]) -> list[Reason]:
    """Those of *rules* that hold, in their order, as far as one that ends."""
    found = list[Reason]()
    for rule in rules:
        if rule.holds(facts):
            found.append(Reason(rule.why, rule.text.format_map(words), rule.todo.format_map(words)))
            if rule.ends:
                break
    return found


def reasons(facts: Facts) -> list[Reason]:
    """Every reason that holds, the most important first; at least one."""
    *rules, last = RULES
    words = words_of(facts)
    return told(rules, facts, words) or told([last], facts, words)


def holds_up(facts: Facts) -> list[Reason]:
    """What keeps a job that is ready there from being run at once; it may be nothing."""
    return told([rule for rule in RULES if rule.holds_up], facts, words_of(facts))


# -- who is not let in ----------------------------------------------------------------------------


def suspects(facts: Facts) -> list[tuple[FailedAuth, int]]:
    """
    Addresses that failed often lately as the queue, its topic, its system or a name that nobody bears.

    Each with what tells most of its failures (a name that somebody bears, then the latest) and how many there were,
    the most first.
    """
    ours = ("", facts.queue, facts.path, facts.system)
    rows: dict[str, list[FailedAuth]] = {}
    for row in facts.failed_auths:
        if row.identity in ours and row.recent:
            rows.setdefault(row.address, []).append(row)
    telling = [min(those, key=lambda row: (not row.identity, row.ago_s)) for those in rows.values()]
    counted = [(row, sum(each.recent for each in rows[row.address])) for row in telling]
    return sorted(((row, count) for row, count in counted if count >= FAILED_MANY), key=lambda pair: -pair[1])


def _failed_auths(facts: Facts) -> str:
    many = suspects(facts)
    told = [
        f"{row.address} failed to authenticate {count} times in 10 min, {_as_whom(row)}, last {span(row.ago_s)} ago"
        for row, count in many[:_MOST_ADDRESSES]
    ]
    more = f"; so did {len(many) - _MOST_ADDRESSES} more addresses" if len(many) > _MOST_ADDRESSES else ""
    return "; ".join(told) + more


def _as_whom(row: FailedAuth) -> str:
    if row.identity:
        return f"as {row.identity}"
    return f"as {row.tried!r}, a name that nobody bears" if row.tried else "without a name that anybody bears"


def _whose_password(facts: Facts) -> str:
    many = suspects(facts)
    if not many:
        return ""
    row = many[0][0]
    if not row.identity:
        return f"AUTH takes a name and its password: {facts.queue} to push, {facts.path} to pull, or a system"
    if row.identity == facts.system:
        key = f"system.{row.identity}"
    else:
        queue, slash, topic = row.identity.partition("/")
        key = f"queue.{queue}.topic.{topic}" if slash else f"queue.{queue}"
    return f"compare its password with [{key}] ('pbus config show {key}' says where)"


# -- words ----------------------------------------------------------------------------------------


def words_of(facts: Facts) -> dict[str, str]:
    """What sentences about a topic are made of."""
    limit = f"; limited by {facts.limited_by}" if facts.limited_by not in ("", "none", "max") else ""
    return {
        "queue": facts.queue, "topic": facts.topic, "path": facts.path, "bus": facts.bus, "away": facts.store_away,
        "state": facts.state, "because": f": {facts.reason}" if facts.reason else "",
        "ready": _jobs(facts.ready), "waiting": _waiting(facts.ready), "resting": _waiting(facts.delayed),
        "running": str(facts.running or 0), "rate": f"{facts.rate_per_s:g}",
        "dead": "1 dead letter" if facts.dead == 1 else f"{facts.dead or 0} dead letters",
        "done": str(facts.done_total or 0), "most": str(facts.most), "limit": limit,
        "oldest": f", the oldest for {span(facts.oldest_wait_s)}" if facts.ready else "",
        "backlog": str(facts.backlog), "bound": str(facts.max_backlog), "paused": _paused(facts),
        "alone": _left_alone(facts), "failed": _failed_auths(facts), "password": _whose_password(facts),
        "shadow_of": facts.shadow_of, "sample": facts.sample,
    }


def span(seconds: float | None) -> str:
    """``40 s``, ``3 min``, ``2 h``: one number is enough to know what to do."""
    seconds = max(0.0, seconds or 0.0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _jobs(count: int | None) -> str:
    return "1 job" if count == 1 else f"{count or 0} jobs"


def _waiting(count: int | None) -> str:
    return f"{_jobs(count)} wait{'s' if count == 1 else ''}"


def _paused(facts: Facts) -> str:
    if facts.paused_s is None:
        return "is paused"
    return f"was paused {f'by {facts.paused_by} ' if facts.paused_by else ''}{span(facts.paused_s)} ago"


def _left_alone(facts: Facts) -> str:
    """``10.0.0.7:9000 (Connection refused)`` and further ones."""
    alone = [address for address in facts.addresses if address.is_left_alone]
    news = [each.reason and each.reason not in facts.reason for each in alone]
    named = [f"{each.name} ({each.reason})" if new else each.name for each, new in zip(alone, news, strict=True)]
    named = named[:_MOST_ADDRESSES]
    more = [f"{len(alone) - _MOST_ADDRESSES} more"] if len(alone) > _MOST_ADDRESSES else []
    return ", ".join(named + more)


# -- conditions -----------------------------------------------------------------------------------


def _is(*states: str) -> Callable[[Facts], bool]:
    """The bus runs, nobody has paused the topic, and it is in one of *states*."""
    return lambda facts: facts.bus == "running" and facts.state in states and not facts.paused


def _does_not_run(facts: Facts) -> bool:
    return facts.bus == "running" and facts.state not in (*_TOLD, "running", "draining") and not facts.paused


def _circuit_open(facts: Facts) -> bool:
    return _is("down")(facts) and any(address.is_left_alone for address in facts.addresses)


def _down(facts: Facts) -> bool:
    return _is("down")(facts) and not _circuit_open(facts)


def _partly_alone(facts: Facts) -> bool:
    return _is("running")(facts) and _waits(facts) and any(address.is_left_alone for address in facts.addresses)


def _waits(facts: Facts) -> bool:
    return bool(facts.ready)


def _full(facts: Facts) -> bool:
    if facts.shadow_of:
        return False  # it has no part in that
    return bool(facts.max_backlog and facts.backlog is not None and facts.backlog >= facts.max_backlog)


def _at_limit(facts: Facts) -> bool:
    return _waits(facts) and bool(facts.most) and (facts.running or 0) >= facts.most


def _keys_busy(facts: Facts) -> bool:
    """Others could be run, and nothing else is ready."""
    return _waits(facts) and facts.waiting == facts.ready and not _at_limit(facts)


def _at_rate(facts: Facts) -> bool:
    """Jobs wait although there is room: its rate does not let more begin."""
    held = _at_limit(facts) or _keys_busy(facts)
    return _is("running")(facts) and bool(facts.rate_per_s) and _waits(facts) and not held


def _pulled(facts: Facts) -> bool:
    return facts.handler == "pull"


def _nobody_there(facts: Facts) -> bool:
    works = facts.bus == "running" and facts.state == "running" and not facts.paused
    return works and facts.handler in ("python", "command") and _waits(facts) and not facts.slots


def _at_rest(facts: Facts) -> bool:
    return (facts.ready, facts.running, facts.delayed) == (0, 0, 0)


def _works(facts: Facts) -> bool:
    in_order = facts.bus == "running" and facts.state == "running" and not facts.paused
    return in_order and bool(facts.running or facts.ready)


_TOLD: Final = ("fatal", "rollout-failed", "braked", "down", "paused")
"""States that have rules of their own."""

RULES: Final[tuple[Rule[Facts], ...]] = (
    Rule("auth", lambda f: bool(suspects(f)), "{failed}: what is said after that is refused", "{password}"),
    Rule("stopped", lambda f: f.bus == "stopped", "the bus does not run here", "'pbus start'", holds_up=True),
    Rule("unknown", lambda f: f.bus == "unknown", "the bus does not answer", "'pbus status' says why", holds_up=True),
    Rule(
        "bus", lambda f: f.bus in ("starting", "stopping"), "the bus is {bus}", "'pbus status' says what it does",
        holds_up=True,
    ),
    Rule(
        "store", lambda f: bool(f.store_away), "its store is away: {away}",
        "pushes are refused until it is back; 'pbus status' shows when it is", ends=True, holds_up=True,
    ),
    Rule(
        "orphaned", lambda f: not f.handler, "{path} is not in the configuration, nobody takes its {ready}",
        "put it back and 'pbus reload', or 'pbus topic rm {path} --purge'", ends=True, holds_up=True,
    ),
    Rule(
        "finishing", lambda f: f.handler == STORED,
        "{path} is not in the configuration any more: what it has is finished by the handler that it had",
        "'pbus topic rm {path} --purge' ends it",
    ),
    Rule(
        "full", _full, "{queue} is full: it holds {backlog} of {bound} jobs, pushes are refused",
        "'pbus queue show {queue}' tells whose jobs wait",
    ),
    Rule("paused", lambda f: f.paused, "{path} {paused}, {waiting}", "'pbus topic resume {path}'", holds_up=True),
    Rule(
        "fatal", _is("fatal"), "{path} is given up, its processes ended again and again{because}",
        "repair its code, then 'pbus topic restart {path}'", holds_up=True,
    ),
    Rule(
        "rollout", _is("rollout-failed"), "the new code of {path} is not good, the old goes on{because}",
        "repair its code, then 'pbus topic restart {path}'",
    ),
    Rule(
        "braked", _is("braked"), "{path} is braked, one job at a time is tried{because}",
        "it is probed by itself; 'pbus tail errors --topic {path}' shows what fails, 'pbus topic debug {path} BODY' "
        "tries it", holds_up=True,
    ),
    Rule(
        "circuit", _circuit_open, "{path} is down{because}; no job is spent on {alone}",
        "'pbus backend ls' shows its addresses; they are probed, and it goes on by itself when one answers",
        holds_up=True,
    ),
    Rule(
        "down", _down, "{path} is down{because}", "'pbus tail {path}' shows what its processes say", holds_up=True,
    ),
    Rule(
        "ping", _is("paused"), "the handler does not take {path}{because}",
        "'pbus topic test {path} BODY' shows its whole answer; it is asked again by itself", holds_up=True,
    ),
    Rule(
        "state", _does_not_run, "{path} is {state}{because}", "'pbus tail {path}' shows what its processes say",
        holds_up=True,
    ),
    Rule(
        "never", lambda f: f.pushed_total == 0, "nothing was ever pushed to {queue}",
        "'pbus push {queue} BODY --wait' tries it", ends=True,
    ),
    Rule(
        "nobody takes", lambda f: _pulled(f) and _waits(f) and not f.running,
        "{waiting} for consumers that fetch them{oldest}, and none is in anybody's hands",
        "start one: RPOP {path}, or XREADGROUP GROUP {topic} NAME STREAMS {queue} >", holds_up=True,
    ),
    Rule(
        "open claims", lambda f: _pulled(f) and _at_limit(f),
        "its consumers have {running} jobs in hand that are not acknowledged, max_open is {most}; {waiting}{oldest}",
        "XPENDING {queue} {topic} tells who has them; XACK ends one", holds_up=True,
    ),
    Rule(
        "no consumers", _nobody_there, "{waiting}{oldest}, and {path} has no process",
        "'pbus topic show {path}' says how many it may have, 'pbus topic scale {path} N' orders some", holds_up=True,
    ),
    Rule(
        "limit", lambda f: not _pulled(f) and _at_limit(f),
        "all {most} that it may have at once are busy, {waiting}{oldest}{limit}",
        "a larger concurrency; for now 'pbus topic scale {path} N --for 1h'", holds_up=True,
    ),
    Rule(
        "keys", _keys_busy, "{waiting} for their keys, which others hold that run or wait for their next try{oldest}",
        "'pbus job why ID' says which one a job waits for",
    ),
    Rule(
        "rate", _at_rate, "{waiting}{oldest}: no more than {rate} a second may begin here",
        "a higher rate in its section, or a node more", holds_up=True,
    ),
    Rule(
        "addresses", _partly_alone, "a part of its addresses is left alone: {alone}",
        "'pbus backend ls' shows them; they are probed by themselves", holds_up=True,
    ),
    Rule(
        "later", lambda f: bool(f.delayed), "{resting} for a delay to be over, or for the next try",
        "'pbus tail errors --topic {path}' shows what fails, 'pbus topic show {path}' what it died of",
    ),
    Rule(
        "dead", lambda f: bool(f.dead), "{dead}, which nobody tries again by themselves",
        "'pbus dead show {path}' tells why, 'pbus dead retry {path} --all' tries them again",
    ),
    Rule(
        "shadow", lambda f: bool(f.shadow_of),
        "{path} is a shadow of {shadow_of}: it sees {sample} of the jobs and tries each once; nobody waits for it, and "
        "what retention drops before it comes is skipped", "'pbus topic show {path}' tells what it answers differently",
    ),
    Rule("done", _at_rest, "nothing waits: {done} done so far", "'pbus tail {path}' follows what comes next"),
    Rule("works", _works, "it works: {running} run, {waiting}{oldest}", "'pbus tail {path}' follows it"),
    Rule("else", lambda _: True, "{path} is {state}, {waiting}{oldest}", "'pbus topic show {path}' has all of it"),
)
"""From the top. The last one holds for everybody, and is told when nothing else is."""
