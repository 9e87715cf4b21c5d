"""
``pbus tail``: what happens, as it happens.

    log          every line of pbus.log                    events   those that are not about one job
    errors       warnings and errors                       jobs     every attempt, live from the bus
    QUEUE/TOPIC  what the handlers of that topic said
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.log_reader import Entry, LogReader, log_entry, topic_entry
from pbus.cli.output import brief, escape, output_option, to_json
from pbus.clock import SystemClock
from pbus.errors import NotFound

DEFAULT: Final = "events"
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_ENDS: Final = {"job.done": "green", "job.retry": "yellow", "job.dead": "red"}
_FAILED: Final = ("job.retry", "job.dead")
_REACH_S: Final = 5.0


@click.command()
@click.argument("what", required=False, default=DEFAULT, metavar="[QUEUE/TOPIC|events|jobs|errors|log]")
@click.option("--since", metavar="DURATION", help="Begin so long ago, such as 5m (not for jobs); else 10 lines back.")
@click.option("--only", metavar="WORD", help="Only lines about this: failed, refused, dead, a level, an event's name.")
@click.option("--follow/--no-follow", default=True, help="Go on with what comes (default), or stop at the end.")
@output_option
@pass_context
def tail(context: Context, what: str, since: str | None, only: str | None, follow: bool) -> None:
    """
    Follow the bus until Ctrl-C.

    \b
    events       what happens to the bus itself (default)
    errors       its warnings and errors, failed attempts among them
    log          all of that
    jobs         every attempt of every job, live
    QUEUE/TOPIC  what the handlers of that topic say
    """
    if context.output.form == "csv":
        raise click.UsageError("tail prints text (-o table) or JSON lines (-o json)")
    if what == "jobs":
        if since is not None or not follow:
            raise click.UsageError("jobs are followed live: there is nothing to look back at")
        _show(context, _jobs(context), only, _job_line)
        return
    path, understand, keep, line_of = _source(context, what)
    entries = _entries(path, understand, _since(since), follow)
    _show(context, filter(keep, entries), only, line_of)


def _source(
    context: Context, what: str
) -> tuple[str, Callable[[str], Entry], Callable[[Entry], bool], Callable[[Context, Entry], str]]:
    """Which file, how its lines are understood, which of them count, and how they look."""
    from pbus.telemetry.log import FILE_NAME
    from pbus.telemetry.sink import STDOUT
    from pbus.telemetry.topic_log import FOLDER, file_name

    settings = context.settings()
    log_dir = settings.node.log_dir
    if log_dir == STDOUT:
        raise NotFound('there is no log file: [node] log_dir is "-", the log goes to standard output')
    if what in _KEEP:
        return os.path.join(log_dir, FILE_NAME), log_entry, _KEEP[what], _log_line
    queue, slash, topic = what.partition("/")
    if not slash:
        there = [f"{what}/{name}" for name in settings.queue[what].topic] if what in settings.queue else []
        hint = f"; did you mean {' or '.join(there)}?" if there else ""
        raise click.UsageError(f"{what!r} is neither QUEUE/TOPIC nor one of jobs, {', '.join(_KEEP)}{hint}")
    known = settings.queue.get(queue)
    if known is None or topic not in known.topic:
        there = [f"{queue}/{topic}" for queue, section in settings.queue.items() for topic in section.topic]
        raise NotFound(f"there is no topic {what!r} in {context.config_dir}; there are: {', '.join(there) or 'none'}")
    return os.path.join(log_dir, FOLDER, file_name(queue, topic)), topic_entry, lambda _: True, _topic_line


def _is_event(entry: Entry) -> bool:
    return "job" not in entry.fields and entry.fields.get("level") != "debug"


def _is_error(entry: Entry) -> bool:
    return entry.fields.get("level") in _COLOURS


_KEEP: Final[dict[str, Callable[[Entry], bool]]] = {"events": _is_event, "errors": _is_error, "log": lambda _: True}


def _since(text: str | None) -> float | None:
    """Unix seconds from ``--since``."""
    if text is None:
        return None
    from pbus.config.values import duration_s

    try:
        return SystemClock().wall_s() - duration_s(text)
    except ValueError as error:
        raise click.UsageError(f"--since takes {error}") from None


def _entries(path: str, understand: Callable[[str], Entry], since_s: float | None, follow: bool) -> Iterator[Entry]:
    """What the files hold since then, and what comes."""
    with contextlib.closing(LogReader(path, SystemClock())) as reader:
        for line in reader.past(since_s):
            entry = understand(line)
            if since_s is None or entry.at_s is None or entry.at_s >= since_s:
                yield entry
        if follow:
            yield from map(understand, reader.coming())


def _jobs(context: Context) -> Iterator[Entry]:
    from pbus.supervisor.control import stream

    for frame in stream(context.settings().node.run_dir, "watch", _REACH_S, reads=True, queues=[]):
        if frame["kind"] == "event":
            yield Entry("", readable(frame["event"]))
        elif frame["kind"] == "lost":
            context.output.say(f"({frame['count']} attempts not shown: this terminal is slower than the bus)")
        elif frame["kind"] == "ok":
            context.output.say("following every attempt of every job; Ctrl-C ends")


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """A job event with its excerpts as text."""
    return {
        key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in event.items()
    }


def is_about(fields: Mapping[str, Any], word: str) -> bool:
    """Whether *word* names a line's level, its event (or a part of it), its verdict or its reason."""
    event = str(fields.get("event", ""))
    if word == "failed" and event in _FAILED:
        return True
    words = {event, *event.split("."), *(str(fields.get(key)) for key in ("level", "verdict", "reason", "result"))}
    return word in words


