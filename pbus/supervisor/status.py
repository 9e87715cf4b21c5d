"""
What ``pbus status`` answers, put together from what the master knows. Pure: facts in, one map out.

Rule: a topic is as bad as the worst that is known about it, and the bus is *degraded* as long as
there is a problem. What was never read is None, not 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.core.names import Owner
from pbus.supervisor.backends import merged
from pbus.supervisor.children import CONSUMER
from pbus.supervisor.handle import Handle
from pbus.supervisor.numbers import Numbers
from pbus.supervisor.plan import TopicFact
from pbus.supervisor.reconcile import Key
from pbus.supervisor.rollout import FAILED, ROLLING
from pbus.supervisor.scoreboard import SlotView
from pbus.supervisor.topics import badness, reason_of, standing, worst

ORPHANED: Final = "orphaned"
INGEST: Final = "ingest"
_SCALING: Final = ("wanted", "surplus", "limited_by", "reason")
Lane = Mapping[str, Any]
_NOBODY: Final[Lane] = {"state": "down", "reason": "no consumer process is ready"}

_COUNTS: Final = ("ready", "running", "delayed", "dead", "done_total", "failed_total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the status is made of; see ``build`` for the shape it gets."""

    state: str
    node: str
    generation: int
    now_s: float
    problems: Sequence[str]
    master: Mapping[str, Any]
    children: Sequence[Handle]
    restarts: Mapping[int, int]
    topics: Sequence[TopicFact]
    numbers: Numbers
    wall_s: float = 0.0
    """Unix time; stored times are compared with it."""
    next_starts: Mapping[str, float] = field(default_factory=dict)
    """Path of a topic -> seconds until its next process is born, where one is waited for."""
    fatal: Mapping[Key, str] = field(default_factory=dict)
    """(role, path) that is given up -> why."""
    decisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Path of a topic -> what the last scaling plan says of it."""
    rollouts: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    """(role, path) whose code has ever changed -> stage, code, files, reason, old."""
    deaths: Mapping[Key, str] = field(default_factory=dict)
    """(role, path) -> how the last process of it ended that was not told to."""
    door: Mapping[str, Any] = field(default_factory=dict)
    """What all ingest children refused and closed (``DoorBook.view``)."""
    reload: Mapping[str, Any] = field(default_factory=dict)
    """The last reload that is over (``Reloads.view``)."""
    programs: Mapping[Key, tuple[int, int]] = field(default_factory=dict)
    """Program -> how many of it there ought to be, and how often one ended that was not told to."""


def build(facts: Facts) -> dict[str, Any]:
    """
    The document of ``pbus status -o json`` without its ``v``. Processes also carry their index and path, the name that
    their claims have in the store, and of consumers the job that they run, and for how long.
    """
    orphans = _orphans(facts)
    crew, lanes = _by_topic(facts.children)
    topics = [
        _topic(
            facts, topic, crew.get(f"{topic.queue}/{topic.topic}", []),
            standing(lanes.get((topic.queue, topic.topic), []), topic.has_consumers),
        )
        for topic in facts.topics
    ]
    quiet = tuple(f"{row['queue']}/{row['topic']} braked: " for row in topics if row["state"] == "paused")
    problems = [
        *(problem for problem in facts.problems if not problem.startswith(quiet)),
        *([facts.numbers.problem] if facts.numbers.problem else []),
        *(f"{row['queue']}/{row['topic']} {ORPHANED}: {row['reason']}" for row in [*topics, *orphans]
          if row["state"] == ORPHANED),
    ]
    state = "degraded" if facts.state == "running" and problems else facts.state
    return {
        "state": state,
        "node": facts.node,
        "generation": facts.generation,
        "problems": list(dict.fromkeys(problems)),        # several children may find the same
        "processes": [dict(facts.master), *(_process(facts, child) for child in facts.children)],
        "topics": [*topics, *orphans],
        "programs": [_program(facts, key, *counts) for key, counts in facts.programs.items()],
        "backends": merged(child.backends for child in facts.children),
        "reload": dict(facts.reload),
        "door": {"connections": _connections(facts.children), **facts.door},
        "alarms": list(facts.numbers.alarms.get("rows", ())),
        "alarms_total": int(facts.numbers.alarms.get("total", 0)),
    }


def _process(facts: Facts, child: Handle) -> dict[str, Any]:
    row: SlotView = child.slot.read()
    return {
        "role": child.spec.role,
        "pid": child.pid,
        "state": child.state,
        "rss_bytes": child.sample.rss_bytes,
        "uptime_s": round(facts.now_s - child.born_s, 3),
        "restarts": facts.restarts.get(child.n, 0),
        "running": row.running,
        "index": child.index,
        "path": child.spec.path,
        "owner": str(Owner(facts.node, child.boot, child.slot.slot, child.n)),
        "job": row.current,
        "job_s": round(max(0.0, facts.now_s - row.since_s), 3) if row.current else None,
    }


def _connections(children: Sequence[Handle]) -> int:
    """Of all ingest children."""
    return sum(child.slot.read().connections for child in children if child.spec.role == INGEST)


def _by_topic(
    children: Sequence[Handle]
) -> tuple[dict[str, list[Handle]], dict[tuple[str, str], list[tuple[bool, Lane]]]]:
    """Consumers of each path, and lanes of each topic (whether its child stays, and what it said)."""
    crew: dict[str, list[Handle]] = {}
    lanes: dict[tuple[str, str], list[tuple[bool, Lane]]] = {}
    for child in children:
        if child.spec.role == CONSUMER:
            crew.setdefault(child.spec.path, []).append(child)
        for name, lane in child.lanes.items():
            lanes.setdefault(name, []).append((child.stays, lane))
    return crew, lanes


def _topic(facts: Facts, topic: TopicFact, consumers: Sequence[Handle], lanes: Sequence[Lane]) -> dict[str, Any]:
    name, path = (topic.queue, topic.topic), f"{topic.queue}/{topic.topic}"
    known = facts.numbers.topics.get(name, {})
    staying = [child for child in consumers if child.stays]
    wanted = facts.decisions.get(path, {}).get("wanted", topic.at_least)
    if topic.has_consumers and wanted and not lanes and not any(child.ready_s is not None for child in staying):
        lanes = [_NOBODY]
    state = _topic_state(facts, path, lanes, bool(known.get("paused_ms")))
    if topic.orphaned and state == "running":
        state = ORPHANED
    now = len(staying) if topic.has_consumers else sum(int(lane.get("concurrency") or 0) for lane in lanes)
    return {
        **_numbers(name, state, known),
        "concurrency": {
            "now": now, "min": 0 if topic.pulled else topic.at_least, "max": 0 if topic.pulled else topic.at_most,
        },
        "capacity": _capacity(facts.decisions.get(path, {})),
        "consumers": [child.pid for child in consumers],
        "reason": _reason(facts, state, path, known, worst(lanes)[1]),
        "scaling": {name: value for name, value in facts.decisions.get(path, {}).items() if name in _SCALING},
        "rollout": dict(facts.rollouts.get((CONSUMER, path), {})),
        **({"shadow_of": topic.shadow_of} if topic.shadow_of else {}),
        **({"served": True} if topic.orphaned else {}),
    }


def _capacity(decision: Mapping[str, Any]) -> dict[str, Any]:
    """What the last plan thinks that a topic could do; None: not measured yet."""
    known = decision.get("capacity") or {}
    return {name: known.get(name) for name in ("now_per_s", "max_per_s", "limited_by")}


def _program(facts: Facts, key: Key, wanted: int, restarts: int) -> dict[str, Any]:
    """One ``[program.NAME]``: as bad as the worst that is known of it."""
    here = [child for child in facts.children if child.spec.key == key]
    ready = [child for child in here if child.stays and child.ready_s is not None]
    rollout = facts.rollouts.get(key, {})
    state, reason = "running", ""
    if key in facts.fatal:
        state, reason = "fatal", facts.fatal[key]
    elif not ready:
        state, reason = "starting" if any(child.stays for child in here) else "down", facts.deaths.get(key, "")
    elif rollout.get("stage") == FAILED:
        state, reason = "rollout-failed", str(rollout["reason"])
    elif len(ready) < wanted:
        state = "restarting" if rollout.get("stage") == ROLLING else "starting"
    return {
        "program": key[1], "state": state, "running": len(ready), "wanted": wanted,
        "pids": [child.pid for child in here], "rss_bytes": sum(child.sample.rss_bytes for child in here),
        "uptime_s": round(min((facts.now_s - child.born_s for child in ready), default=0.0), 3),
        "restarts": restarts, "reason": reason,
    }


def _numbers(name: tuple[str, str], state: str, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "queue": name[0],
        "topic": name[1],
        "state": state,
        **{count: known.get(count) for count in _COUNTS},
        "oldest_wait_s": round(float(known["oldest_wait_s"]), 3) if known else None,
    }


def _reason(facts: Facts, state: str, path: str, known: Mapping[str, Any], said: str) -> str:
    if state == "paused" and known.get("paused_ms"):
        minutes = int(max(0.0, facts.wall_s - known["paused_ms"] / 1000) // 60)
        when = f"{minutes} min ago" if minutes else "just now"
        who = known.get("paused_by") or "'pbus topic pause'"
        said = f"by {who} {when}, 'pbus topic resume {path}' ends it"
    if state == ORPHANED:
        left = known.get("ready", 0) + known.get("running", 0) + known.get("delayed", 0)
        return f"it is not in the configuration, {left} jobs are finished first; 'pbus topic rm {path} --purge' ends it"
    if state == "rollout-failed":
        said = str(facts.rollouts[CONSUMER, path]["reason"])
    if state == "fatal":
        said = f"{facts.fatal[CONSUMER, path]}; 'pbus topic restart {path}' tries again"
    return reason_of(state, said, facts.next_starts.get(path, 0.0))


def _orphans(facts: Facts) -> list[dict[str, Any]]:
    """
    Topics that the store has and the configuration has not: nobody takes their jobs.

    One whose jobs run is another node's.
    """
    configured = {(topic.queue, topic.topic) for topic in facts.topics}
    rows = []
    for name, known in sorted(facts.numbers.topics.items()):
        if name in configured or known.get("running"):
            continue
        path = "/".join(name)
        holds = f"{known.get('ready', 0) + known.get('delayed', 0)} jobs wait in it"
        rows.append({
            **_numbers(name, ORPHANED, known),
            "concurrency": {"now": 0, "min": 0, "max": 0},
            "capacity": {"now_per_s": None, "max_per_s": None, "limited_by": None},
            "consumers": [],
            "reason": f"it is not in the configuration, {holds}; 'pbus topic rm {path} --purge' ends it",
            "scaling": {},
            "rollout": {},
        })
    return rows


def _topic_state(facts: Facts, path: str, lanes: Sequence[Lane], paused: bool) -> str:
    states = [worst(lanes)[0]]
    if paused:
        states = ["paused" if state == "braked" else state for state in [*states, "paused"]]  # nothing is tried
    if facts.rollouts.get((CONSUMER, path), {}).get("stage") == FAILED:
        states.append("rollout-failed")
    if (CONSUMER, path) in facts.fatal:
        states.append("fatal")
    if facts.state == "stopping":
        states.append("draining")
    return max(states, key=badness)
