"""
``pbus tail``: what happens, as it happens.

    log          every line of pbus.log                    events        those that are not about one job
    errors       warnings and errors                       jobs          every attempt, live from the bus
    QUEUE/TOPIC  what the handlers of that topic said      program:NAME  what that program said

Rule: every child of this node writes the same files, so one reader sees all of them; other nodes have files of their
own, and tell their events to a ring in the store that they share. What is filtered is filtered before the last lines
are counted.
"""

from __future__ import annotations

import contextlib
import fnmatch
import heapq
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.telemetry.log_reader import LAST_LINES, Entry, LogReader, coming, log_entry, topic_entry
from pbus.cli.output import brief, escape, to_json
from pbus.clock import SystemClock
from pbus.errors import NotFound

if TYPE_CHECKING:
    from pbus.config.schema import Settings

DEFAULT: Final = "events"
_PROGRAM: Final = "program:"
_GLOB: Final = frozenset("*?[")
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_ENDS: Final = {"job.done": "green", "job.retry": "yellow", "job.dead": "red"}
_FAILED: Final = ("job.retry", "job.dead", "job.shadow_failed")
_REACH_S: Final = 5.0
_TOLD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Filter:
    """
    Which entries are shown.

    Attributes:
        topic: Glob over ``queue/topic``; empty: all, also those that are about none.
        job: Its id; empty: all.
        words: They are about one of these; none: all.
    """

    topic: str = ""
    job: str = ""
    words: Sequence[str] = ()

    def wants(self, fields: Mapping[str, Any]) -> bool:
        """Whether an entry with these fields is shown."""
        if self.job and self.job not in (fields.get("job"), fields.get("id")):
            return False
        if self.topic and not _is_of(fields, self.topic):
            return False
        return not self.words or any(is_about(fields, word) for word in self.words)

    @property
    def queues(self) -> list[str]:
        """The one queue that the glob means; none: it may be several."""
        queue, slash, _ = self.topic.partition("/")
        return [queue] if slash and not _GLOB & set(queue) else []


def _is_of(fields: Mapping[str, Any], glob: str) -> bool:
    """An event about a topic, or about a queue of which the glob may mean topics."""
    queue, topic = fields.get("queue"), fields.get("topic")
    path = fields.get("path") if queue is None else f"{queue}/{topic}"
    if queue is not None and not topic:
        return fnmatch.fnmatchcase(str(queue), glob.partition("/")[0])
    return path is not None and fnmatch.fnmatchcase(str(path), glob)


@dataclass(frozen=True, slots=True)
class Source:
    """
    A file: how its lines are understood, which of them count, how they look, what else is known of each.
    """

    path: str
    understand: Callable[[str], Entry]
    line_of: Callable[[Context, Entry], str]
    keep: Callable[[Entry], bool] = lambda _: True
    known: Mapping[str, str] = field(default_factory=dict)

    def entry(self, line: str) -> Entry:
        """One of its lines."""
        entry = self.understand(line)
        return Entry(entry.text, {**self.known, **entry.fields}) if entry.fields and self.known else entry


def _choose_form(click_context: click.Context, _: click.Parameter, value: str) -> None:
    context = click_context.find_object(Context)
    if context is not None:
        context.output.form = "table" if value in ("text", "table") else "jsonl"


def _only(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for word in words for part in word.split(",") if part)


