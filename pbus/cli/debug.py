"""``pbus topic debug``: run a topic's handler once, in this terminal, outside the bus. Nothing is claimed or stored."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.output import escape
from pbus.clock import SystemClock
from pbus.errors import Exit, NotFound, PbusError

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.output import Output
    from pbus.config.schema import PythonHandler, Settings, Topic
    from pbus.core.job import Delivery

_COLUMNS: Final = ("id", "queue", "topic", "result", "run_ms", "status", "error")


@dataclass(slots=True, kw_only=True)
class Result:
    """
    How the handler ended, as the bus would have understood it.

    Attributes:
        verdict: ``done``, ``failed``, ``retry``, ``permanent``, ``crashed`` ..
        error: Why it is not done.
        delay_s: What it asked to wait before the next attempt.
        status, headers, output, stderr: Of a call, what came back.
    """

    verdict: str
    error: str = ""
    delay_s: float | None = None
    status: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    stderr: str = ""


Run = Callable[["Delivery", "Topic"], Result]


def debug(context: Context, path: str, body: str | None, job_id: str, post_mortem: bool) -> int:
    """Run the handler of *path* with one job; 0 when it is done."""
    settings = context.settings()
    queue, topic = _topic_of(settings, path)
    section = settings.queue[queue].topic[topic]
    job = _stored(context, queue, topic, job_id) if job_id else _made_up(queue, topic, _body(body))
    run = _runner(section, context.output, settings, post_mortem)
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    result = run(job, section)
    _report(context.output, job, result, 1000.0 * (clock.monotonic_s() - begun_s))
    return Exit.DONE if result.verdict == "done" else Exit.FAILED


def _runner(section: Topic, output: Output, settings: Settings, post_mortem: bool) -> Run:
    if post_mortem and section.python is None:
        raise click.UsageError("--pdb is for Python handlers")
    if section.python is not None:
        handler = section.python
        return lambda job, _: run_python(handler, job, output, post_mortem)
    if section.command is not None:
        from pbus.cli.debug_programs import run_lines, run_pepper

        command = section.command
        return run_lines(command, output) if command.protocol == "lines" else run_pepper(command)
    if section.pull is not None:
        raise click.UsageError("nothing of pbus runs its jobs: clients pull them")
    return lambda job, section: run_call(settings, job, section)


# -- which job ------------------------------------------------------------------------------------------


def _topic_of(settings: Settings, path: str) -> tuple[str, str]:
    queue, _, topic = path.rpartition("/")
    for name, section in settings.queue.items():
        if queue in (name, *section.alias) and topic in section.topic:
            return name, topic
    raise NotFound(f"the configuration has no topic {path!r}")


def _body(body: str | None) -> bytes:
    import os

    if body is None:
        raise click.UsageError("which job? BODY, - (standard input), @FILE or --job ID")
    if body == "-":
        return sys.stdin.buffer.read()
    if body.startswith("@"):
        with open(body[1:], "rb") as file:
            return file.read()
    return os.fsencode(body)


def _made_up(queue: str, topic: str, body: bytes, **known: Any) -> Delivery:
    from pbus.core.job import Delivery

    fields: dict[str, Any] = {
        "id": f"{int(1000 * SystemClock().wall_s())}-0", "attempt": 1, "crashes": 0, "redelivered": False,
        "traceparent": "", "content_type": "", "first_ms": 0, "owner": "",
    }
    return Delivery(queue=queue, topic=topic, body=body, **(fields | known))


def _stored(context: Context, queue: str, topic: str, job_id: str) -> Delivery:
    """A job that the store still has, as its first attempt; where it is, it stays."""
    from pbus.cli.stores import queue_driver, take_stock

    stock = take_stock(context.settings())
    with queue_driver(stock, queue) as driver:
        record = driver.job(queue, job_id)
    if record is None:
        raise NotFound(f"{queue} has no job {job_id} (any more)")
    return _made_up(
        queue, topic, record.body, id=record.id, traceparent=record.traceparent, content_type=record.content_type
    )


# -- calls ----------------------------------------------------------------------------------------------


def run_call(settings: Settings, job: Delivery, section: Topic) -> Result:
    """One direct call of a php-fpm script or an HTTP endpoint."""
    # By its name, as roles are: gevent stays where the roles are, and out of every other command.
    direct = importlib.import_module("pbus.delivery.direct")
    outcome = direct.call(settings, job, section, SystemClock())
    return Result(
        verdict=str(outcome.verdict), error=outcome.error, delay_s=outcome.delay_s, status=outcome.status,
        headers=outcome.headers, output=_text(outcome.output), stderr=_text(outcome.stderr),
    )


def _text(excerpt: bytes | str) -> str:
    return excerpt.decode("utf-8", "replace") if isinstance(excerpt, bytes) else excerpt


# -- Python ---------------------------------------------------------------------------------------------


class _NoPusher:
    """What ``job.push`` does here: it says what it would push."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def add(self, queue: str, body: bytes, options: list[str | bytes | int]) -> str:
        """Store nothing; an id that no job has."""
        shown = " ".join(each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in options)
        self._output.say(f"job.push: not stored: {queue} {body[:200].decode('utf-8', 'replace')} {shown}".rstrip())
        return "0-0"


def run_python(handler: PythonHandler, job: Delivery, output: Output, post_mortem: bool) -> Result:
    """Import the handler and call it; ``breakpoint()`` in it stops in this terminal."""
    from pbus.consumer.job import Job
    from pbus.consumer.python_handler import LoadError, PythonHandler

    log = logging.Logger(f"{job.queue}/{job.topic}")
    log.addHandler(logging.StreamHandler())
    given = Job(
        id=job.id, queue=job.queue, topic=job.topic, attempt=job.attempt, redelivered=job.redelivered, body=job.body,
        traceparent=job.traceparent, content_type=job.content_type, log=log, pusher=_NoPusher(output),
    )
    try:
        loaded = PythonHandler.load(handler.call, handler.path)
        loaded.setup()
    except LoadError as error:
        raise PbusError(str(error)) from None
    raised: list[BaseException] = []
    with _looking_on(raised if post_mortem else None):
        answer = loaded.run(given)
    if answer.verdict == "failed" and raised:
        import pdb

        pdb.post_mortem(raised[0].__traceback__)
    loaded.teardown()
    return Result(verdict=answer.verdict, error=answer.error, delay_s=answer.delay_s)


@contextmanager
def _looking_on(raised: list[BaseException] | None) -> Iterator[None]:
    """Keep in *raised* the exception that was raised last, with the frames that it came through."""
    if raised is None:
        yield
        return

    def look(_: object, event: str, argument: Any) -> Any:
        if event == "exception" and isinstance(argument[1], BaseException):
            raised[:] = [argument[1]]
        return look

    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(None)


# -- what is told ---------------------------------------------------------------------------------------


def _report(output: Output, job: Delivery, result: Result, run_ms: float) -> None:
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
    for mark, text in (("|", result.output), ("!", result.stderr), ("x", result.error)):
        for line in text.splitlines():
            output.line(f"    {mark} {escape(line)}")
