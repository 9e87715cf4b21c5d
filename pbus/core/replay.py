"""
Jobs run again: what a replay is, how far it is, when it goes on to its next stage and when its guard stops it.

    running --all done--> done          running --guard--> tripped --resume--> running
       | ^                              running, paused, tripped --cancel--> cancelled
       v | pause, resume
    paused

Rule: pure; a replay is one JSON text that outlives whoever runs it. Where it is, is where the text says: what was
pushed beyond that is found by its dedupe key when it is pushed again.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Final, Self

VERSION: Final = 1
SOURCES: Final = ("dead", "history", "file")
OPEN: Final = ("running", "paused", "tripped")
"""States that are no end."""
SAMPLE: Final = 200
"""So many replayed jobs are watched at once."""
ENOUGH: Final = 20
"""So many must have been judged before the guard speaks, where the stage has them."""
RECENT: Final = 200
"""Of so many jobs that were judged last it is known in which order they came."""
DEDUPE_S: Final = 86_400.0
"""A replay that was interrupted is continued within so long, or its last batch may run twice."""

_RULE: Final = re.compile(r"\s*(failed|p90)\s*<\s*(\d+(?:\.\d+)?)\s*(%|x|ms|s)\s*\Z")
_STAGE: Final = re.compile(r"(\d+(?:\.\d+)?)(%?)\Z")


@dataclass(frozen=True, slots=True)
class Guard:
    """
    What must stay true of the jobs that were replayed; 0.0: nothing is asked.

    Attributes:
        failed: Percent that fail stay below it.
        times: The p90 of run times stays below so many times what it was before.
        p90_s: The p90 of run times stays below it, seconds.
    """

    failed: float = 0.0
    times: float = 0.0
    p90_s: float = 0.0


def guard(text: str) -> Guard:
    """
    ``failed<2%,p90<2x`` (or ``p90<500ms``); empty: none.

    Raises:
        ValueError: it is something else; says what.
    """
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        rule = _RULE.match(part)
        if rule is None or (rule[1] == "failed") != (rule[3] == "%"):
            raise ValueError(f"guard: {part.strip()!r} is no rule; rules are failed<2%, p90<2x, p90<500ms")
        value = float(rule[2])
        name = "failed" if rule[1] == "failed" else "times" if rule[3] == "x" else "p90_s"
        if name in found:
            raise ValueError(f"guard: {part.strip()!r}: {rule[1]} is said twice")
        if value <= 0 or (name == "failed" and value > 100):
            raise ValueError(f"guard: {part.strip()!r}: nothing would ever pass, or all")
        found[name] = value / 1000 if rule[3] == "ms" else value
    return Guard(**found)


def stages(text: str, total: int) -> list[int]:
    """
    How many jobs of *total* are replayed up to the end of each stage of ``5,1%,10%,100%``; all of them in the last one.

    Raises:
        ValueError: it is something else, or goes down; says what.
    """
    found: list[int] = []
    said: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        stage = _STAGE.match(part.strip())
        if stage is None or float(stage[1]) <= 0 or (stage[2] and float(stage[1]) > 100):
            raise ValueError(f"canary: {part.strip()!r} is no stage; stages are numbers of jobs (5) or parts (10%)")
        if not stage[2] and "." in stage[1]:
            raise ValueError(f"canary: {part.strip()!r}: jobs are counted whole")
        count = math.ceil(total * float(stage[1]) / 100) if stage[2] else int(stage[1])
        # Which of 5 and 1% is more depends on how many there are; that 10 is more than 5 does not.
        if float(stage[1]) < said.get(stage[2], 0.0):
            raise ValueError(f"canary: {part.strip()!r} is less than a stage before it")
        said[stage[2]] = float(stage[1])
        found.append(max(count, found[-1] if found else 1))
    if not found or found[-1] < total:
        found.append(total)
    # Stages that end where the one before them does are none.
    return [end for at, end in enumerate(found) if at == 0 or (end > found[at - 1] and found[at - 1] < total)]


@dataclass(slots=True)
class Replay:
    """
    One replay, as its text says.

    Attributes:
        source: dead, history or file.
        node: Of a file: the node that has it; only that one runs it. Empty: any node.
        topics: ``queue/topic``, gone through in this order; each job goes to its topic alone.
        since_ms, until_ms: Only jobs pushed (dead: that died) then, unix ms.
        group: Only dead letters of this group of errors; empty: all.
        filter, canary, guard: As they were written.
        rate: Jobs a second; 0.0: as fast as the store takes them.
        total: Jobs that were meant when it began.
        by, made_ms: Who began it, and when.
        state, reason: See above; the reason is for people.
        owner: Process that runs it; empty: none.
        at, cursor_ms, cursor: Which topic, and the last job gone over of it (of a file: bytes gone over).
        replayed, gone: Jobs pushed again; those that somebody else had settled or taken in the meantime.
        stage: Number of the stage, from 0.
        done, failed: Of the watched jobs of this stage, judged. All stages: done_total, failed_total.
        recent: How the last of them ended, the newest last: ``.`` or ``x`` (failed).
        watched: Ids (``queue/topic id``) that are not judged yet.
        settle, copies: Jobs of topic ``settle_of`` that were replayed last, and as which: dead letters may not be
            settled yet, and their stories may not say it.
        p90_s: Of run times before it began; 0.0: not known.
        first, last: Ids of the first and the last job that it made.
        changed_ms: When the text was written.
    """

    name: str
    source: str
    topics: list[str]
    node: str = ""
    since_ms: int = 0
    until_ms: int = 0
    group: str = ""
    filter: str = ""
    rate: float = 0.0
    canary: str = ""
    guard: str = ""
    total: int = 0
    by: str = ""
    made_ms: int = 0
    state: str = "running"
    reason: str = ""
    owner: str = ""
    at: int = 0
    cursor_ms: int = 0
    cursor: str = ""
    replayed: int = 0
    gone: int = 0
    stage: int = 0
    done: int = 0
    failed: int = 0
    done_total: int = 0
    failed_total: int = 0
    recent: str = ""
    watched: list[str] = field(default_factory=list)
    settle: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    settle_of: str = ""
    p90_s: float = 0.0
    first: str = ""
    last: str = ""
    changed_ms: int = 0
    v: int = VERSION

    def text(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Self:
        """
        Raises:
            ValueError: no replay, or of a later pbus.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("v") != VERSION:
            raise ValueError("it was written by another version of pbus")
        known = {one.name for one in fields(cls)}
        try:
            return cls(**{key: value for key, value in found.items() if key in known})
        except TypeError as error:
            raise ValueError(f"it is no replay: {error}") from None

    @property
    def ends(self) -> list[int]:
        """Of its stages, see ``stages``."""
        return stages(self.canary, self.total)

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know how its jobs fare."""
        return bool(self.guard or self.canary)

    @property
    def room(self) -> int:
        """How many more belong to this stage; of the last one as many as there are."""
        ends = self.ends
        return SAMPLE * 1_000_000 if self.stage >= len(ends) - 1 else max(0, ends[self.stage] - self.replayed)

    def key(self, path: str, job_id: str) -> str:
        """What makes the copy of a job the only one of this replay."""
        return f"replay:{self.name}:{path}:{job_id}"

    def go_on(self) -> None:
        """To the next stage: what was judged so far was good enough."""
        self.stage += 1
        self.judge_anew()

    def judge_anew(self) -> None:
        """What was judged in this stage is forgotten; the totals stay."""
        self.done = self.failed = 0
        self.recent = ""

    def judge(self, is_done: bool) -> None:
        """One of the watched jobs."""
        self.done += is_done
        self.failed += not is_done
        self.recent = (self.recent + ("." if is_done else "x"))[-RECENT:]
        self.done_total += is_done
        self.failed_total += not is_done


def trips(replay: Replay, p90_s: float | None, ran: int) -> str:
    """
    Why the guard stops *replay* now; empty: it may go on.

    Args:
        p90_s: Of run times in this stage; None: not known.
        ran: How many that is made of.
    """
    rules, judged = guard(replay.guard), replay.done + replay.failed
    enough = min(ENOUGH, max(1, judged + len(replay.watched))) if replay.room == 0 else ENOUGH
    rest = f"stopped after {replay.replayed} of {replay.total}, the rest is untouched"
    if rules.failed and judged and judged >= enough and 100 * replay.failed >= rules.failed * judged:
        part = 100 * replay.failed / judged
        return f"guard failed<{rules.failed:g}%: {replay.failed} of {judged} failed ({part:.0f} %); {rest}"
    if rules.failed and judged >= ENOUGH and replay.recent.count("x") >= _too_many(rules.failed, len(replay.recent)):
        last, of = replay.recent.count("x"), len(replay.recent)
        return f"guard failed<{rules.failed:g}%: {last} of the last {of} failed ({100 * last / of:.0f} %); {rest}"
    if p90_s is None or ran < enough:
        return ""
    if rules.p90_s and p90_s >= rules.p90_s:
        return f"guard p90<{rules.p90_s:g}s: p90 is {p90_s:.3g} s; {rest}"
    if rules.times and replay.p90_s and p90_s >= rules.times * replay.p90_s:
        return f"guard p90<{rules.times:g}x: p90 is {p90_s:.3g} s, it was {replay.p90_s:.3g} s; {rest}"
    return ""


def _too_many(percent: float, count: int) -> int:
    """
    How many of *count* must fail before that is no accident, where *percent* may: three deviations above them.

    A replay that went well for an hour must not need an hour to notice that its handler fails now.
    """
    may = percent * count / 100
    return math.ceil(may + 3 * math.sqrt(may) + 1)
