"""
``pbus job trace ID [QUEUE]``: every hop of a job's life, out of its traces and its store, with the bus running or not.

    which queue? --> blocks of its second, its record, what was pushed in its trace --> core.story --> lines

Rule: it reads only. What a store that is away would have told is said to be missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.output import escape
from pbus.clock import SystemClock
from pbus.core.names import JOB_ID, job_id_ms
from pbus.core.story import ChildJob, Story, Whereabouts, at, lasting, lines
from pbus.errors import Exit, NotFound

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.output import Output
    from pbus.cli.stores import Stock
    from pbus.core.trace import Attempt
    from pbus.storage.driver import JobRecord

FOLLOW_S: Final = 0.5
SLACK_MS: Final = 1_000
"""Ids are of the store's clock, attempts of their child's; and a push may have been late in its batch."""
PAGES: Final = 10
"""Of a queue and an attempt, in which children are looked for."""
PAGE: Final = 1_000
WINDOWS: Final = 20
_AHEAD_MS: Final = 60_000


def trace(context: Context, words: Sequence[str], follow: bool) -> int:
    """Print the story of the job that *words* name; see ``pbus job trace``."""
    from pbus.cli.stores import take_stock

    queue, job_id = _named(words)
    now_ms = int(SystemClock().wall_s() * 1000)
    if job_id_ms(job_id) > now_ms + _AHEAD_MS:
        raise NotFound(f"there is no job {job_id} yet: its id is of {at(job_id_ms(job_id))}")
    stock = take_stock(context.settings())
    queues = [stock.queue(queue)] if queue else _queues(stock)
    story = _look(stock, queues, job_id)
    _show(context.output, story, ())
    while follow and not story.is_over:
        shown = {_key(hop) for hop in story.hops()}
        SystemClock().sleep(FOLLOW_S)
        story = _look(stock, [story.queue], job_id)
        if story.is_over:                             # what was told last is written a moment later
            SystemClock().sleep(FOLLOW_S)
            story = _look(stock, [story.queue], job_id)
        _show(context.output, story, shown, only_new=True)
    stock.check()
    return Exit.DONE


def _named(words: Sequence[str]) -> tuple[str, str]:
    """The queue (or none) and the id, in either order."""
    ids = [word for word in words if JOB_ID.match(word)]
    queues = [word for word in words if not JOB_ID.match(word)]
    if len(ids) != 1 or len(queues) > 1:
        what = f"{queues[0]!r} is no job id" if queues and not ids else "one job, please: ID [QUEUE]"
        raise click.UsageError(f"{what} (<unix ms>-<sequence>, as 'pbus push' prints it)")
    return (queues[0] if queues else ""), ids[0]


def _queues(stock: Stock) -> list[str]:
    return [name for name in stock.queue_names() if stock.storage_of.get(name) not in (None, *stock.away)]


def _look(stock: Stock, queues: Sequence[str], job_id: str) -> Story:
    """
    Raises:
        NotFound: nothing is known of it, or several queues have a job of that id. Unavailable: its store is away.
    """
    found = [story for queue in queues if (story := story_of(stock, queue, job_id)) is not None]
    if len(found) > 1:
        names = " and ".join(story.queue for story in found)
        raise click.UsageError(f"{job_id} is in {names}: say which, '{job_id} QUEUE'")
    if not found:
        stock.check()                                 # it may be in the store that is away
        raise NotFound(_nothing(stock, job_id))
    return found[0]


def _nothing(stock: Stock, job_id: str) -> str:
    trace, pushed_ms = stock.settings.trace, job_id_ms(job_id)
    age_ms = SystemClock().wall_s() * 1000 - pushed_ms
    when = f"a job of that id was pushed at {at(pushed_ms)}, {lasting(age_ms)} ago"
    if age_ms > trace.keep_s * 1000:
        kept = f"stories are kept for {_days(trace.keep_s)}, of failures for {_days(trace.keep_failed_s)}"
        return f"trace expired: {when}; {kept}, and no queue has the job any more"
    return f"no queue has a job {job_id}, and nothing is kept of one ({when})"


def _days(seconds: float) -> str:
    return lasting(seconds * 1000)


def story_of(stock: Stock, queue: str, job_id: str, *, children: bool = True) -> Story | None:
    """What is known of that job in one queue, with what it pushed where that is wanted; None: nothing."""
    from pbus.cli.stores import queue_driver
    from pbus.cli.traces import told_of

    with queue_driver(stock, queue) as driver:
        record = driver.job(queue, job_id)
    told = told_of(stock.settings, stock.storage_of[queue], queue, job_id)
    if record is None and not told:
        return None
    story = Story(
        queue=queue, id=job_id, pushed_ms=job_id_ms(job_id), now_ms=int(SystemClock().wall_s() * 1000), told=told,
        places=_places(record), expires_ms=record.expires_ms if record else 0,
        size=len(record.body) if record else -1,
    )
    if not children:
        return story
    attempts = [attempt for _, attempt in story.attempts() if attempt.attempt]
    return dataclasses.replace(
        story, children=list(_children(stock, job_id, record.traceparent if record else "", attempts))
    )


def _places(record: JobRecord | None) -> dict[str, Whereabouts]:
    if record is None:
        return {}
    return {
        topic: Whereabouts(place.state, place.due_ms, place.at_ms, place.owner, place.reason, place.error)
        for topic, place in record.topics.items()
    }


def _children(stock: Stock, job_id: str, traceparent: str, attempts: Sequence[Attempt]) -> Iterator[ChildJob]:
    """Jobs of its trace that were pushed while one of its attempts ran, in every queue that can be read."""
    from pbus.cli.stores import queue_driver
    from pbus.core.traceparent import trace_id

    ours = trace_id(traceparent, job_id)
    windows = _windows(attempts)
    for queue in _queues(stock) if windows else ():
        with queue_driver(stock, queue) as driver:
            for first_ms, last_ms in windows:
                after = f"{first_ms}-0"
                for _ in range(PAGES):
                    page = driver.entries(queue, after, f"{last_ms}-999999999", PAGE)
                    for entry in page:
                        if entry.traceparent and entry.id != job_id and trace_id(entry.traceparent, "") == ours:
                            yield ChildJob(queue, entry.id, job_id_ms(entry.id))
                    if not page:
                        break
                    ms, _, sequence = page[-1].id.partition("-")
                    after = f"{ms}-{int(sequence) + 1}"


def _windows(attempts: Sequence[Attempt]) -> list[tuple[int, int]]:
    """When one of them ran, unix ms; what overlaps is one."""
    spans = sorted(
        (one.ended_ms - one.run_us // 1000 - SLACK_MS, one.ended_ms + SLACK_MS) for one in attempts if one.run_us
    )
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged[-WINDOWS:]


def _show(output: Output, story: Story, shown: Any, *, only_new: bool = False) -> None:
    hops = [hop for hop in story.hops() if _key(hop) not in shown]
    if only_new and not hops and not story.is_over:
        return
    if output.form != "table":
        output.document(_document(story))
        return
    if not only_new:
        size = f", {story.size} bytes" if story.size >= 0 else "; the store has it no more"
        output.line(escape(f"{story.queue} {story.id}  pushed {at(story.pushed_ms)}{size}"))
        if not any(hop.kind == "received" for hop in hops):
            output.line(f"{'+0 ms':>12}  stored; by whom it was pushed is not kept (any more)")
    for line in lines(hops, story.pushed_ms):
        output.line(escape(line))
    for topic, text in story.now() if not only_new or story.is_over else ():
        output.line(escape(f"{'now':>12}  {topic}: {text}"))


def _key(hop: Any) -> tuple[Any, ...]:
    return hop.at_ms, hop.kind, hop.topic, hop.text


def _document(story: Story) -> Mapping[str, Any]:
    """The same for programs."""
    places = {topic: {**story.places[topic]._asdict(), "text": text} for topic, text in story.now()}
    hops = [
        {
            **hop.facts, "at_ms": hop.at_ms, "since_push_ms": hop.at_ms - story.pushed_ms, "kind": hop.kind,
            "topic": hop.topic, "text": hop.text,
        }
        for hop in story.hops()
    ]
    return {
        "queue": story.queue, "id": story.id, "pushed_ms": story.pushed_ms, "over": story.is_over, "hops": hops,
        "topics": places,
    }
