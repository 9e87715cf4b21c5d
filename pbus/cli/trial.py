"""``pbus topic test``: one job straight to a topic's handler, and what the bus would make of its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pbus.cli.attempts import (
    Result,
    calls,
    given_job,
    next_attempt,
    one_job,
    program_of,
    report,
    run_call,
    topic_of,
)
from pbus.clock import SystemClock
from pbus.errors import Exit, HandlerRejected

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.config.schema import Settings, Topic
    from pbus.core.job import Delivery

DRY: Final = "dry-run"


def test(context: Context, path: str, body: str | None, job_id: str, dry_run: bool) -> int:
    """Hand one job to the handler of *path*, as the bus does; 0 when it would be done (or sent, with *dry_run*)."""
    one_job(body, job_id)
    settings = context.settings()
    queue, topic = topic_of(settings, path)
    section = settings.queue[queue].topic[topic]
    job = next_attempt(context, queue, topic, job_id) if body is None else given_job(queue, topic, body)
    clock = SystemClock()
    begun_s = clock.monotonic_s()
    result = _sent(context, settings, job, section) if dry_run else _run(context, settings, job, section)
    run_ms = 1000.0 * (clock.monotonic_s() - begun_s)
    if result.verdict != DRY:
        result = replace(result, then=_then(job, result, section, int(1000 * clock.wall_s())))
    report(context.output, job, result, run_ms)
    return Exit.DONE if result.verdict in ("done", DRY) else Exit.FAILED


def _run(context: Context, settings: Settings, job: Delivery, section: Topic) -> Result:
    program = program_of(section, context.output)
    if program is None:
        return run_call(settings, job, section, section.timeout_s)
    from pbus.cli.apart import run_apart

    return run_apart(lambda: program(job, section), section.timeout_s)


def _sent(context: Context, settings: Settings, job: Delivery, section: Topic) -> Result:
    """What would be sent, and where; nothing is connected to, started or imported."""
    if program_of(section, context.output) is not None:
        what = section.python.call if section.python else " ".join(section.command.argv if section.command else ())
        return Result(verdict=DRY, output=_text(job.body), then=f"would run {what} with {_bytes(job.body)}")
    try:
        request = calls().request_of(settings, job, section, SystemClock())
    except HandlerRejected as error:
        return Result(verdict="unsent", error=str(error))
    from pbus.config.effective import MASK, is_credential

    shown = {name: MASK if is_credential(name, value) else value for name, value in request.fields.items()}
    then = f"would send {_bytes(request.body)} to {request.target}"
    return Result(verdict=DRY, headers=shown, output=_text(request.body), then=then)


def _bytes(body: bytes) -> str:
    return f"{len(body)} byte{'s'[:len(body) != 1]}"


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _then(job: Delivery, result: Result, section: Topic, now_ms: int) -> str:
    from pbus.core.fate import fate
    from pbus.core.outcome import Outcome, Verdict

    outcome = Outcome(verdict=Verdict(result.verdict), error=result.error, delay_s=result.delay_s)
    return fate(job, outcome, section.rules, now_ms)
