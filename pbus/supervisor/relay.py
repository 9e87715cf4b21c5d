"""
What children say to the master, and where it goes: a table of frames.

    ready                         its boot is over
    problem {name, text}          for pbus status; an empty text lifts it
    fail {text, exit_status}      why it cannot start
    fenced                        its boot was declared dead: everybody gets a new one
    kill {owner}                  the job that process runs is out of time
    leaving {why}                 it ends by itself, as it should
    changed {files}               its code is another one on disk now; no files: it is the same again
    stale {files}                 answer to ``stale_please``: files that are not as they were loaded
    recall {owner, ..}            for the process of that owner: hand back what has not begun
    plan {topics}                 how much of each topic there ought to be
    work {topics, ..}             what a delivery or ingest child measured, for who plans
    ordered {id, ..}              answer to ``order {id, ..}``
    lane {queue, topic, state, reason, concurrency}
    backend {backend, address, state, reason, connections, limit, ..}
    door {refused, closed, limited, failed}  what an ingest child refused, since it told last
    delayed {store, in_s}         a retry is due sooner than anybody would look: for those who hear it
    watching {id}                 it publishes job events now
    event {event}                 a job event for followers
    numbers {id, topics, problem} answer to ``numbers {id}``
    forgotten {boots}             nothing of these earlier boots is left in any store
    news {about, ..}              for the other delivery children; the last of each ``about`` is kept
    news_please                   it wants all of what is kept, ended by one about nothing
    metrics_please                it makes a page of metrics: what does the master know, what the scheduler?
    sampled {topics, ..}          what the scheduler knows, for such a page

Rule: a child is of the same program, yet a frame that makes no sense is logged and dropped; it never
ends the master.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any, Final

from pbus.clock import Clock
from pbus.core.names import Owner
from pbus.supervisor.children import Children
from pbus.supervisor.door_book import DoorBook
from pbus.supervisor.errands import Errands
from pbus.supervisor.exposed import METRICS, PLEASE, SAMPLE, SAMPLED
from pbus.supervisor.follow import HEARS as WATCH
from pbus.supervisor.follow import Followers
from pbus.supervisor.handle import Handle
from pbus.supervisor.house import House
from pbus.supervisor.numbers import NumberDesk
from pbus.supervisor.topics import Topics
from pbus.supervisor.workforce import Workforce
from pbus.telemetry import log as logs

BOOTS: Final = "boots"
DELAYED: Final = "delayed"
NEWS: Final = "news"
WORK: Final = "work"

Act = Callable[[Handle, Mapping[str, Any]], None]


class Relay:
    """Hears every child. One owner: the master."""

    def __init__(
        self, children: Children, followers: Followers, numbers: NumberDesk, errands: Errands, house: House,
        topics: Topics, workforce: Workforce, fence: Callable[[Handle], None],
        metrics: Callable[[], Mapping[str, Any]], clock: Clock,
    ) -> None:
        """
        Args:
            fence: Called when a child finds that its boot was declared dead.
            metrics: What the master knows for the page of metrics (``exposed``).
        """
        self._children = children
        self._followers = followers
        self._numbers = numbers
        self._house = house
        self._topics = topics
        self._workforce = workforce
        self._metrics = metrics
        self._clock = clock
        self._log = logs.get()
        self.door = DoorBook(clock)
        self._dropped: collections.Counter[str] = collections.Counter()  # storage -> records of stories
        self._spans: collections.Counter[str] = collections.Counter()  # exported; dropped, by reason
        self._compared: dict[str, list[int]] = {}  # shadow -> jobs that gave the same, and something else
        self._news: dict[tuple[str, ...], dict[str, Any]] = {}
        self._table: dict[str, Act] = {
            "ready": self._ready,
            "door": lambda _, frame: self.door.heard(frame),
            "traces": lambda _, frame: self._dropped.update(
                {str(name): int(count) for name, count in frame["dropped"].items()}
            ),
            "spans": self._count_spans,
            "compared": self._count_compared,
            "problem": self._problem,
            "fail": self._fail,
            "fenced": lambda child, _: fence(child),
            "kill": self._kill,
            "leaving": lambda child, frame: children.leave(child, str(frame["why"])),
            "changed": lambda child, frame: workforce.changed(child, [str(file) for file in frame["files"]]),
            "stale": lambda child, frame: setattr(child, "stale", tuple(str(file) for file in frame["files"])),
            "recall": self._recall,
            "plan": lambda child, frame: workforce.plan(frame["topics"]) if child.stays else None,
            WORK: self._work,
            "ordered": lambda _, frame: errands.done(frame),
            "lane": self._lane,
            "backend": self._backend,
            DELAYED: self._delayed,
            "watching": lambda child, _: followers.watching(child),
            "event": lambda _, frame: followers.spread(frame["event"]),
            "numbers": lambda _, frame: numbers.heard(dict(frame)),
            "forgotten": lambda _, frame: house.forget_boots(list(frame["boots"])),
            NEWS: self._pass_on,
            "news_please": lambda child, _: self._tell_news(child),
            PLEASE: lambda child, _: self._tell_metrics(child),
            SAMPLED: self._sampled,
        }

    @property
    def carried(self) -> dict[str, Any]:
        """What is kept of the words of children, through an upgrade."""
        return {"news": list(self._news.values()), "dropped": dict(self._dropped), "door": self.door.counts}

    def resume(self, carried: Mapping[str, Any]) -> None:
        """Go on from what was ``carried``; who still publishes events for followers that are gone is told to rest."""
        self._news = {tuple(fields["about"]): fields for fields in carried.get("news", ())}
        self._dropped.update(carried.get("dropped", {}))
        self.door.heard(carried.get("door", {}))
        for child in self._children:
            if WATCH in child.spec.hears:
                child.tell(WATCH, queues=[], id=0)

    def hear(self, child: Handle, frame: dict[str, Any]) -> None:
        """One frame of *child*."""
        act = self._table.get(frame["kind"])
        try:
            if act is None:
                raise LookupError(f"no frame is called {frame['kind']!r}")
            act(child, frame)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one frame's; the bus goes on, and the log has it
            err = f"{type(error).__name__}: {error}"
            self._log.error("child.senseless", child=child.name, frame=frame["kind"], err=err)

    def _ready(self, child: Handle, _: Mapping[str, Any]) -> None:
        child.ready_s = self._clock.monotonic_s()
        self._children.changes += 1
        took_s = round(child.ready_s - child.born_s, 3)
        self._log.info("child.ready", child=child.name, child_pid=child.pid, took_s=took_s)
        self._followers.introduce(child)
        self._workforce.introduce(child)
        if BOOTS in child.spec.hears:
            self.tell_boots(child)

    def tell_boots(self, child: Handle) -> None:
        """Which earlier boots are over, and which live on: all that are not forgotten yet."""
        child.tell(BOOTS, over=self._house.over, living=self._house.living)

    def _problem(self, child: Handle, frame: Mapping[str, Any]) -> None:
        name, text = str(frame["name"]), str(frame["text"])
        if text:
            child.problems[name] = text
            self._log.warning("child.problem", child=child.name, problem=name, text=text)
        elif child.problems.pop(name, ""):
            self._log.info("child.problem_over", child=child.name, problem=name)

    def _count_spans(self, _: Handle, frame: Mapping[str, Any]) -> None:
        self._spans["exported"] += int(frame["exported"])
        self._spans.update({str(reason): int(count) for reason, count in frame["dropped"].items()})

    def _count_compared(self, _: Handle, frame: Mapping[str, Any]) -> None:
        for path, (same, differ) in frame["shadows"].items():
            counted = self._compared.setdefault(str(path), [0, 0])
            counted[0] += int(same)
            counted[1] += int(differ)

    def _fail(self, child: Handle, frame: Mapping[str, Any]) -> None:
        child.failure = " ".join(str(frame["text"]).split())  # it becomes part of sentences; the log has its lines

    def _kill(self, child: Handle, frame: Mapping[str, Any]) -> None:
        owner = Owner.parse(frame["owner"])
        done = self._children.end_overdue(owner)
        self._log.warning("child.condemned", by=child.name, owner=frame["owner"], found=done)

    def _recall(self, _: Handle, frame: Mapping[str, Any]) -> None:
        """What waits in a consumer behind a slow job can be done elsewhere; one that is gone has given it back."""
        child = self._children.called(Owner.parse(frame["owner"]))
        if child is not None:
            child.tell("recall", **{name: value for name, value in frame.items() if name not in ("kind", "owner")})

    def _work(self, child: Handle, frame: Mapping[str, Any]) -> None:
        fields = {name: value for name, value in frame.items() if name != "kind"}
        for other in self._children.hearing(WORK):
            other.tell(WORK, **fields | {"role": child.spec.role, "child": child.index})

    def _delayed(self, _: Handle, frame: Mapping[str, Any]) -> None:
        for child in self._children.hearing(DELAYED):
            child.tell(DELAYED, store=str(frame["store"]), in_s=float(frame["in_s"]))

    def _lane(self, child: Handle, frame: Mapping[str, Any]) -> None:
        child.lanes[frame["queue"], frame["topic"]] = {
            "state": str(frame["state"]), "reason": str(frame.get("reason", "")),
            "concurrency": int(frame.get("concurrency") or 0),
        }
        self._topics.look((frame["queue"], frame["topic"]))

    def _pass_on(self, child: Handle, frame: Mapping[str, Any]) -> None:
        """What a child found out concerns those of its kind, those that are still starting too."""
        fields = {name: value for name, value in frame.items() if name != "kind"}
        self._news[tuple(fields["about"])] = fields
        for other in self._children:
            if NEWS in other.spec.hears and other is not child:
                other.tell(NEWS, **fields)

    def _tell_news(self, child: Handle) -> None:
        for fields in self._news.values():
            child.tell(NEWS, **fields)
        child.tell(NEWS, about=[])

    def _tell_metrics(self, child: Handle) -> None:
        for other in self._children.hearing(SAMPLE):
            other.tell(SAMPLE)
        child.tell(
            METRICS, **self._metrics(), dropped=dict(self._dropped), spans=dict(self._spans), compared=self._compared,
        )

    def _sampled(self, _: Handle, frame: Mapping[str, Any]) -> None:
        fields = {name: value for name, value in frame.items() if name != "kind"}
        for child in self._children.hearing(SAMPLED):
            child.tell(SAMPLED, **fields)

    @staticmethod
    def _backend(child: Handle, frame: Mapping[str, Any]) -> None:
        known = {name: value for name, value in frame.items() if name != "kind"}
        child.backends[frame["backend"], frame["address"]] = known