def _show(
    context: Context, entries: Iterator[Entry], only: str | None, line_of: Callable[[Context, Entry], str]
) -> None:
    as_json = context.output.form != "table"
    for entry in entries:
        if only is not None and not is_about(entry.fields, only):
            continue
        if as_json:
            context.output.line(to_json({"v": 1, **(entry.fields or {"text": entry.text})}))
        else:
            context.output.line(line_of(context, entry))


def _log_line(context: Context, entry: Entry) -> str:
    from pbus.telemetry.lines import text_line

    is_json = entry.text.startswith("{")
    line = text_line(_shortened(entry.fields)) if is_json else escape(entry.text)
    return _coloured(context, line, _COLOURS.get(str(entry.fields.get("level"))))


def _shortened(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A job's line with the line of its error that says most; the topic's own log has all of it."""
    error = fields.get("error")
    return {**fields, "error": brief(error)} if "job" in fields and isinstance(error, str) else fields


def _topic_line(context: Context, entry: Entry) -> str:
    return _coloured(context, escape(entry.text), _COLOURS.get(str(entry.fields.get("level"))))


def _job_line(context: Context, entry: Entry) -> str:
    """``TIME gift/credit 17-1 done attempt 1 run 2.1 ms waited 3.0 ms 200 target error``."""
    from pbus.telemetry.lines import timestamp

    fields = entry.fields
    parts = [
        timestamp(SystemClock().wall_s())[11:23],
        f"{fields.get('queue')}/{fields.get('topic')}",
        str(fields.get("id")),
        str(fields.get("event", "")).removeprefix("job."),
        f"attempt {fields.get('attempt')}",
        f"run {fields.get('run_ms', 0):.1f} ms",
        f"waited {fields.get('wait_ms', 0):.1f} ms",
        *(brief(str(fields[key])) for key in ("status", "target", "error") if fields.get(key)),
    ]
    return _coloured(context, escape("  ".join(parts)), _ENDS.get(str(fields.get("event"))))


def _coloured(context: Context, line: str, colour: str | None) -> str:
    return context.output.style(line, colour) if colour else line
