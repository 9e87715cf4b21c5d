"""``pbus push``: push jobs as any producer would, and see what becomes of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.bus_client import JobEvents, Pusher, queue_called
from pbus.cli.context import Context, pass_context
from pbus.cli.output import brief, escape, output_option
from pbus.clock import Clock, SystemClock
from pbus.errors import Exit, PbusError

if TYPE_CHECKING:
    from pbus.config.schema import Settings

_BATCH: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
_NAMED: Final = 20
_ASK_S: Final = 10.0
_ENDS: Final = {"job.done": "green", "job.dead": "red"}
_COLUMNS: Final = ("id", "topic", "result", "run_ms", "wait_ms", "attempt", "status", "target", "error")


@click.command()
@click.argument("queue")
@click.argument("body", required=False, metavar="[BODY|-|@FILE]")
@click.option("--lines", "lines_file", metavar="FILE", help="Push each line of FILE (- is standard input) as a job.")
@click.option("--delay", metavar="DURATION", help="Not run before (5m).")
@click.option("--dedupe", metavar="KEY", help="Pushed again with KEY, it is the same job (same id).")
@click.option("--ttl", metavar="DURATION", help="Not begun any more after (1h); 0s: it never expires.")
@click.option("--key", metavar="KEY", help="Jobs of one KEY run in order, one at a time.")
@click.option("--wait", is_flag=True, help="Wait for the result of each topic; exit 1 if any is dead or late.")
@click.option("--timeout", default="60s", show_default=True, metavar="DURATION", help="Longest wait with --wait.")
@output_option
@pass_context
def push(
    context: Context, queue: str, body: str | None, lines_file: str | None, delay: str | None,
    dedupe: str | None, ttl: str | None, key: str | None, wait: bool, timeout: str,
) -> int:
    """Push BODY (- is standard input, @FILE a file) to QUEUE and print the job's id."""
    timeout_s = _seconds("--timeout", timeout)
    options = _options(delay, dedupe, ttl, key)
    if dedupe is not None and lines_file is not None:
        raise click.UsageError("--dedupe is for one job: the lines of --lines would all be the same one")
    settings = context.settings()
    name = queue_called(settings, queue)
    bodies = _bodies(body, lines_file)
    report = _Report(context, name, wait)
    with Pusher(settings, name) as pusher:
        if not wait:
            _push_all(pusher, bodies, options, report)
            return report.end()
        topics = _handled_topics(settings, name, report)
        with JobEvents(settings.node.run_dir, name) as events:  # before the push, so that nothing is missed
            ids = _push_all(pusher, bodies, options, report)
            _say_why(settings.node.run_dir, name, set(topics), report)  # rather than a minute of silence
            missing = _await(events, ids, topics, report, timeout_s, SystemClock())
            if missing:
                _say_why(settings.node.run_dir, name, {topic for _, topic in missing}, report)
            return report.end(missing, timeout, events.lost)


def _say_why(run_dir: str, queue: str, topics: set[str], report: _Report) -> None:
    """Which of *topics* do not run, and why, as far as the bus can tell."""
    from pbus.supervisor.control import call

    try:
        rows = call(run_dir, "status", _ASK_S, reads=True)["status"]["topics"]
    except PbusError:
        return
    for row in rows:
        if row["queue"] == queue and row["topic"] in topics and row["reason"]:
            report.note(f"{queue}/{row['topic']} is {row['state']}: {brief(row['reason'])}")


def _seconds(option: str, text: str) -> float:
    from pbus.config.values import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise click.UsageError(f"{option} takes {error}") from None


def _options(delay: str | None, dedupe: str | None, ttl: str | None, key: str | None) -> dict[str, str | int]:
    """What XADD is told beside the body; whether it is good the bus decides. An empty text is given, too."""
    options: dict[str, str | int] = {}
    for name, text in (("delay", delay), ("ttl", ttl)):
        if text is not None:
            options[name] = round(1000 * _seconds(f"--{name}", text))
    return options | {name: text for name, text in (("dedupe", dedupe), ("key", key)) if text is not None}


def _bodies(body: str | None, lines_file: str | None) -> Iterable[bytes]:
    """What to push. Files are read as they are; a line is a job without its end."""
    if (body is None) == (lines_file is None):
        raise click.UsageError("say what to push, in one way: BODY, - (standard input), @FILE or --lines FILE")
    if lines_file is not None:
        return _lines(lines_file)
    assert body is not None
    if body == "-":
        return [sys.stdin.buffer.read()]
    if body.startswith("@"):
        with open(body[1:], "rb") as file:
            return [file.read()]
    return [os.fsencode(body)]


def _lines(path: str) -> Iterator[bytes]:
    with sys.stdin.buffer if path == "-" else open(path, "rb") as file:
        for line in file:
            text = line.rstrip(b"\r\n")
            if text:
                yield text


def _push_all(
    pusher: Pusher, bodies: Iterable[bytes], options: Mapping[str, str | int], report: _Report
) -> list[str]:
    """Push in batches and report each; the ids of what was stored, in order."""
    stored = []
    for batch in _batches(bodies):
        ids = []
        for answer in pusher.push(batch, options):
            if isinstance(answer, PbusError):
                report.refused(answer)
            else:
                ids.append(answer)
        report.ids(ids)
        stored += ids
    return stored


