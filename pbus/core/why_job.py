"""
Why one job is not done at one topic: rules about the job first, then those of its topic that hold it up. Pure.

Rule: what the store says of the job comes first, because it is about this job; whoever waits for nothing of its own
waits for what its topic waits for.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

from pbus.core import why
from pbus.core.why import Facts, Reason, Rule, span, told

READY: Final = "ready"
_WAITS: Final = (READY, "delayed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """
    Whose hands it is in.

    Attributes:
        node: Of which node.
        process: ``consumer gift/credit 1``; empty: none that lives there.
        pid: Its process id; 0: not known.
        since_s: For how long it has run the job; None: not known, or it runs another one.
        runs: Id of another job that it runs, behind which this one waits there; empty: none.
    """

    node: str
    process: str = ""
    pid: int = 0
    since_s: float | None = None
    runs: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """
    What is known of a job on its way to a topic.

    Attributes:
        id: Of the job.
        topic: Of its topic, and where everything there stands.
        state: ``ready``, ``running``, ``delayed``, ``dead``, ``ended`` or empty: it is not on its way there.
        now_ms: Unix ms; all other times too, 0 where they do not apply.
        attempts: That counted so far; crashes: consumers that it killed.
        due_ms: Delayed until then. expires_ms: by its ttl. at_ms: When it died.
        key, behind: Its key, and the job that holds it.
        reason, error: What it died of.
        holder: Who has it in hand.
    """

    id: str
    topic: Facts
    state: str
    now_ms: int
    attempts: int = 0
    crashes: int = 0
    due_ms: int = 0
    expires_ms: int = 0
    at_ms: int = 0
    key: str = ""
    behind: str = ""
    reason: str = ""
    error: str = ""
    holder: Holder | None = None

    @property
    def age_s(self) -> float:
        """Since it was pushed."""
        return (self.now_ms - int(self.id.partition("-")[0])) / 1000

    @property
    def is_due(self) -> bool:
        """Its delay is over."""
        return self.state == "delayed" and self.due_ms <= self.now_ms


def reasons(job: JobFacts) -> list[Reason]:
    """Why it is not done there, the most important first; at least one."""
    found = told(RULES, job, _words(job))
    waits = job.state in _WAITS
    if waits:
        found += why.holds_up(job.topic)
    if waits and not found:
        found = told([_IN_LINE], job, _words(job))
    return found


def age_of(id: str, now_ms: int) -> str:
    """What an id tells: ``pushed 4 min ago, at 2026-11-23 17:01:02 UTC``; of one of the future that it is one."""
    at_ms = int(id.partition("-")[0])
    if at_ms > now_ms + _SKEW_MS:
        return f"its id says {moment(at_ms)}, which is still to come: no bus gave it out"
    return f"its id says that it was pushed {span((now_ms - at_ms) / 1000)} ago, at {moment(at_ms)}"


def moment(ms: int) -> str:
    """``2026-11-23 17:01:02 UTC``."""
    try:
        return f"{datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError):
        return f"ms {ms}"


_SKEW_MS: Final = 5_000
"""Clocks of nodes and stores may differ by so much before anybody is called wrong."""


# -- words ----------------------------------------------------------------------------------------


def _words(job: JobFacts) -> dict[str, str]:
    return {
        **why.words_of(job.topic), "id": job.id, "age": span(job.age_s), "key": repr(job.key), "behind": job.behind,
        "died": f"{span((job.now_ms - job.at_ms) / 1000)} ago", "cause": _cause(job),
        "in": _until(job.due_ms, job.now_ms), "due": moment(job.due_ms), "expired": moment(job.expires_ms),
        "attempts": str(job.attempts), "next": str(job.attempts + 1), "holder": _holder(job),
        "rests": ", or its key rests" if job.key else "",
    }


def _until(ms: int, now_ms: int) -> str:
    return f"in {span((ms - now_ms) / 1000)}" if ms > now_ms else f"since {span((now_ms - ms) / 1000)}"


def _cause(job: JobFacts) -> str:
    """``timeout after 3 attempts: no answer within 60 s``."""
    tried = "after 1 attempt" if job.attempts == 1 else f"after {job.attempts} attempts"
    killed = f", {job.crashes} of which killed their consumer" if job.crashes else ""
    return f"{job.reason or 'given up'} {tried}{killed}{f': {job.error}' if job.error else ''}"


def _holder(job: JobFacts) -> str:
    holder = job.holder
    if holder is None:
        return "it is in somebody's hands"
    if not holder.process:
        return f"it was in the hands of a process of {holder.node} that is not there any more"
    process = f"{holder.process} of {holder.node}" + (f" (pid {holder.pid})" if holder.pid else "")
    if holder.runs:
        return f"claimed by {process}, behind {holder.runs}, which runs there"
    since = f" for {span(holder.since_s)}" if holder.since_s is not None else ""
    return f"attempt {job.attempts + 1} is in the hands of {process}{since}"


# -- rules ----------------------------------------------------------------------------------------


def _runs(job: JobFacts) -> bool:
    return job.state == "running"


def _is_lost(job: JobFacts) -> bool:
    """Nobody who lives here has it, and this node is not there to give it back either."""
    return _runs(job) and job.holder is not None and not job.holder.process


def _expired(job: JobFacts) -> bool:
    return job.state in _WAITS and 0 < job.expires_ms <= job.now_ms


def _delayed(job: JobFacts) -> bool:
    return job.state == "delayed" and not job.is_due and not job.attempts


def _retried(job: JobFacts) -> bool:
    return job.state == "delayed" and not job.is_due and bool(job.attempts)


RULES: Final[tuple[Rule[JobFacts], ...]] = (
    Rule(
        "not sampled", lambda j: not j.state and bool(j.topic.shadow_of),
        "{path} is a shadow that sees {sample} of the jobs: this one is not among them, or came before it",
        "'pbus topic show {path}' tells what it has compared so far", ends=True,
    ),
    Rule(
        "not meant", lambda j: not j.state, "{path} began after it was pushed: it is not on its way there",
        "from = \"history\" makes a new topic begin with what is kept", ends=True,
    ),
    Rule(
        "ended", lambda j: j.state == "ended", "{path} is through with it: done, cancelled or expired",
        "'pbus job trace {queue} {id}' tells which, as long as its trace is kept", ends=True,
    ),
    Rule(
        "dead", lambda j: j.state == "dead", "it is a dead letter of {path}, died {died}: {cause}",
        "'pbus job retry {path} {id}' tries it again, 'pbus job done {path} {id}' settles it", ends=True,
    ),
    Rule(
        "left", _is_lost, "{holder}",
        "it is handed out again when its node starts, or another one finds that it is gone: 'pbus status'", ends=True,
    ),
    Rule("running", _runs, "{holder}", "'pbus tail {path} --job {id}' follows what its handler says", ends=True),
    Rule(
        "expired", _expired, "its ttl was over at {expired}: it expires when somebody looks at it, and is not run",
        "push it again, with a longer ttl", ends=True,
    ),
    Rule(
        "delayed", _delayed, "it is delayed until {due}, {in}: it was pushed so{rests}",
        "'pbus job cancel {path} {id}' takes it back",
    ),
    Rule(
        "retry", _retried, "attempt {attempts} failed; the next one is due {in}, at {due}",
        "'pbus job trace {queue} {id}' shows what became of the one before",
    ),
    Rule(
        "key", lambda j: bool(j.behind), "its key {key} is held by {behind}, which was pushed before it",
        "'pbus job why {queue} {behind}' says what keeps that one", ends=True,
    ),
)
"""From the top; then what holds up everything that is ready at the topic."""

_IN_LINE: Final[Rule[JobFacts]] = Rule(
    "in line", lambda _: True, "it is ready, pushed {age} ago, and waits for its turn: {waiting} in {path}{oldest}",
    "'pbus tail jobs --job {id}' follows its attempts",
)
