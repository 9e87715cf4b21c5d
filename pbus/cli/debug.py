"""``pbus topic debug``: run a topic's handler once, in this terminal, outside the bus. Nothing is claimed or stored."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pbus.cli.attempts import Result, Run, given_job, one_job, program_of, report, run_call, stored_job, topic_of
from pbus.clock import SystemClock
from pbus.errors import Exit, PbusError

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.output import Output
    from pbus.config.schema import PythonHandler, Settings, Topic
    from pbus.core.job import Delivery

def debug(context: Context, path: str, body: str | None, job_id: str, post_mortem: bool) -> int:
    """Run the handler of *path* with one job; 0 when it is done."""
    one_job(body, job_id)
    settings = context.settings()
    queue, topic = topic_of(settings, path)
    section = settings.queue[queue].topic[topic]
    job = stored_job(context, queue, topic, job_id) if body is None else given_job(queue, topic, body)
    run = _runner(section, context.output, settings, post_mortem)
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    result = run(job, section)
    report(context.output, job, result, 1000.0 * (clock.monotonic_s() - begun_s))
    return Exit.DONE if result.verdict == "done" else Exit.FAILED


def _runner(section: Topic, output: Output, settings: Settings, post_mortem: bool) -> Run:
    if post_mortem and section.python is None:
        raise click.UsageError("--pdb is for Python handlers")
    if post_mortem and section.python is not None:
        handler = section.python
        return lambda job, _: run_python(handler, job, output, True)
    return program_of(section, output) or (lambda job, section: run_call(settings, job, section))


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
        replay_of=job.replay_of,
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
