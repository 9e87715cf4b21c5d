"""
Alarms: what is bad for long enough, who hears of it, when it is over. Pure: readings in, decisions out.

    reading --at its limit for ``for_s``--> firing --below ``clear`` of it for a while--> over, told, forgotten
                                             |  told to those on call, all that came together in one message
                                             |  not acknowledged for ``escalate_after_s``: told once more, to others
                                             +- silenced: it stands in the list; told when the silence ends, if it lasts

Rule: what an alarm is stands in ``KINDS``, as data. A reading that nobody could take (None) changes nothing; one that
is not taken any more (its rule is gone, it is not so any more) is a good one. Times are Unix time.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

MOST: Final = 5_000
"""Alarms at once; what comes beyond them is not told, as whoever reads the first message looks anyway."""
KEEP_S: Final = 3_600.0
"""How long one that is over stays in the list."""
REFRESH_S: Final = 30.0
"""How often the value of one that goes on is kept."""

_SLACK_S: Final = 0.2
"""Looks are a second apart, more or less."""
_SLOWLY: Final = 3.0

FIRING: Final = "firing"
OVER: Final = "over"
ACKED: Final = "acked"
SILENCED: Final = "silenced"
ESCALATED: Final = "escalated"
TEST: Final = "test"
NOBODY: Final = "-"
"""Told, but there was nobody to tell."""


@dataclass(frozen=True, slots=True)
class Kind:
    """
    What can be wrong.

    Attributes:
        unit: Of values and limits: ``s``, ``jobs``, ``%``; empty: it is so, or it is not.
        text: A sentence; *subject*, *value* and *limit* in braces.
        todo: The next command, where the cause does not know a better one; *topic* is the subject up to a blank.
        for_s: It is bad for so long before it fires.
        is_slow: It follows what is so with a delay, or comes and goes: its end is waited for three times as long.
    """

    name: str
    unit: str
    text: str
    todo: str
    for_s: float = 0.0
    is_slow: bool = False


KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (
    Kind("oldest_wait", "s", "{subject}: the oldest job waits for {value}, the limit is {limit}",
         "'pbus topic why {subject}'"),
    Kind("backlog", "jobs", "{subject}: {value} wait, the limit is {limit}", "'pbus topic why {subject}'"),
    Kind("gone_in", "s", "{subject}: at this rate its backlog is gone {value}, the limit is {limit}",
         "'pbus topic show {subject}' says how many it may have", for_s=15.0, is_slow=True),
    Kind("failed_percent", "%", "{subject}: {value} of its attempts failed, the limit is {limit}",
         "'pbus dead show {subject}', 'pbus tail errors'", is_slow=True),
    Kind("latency_p90", "s", "{subject}: one of ten attempts takes longer than {value}, the limit is {limit}",
         "'pbus topic stats {subject}'", is_slow=True),
    Kind("dead_growth", "jobs", "{subject}: {value} became dead letters within 10 min, the limit is {limit}",
         "'pbus dead show {subject}' tells why"),
    Kind("fatal", "", "{subject} is given up: its processes end again and again",
         "repair its code, then 'pbus topic restart {subject}'"),
    Kind("circuit", "", "backend {subject} is left alone: it does not answer", "'pbus backend ls'", for_s=2.0,
         is_slow=True),
    Kind("error_back", "", "{subject}: an error that was settled is back", "'pbus dead show {topic}'"),
    Kind("node", "", "node {subject} gives no sign of life", "'pbus status' there"),
    Kind("storage", "", "storage {subject} does not answer, or is not fit to keep jobs", "'pbus status', 'pbus doctor'",
         for_s=2.0),
    Kind("store_fill", "%", "storage {subject} is full to {value}, the limit is {limit}",
         "'pbus doctor'; 'pbus queue ls' shows whose jobs wait"),
)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """
    One look at one thing.

    Attributes:
        kind: A row of ``KINDS``.
        subject: ``queue/topic``, a node, a backend, a storage.
        value: None: nobody knows; infinity: never.
        limit: At and above it is bad; of a kind without unit 1.
        system: Whose it is; empty: everybody's.
    """

    kind: str
    subject: str
    value: float | None
    limit: float = 1.0
    system: str = ""

    @property
    def id(self) -> str:
        """``oldest_wait:gift/credit``."""
        return f"{self.kind}:{self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """What else is known when an alarm fires: *cause*, who is *affected*, *todo*; each may be empty."""

    cause: str = ""
    affected: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """
    One thing that is bad, or was.

    Attributes:
        value, worst: When it was read last (``at_s``), and the worst so far.
        since_s: When it began to be bad.
        fired_s, over_s: When it fired, and was over; 0: not yet.
        told, told_over, told_up: Messages by which it was told, that it is over, and further up; empty: not yet.
        told_s: When it was told first.
    """

    kind: str
    subject: str
    system: str
    limit: float
    value: float
    worst: float
    since_s: float
    fired_s: float
    at_s: float
    over_s: float = 0.0
    cause: str = ""
    affected: str = ""
    todo: str = ""
    told: str = ""
    told_s: float = 0.0
    told_over: str = ""
    told_up: str = ""

    @property
    def id(self) -> str:
        """``oldest_wait:gift/credit``."""
        return f"{self.kind}:{self.subject}"

    @property
    def text(self) -> str:
        """What is so, how much, and against which limit."""
        kind = KINDS[self.kind]
        return kind.text.format(
            subject=self.subject, value=shown(self.worst if self.over_s else self.value, kind),
            limit=shown(self.limit, kind),
        )

    @property
    def next(self) -> str:
        """What to do."""
        return self.todo or KINDS[self.kind].todo.format(subject=self.subject, topic=self.subject.partition(" ")[0])

    def fields(self) -> dict[str, Any]:
        """For a document; infinity is None."""
        return {name: _finite(value) for name, value in dataclasses.asdict(self).items() if value not in ("", 0.0)}


def read(fields: Mapping[str, Any]) -> Alarm | None:
    """The alarm of ``fields``; None: of a kind that this version does not know, or none."""
    if fields.get("kind") not in KINDS:
        return None
    known = {one.name: fields[one.name] for one in dataclasses.fields(Alarm) if one.name in fields}
    empty: dict[str, Any] = dict.fromkeys(("limit", "value", "worst", "since_s", "fired_s", "at_s"), 0.0)
    try:
        return Alarm(**{"system": "", **empty, **{
            name: math.inf if value is None else value for name, value in known.items()
        }})
    except TypeError:
        return None


@dataclass(frozen=True, slots=True)
class Ack:
    """*by* knows of the alarm *id* that fired at *fired_s*."""

    id: str
    fired_s: float
    by: str = ""
    note: str = ""
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody is told of alarms whose subject matches *glob* (and whose kind is *kind*, if any) until *until_s*."""

    glob: str
    until_s: float
    kind: str = ""
    by: str = ""
    note: str = ""

    def covers(self, alarm: Alarm, now_s: float) -> bool:
        """Whether *alarm* is not told now."""
        if now_s >= self.until_s or self.kind not in ("", alarm.kind):
            return False
        return fnmatch.fnmatchcase(alarm.subject, self.glob) or self.glob == alarm.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    When something is good again, and who hears of what.

    Attributes:
        clear, clear_s: Good is below that part of the limit, for so long (what is slow: three times as long).
        group_wait_s: What comes within that time is told together.
        escalate_after_s: Told further up, to *escalate_to*, when nobody acknowledged it for so long; 0: never.
        oncall: System -> notifiers; others, and what is nobody's, go to *default*.
    """

    clear: float = 0.8
    clear_s: float = 5.0
    group_wait_s: float = 1.0
    escalate_after_s: float = 900.0
    escalate_to: tuple[str, ...] = ()
    oncall: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default: tuple[str, ...] = ()

    def ends_after_s(self, kind: Kind) -> float:
        """An alarm of that *kind* is over when it was good for so long."""
        return self.clear_s * (_SLOWLY if kind.is_slow else 1.0)

    def hears(self, status: str, alarm: Alarm) -> tuple[str, ...]:
        """Names of notifiers."""
        first = self.oncall.get(alarm.system) or self.default
        if status == ESCALATED:
            return self.escalate_to
        if status == OVER and alarm.told_up not in ("", NOBODY):
            return tuple(dict.fromkeys((*first, *self.escalate_to)))
        return first


@dataclass(frozen=True, slots=True)
class Batch:
    """Alarms to tell together: that they are *firing*, *over* or *escalated*."""

    status: str
    alarms: tuple[Alarm, ...]

    def by_notifier(self, policy: Policy) -> dict[str, list[Alarm]]:
        """Notifier -> what it is told of."""
        found: dict[str, list[Alarm]] = {}
        for alarm in self.alarms:
            for name in policy.hears(self.status, alarm):
                found.setdefault(name, []).append(alarm)
        return found


_FIELD: Final = {FIRING: "told", OVER: "told_over", ESCALATED: "told_up"}


class Board:
    """
    All alarms. One owner: whoever decides.

    Attributes:
        alarms: By id, those that are over too.
        changed: Ids of those that are to be kept anew, or dropped.
    """

    def __init__(self, policy: Policy, alarms: Iterable[Alarm] = ()) -> None:
        self._policy = policy
        self.alarms = {alarm.id: alarm for alarm in alarms}
        self.changed: set[str] = set()
        self.acks: Mapping[str, Ack] = {}
        self.silences: Sequence[Silence] = ()
        self._bad_since: dict[str, float] = {}
        self._good_since: dict[str, float] = {}

    # -- what is so -----------------------------------------------------------------------------

    def look(self, readings: Iterable[Reading], now_s: float, because: Callable[[Reading], Because]) -> None:
        """All *readings* of this moment; *because* is asked once for each that fires."""
        seen = set()
        for reading in readings:
            seen.add(reading.id)
            if reading.value is not None:
                self._judge(reading, reading.value, now_s, because)
        for alarm in [each for name, each in self.alarms.items() if not each.over_s and name not in seen]:
            self._calm(alarm, alarm.value, now_s)
        for name in self._bad_since.keys() - seen:
            del self._bad_since[name]

    def _judge(self, reading: Reading, value: float, now_s: float, because: Callable[[Reading], Because]) -> None:
        kind, alarm = KINDS[reading.kind], self.alarms.get(reading.id)
        if alarm is None or alarm.over_s:
            if value < reading.limit:
                self._bad_since.pop(reading.id, None)
                return
            since_s = self._bad_since.setdefault(reading.id, now_s)
            if now_s - since_s >= kind.for_s and (alarm or len(self.alarms) < MOST):
                self._fire(reading, value, since_s, now_s, because(reading))
            return
        if value >= reading.limit * self._policy.clear:
            self._good_since.pop(reading.id, None)
        elif self._calm(alarm, value, now_s):
            return
        alarm = replace(alarm, value=value, worst=max(alarm.worst, value), limit=reading.limit)
        self.alarms[alarm.id] = alarm
        if now_s - alarm.at_s >= REFRESH_S:
            self._put(replace(alarm, at_s=now_s))

    def _calm(self, alarm: Alarm, value: float, now_s: float) -> bool:
        """It is not bad now; whether it is over by that."""
        since_s = self._good_since.setdefault(alarm.id, now_s)
        if now_s - since_s < self._policy.ends_after_s(KINDS[alarm.kind]):
            return False
        del self._good_since[alarm.id]
        self._put(replace(alarm, over_s=now_s, value=value, at_s=now_s))
        return True

    def _fire(self, reading: Reading, value: float, since_s: float, now_s: float, because: Because) -> None:
        self._bad_since.pop(reading.id, None)
        self._put(Alarm(
            kind=reading.kind, subject=reading.subject, system=reading.system, limit=reading.limit, value=value,
            worst=value, since_s=since_s, fired_s=now_s, at_s=now_s, cause=because.cause, affected=because.affected,
            todo=because.todo,
        ))

    def _put(self, alarm: Alarm) -> None:
        self.alarms[alarm.id] = alarm
        self.changed.add(alarm.id)

    # -- who hears of it ------------------------------------------------------------------------

    def due(self, now_s: float) -> list[Batch]:
        """What is to be told now; ``told`` says that it will be. What needs telling no more is dropped."""
        for alarm in list(self.alarms.values()):
            if alarm.over_s and (not alarm.told or now_s - alarm.over_s >= KEEP_S):
                del self.alarms[alarm.id]
                self.changed.add(alarm.id)
        wanted = {
            FIRING: [alarm for alarm in self.alarms.values() if self._is_news(alarm, now_s)],
            OVER: [alarm for alarm in self.alarms.values() if alarm.over_s and not alarm.told_over],
            ESCALATED: [alarm for alarm in self.alarms.values() if self._is_left(alarm, now_s)],
        }
        begins: dict[str, Callable[[Alarm], float]] = {
            FIRING: lambda alarm: alarm.fired_s, OVER: lambda alarm: alarm.over_s, ESCALATED: lambda _: 0.0,
        }
        return [
            Batch(status, tuple(alarms)) for status, alarms in wanted.items()
            if alarms and now_s - min(map(begins[status], alarms)) >= self._policy.group_wait_s - _SLACK_S
        ]

    def told(self, batch: Batch, message: str, now_s: float) -> None:
        """*batch* is told by *message*."""
        for alarm in batch.alarms:
            by = message if self._policy.hears(batch.status, alarm) else NOBODY
            more: dict[str, Any] = {_FIELD[batch.status]: by, "told_s": alarm.told_s or now_s}
            self._put(replace(self.alarms[alarm.id], **more))

    def told_by(self, message: str, status: str) -> Batch:
        """What *message* tells, made again from what is kept."""
        name = _FIELD[status]
        return Batch(status, tuple(alarm for alarm in self.alarms.values() if getattr(alarm, name) == message))

    def is_silent(self, alarm: Alarm, now_s: float) -> bool:
        """Nobody is told of it now."""
        return any(silence.covers(alarm, now_s) for silence in self.silences)

    def state(self, alarm: Alarm, now_s: float) -> str:
        """``firing``, ``acked`` (somebody has it in hand), ``silenced`` (nobody is told) or ``over``."""
        if alarm.over_s:
            return OVER
        return ACKED if self.ack(alarm) else SILENCED if self.is_silent(alarm, now_s) else FIRING

    def ack(self, alarm: Alarm) -> Ack | None:
        """Who knows of it; nobody of a former one of its name."""
        found = self.acks.get(alarm.id)
        return found if found is not None and found.fired_s == alarm.fired_s else None

    def _is_news(self, alarm: Alarm, now_s: float) -> bool:
        if alarm.over_s or alarm.told:
            return False
        return self.ack(alarm) is None and not self.is_silent(alarm, now_s)

    def _is_left(self, alarm: Alarm, now_s: float) -> bool:
        """Told to those on call, and nobody has it in hand."""
        policy = self._policy
        if not policy.escalate_after_s or not policy.escalate_to or alarm.over_s or alarm.told_up or not alarm.told:
            return False
        if now_s - alarm.told_s < policy.escalate_after_s:
            return False
        return self.ack(alarm) is None and not self.is_silent(alarm, now_s)


# -- words ----------------------------------------------------------------------------------------


def shown(value: float, kind: Kind) -> str:
    """*value* in the unit of *kind*: ``80 s``, ``12 min``, ``never``, ``1200 jobs``, ``12 %``, ``within 20 min``."""
    if kind.unit == "s":
        never, before = ("never", "within ") if kind.name == "gone_in" else ("for ever", "")
        return never if math.isinf(value) else before + span(value)
    if kind.unit == "jobs":
        return "1 job" if value == 1 else f"{value:.0f} jobs"
    return f"{value:.3g} %" if kind.unit == "%" else ""


def span(seconds: float) -> str:
    """``250 ms``, ``40 s``, ``3 min``, ``2 h``, ``3 d``: one number."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.1f}".removesuffix(".0") + " s"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value
