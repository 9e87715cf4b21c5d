"""
What alarms are decided by: readings of every topic that has bounds, and of what concerns the whole store.

    looks (numbers of the store) ----------+
    histograms (of this node) -------------+--> Trend of each topic --> readings
    statistics (of the other nodes) -------+
    conditions (of all nodes), beats, fill -------------------> readings

Why it is so is asked of core/why.py, once, when an alarm fires. Nobody is told of shadow topics: they only
compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pbus.config.schema import Alarm, Queue, System, Topic, TopicAlarm
from pbus.core.alarms import Because, Reading
from pbus.core.notices import moment
from pbus.core.trend import Point, Trend
from pbus.core.why import Facts, reasons
from pbus.scheduler.conditions import Condition
from pbus.scheduler.elsewhere import Elsewhere
from pbus.scheduler.looks import Looks
from pbus.scheduler.returned import Returned
from pbus.storage.driver import TopicNumbers
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS

WATCHED: Final = 2.0
"""Topics that have bounds are looked at each second time, at rest too."""
NEAR_S: Final = 900.0
"""A deploy that is so long ago may be why."""
RUNS_S: Final = 5.0
"""Histograms of a thousand topics take 40 ms to read."""
_P90: Final = 0.9
_TEXT: Final = 200
_SAYS_NOTHING: Final = ("done", "works", "else", "later", "dead")
"""Reasons that are no cause."""

Path = tuple[str, str]
"""(queue, topic)."""


class Readings:
    """One owner: the duty of a store."""

    def __init__(
        self, queues: Mapping[str, Queue], systems: Mapping[str, System], bounds: Alarm, looks: Looks,
        read: Callable[[], Mapping[Path, Totals]], *, is_first: bool, deployed_s: Mapping[str, float] | None = None,
        returned: Returned | None = None,
        pausers: Callable[[Mapping[Path, int]], Mapping[Path, str]] = lambda _: {},
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """
        Args:
            queues: Of this store.
            read: What the children of this node counted (``Histograms.read``).
            is_first: Of several stores this one tells what concerns none of them.
            deployed_s: ``queue/topic`` -> when its code changed, Unix time.
            returned: Who looks for errors that are back; None: nobody.
            pausers: Who paused these topics (``storage.pauses``).
            elsewhere: Who knows how long attempts took on other nodes; None: there are none.
        """
        self._queues = queues
        self._systems = systems
        self._bounds = bounds
        self._looks = looks
        self._read = read
        self._is_first = is_first
        self._deployed_s = deployed_s or {}
        self._returned = returned
        self._pausers = pausers
        self._elsewhere = elsewhere
        self._paused_by: Mapping[Path, str] | None = None
        self._topics = {
            (name, topic): of for name, queue in queues.items() for topic, of in queue.topic.items() if not of.shadow_of
        }
        self._watched = {path: of.alarm for path, of in self._topics.items() if of.alarm != TopicAlarm()}
        self._needs_runs = any(bound.latency_p90_s for bound in self._watched.values())
        self._trends: dict[Path, Trend] = {path: Trend() for path in self._watched}
        if self._watched:
            looks.every_s = min(looks.every_s, WATCHED * bounds.look_s)
        self._counted: Mapping[Path, Totals] = {}
        self._read_s = -RUNS_S
        self._own = Condition("", "")
        self._all: Sequence[Condition] = ()
        self._wall_s = 0.0

    def take(
        self, now_s: float, own: Condition, others: Sequence[Condition], living: Iterable[str] | None,
        fill_percent: float | None, storage: str, wall_s: float = 0.0,
    ) -> list[Reading]:
        """
        Everything, now (monotonic seconds).

        Args:
            living: Boots that are alive, as the store knows; None: only this node uses it.
            wall_s: Now, Unix time.
        """
        self._own, self._all, self._paused_by, self._wall_s = own, [own, *others], None, wall_s
        if self._needs_runs and now_s - self._read_s >= RUNS_S:
            self._counted, self._read_s = self._read(), now_s
        found = [reading for path, bound in self._watched.items() for reading in self._of_topic(path, bound, now_s)]
        found += self._of_nodes(others, living)
        if self._returned is not None:
            found += self._returned.look(self._looks.known, now_s)
        if self._bounds.fill_percent:
            limit = self._bounds.fill_percent
            found.append(Reading(kind="store_fill", subject=storage, value=fill_percent, limit=limit))
        return found

    def goes_on(self, returned: Iterable[str]) -> None:
        """Errors that were back when somebody else decided."""
        if self._returned is not None:
            self._returned.goes_on(returned)

    def because(self, reading: Reading, wall_s: float) -> Because:
        """What else is known, when it fires (Unix time)."""
        queue, _, topic = reading.subject.partition("/")
        if (queue, topic) in self._topics:
            return self._because_of_topic((queue, topic), reading, wall_s)
        if self._returned is not None and reading.kind == "error_back":
            return Because(cause=self._returned.sample(reading.subject)[:_TEXT])
        said = [(one.node, one.circuits[reading.subject]) for one in self._all if reading.subject in one.circuits]
        if reading.kind == "circuit" and said:
            topics = sorted({path for one in self._all for path in one.callers.get(reading.subject, ())})
            return Because(
                cause="; ".join(f"on {node}: {why}" for node, why in said)[:_TEXT],
                affected=f"topics {', '.join(topics)}"[:_TEXT] if topics else "",
            )
        return Because()

    def _of_topic(self, path: Path, bound: TopicAlarm, now_s: float) -> list[Reading]:
        numbers, trend = self._looks.known.get(path), self._trends[path]
        if numbers is not None:
            trend.add(self._point(path, numbers, now_s))
        known = numbers is not None
        values: list[tuple[str, float, Callable[[], float | None]]] = [
            ("oldest_wait", bound.oldest_wait_s, lambda: numbers.oldest_wait_s if numbers else None),
            ("backlog", bound.backlog, lambda: numbers.ready if numbers else None),
            ("gone_in", bound.gone_in_s, lambda: trend.gone_in_s(bound.gone_in_s)),
            ("failed_percent", bound.failed_percent, trend.failed_percent),
            ("latency_p90", bound.latency_p90_s, lambda: trend.latency_s(_P90, BOUNDS, self._runs_elsewhere(path))),
            ("dead_growth", bound.dead_growth, trend.died),
        ]
        return [
            Reading(
                kind=kind, subject="/".join(path), value=value() if known else None, limit=limit,
                system=self._queues[path[0]].system,
            )
            for kind, limit, value in values if limit
        ]

    def _runs_elsewhere(self, path: Path) -> Mapping[int, int]:
        if self._elsewhere is None or len(self._all) < 2:
            return {}
        return self._elsewhere.run(*path, self._wall_s)

    def _point(self, path: Path, numbers: TopicNumbers, now_s: float) -> Point:
        run: Sequence[int] = ()
        if self._watched[path].latency_p90_s:
            counted = self._counted.get(path)
            run = counted.run if counted else ()
        return Point(now_s, numbers.ready, numbers.done_total, numbers.failed_total, numbers.dead_total, run)

    def _of_nodes(self, others: Sequence[Condition], living: Iterable[str] | None) -> list[Reading]:
        """What nodes say, and that they say nothing any more."""
        found: list[Reading] = []
        alive = None if living is None else frozenset(living)
        self._all = [self._own, *(one for one in others if alive is None or one.boot in alive)]
        if self._bounds.fatal:
            fatal = {
                path for one in self._all for path, (state, _) in one.stopped.items()
                if state == "fatal" and _pair(path) in self._topics
            }
            found += [
                Reading(kind="fatal", subject=path, value=1.0, system=self._queues[_pair(path)[0]].system)
                for path in sorted(fatal)
            ]
        if self._bounds.circuit and self._is_first:
            found += [
                Reading(kind="circuit", subject=name, value=1.0)
                for name in sorted({name for one in self._all for name in one.circuits})
            ]
        if self._bounds.node and alive is not None:
            found += [
                Reading(kind="node", subject=one.node, value=float(one.boot not in alive)) for one in others
            ]
        return found

    def _because_of_topic(self, path: Path, reading: Reading, wall_s: float) -> Because:
        said = [one.stopped[reading.subject] for one in self._all if reading.subject in one.stopped]
        found = reasons(self._facts(path, said[0] if said else ("running", ""), wall_s))
        cause = next((each for each in found if each.why not in _SAYS_NOTHING), None)
        why = [cause.text[:_TEXT]] if cause else []
        deployed_s = self._deployed_s.get(reading.subject)
        if deployed_s is not None and wall_s - deployed_s < NEAR_S:
            why.append(f"new code since {moment(deployed_s)}")
        return Because(
            cause="; ".join(why), todo=cause.todo[:_TEXT] if cause else "",
            affected=self._affected(path)[:_TEXT],
        )

    def _facts(self, path: Path, state: tuple[str, str], wall_s: float) -> Facts:
        topic, numbers = self._topics[path], self._looks.known.get(path, TopicNumbers())
        of_queue = self._looks.queues.get(path[0])
        section = self._queues[path[0]]
        return Facts(
            queue=path[0], topic=path[1], system=section.system, handler=_handler(topic), state=state[0],
            reason=state[1], paused=bool(numbers.paused_ms), **self._pause(path, wall_s), ready=numbers.ready,
            running=numbers.running, delayed=numbers.delayed, dead=numbers.dead, oldest_wait_s=numbers.oldest_wait_s,
            done_total=numbers.done_total, pushed_total=of_queue.pushed_total if of_queue else None,
            slots=self._own.places.get("/".join(path), 1),
            most=topic.pull.max_open if topic.pull is not None else topic.concurrency.max,
            backlog=of_queue.backlog if of_queue else None, max_backlog=section.max_backlog,
        )

    def _pause(self, path: Path, wall_s: float) -> dict[str, Any]:
        """How long ago, and by whom; asked once for all topics that fire together."""
        numbers = self._looks.known.get(path)
        if numbers is None or not numbers.paused_ms:
            return {}
        if self._paused_by is None:
            known = self._looks.known.items()
            self._paused_by = self._pausers({name: each.paused_ms for name, each in known if each.paused_ms})
        return {
            "paused_s": max(0.0, wall_s - numbers.paused_ms / 1000), "paused_by": self._paused_by.get(path, ""),
        }

    def _affected(self, path: Path) -> str:
        """Whose it is, and how much of theirs waits."""
        name = self._queues[path[0]].system
        system, numbers = self._systems.get(name), self._looks.known.get(path, TopicNumbers())
        whose = ", ".join(part for part in (system.title, system.owner) if part) if system else ""
        waits = f"{numbers.ready + numbers.delayed} jobs wait" if numbers.ready + numbers.delayed else ""
        parts = (f"system {name}{f' ({whose})' if whose else ''}" if name != "default" else "", waits)
        return ", ".join(part for part in parts if part)


def _pair(path: str) -> Path:
    queue, _, topic = path.partition("/")
    return queue, topic


def _handler(topic: Topic) -> str:
    kinds = ("fastcgi", "http", "python", "command", "pull")
    return next((kind for kind in kinds if getattr(topic, kind) is not None), "")
