"""``pbus topic ls``, ``show``, ``test`` and so on: subscriptions, whether the bus runs or not."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, duration, plain, show, state, wait
from pbus.cli.output import brief, escape, output_option
from pbus.cli.scaling_view import scaling_lines
from pbus.cli.shadows import compared, forget, shadow_lines
from pbus.cli.status_view import shadow_mark
from pbus.errors import Exit

if TYPE_CHECKING:
    from pbus.cli.stores import Stock
    from pbus.config.schema import Settings, Topic

_COLUMNS: Final = (
    "queue", "topic", "state", "ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total",
    "handler",
)
_HEADS: Final = (
    "topic", "state", ">ready", ">running", ">delayed", ">dead", ">oldest", ">done", ">failed", "handler",
)


@click.group()
def topic() -> None:
    """List, show, try, pause, resume and remove topics."""


@topic.command("ls")
@click.argument("pattern", required=False, default="", metavar="[QUEUE|GLOB]")
@output_option
@pass_context
def list_topics(context: Context, pattern: str) -> int:
    """List topics: all, those of QUEUE, or those that GLOB matches ('gift/*')."""
    from pbus.cli.stores import running_states, take_stock

    settings = context.settings()
    stock = take_stock(settings)
    names = [name for name in stock.topic_names() if _matches(name, pattern)]
    if pattern and not names:
        stock.topic(pattern)
    states = running_states(settings)
    _table(context, stock, names, states)
    stock.check()
    return Exit.DONE


def _table(context: Context, stock: Stock, names: Sequence[tuple[str, str]], states: States) -> None:
    from pbus.cli.scale import orders_of

    orders = orders_of(stock.settings)
    rows = [row_of(stock, name, states) for name in names]
    for row in rows:
        row["orders"] = [order.words for order in orders.get(f"{row['queue']}/{row['topic']}", ())]
    if any(row["orders"] for row in rows):
        show(context.output, "topics", _COLUMNS, rows, (*_HEADS, "order"), lambda row: [*cells(row), _orders(row)])
    else:
        show(context.output, "topics", _COLUMNS, rows, _HEADS, cells)


def _orders(row: Mapping[str, Any]) -> Cell:
    return plain("; ".join(row["orders"]) or "-")


def _matches(name: tuple[str, str], pattern: str) -> bool:
    return pattern in ("", name[0]) or fnmatch.fnmatchcase("/".join(name), pattern)


States = Mapping[tuple[str, str], Mapping[str, object]]


def row_of(stock: Stock, name: tuple[str, str], states: States) -> dict[str, Any]:
    """A topic as programs see it; numbers are None where its store could not be read."""
    numbers = stock.topics.get(name)
    section = stock.topic_section(name)
    known = dataclasses.asdict(numbers) if numbers else {}
    if numbers is None and stock.storage_of.get(name[0]) not in stock.away:
        known = dict.fromkeys(_COUNTED, 0)            # it is not in the store yet
    if section is None:
        now = "orphaned"
    elif known.get("paused_ms"):
        now = "paused"
    else:
        now = str(states[name]["state"]) if name in states else "stopped"
    return {
        "queue": name[0], "topic": name[1], "state": now, **{column: known.get(column) for column in _COUNTED},
        "oldest_wait_s": round(known["oldest_wait_s"], 3) if known else None,
        "handler": handler_of(section) if section else "",
        "shadow_of": section.shadow_of if section else "",
        **{key: states.get(name, {}).get(key) for key in ("concurrency", "capacity", "scaling")},
    }


_COUNTED: Final = (
    "ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total", "dead_total",
    "redelivered_total", "cancelled_total", "expired_total", "forgotten_total", "paused_ms",
)


def handler_of(section: Topic) -> str:
    """``fastcgi``, ``http``, ``python``, ``command`` or ``pull``."""
    return next(kind for kind in ("fastcgi", "http", "python", "command", "pull") if getattr(section, kind) is not None)


def cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    """A topic as people read it."""
    return [
        plain(escape(f"{row['queue']}/{row['topic']}{shadow_mark(row)}")), state(row["state"]), count(row["ready"]),
        count(row["running"]), count(row["delayed"]), count(row["dead"], "red"), wait(row["oldest_wait_s"]),
        count(row["done_total"]), count(row["failed_total"], "yellow"), plain(row["handler"] or "-"),
    ]


def topic_table(context: Context, stock: Stock, names: Sequence[tuple[str, str]]) -> None:
    """The table of ``topic ls`` as a part of something else."""
    from pbus.cli.stores import running_states

    _table(context, stock, names, running_states(stock.settings))


@topic.command("restart")
@click.argument("glob", metavar="GLOB")
@click.option("--wait", is_flag=True, help="Return when all have been replaced; exit status 1 if one failed.")
@output_option
@pass_context
def restart_topics(context: Context, glob: str, wait: bool) -> int:
    """
    Have the consumers of the topics that GLOB matches ('gift/credit', 'gift/*') load their code again.

    A process with the new code comes first. When it has finished 5 jobs, or lived for 30 s, the others follow one by
    one, each after its job; when it fails, the old ones go on. A topic that was given up is tried again.
    """
    from pbus.cli.rollouts import restart

    return restart(context, "consumer", glob, wait)


@topic.command("test")
@click.argument("path", metavar="QUEUE/TOPIC")
@click.argument("body", required=False, metavar="[BODY|-|@FILE]")
@click.option("--job", "job_id", default="", metavar="ID", help="A job that the store still has; it stays as it is.")
@click.option("--dry-run", is_flag=True, help="Only show what would be sent, and where.")
@output_option
@pass_context
def try_topic(context: Context, path: str, body: str | None, job_id: str, dry_run: bool) -> int:
    """
    Hand one job straight to the handler of a topic, and say what the bus would make of it; exit 0 if it would be done.

    Past the queue: nothing is claimed or stored, and the bus need not run. The topic's timeout holds. Python functions
    and programs run in a process that is thrown away, as you; what they print is shown.
    """
    from pbus.cli.trial import test

    return test(context, path, body, job_id, dry_run)


@topic.command("debug")
@click.argument("path", metavar="QUEUE/TOPIC")
@click.argument("body", required=False, metavar="[BODY|-|@FILE]")
@click.option("--job", "job_id", default="", metavar="ID", help="A job that the store still has; it stays as it is.")
@click.option("--pdb", "post_mortem", is_flag=True, help="Python: look around where an exception was raised.")
@output_option
@pass_context
def debug_topic(context: Context, path: str, body: str | None, job_id: str, post_mortem: bool) -> int:
    """Run the handler of a topic once, in this terminal and outside the bus; exit 0 if the job would be done."""
    from pbus.cli.debug import debug

    return debug(context, path, body, job_id, post_mortem)


@topic.command("scale")
@click.argument("glob", metavar="GLOB")
@click.argument("number", required=False, type=click.IntRange(0), metavar="[N]")
@click.option("--min", "least", type=click.IntRange(0), metavar="N", help="At least so many.")
@click.option("--max", "most", type=click.IntRange(0), metavar="N", help="At most so many.")
@click.option("--from", "begin", default="", metavar="TIME", help="From then on: '2027-12-31 19:50' or '19:50'.")
@click.option("--to", "end", default="", metavar="TIME", help="Until then (default: until it is reset).")
@click.option("--for", "lasting", default="", metavar="DURATION", help="For so long: 30m, 2h.")
@click.option("--reset", is_flag=True, help="Take all orders about these topics back.")
@output_option
@pass_context
def scale_topics(
    context: Context, glob: str, number: int | None, least: int | None, most: int | None, begin: str, end: str,
    lasting: str, reset: bool,
) -> int:
    """
    Order N consumers (or calls) at once for the topics that GLOB matches, or other bounds, for a time.

    'pbus topic scale gift/credit 12 --for 1h' holds 12. With --min and --max the autoscaler goes on between them:
    'pbus topic scale "gift/*" --min 40 --max 120 --from "2027-12-31 19:50" --to 22:30'. Orders outlive a restart.
    """
    from pbus.cli.scale import scale

    return scale(context, glob, number, (least, most), (begin, end, lasting), reset)


@topic.command("show")
@click.argument("path", metavar="QUEUE/TOPIC")
@output_option
@pass_context
def show_topic(context: Context, path: str) -> int:
    """Show one topic: its handler, its rules, how it is scaled, where its jobs are, and what they died of."""
    from pbus.cli.scale import orders_of
    from pbus.cli.stores import queue_driver, running_states, take_stock

    settings = context.settings()
    stock = take_stock(settings)
    name = stock.topic(path)
    states = running_states(settings)
    row = row_of(stock, name, states) | {"reason": str(states.get(name, {}).get("reason", ""))}
    groups: list[dict[str, Any]] = []
    if name in stock.topics:
        with queue_driver(stock, name[0]) as driver:
            groups = [dataclasses.asdict(group) for group in driver.dead_groups(*name)[:_GROUPS]]
            row |= {"shadow": compared(driver, settings, name)} if row["shadow_of"] else {}
    orders = [order.words for order in orders_of(settings).get("/".join(name), ())]
    row |= {"dead_groups": groups, "rules": _rules(settings, name), "orders": orders}
    if context.output.form == "table":
        facts(context.output, _said(row))
    else:
        context.output.rows("topics", _COLUMNS, [row])
    stock.check()
    return Exit.DONE


@topic.command()
@click.argument("path", metavar="QUEUE/TOPIC")
@output_option
@pass_context
def why(context: Context, path: str) -> int:
    """Say why jobs of a topic are not done, or not seen: each reason, the most important first, and what to do next."""
    from pbus.cli.why import tell

    return tell(context, path)


@topic.command()
@click.argument("path", metavar="QUEUE/TOPIC")
@click.option("--since", default="2h", show_default=True, metavar="DURATION", help="From then until now: 30m, 2h, 7d.")
@click.option("--step", default="", metavar="DURATION", help="A row for each: 1m, 5m, 1h, 1d (default: about 24 rows).")
@output_option
@pass_context
def stats(context: Context, path: str, since: str, step: str) -> int:
    """
    Show what became of the jobs of a topic over time, on all nodes: how many, how long they waited and ran.

    Minutes are kept for 24 hours, hours for 30 days, days for 400 days. They are written once a minute.
    """
    from pbus.cli.statistics import topic_stats

    return topic_stats(context, path, since, step)


_GROUPS: Final = 5
_HANDLER_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "fastcgi": ("backend", "address", "script", "contract"), "http": ("url", "contract"), "python": ("call", "path"),
    "command": ("argv", "protocol"), "pull": ("max_open",),
}


def _rules(settings: Settings, name: tuple[str, str]) -> dict[str, Any]:
    """What the configuration says of the topic, as far as people ask for it every day."""
    section = settings.queue[name[0]].topic.get(name[1]) if name[0] in settings.queue else None
    if section is None:
        return {}
    retry, kind = section.retry, handler_of(section)
    handler = {key: getattr(section.handler, key) for key in _HANDLER_KEYS.get(kind, ())}
    return {
        kind: {key: value for key, value in handler.items() if value},
        "concurrency": dataclasses.asdict(section.concurrency),
        "timeout_s": section.timeout_s, "on_unknown": section.on_unknown, "rate_per_s": section.rate_per_s,
        "retry": {"attempts": retry.attempts, "for_s": retry.for_s, "first_s": retry.first_s, "max_s": retry.max_s},
    }


def _retries(retry: Mapping[str, Any]) -> str:
    within = f" within {duration(retry['for_s'])}" if retry["for_s"] else ""
    return f"{retry['attempts']} attempts{within}"


def _said(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """The topic for people, a line a fact."""
    rules = row["rules"]
    lines: list[tuple[str, Cell]] = [
        ("topic", plain(f"{row['queue']}/{row['topic']}")), ("state", state(row["state"])),
        ("reason", plain(row["reason"])),
        ("handler", plain(" ".join([row["handler"], *map(str, rules.get(row["handler"], {}).values())]))),
    ]
    if rules:
        slots, retry = rules["concurrency"], rules["retry"]
        bounds = str(slots["min"]) if slots["min"] == slots["max"] else f"{slots['min']}-{slots['max']}"
        limit = f"{duration(rules['timeout_s'])} an attempt" if rules["timeout_s"] else "none"
        lines += [
            ("concurrency", plain(bounds)), *scaling_lines(row),
            ("timeout", plain(limit + (", unknown ends are held" if rules["on_unknown"] == "hold" else ""))),
            ("retry", plain(_retries(retry) if not row["shadow_of"] else "one attempt, whatever comes of it")),
        ]
    for key in ("ready", "running", "delayed", "dead"):
        lines.append((key, count(row[key], "red" if key == "dead" else "")))
    lines.append(("oldest", wait(row["oldest_wait_s"])))
    for key in _COUNTED:
        if key.endswith("_total"):
            lines.append((key.removesuffix("_total") + " ever", count(row[key])))
    lines += shadow_lines(row)
    for group in row["dead_groups"]:
        lines.append(("died of", plain(f"{group['count']} x {group['reason']}: {brief(group['error'])}")))
    return lines


@topic.command()
@click.argument("paths", nargs=-1, required=True, metavar="QUEUE/TOPIC..")
@pass_context
def pause(context: Context, paths: tuple[str, ...]) -> int:
    """Hand out no more jobs of these topics, on any node, until they are resumed; what runs is finished."""
    return _set_paused(context, paths, True)


@topic.command()
@click.argument("paths", nargs=-1, required=True, metavar="QUEUE/TOPIC..")
@pass_context
def resume(context: Context, paths: tuple[str, ...]) -> int:
    """Hand out jobs of these topics again."""
    return _set_paused(context, paths, False)


def _set_paused(context: Context, paths: Sequence[str], paused: bool) -> int:
    from pbus.cli.pauses import set_paused
    from pbus.cli.stores import take_stock, topic_store

    stock = take_stock(context.settings())
    for path in ["/".join(stock.topic(path)) for path in paths]:  # all of them are found before the first is touched
        with topic_store(context.settings(), path) as (driver, queue, name):
            set_paused(driver, queue, name, paused, context.settings().node.name)
        context.output.say(f"{path} {'paused' if paused else 'resumed'}")
    return Exit.DONE


@topic.command()
@click.argument("path", metavar="QUEUE/TOPIC")
@click.option("--purge", is_flag=True, help="Its jobs and dead letters, too.")
@click.option("--yes", is_flag=True, help="Do not refuse to destroy them.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@pass_context
def rm(context: Context, path: str, purge: bool, yes: bool, dry_run: bool) -> int:
    """Remove a topic from the store that is not in the configuration any more; a bus that still runs it stops that."""
    from pbus.cli.stores import Refused, queue_driver, take_stock

    stock = take_stock(context.settings())
    name = stock.topic(path)
    path = "/".join(name)
    if stock.topic_section(name) is not None:
        todo = "take it out and 'pbus reload' first"
        raise Refused(f"{path} is in the configuration, the bus would make it again: {todo}")
    numbers = stock.topics[name]
    holds = f"{numbers.ready + numbers.running + numbers.delayed} jobs and {numbers.dead} dead letters"
    empty = not (numbers.ready or numbers.running or numbers.delayed or numbers.dead)
    if dry_run:
        context.output.say(f"would remove {path} with {holds}")
        return Exit.DONE
    if not empty and not purge:
        raise Refused(f"{path} holds {holds}: --purge destroys them")
    if not empty and not yes:
        raise Refused(f"{path} holds {holds} that would be destroyed: say --yes")
    _let_go(context, name)
    with queue_driver(stock, name[0]) as driver:
        driver.drop_topic(*name)
        forget(driver, name)
    context.output.say(f"removed {path}" + ("" if empty else f" with {holds}"))
    return Exit.DONE


def _let_go(context: Context, name: tuple[str, str]) -> None:
    """
    A bus that goes on with the topic stops that, by a reload that takes over nothing else.

    Raises:
        Refused: the files have changed in other ways, too. PbusError: it did not take.
    """
    from pbus.cli.reload import ASK_S, follow
    from pbus.cli.stores import Refused
    from pbus.config import orphans
    from pbus.errors import NotRunning, PbusError
    from pbus.supervisor.control import call

    node, path = context.settings().node, "/".join(name)
    try:
        rows = call(node.run_dir, "status", ASK_S, reads=True)["status"]["topics"]
    except NotRunning:
        orphans.forget(node.data_dir, [name])
        return
    if not any((row["queue"], row["topic"]) == name and row.get("served") for row in rows):
        return
    if call(node.run_dir, "compare", ASK_S, reads=True)["changes"]:
        raise Refused(f"{path} is still run, and the files have other changes, too: 'pbus reload' first")
    orphans.forget(node.data_dir, [name])
    number = int(call(node.run_dir, "reload", ASK_S)["number"])
    if follow(context, node.run_dir, number) != Exit.DONE:
        raise PbusError(f"{path} is still run: the bus could not be reloaded")