@click.command()
@click.argument("what", required=False, default=DEFAULT, metavar="[QUEUE/TOPIC|events|jobs|errors|log|program:NAME]")
@click.option("--since", metavar="DURATION", help="Begin so long ago, such as 5m (not for jobs); else 10 lines back.")
@click.option("--topic", default="", metavar="GLOB", help="Only what is about topics that this matches: 'gift/*'.")
@click.option("--job", "job_id", default="", metavar="ID", help="Only what is about this job.")
@click.option(
    "--only", multiple=True, metavar="WORD",
    help="Only lines about this: done, failed, refused, dead, timeout, a level, an event's name; several times: any.",
)
@click.option("--nodes", is_flag=True, help="Events, errors of all nodes that share a Redis: the last 5,000.")
@click.option("--follow/--no-follow", default=True, help="Go on with what comes (default), or stop at the end.")
@click.option(
    "-o", "--output", type=click.Choice(("text", "json", "jsonl", "table")), default="text", show_default=True,
    expose_value=False, callback=_choose_form, help="Lines for people, or a JSON document each.",
)
@pass_context
def tail(
    context: Context, what: str, since: str | None, topic: str, job_id: str, only: tuple[str, ...], nodes: bool,
    follow: bool,
) -> None:
    """
    Follow the bus until Ctrl-C.

    \b
    events        what happens to the bus itself (default; with --job, what happens to that job)
    errors        its warnings and errors, failed attempts among them
    log           all of that
    jobs          every attempt of every job on this node, live
    QUEUE/TOPIC   what the handlers of that topic say; 'gift/*': of all these
    program:NAME  what a program says
    """
    from pbus.core.names import JOB_ID

    if job_id and not JOB_ID.match(job_id):
        raise click.UsageError(f"{job_id!r} is no job id (<unix ms>-<sequence>, as 'pbus push' prints it)")
    chosen = Filter(topic, job_id, _only(only))
    if nodes and (what not in ("events", "errors") or job_id):
        raise click.UsageError("--nodes is for events and errors of the bus; jobs are in 'pbus job trace ID'")
    if what == "jobs":
        if since is not None or not follow:
            raise click.UsageError("jobs are followed live: there is nothing to look back at")
        _show(context, ((_job_line, entry) for entry in _jobs(context, chosen) if chosen.wants(entry.fields)))
        return
    if nodes:
        _show(context, _of_nodes(context, _KEEP[what], chosen, _since(since), follow))
        return
    if topic and what not in _KEEP:
        raise click.UsageError(f"{what!r} is one file; --topic is for jobs, {', '.join(_KEEP)}")
    sources = _sources(context, "log" if job_id and what == DEFAULT else what)
    _show(context, _entries(sources, chosen, _since(since), follow))


# -- files ----------------------------------------------------------------------------------------


def _sources(context: Context, what: str) -> list[Source]:
    """
    The files that *what* means.

    Raises:
        NotFound: there is no such topic or program, or there are no files.
    """
    from pbus.telemetry.log import FILE_NAME
    from pbus.telemetry.sink import STDOUT
    from pbus.telemetry.topic_log import FOLDER, PROGRAM_FOLDER, file_name

    settings = context.settings()
    log_dir = settings.node.log_dir
    if log_dir == STDOUT:
        raise NotFound('there is no log file: [node] log_dir is "-", the log goes to standard output')
    if what in _KEEP:
        return [Source(os.path.join(log_dir, FILE_NAME), log_entry, _log_line, _KEEP[what])]
    if what.startswith(_PROGRAM):
        name = _program(context, what.removeprefix(_PROGRAM))
        path = os.path.join(log_dir, PROGRAM_FOLDER, f"{name}.log")
        return [Source(path, topic_entry, _topic_line, known={"program": name})]
    names = _topics(context, settings, what)
    line_of = _topic_line if len(names) == 1 else _named_line
    return [
        Source(os.path.join(log_dir, FOLDER, file_name(*name)), topic_entry, line_of,
               known={"queue": name[0], "topic": name[1]})
        for name in names
    ]


def _program(context: Context, name: str) -> str:
    programs = context.settings().program
    if name not in programs:
        there = ", ".join(sorted(programs)) or "none"
        raise NotFound(f"there is no program {name!r} in {context.config_dir}; there are: {there}")
    if not programs[name].log:
        raise NotFound(f"what {name} says goes nowhere: [program.{name}] log = false")
    return name


def _topics(context: Context, settings: Settings, what: str) -> list[tuple[str, str]]:
    names = [(queue, topic) for queue, section in settings.queue.items() for topic in section.topic]
    queue, slash, topic = what.partition("/")
    if not slash:
        there = [f"{what}/{name}" for name in settings.queue[what].topic] if what in settings.queue else []
        there += [_PROGRAM + what] if what in settings.program else []
        hint = f"; did you mean {' or '.join(there)}?" if there else ""
        raise click.UsageError(f"{what!r} is neither QUEUE/TOPIC nor one of jobs, {', '.join(_KEEP)}{hint}")
    meant = next((name for name, section in settings.queue.items() if queue in section.alias), queue)
    found = [name for name in names if name == (meant, topic) or fnmatch.fnmatchcase("/".join(name), what)]
    if not found:
        there = ["/".join(name) for name in names]
        raise NotFound(f"there is no topic {what!r} in {context.config_dir}; there are: {', '.join(there) or 'none'}")
    return found


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


Shown = tuple[Callable[[Context, Entry], str], Entry]
"""How an entry looks, and the entry."""


