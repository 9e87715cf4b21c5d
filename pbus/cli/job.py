"""
``pbus job retry|done|cancel``: what a person decides about single jobs. ``trace|find``: what became of one.
``curl|export``: a job for elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.exports import exported, mask_of, mask_options
from pbus.cli.output import VERSION, output_option, to_json
from pbus.errors import Exit, NotFound

if TYPE_CHECKING:
    from pbus.cli.stores import Stock
    from pbus.storage.driver import Driver, JobRecord

_COLUMNS: Final = ("queue", "topic", "id", "state", "result")
_WAITS: Final = ("ready", "delayed")


@click.group()
def job() -> None:
    """Trace, retry, settle, cancel, reproduce and export jobs."""


@dataclass(frozen=True, slots=True)
class Deed:
    """
    What is done to deliveries.

    Attributes:
        states: Those in which it can be done.
        done, would: What is said of it.
        move: What it is called in stories, a word of ``core.job.Move``.
        act: (driver, queue, topic, id) -> whether it took effect.
    """

    states: tuple[str, ...]
    done: str
    would: str
    move: str
    act: Callable[[Driver, str, str, str], bool]


_RETRY: Final = Deed(
    ("dead",), "ready again", "would be ready again", "revive", lambda driver, *name: _one(driver.revive, name)
)
_DONE: Final = Deed(("dead",), "done", "would be done", "accept", lambda driver, *name: _one(driver.accept, name))
_CANCEL: Final = Deed(
    _WAITS, "cancelled", "would be cancelled", "cancel", lambda driver, *name: _one(driver.cancel, name)
)


def _one(method: Callable[[str, str, Sequence[str]], Sequence[int]], name: tuple[str, ...]) -> bool:
    queue, topic, job_id = name
    return bool(method(queue, topic, [job_id])[0])


def _which(function: Callable[..., int]) -> Callable[..., int]:
    for option in (
        pass_context, output_option, click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.argument("words", nargs=-1, required=True, metavar="[QUEUE[/TOPIC]] ID.."),
    ):
        function = option(function)
    return function


@job.command()
@_which
def retry(context: Context, words: tuple[str, ...], dry_run: bool) -> int:
    """Make dead jobs ready again, with all attempts before them."""
    return _do(context, words, _RETRY, dry_run)


@job.command()
@_which
def done(context: Context, words: tuple[str, ...], dry_run: bool) -> int:
    """Settle dead jobs as done, because you know that they are; they are not run again."""
    return _do(context, words, _DONE, dry_run)


@job.command()
@_which
def cancel(context: Context, words: tuple[str, ...], dry_run: bool) -> int:
    """Cancel jobs that wait, of all topics or of one; what runs goes on."""
    return _do(context, words, _CANCEL, dry_run)


@job.command()
@click.argument("words", nargs=-1, required=True, metavar="[QUEUE[/TOPIC]] ID")
@output_option
@pass_context
def why(context: Context, words: tuple[str, ...]) -> int:
    """Say why a job is not done: at each topic where it is, what keeps it there, and what to do next."""
    from pbus.cli.why import tell_job

    return tell_job(context, words)


@job.command()
@click.argument("words", nargs=-1, required=True, metavar="ID [QUEUE]")
@click.option("-f", "--follow", is_flag=True, help="Until it is over, print what happens to it.")
@output_option
@pass_context
def trace(context: Context, words: tuple[str, ...], follow: bool) -> int:
    """
    Tell the story of a job: who pushed it, every attempt and what came of it, what it pushed in turn.

    Times are since the push. Stories are kept for trace.keep, failures for trace.keep_failed; it works with the bus
    stopped, too.
    """
    from pbus.cli.job_trace import trace

    return trace(context, words, follow)


@job.command()
@click.argument("queue", metavar="QUEUE")
@click.argument("pairs", nargs=-1, metavar="[PATH=VALUE ..]")
@click.option("--since", default="2h", show_default=True, metavar="WHEN", help="So long ago, or a moment (UTC).")
@click.option("--until", default="", metavar="WHEN", help="The same (default: now).")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The newest so many.")
@output_option
@pass_context
def find(context: Context, queue: str, pairs: tuple[str, ...], since: str, until: str, limit: int) -> int:
    """
    Find jobs by values of their bodies (uid=88123): where they are, or that they were refused, or never came.

    Values that the queue's 'index' names are found at once, others by reading what the queue keeps. Exit status 5: no
    such job was found.
    """
    from pbus.cli.job_find import find

    return find(context, queue, pairs, since, until, limit)


@job.command()
@click.argument("words", nargs=-1, required=True, metavar="[QUEUE[/TOPIC]] ID")
@click.option("--topic", default="", metavar="TOPIC", help="Of this topic alone (default: a line for each).")
@click.option("--secrets", is_flag=True, help="With the passwords of the configuration, instead of variables.")
@output_option
@pass_context
def curl(context: Context, words: tuple[str, ...], topic: str, secrets: bool) -> int:
    """
    Print the call of a job as a line for a shell, to run it again by hand: curl for HTTP, cgi-fcgi for php-fpm.

    Whoever runs the line sends the bytes that pbus sends, past the queue. Of Python functions and programs it is
    'pbus topic debug'. Passwords in headers and parameters are shell variables.
    """
    from pbus.cli.reproduce import curl
    from pbus.cli.stores import take_stock

    path, job_id = split(words, one=True)
    stock = take_stock(context.settings())
    record, topics = found(stock, path, job_id)
    return curl(context, record, (topic,) if topic else topics, secrets)


@job.command()
@click.argument("words", nargs=-1, required=True, metavar="[QUEUE[/TOPIC]] ID..")
@mask_options
@pass_context
def export(context: Context, words: tuple[str, ...], masked: bool, mask_paths: tuple[str, ...]) -> int:
    """
    Print jobs, a JSON object a line, as 'pbus queue export' does.

    With --mask they may be shown to others: what is hidden is ***, and such a job says "masked": true. Bodies that are
    no text are hidden whole.
    """
    from pbus.cli.stores import take_stock

    mask = mask_of(masked, mask_paths)
    stock = take_stock(context.settings())
    path, ids = split(words)
    for record in [found(stock, path, job_id)[0] for job_id in ids]:
        context.output.line(to_json({"v": VERSION, **exported(record, mask)}))
    return Exit.DONE


def _do(context: Context, words: Sequence[str], deed: Deed, dry_run: bool) -> int:
    from pbus.cli.stores import queue_driver, take_stock

    stock = take_stock(context.settings())
    path, ids = split(words)
    rows: list[dict[str, Any]] = []
    for record, topics in [found(stock, path, job_id) for job_id in ids]:  # all of them, before the first is touched
        with queue_driver(stock, record.queue) as driver:
            settled = list(_settle(driver, record, topics, deed, dry_run))
        rows += settled
        if not dry_run:
            _tell(stock, record, deed, [row["topic"] for row in settled if row["acted"]])
    if context.output.form != "table":
        context.output.rows("deliveries", _COLUMNS, rows)
    for row in rows:
        context.output.say(f"{row['queue']}/{row['topic']} {row['id']} {row['result']}")
    acted = sum(row["acted"] for row in rows)
    return Exit.DONE if acted else Exit.FAILED


@overload
def split(words: Sequence[str]) -> tuple[str, list[str]]: ...


@overload
def split(words: Sequence[str], *, one: Literal[True]) -> tuple[str, str]: ...


def split(words: Sequence[str], *, one: bool = False) -> tuple[str, str | list[str]]:
    """
    The queue or topic, if the first word is one, and the ids; *one*: the only one.

    Raises:
        click.UsageError: a word is no id, there is none, or not just one.
    """
    from pbus.core.names import JOB_ID

    path, ids = ("", list(words)) if JOB_ID.match(words[0]) else (words[0], list(words[1:]))
    wrong = [word for word in ids if not JOB_ID.match(word)]
    if wrong or not ids:
        what = f"{wrong[0]!r} is no job id" if wrong else "which job? name its id"
        raise click.UsageError(f"{what} (<unix ms>-<sequence>, as 'pbus push' prints it)")
    ids = list(dict.fromkeys(ids))
    if one and len(ids) > 1:
        raise click.UsageError("one job, please")
    return path, ids[0] if one else ids


def found(stock: Stock, path: str, job_id: str) -> tuple[JobRecord, tuple[str, ...]]:
    """The job, and the topics that are meant; see ``_where``."""
    from pbus.cli.stores import queue_driver

    queue, topics = _where(stock, path, job_id)
    with queue_driver(stock, queue) as driver:
        record = driver.job(queue, job_id)
    if record is None:
        raise NotFound(f"{queue} has no job {job_id} (any more)")
    return record, topics


def _where(stock: Stock, path: str, job_id: str) -> tuple[str, tuple[str, ...]]:
    """
    The queue that has the job, and the topics that are meant; none: all of them.

    Raises:
        NotFound: no queue has it. click.UsageError: several have one of that id.
    """
    if path and ("/" not in path or path in stock.queue_names()):
        return stock.queue(path), ()
    if path:
        queue, topic = stock.topic(path)
        return queue, (topic,)
    queues = [record.queue for record in _search(stock, job_id)]
    if len(queues) > 1:
        raise click.UsageError(f"{job_id} is in {' and '.join(queues)}: say which, 'QUEUE {job_id}'")
    if not queues:
        stock.check()                                 # it may be in the store that is away
        raise NotFound(f"no queue has a job {job_id} (any more)")
    return queues[0], ()


def _search(stock: Stock, job_id: str) -> Iterator[JobRecord]:
    from pbus.cli.stores import opened

    for storage in stock.settings.storage:
        names = [name for name in stock.queues if stock.storage_of.get(name) == storage]
        if storage in stock.away or not names:
            continue
        with opened(stock.settings, storage) as driver:
            for name in names:
                record = driver.job(name, job_id)
                if record is not None:
                    yield record


def _tell(stock: Stock, record: JobRecord, deed: Deed, topics: Sequence[str]) -> None:
    """The story of the job has who decided that."""
    from pbus.cli.traces import tell, who
    from pbus.clock import SystemClock
    from pbus.core.trace import decision

    now_s, person = SystemClock().wall_s(), who()
    told = [decision(record.id, topic, deed.move, now_s, person) for topic in topics]
    tell(stock.settings, stock.storage_of[record.queue], record.queue, told)


def _settle(
    driver: Driver, record: JobRecord, topics: Sequence[str], deed: Deed, dry_run: bool
) -> Iterator[dict[str, Any]]:
    """A row a delivery; those that are elsewhere are told when they were named, or none is where it should be."""
    places = {topic: place for topic, place in record.topics.items() if not topics or topic in topics}
    fitting = {topic for topic, place in places.items() if place.state in deed.states}
    for topic, place in places.items():
        if topic not in fitting and fitting:
            continue
        acts = topic in fitting and not dry_run
        acted = deed.act(driver, record.queue, topic, record.id) if acts else topic in fitting
        elsewhere = f"is {place.state}, not {' or '.join(deed.states)}"
        result = (deed.would if dry_run else deed.done) if acted else elsewhere
        yield {
            "queue": record.queue, "topic": topic, "id": record.id, "state": place.state, "result": result,
            "acted": acted,
        }
