"""
One attempt of a topic's handler out of a command: which topic, which job, how it is run, what is told of it.

Rule: nothing is claimed, settled or stored.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.output import escape
from pbus.clock import SystemClock
from pbus.errors import NotFound

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.output import Output
    from pbus.config.schema import Settings, Topic
    from pbus.core.job import Delivery
    from pbus.storage.driver import JobRecord

_COLUMNS: Final = ("id", "queue", "topic", "result", "run_ms", "status", "error")


@dataclass(slots=True, kw_only=True)
class Result:
    """
    How the handler ended, as the bus would have understood it.

    Attributes:
        verdict: ``done``, ``failed``, ``retry``, ``permanent``, ``crashed`` ..
        error: Why it is not done.
        delay_s: What it asked to wait before the next attempt.
        status, headers, output, stderr: Of a call, what came back; of a program that is listened to, what it printed.
        then: What the bus would do with the job; empty: that was not asked.
    """

    verdict: str
    error: str = ""
    delay_s: float | None = None
    status: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    stderr: str = ""
    then: str = ""


Run = Callable[["Delivery", "Topic"], Result]


# -- which job ------------------------------------------------------------------------------------------


def topic_of(settings: Settings, path: str) -> tuple[str, str]:
    """
    The queue and the topic that *path* means, in the configuration alone.

    Raises:
        NotFound: none.
    """
    queue, _, topic = path.rpartition("/")
    for name, section in settings.queue.items():
        if queue in (name, *section.alias) and topic in section.topic:
            return name, topic
    raise NotFound(f"the configuration has no topic {path!r}")


def one_job(body: str | None, job_id: str) -> None:
    """
    Raises:
        click.UsageError: none is named, or two.
    """
    if (body is None) == (not job_id):
        raise click.UsageError("say which job, in one way: BODY, - (standard input), @FILE or --job ID")


def given_job(queue: str, topic: str, body: str) -> Delivery:
    """A job that was never stored: *body* is text, ``-`` (standard input) or ``@FILE``."""
    if body == "-":
        return _made_up(queue, topic, sys.stdin.buffer.read())
    if body.startswith("@"):
        with open(body[1:], "rb") as file:
            return _made_up(queue, topic, file.read())
    return _made_up(queue, topic, os.fsencode(body))


def stored_job(context: Context, queue: str, topic: str, job_id: str) -> Delivery:
    """
    A job that the store still has, as its first attempt; where it is, it stays.

    Raises:
        NotFound: the store has it no more.
    """
    return _of_record(_record(context, queue, job_id), topic)


def next_attempt(context: Context, queue: str, topic: str, job_id: str) -> Delivery:
    """The same, as the attempt that would be made now."""
    record = _record(context, queue, job_id)
    return attempt_of(record, topic, 1)


def attempt_of(record: JobRecord, topic: str, more: int) -> Delivery:
    """The last attempt of a stored job at *topic* (*more* 0), or the one after it; the first, where none was made."""
    place = record.topics.get(topic)
    if place is None:
        return _of_record(record, topic)
    return _of_record(
        record, topic, attempt=max(1, place.attempts + more), crashes=place.crashes, redelivered=place.redelivered,
        first_ms=place.first_ms, key=record.key,
    )


def _of_record(record: JobRecord, topic: str, **known: Any) -> Delivery:
    fields = {
        "id": record.id, "traceparent": record.traceparent, "content_type": record.content_type,
        "replay_of": record.replay_of,
    }
    return _made_up(record.queue, topic, record.body, **(fields | known))


def _made_up(queue: str, topic: str, body: bytes, **known: Any) -> Delivery:
    from pbus.core.job import Delivery

    fields: dict[str, Any] = {
        "id": f"{int(1000 * SystemClock().wall_s())}-0", "attempt": 1, "crashes": 0, "redelivered": False,
        "traceparent": "", "content_type": "", "first_ms": 0, "owner": "",
    }
    return Delivery(queue=queue, topic=topic, body=body, **(fields | known))


def _record(context: Context, queue: str, job_id: str) -> JobRecord:
    from pbus.cli.stores import queue_driver, take_stock

    stock = take_stock(context.settings())
    with queue_driver(stock, queue) as driver:
        record = driver.job(queue, job_id)
    if record is None:
        raise NotFound(f"{queue} has no job {job_id} (any more)")
    return record


# -- how it is run --------------------------------------------------------------------------------------


def program_of(section: Topic, output: Output) -> Run | None:
    """What runs a Python function or a program; None: the handler is called."""
    if section.python is not None:
        from pbus.cli.debug import run_python

        handler = section.python
        return lambda job, _: run_python(handler, job, output, False)
    if section.command is not None:
        from pbus.cli.debug_programs import run_lines, run_pepper

        command = section.command
        return run_lines(command, output) if command.protocol == "lines" else run_pepper(command)
    if section.pull is not None:
        raise click.UsageError("nothing of pbus runs its jobs: clients pull them")
    return None


def run_call(settings: Settings, job: Delivery, section: Topic, timeout_s: float = 0.0) -> Result:
    """One direct call of a php-fpm script or an HTTP endpoint."""
    outcome = calls().call(settings, job, section, SystemClock(), timeout_s)
    return Result(
        verdict=str(outcome.verdict), error=outcome.error, delay_s=outcome.delay_s, status=outcome.status,
        headers=outcome.headers, output=_text(outcome.output), stderr=_text(outcome.stderr),
    )


def calls() -> Any:
    """``pbus.delivery.direct``, by its name, as roles are: gevent stays out of every other command."""
    return importlib.import_module("pbus.delivery.direct")


def _text(excerpt: bytes | str) -> str:
    return excerpt.decode("utf-8", "replace") if isinstance(excerpt, bytes) else excerpt


# -- what is told ---------------------------------------------------------------------------------------


def report(output: Output, job: Delivery, result: Result, run_ms: float) -> None:
    """A row for programs; for people a line, what came back, and what the bus would do."""
    row = {
        "id": job.id, "queue": job.queue, "topic": job.topic, "result": result.verdict, "run_ms": round(run_ms, 3),
        **{key: value for key, value in asdict(result).items() if key != "verdict"},
    }
    if output.form != "table":
        output.rows("results", _COLUMNS, [row])
        return
    colour = "green" if result.verdict == "done" else "red"
    said = [f"{run_ms:.1f} ms", result.status, f"again in {result.delay_s:g} s" if result.delay_s is not None else ""]
    verdict = output.style(result.verdict, colour)
    output.line(f"{escape(f'{job.queue}/{job.topic} {job.id}')}  {verdict}  {escape('  '.join(filter(None, said)))}")
    for name, value in result.headers.items():
        output.line(escape(f"    {name}: {value}"))
    for mark, text in (("|", result.output), ("!", result.stderr), ("x", result.error), (">", result.then)):
        for line in text.splitlines():
            output.line(f"    {mark} {escape(line)}")
