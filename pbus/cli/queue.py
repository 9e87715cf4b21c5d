"""``pbus queue ls|show|pause|resume|purge|export``: logs that producers push to, whether the bus runs or not."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.exports import exported, mask_of, mask_options
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, duration, number, plain, show, size
from pbus.cli.output import VERSION, escape, output_option, to_json
from pbus.errors import Exit, NotFound

if TYPE_CHECKING:
    from pbus.cli.stores import Stock
    from pbus.config.schema import Queue
    from pbus.storage.driver import Driver

_COLUMNS: Final = (
    "queue", "state", "system", "storage", "topics", "backlog", "backlog_bytes", "max_backlog", "kept", "pushed_total",
    "description",
)
_HEADS: Final = ("queue", "state", "system", ">topics", ">backlog", ">bytes", ">kept", ">pushed", "description")
_PAGE: Final = 100


@click.group()
def queue() -> None:
    """List, show, pause, resume, purge and export queues."""


@queue.command("ls")
@click.argument("pattern", required=False, default="", metavar="[GLOB]")
@output_option
@pass_context
def list_queues(context: Context, pattern: str) -> int:
    """List queues: all, or those that GLOB matches."""
    from pbus.cli.stores import take_stock

    stock = take_stock(context.settings())
    names = [name for name in stock.queue_names() if not pattern or fnmatch.fnmatchcase(name, pattern)]
    if pattern and not names:
        stock.queue(pattern)
    queue_table(context, stock, names)
    stock.check()
    return Exit.DONE


def queue_table(context: Context, stock: Stock, names: Sequence[str]) -> None:
    """The queues of those names, in the form that was asked for."""
    show(context.output, "queues", _COLUMNS, [row_of(stock, name) for name in names], _HEADS, _cells)


def row_of(stock: Stock, name: str) -> dict[str, Any]:
    """A queue as programs see it; numbers are None where its store could not be read."""
    section, numbers = stock.section(name), stock.queues.get(name)
    known: dict[str, Any] = dataclasses.asdict(numbers) if numbers else {}
    if numbers is None and stock.storage_of.get(name) not in stock.away:
        known = dict.fromkeys(("backlog", "backlog_bytes", "kept", "pushed_total"), 0)
    topics = stock.topic_names(name)
    paused = [topic for topic in topics if topic in stock.topics and stock.topics[topic].paused_ms]
    now = "paused" if topics and len(paused) == len(topics) else "open"
    if section and _full(section, known):
        now = "full"                                  # which is worse: producers are refused
    return {
        "queue": name, "state": now if section else "orphaned", "system": section.system if section else "",
        "storage": stock.storage_of.get(name, ""), "topics": len(topics),
        **{key: known.get(key) for key in ("backlog", "backlog_bytes", "kept", "pushed_total")},
        "max_backlog": section.max_backlog if section else 0,
        "max_backlog_bytes": section.max_backlog_bytes if section else 0,
        "importance": section.importance if section else 0, "description": section.description if section else "",
    }


def _full(section: Queue, known: Mapping[str, Any]) -> bool:
    """Whether the next push is refused."""
    bounds = (("backlog", section.max_backlog), ("backlog_bytes", section.max_backlog_bytes))
    return any(most and (known.get(name) or 0) >= most for name, most in bounds)


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    waits = row["backlog_bytes"]
    return [
        plain(escape(row["queue"])), (row["state"], "" if row["state"] == "open" else "yellow"),
        plain(row["system"] or "-"), count(row["topics"]), count(row["backlog"]),
        ("-" if waits is None else size(waits), "" if waits else "bright_black"), count(row["kept"]),
        count(row["pushed_total"]), plain(escape(row["description"])),
    ]


@queue.command("show")
@click.argument("name", metavar="QUEUE")
@output_option
@pass_context
def show_queue(context: Context, name: str) -> int:
    """Show one queue: its rules, what waits in it, and its topics."""
    from pbus.cli.stores import running_states, take_stock
    from pbus.cli.topic import row_of as topic_row
    from pbus.cli.topic import topic_table

    stock = take_stock(context.settings())
    name = stock.queue(name)
    row = row_of(stock, name)
    topics = stock.topic_names(name)
    if context.output.form != "table":
        states = running_states(stock.settings)
        context.output.rows(
            "queues", _COLUMNS, [row | {"topic": [topic_row(stock, topic, states) for topic in topics]}]
        )
    else:
        facts(context.output, _said(stock, row))
        context.output.line("")
        topic_table(context, stock, topics)
    stock.check()
    return Exit.DONE


def _said(stock: Stock, row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    section = stock.section(row["queue"])
    lines: list[tuple[str, Cell]] = [
        ("queue", plain(row["queue"])), ("description", plain(row["description"])),
        ("state", (row["state"], "" if row["state"] == "open" else "yellow")), ("system", plain(row["system"])),
        ("storage", plain(row["storage"])),
    ]
    if section is not None:
        bounds = [f"{number(section.max_backlog)} jobs" if section.max_backlog else ""]
        bounds.append(size(section.max_backlog_bytes) if section.max_backlog_bytes else "")
        lines += [
            ("alias", plain(" ".join(section.alias))), ("importance", plain(str(section.importance))),
            ("takes at most", plain(" and ".join(filter(None, bounds)))),
            ("kept when settled", plain(f"{duration(section.retention_s)}, {size(section.retention_bytes)} at most")),
            ("dedupe window", plain(duration(section.dedupe_window_s))),
            ("ttl", plain(duration(section.ttl_s) if section.ttl_s else "")),
        ]
    waits = row["backlog_bytes"]
    return [
        *lines, ("backlog", count(row["backlog"])), ("backlog bytes", plain("-" if waits is None else size(waits))),
        ("in its log", count(row["kept"])), ("pushed ever", count(row["pushed_total"])),
    ]


# -- pause, resume --------------------------------------------------------------------------------


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE..")
@pass_context
def pause(context: Context, names: tuple[str, ...]) -> int:
    """Hand out no more jobs of all topics of these queues, on any node; pushes are still taken."""
    return _set_paused(context, names, True)


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE..")
@pass_context
def resume(context: Context, names: tuple[str, ...]) -> int:
    """Hand out jobs of all topics of these queues again."""
    return _set_paused(context, names, False)


def _set_paused(context: Context, names: Sequence[str], paused: bool) -> int:
    from pbus.cli.pauses import set_paused
    from pbus.cli.stores import declare, queue_driver, take_stock

    stock = take_stock(context.settings())
    for name in [stock.queue(each) for each in names]:
        with queue_driver(stock, name) as driver:
            topics = stock.topic_names(name)
            if any(topic not in stock.topics for topic in topics):
                declare(driver, stock.settings, name)
            for _, topic in topics:
                set_paused(driver, name, topic, paused, stock.settings.node.name)
                context.output.say(f"{name}/{topic} {'paused' if paused else 'resumed'}")
    return Exit.DONE


# -- purge ----------------------------------------------------------------------------------------


@queue.command()
@click.argument("path", metavar="QUEUE[/TOPIC]")
@click.option("--yes", is_flag=True, help="Do not refuse to destroy them.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@output_option
@pass_context
def purge(context: Context, path: str, yes: bool, dry_run: bool) -> int:
    """Cancel every job that waits, of all topics of QUEUE or of one. What runs goes on; dead letters stay."""
    from pbus.cli.stores import Refused, queue_driver, take_stock

    stock = take_stock(context.settings())
    topics = purged(stock, path)
    waiting = {name: stock.topics[name].ready + stock.topics[name].delayed for name in topics if name in stock.topics}
    if not dry_run and not yes and any(waiting.values()):
        raise Refused(f"{path}: {sum(waiting.values())} jobs would be cancelled and never run: say --yes")
    rows = []
    with queue_driver(stock, topics[0][0]) as driver:
        for (name, topic), most in waiting.items():
            done = most if dry_run else _purge(driver, name, topic, most)
            rows.append({"queue": name, "topic": topic, "cancelled": 0 if dry_run else done, "would_cancel": done})
            if done and not dry_run:
                _note(stock, name, topic, done)
    if context.output.form != "table":
        context.output.rows("topics", ("queue", "topic", "cancelled"), rows)
    for row in rows:
        what = f"would cancel {row['would_cancel']}" if dry_run else f"cancelled {row['cancelled']}"
        context.output.say(f"{row['queue']}/{row['topic']}: {what}")
    return Exit.DONE


def _note(stock: Stock, queue: str, topic: str, count: int) -> None:
    """The stories of those jobs tell of it."""
    from pbus.cli.traces import tell, who
    from pbus.clock import SystemClock
    from pbus.core.trace import NOTES, PURGE, decision

    note = decision(NOTES, topic, PURGE, SystemClock().wall_s(), who())._replace(more={"jobs": count})
    tell(stock.settings, stock.storage_of[queue], queue, [note])


def purged(stock: Stock, path: str) -> list[tuple[str, str]]:
    """
    The topics that ``QUEUE`` or ``QUEUE/TOPIC`` means.

    Raises:
        NotFound: there is no such thing, or a queue without topics.
    """
    if "/" in path and path not in stock.queue_names():
        return [stock.topic(path)]
    topics = stock.topic_names(stock.queue(path))
    if not topics:
        raise NotFound(f"{path} has no topic")
    return topics


def _purge(driver: Driver, queue: str, topic: str, most: int) -> int:
    """Cancel what was there at the beginning: producers may push faster than this ends."""
    total = 0
    while total < most:
        step = driver.purge(queue, topic)
        total += step
        if not step:
            break
    return total


# -- export ---------------------------------------------------------------------------------------


@queue.command()
@click.argument("name", metavar="QUEUE")
@click.option("--after", default="", metavar="ID", help="Begin behind this job.")
@click.option("--limit", default=0, metavar="N", type=click.IntRange(min=0), help="At most so many; 0: all.")
@mask_options
@pass_context
def export(context: Context, name: str, after: str, limit: int, masked: bool, mask_paths: tuple[str, ...]) -> int:
    """
    Print every job that the store still has, oldest first, a JSON object a line.

    Bodies are text; one that is not UTF-8 is base64 and says so in "encoding". "topics" tells where each delivery is.
    """
    from pbus.cli.stores import queue_driver, take_stock
    from pbus.core.names import JOB_ID

    if after and not JOB_ID.match(after):
        raise click.UsageError(f"--after takes the id of a job, not {after!r}")
    stock = take_stock(context.settings())
    name = stock.queue(name)
    told, mask = 0, mask_of(masked, mask_paths)
    with queue_driver(stock, name) as driver:
        while name in stock.queues and (not limit or told < limit):
            page = driver.jobs(name, after, min(_PAGE, limit - told) if limit else _PAGE)
            if not page:
                break
            for record in page:
                context.output.line(to_json({"v": VERSION, **exported(record, mask)}))
            told, after = told + len(page), page[-1].id
    context.output.say(f"{told} jobs")
    return Exit.DONE