def _entries(sources: Sequence[Source], chosen: Filter, since_s: float | None, follow: bool) -> Iterator[Shown]:
    """What the files hold since then, in the order of time, and what comes."""
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(LogReader(source.path, clock))) for source in sources]
        pasts = [_past(*pair, chosen, since_s) for pair in zip(sources, readers, strict=True)]
        past: Iterable[tuple[float, Shown]] = heapq.merge(*pasts, key=lambda each: each[0])
        if since_s is None:
            past = list(past)[-LAST_LINES:]
        yield from (shown for _, shown in past)
        for place, line in coming(readers, clock) if follow else ():
            source = sources[place]
            entry = source.entry(line)
            if source.keep(entry) and chosen.wants(entry.fields):
                yield source.line_of, entry


def _past(source: Source, reader: LogReader, chosen: Filter, since_s: float | None) -> Iterator[tuple[float, Shown]]:
    """What one file holds, each with a time that never goes back: a line without one comes right after the last."""
    at_s = 0.0

    def wants(line: str) -> bool:
        entry = source.entry(line)
        return source.keep(entry) and chosen.wants(entry.fields)

    for line in reader.past(since_s, wants):
        entry = source.entry(line)
        at_s = max(at_s, entry.at_s or 0.0)
        young = since_s is None or entry.at_s is None or entry.at_s >= since_s
        if young and source.keep(entry) and chosen.wants(entry.fields):
            yield at_s, (source.line_of, entry)


# -- other nodes ----------------------------------------------------------------------------------


def _of_nodes(
    context: Context, keep: Callable[[Entry], bool], chosen: Filter, since_s: float | None, follow: bool
) -> Iterator[Shown]:
    """
    What the nodes have told since then, and what they tell.

    Raises:
        NotFound: no store is shared. Unavailable: it is away.
    """
    from pbus.app import stores
    from pbus.storage.bulletin import Bulletin, home

    target = home(stores(context.settings()))
    if target is None:
        raise NotFound("no store of this configuration is shared by several nodes (a Redis would be)")
    clock = SystemClock()
    with contextlib.closing(Bulletin(target, clock)) as bulletin:
        after, past = f"{int(since_s * 1000)}-0" if since_s is not None else "", deque[Shown](maxlen=LAST_LINES)
        is_past = since_s is None
        while True:
            page = bulletin.told(after)
            after = page[-1].id if page else after
            entries = [Entry(told.line, {"node": told.node, **log_entry(told.line).fields}) for told in page]
            shown = [(_node_line, entry) for entry in entries if keep(entry) and chosen.wants(entry.fields)]
            if is_past:
                past.extend(shown)
            else:
                yield from shown
            if not page:
                # Each node tells its part once a second: in the ring they follow each other by the second only.
                yield from sorted(past, key=lambda row: str(row[1].fields.get("ts", "")))
                past.clear()
                is_past = False
                if not follow:
                    return
                clock.sleep(_TOLD_S)


def _node_line(context: Context, entry: Entry) -> str:
    return f"{escape(str(entry.fields.get('node')))}  {_log_line(context, entry)}"


# -- live -----------------------------------------------------------------------------------------


def _jobs(context: Context, chosen: Filter) -> Iterator[Entry]:
    from pbus.supervisor.control import stream

    for frame in stream(context.settings().node.run_dir, "watch", _REACH_S, reads=True, queues=chosen.queues):
        if frame["kind"] == "event":
            yield Entry("", readable(frame["event"]))
        elif frame["kind"] == "lost":
            context.output.say(f"({frame['count']} attempts not shown: this terminal is slower than the bus)")
        elif frame["kind"] == "ok":
            every = "every attempt of every job" if chosen == Filter() else "what you asked for"
            context.output.say(f"following {every}; Ctrl-C ends")


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """A job event with its excerpts as text."""
    return {
        key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in event.items()
    }


# -- what is shown --------------------------------------------------------------------------------


def is_about(fields: Mapping[str, Any], word: str) -> bool:
    """Whether *word* names a line's level, its event (or a part of it), its verdict or its reason."""
    event = str(fields.get("event", ""))
    if word == "failed" and event in _FAILED:
        return True
    words = {event, *event.split("."), *(str(fields.get(key)) for key in ("level", "verdict", "reason", "result"))}
    return word in words


def _show(context: Context, entries: Iterable[Shown]) -> None:
    as_json = context.output.form != "table"
    for line_of, entry in entries:
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


def _named_line(context: Context, entry: Entry) -> str:
    """A line of one of several topics."""
    line = f"{entry.fields.get('queue', '-')}/{entry.fields.get('topic', '-')}  {entry.text}"
    return _coloured(context, escape(line), _COLOURS.get(str(entry.fields.get("level"))))


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