def _batches(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (len(batch) >= _BATCH or size + len(body) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


def _handled_topics(settings: Settings, queue: str, report: _Report) -> list[str]:
    """Topics whose jobs the bus runs; what a client pulls has no result that could be waited for."""
    topics = settings.queue[queue].topic
    pulled = sorted(name for name, topic in topics.items() if topic.pull is not None)
    shadows = {name for name, topic in topics.items() if topic.shadow_of}  # of a sample only, and nobody's result
    if pulled:
        report.note(f"not waited for, because clients pull them: {', '.join(f'{queue}/{name}' for name in pulled)}")
    return sorted(set(topics) - set(pulled) - shadows)


def _await(
    events: JobEvents, ids: list[str], topics: list[str], report: _Report, timeout_s: float, clock: Clock
) -> list[tuple[str, str]]:
    """Report what becomes of each job for each topic; answers (id, topic) of those without a result in time."""
    waiting = {(job, topic) for job in ids for topic in topics}
    deadline_s = clock.monotonic_s() + timeout_s
    while waiting:
        event = events.next(deadline_s - clock.monotonic_s())
        if event is None:
            break
        key = (str(event.get("id")), str(event.get("topic")))
        if key not in waiting:
            continue
        if event.get("event") in _ENDS:
            waiting.discard(key)
            report.result(event)
        elif event.get("event") == "job.retry":
            report.attempt(event)
    return sorted(waiting)


class _Report:
    """What people and programs are told. Ids and results are data, all else is talk."""

    def __init__(self, context: Context, queue: str, waits: bool) -> None:
        self._context = context
        self._queue = queue
        self._waits = waits
        self._as_rows = context.output.form != "table"
        self._ids: list[str] = []
        self._results: list[dict[str, Any]] = []
        self._refusal: PbusError | None = None
        self._refused = 0
        self._failed = False
        self._noted: set[str] = set()

    def ids(self, ids: list[str]) -> None:
        """These were stored."""
        if self._as_rows:
            self._ids += ids
            return
        for job in ids:
            self._context.output.line(job)

    def refused(self, error: PbusError) -> None:
        """One was not."""
        self._refused += 1
        self._refusal = self._refusal or error

    def attempt(self, event: Mapping[str, Any]) -> None:
        """A failed attempt that will be repeated."""
        delay_s = float(event.get("delay_s") or 0.0)
        self._say(
            f"{self._path(event)}: attempt {event.get('attempt')} {event.get('verdict')}: "
            f"{brief(str(event.get('error')))}; again in {delay_s:.1f} s"
        )

    def result(self, event: Mapping[str, Any]) -> None:
        """The end of a job for one topic."""
        row = _row(event)
        self._failed = self._failed or row["result"] != "done"
        if self._as_rows:
            self._results.append(row)
            return
        colour = _ENDS[str(event["event"])]
        said = [f"{row['run_ms']:.1f} ms", f"attempt {row['attempt']}", row["status"], row["target"]]
        said.append(brief(row["error"]))
        line = "  ".join(str(part) for part in said if part)
        result = self._context.output.style(f"{row['result']:<5}", colour)
        self._context.output.line(f"{escape(self._path(event))}  {result}  {escape(line)}")
        for name, value in row["headers"].items():
            self._context.output.line(escape(f"    {name}: {value}"))
        whole = row["error"] if "\n" in row["error"] else ""
        for mark, text in (("|", row["output"]), ("!", row["stderr"] or whole)):
            for each in text.splitlines():
                self._context.output.line(f"    {mark} {escape(each)}")

    def end(self, missing: Sequence[tuple[str, str]] = (), timeout: str = "", lost: int = 0) -> int:
        """Say what did not go well; the exit status."""
        if self._as_rows and self._waits:
            self._context.output.rows("results", _COLUMNS, self._results, jobs=self._ids)
        elif self._as_rows:
            self._context.output.rows("jobs", ("id",), [{"id": job} for job in self._ids])
        if lost:
            self._say(f"{lost} results were not seen: they came faster than they could be read")
        for job, topic in missing[:_NAMED]:
            self._say(f"{self._queue}/{topic} {job}: no result within {timeout}; the job is stored")
        if len(missing) > _NAMED:
            self._say(f"and {len(missing) - _NAMED} more without a result")
        if self._refusal is not None:
            self._say(f"{self._refused} refused: {self._refusal}")
            return self._refusal.exit_status
        return Exit.FAILED if self._failed or missing else Exit.DONE

    def note(self, text: str) -> None:
        """Something to know, said once."""
        if text not in self._noted:
            self._noted.add(text)
            self._say(text)

    def _say(self, text: str) -> None:
        self._context.output.say(f"pbus: {text}")

    def _path(self, event: Mapping[str, Any]) -> str:
        return f"{self._queue}/{event.get('topic')} {event.get('id')}"


def _row(event: Mapping[str, Any]) -> dict[str, Any]:
    """A job event as a row of results; excerpts as text."""
    row: dict[str, Any] = {
        "id": str(event.get("id", "")), "queue": str(event.get("queue", "")), "topic": str(event.get("topic", "")),
        "result": str(event.get("event", "")).removeprefix("job."), "headers": dict(event.get("headers") or {}),
    }
    for key in ("run_ms", "wait_ms"):
        row[key] = float(event.get(key) or 0.0)
    row["attempt"] = int(event.get("attempt") or 0)
    for key in ("verdict", "status", "target", "error", "output", "stderr"):
        value = event.get(key) or ""
        row[key] = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return row
