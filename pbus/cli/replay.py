"""``pbus replay start|ls|show|pause|resume|cancel``: jobs run again, by the scheduler of a running bus."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, duration, plain, show
from pbus.cli.output import escape, output_option
from pbus.clock import SystemClock
from pbus.core.replay import OPEN, SOURCES, Replay, guard, stages
from pbus.errors import Exit, NotFound, PbusError, Unavailable

if TYPE_CHECKING:
    from pbus.cli.stores import Stock
    from pbus.config.schema import Node, Settings
    from pbus.storage.documents import Document
    from pbus.storage.driver import Driver

KIND: Final = "replay"
_COLUMNS: Final = ("name", "state", "source", "topics", "replayed", "total", "done_total", "failed_total", "rate", "by",
                   "made_ms", "reason")
_HEADS: Final = ("replay", "state", "from", "topics", ">replayed", ">of", ">failed", ">rate", "by", ">age", "reason")
_GOOD: Final = {"running": "green", "done": "green", "tripped": "red", "paused": "yellow"}
_WAKE_S: Final = 2.0
_TELL_S: Final = 2.0
_TRIES: Final = 20
"""A document that changes all the time is read again so often."""


@click.group()
def replay() -> None:
    """Run jobs again: dead letters, or jobs that a queue still keeps."""


@replay.command()
@click.option("--from", "source", required=True, metavar="SOURCE", help="dead, history (jobs that ended), or a FILE.")
@click.option("--topic", "glob", required=True, metavar="GLOB", help="Of these topics, such as gift/credit, 'gift/*'.")
@click.option("--since", default="", metavar="WHEN", help="Only those that died, or were pushed, since then (2h).")
@click.option("--until", default="", metavar="WHEN", help="Only those that did until then (default: now).")
@click.option("--group", default="", metavar="GROUP", help="Only dead letters of this group of errors.")
@click.option("--filter", "expression", default="", metavar="EXPR", help="Only those: error ~ timeout and $.uid = 7.")
@click.option("--rate", default="100/s", show_default=True, metavar="RATE", help="So many; 0: as fast as it goes.")
@click.option("--canary", default="", metavar="STAGES", help="In stages, such as 5,1%,10%,100%.")
@click.option("--guard", "rules", default="", metavar="RULES", help="Stop unless failed<2%,p90<2x (or p90<500ms).")
@click.option("--name", default="", metavar="NAME", help="What to call it (default: made of the time).")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@output_option
@pass_context
def start(context: Context, /, glob: str, dry_run: bool, **asked: str) -> int:
    """
    Push jobs once more, each to its topic alone, and settle the dead letters among them as handled.

    Handlers see of which job it is the replay. A filter compares id queue topic error reason group attempts crashes
    key type size age body and $.path of JSON bodies by = != < <= > >= ~ (contains) !~ in (..), with and, or, not.
    """
    from pbus.cli.stores import queue_driver, take_stock

    plan = _planned(context, **asked)
    with ExitStack() as stack:
        # First, while we may read it: an embedded store is opened as the user of the bus.
        file = _kept(asked["source"], context.settings().node, plan.name) if plan.source == "file" else ""
        unused = [file] if file else []
        stack.callback(_remove, unused)
        stock = take_stock(context.settings())
        plan.topics = _topics(stock, glob)
        driver = stack.enter_context(queue_driver(stock, plan.topics[0].partition("/")[0]))
        counts = _counted(context, driver, stock, plan, file)
        _be_a_group(driver, plan, counts)
        plan.total = sum(counts.values())
        _stages(plan)
        if not dry_run and plan.total:
            _store(driver, plan)
            unused.clear()
            _wake(context.settings())
    _tell(context, plan, counts, dry_run)
    return Exit.DONE


def _planned(
    context: Context, *, source: str, since: str, until: str, group: str, expression: str, rate: str, canary: str,
    rules: str, name: str,
) -> Replay:
    """
    What was asked for, without topics.

    Raises:
        click.BadParameter: something of it cannot be.
    """
    from pbus.cli.pauses import person
    from pbus.config.values import rate_per_s
    from pbus.core.names import is_name
    from pbus.core.replay_filter import parse

    node = ""
    if source not in SOURCES[:2]:
        _check_file(source, context.settings().ingest.max_body_bytes)
        source, node = "file", context.settings().node.name
    if group and source != "dead":
        raise click.UsageError("--group is for --from dead: only dead letters have errors")
    if name and not is_name(name):
        raise click.BadParameter(f"{name!r} is no name (letters, digits, _ . -, at most 64)", param_hint="--name")
    now_ms = int(SystemClock().wall_s() * 1000)
    since_ms, until_ms = _when(since, "--since", now_ms, 0), _when(until, "--until", now_ms, now_ms)
    if since_ms > until_ms:
        raise click.UsageError("--since is after --until: nothing is between them")
    for read, value, option in ((parse, expression, "--filter"), (guard, rules, "--guard")):
        try:
            read(value)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=option) from None
    try:
        per_s = 0.0 if rate in ("", "0") else rate_per_s(rate)
    except ValueError as error:
        raise click.BadParameter(f"takes {error}", param_hint="--rate") from None
    made = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).strftime("r%Y%m%d-%H%M%S")
    return Replay(
        name or made, source, [], node, since_ms, until_ms, group, expression, per_s, canary, rules,
        by=f"{person()} on {context.settings().node.name}", made_ms=now_ms,
    )


def _check_file(path: str, max_body: int) -> None:
    """
    Raises:
        click.BadParameter: it cannot be read, or a line of it is no job; nothing was replayed.
    """
    from pbus.storage.replay_source import read_line

    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record, _ = read_line(line)
                except ValueError as error:
                    raise click.BadParameter(f"{path}, line {number}: {error}", param_hint="--from") from None
                if len(record.body) > max_body:
                    what = f"{path}, line {number}: a body of {len(record.body)} bytes, max_body is {max_body}"
                    raise click.BadParameter(what, param_hint="--from")
    except OSError as error:
        what = f"{path!r} is none of {', '.join(SOURCES[:2])}, and no file: {error.strerror}"
        raise click.BadParameter(what, param_hint="--from") from None


def _kept(path: str, node: Node, name: str) -> str:
    """A copy of the file where the scheduler of this node finds it, and may read it."""
    from pbus.storage.replay_source import file_of

    target = file_of(node.data_dir, name)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    if os.path.exists(target):
        raise click.UsageError(f"there is a replay {name} already: say another --name")
    with open(path, "rb") as source, open(f"{target}.new", "wb", opener=_private) as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        os.fsync(copy.fileno())
    if node.user and os.geteuid() == 0:
        for each in (os.path.dirname(target), f"{target}.new"):
            shutil.chown(each, node.user)
    os.replace(f"{target}.new", target)
    return target


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        os.unlink(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _when(text: str, option: str, now_ms: int, default_ms: int) -> int:
    """Unix ms of ``2h`` (ago) or ``2026-11-23T14:05`` (local, or with a zone)."""
    from pbus.config.values import duration_s

    if not text:
        return default_ms
    try:
        at_ms = now_ms - int(duration_s(text) * 1000)
    except ValueError:
        try:
            at_ms = int(datetime.datetime.fromisoformat(text).timestamp() * 1000)
        except (ValueError, OverflowError):
            what = f"{text!r} is neither a duration such as 2h nor a time such as 2026-11-23T14:05"
            raise click.BadParameter(what, param_hint=option) from None
    if at_ms > now_ms:
        raise click.BadParameter(f"{text} is in the future, by {duration((at_ms - now_ms) / 1000)}", param_hint=option)
    return max(0, at_ms)


def _topics(stock: Stock, glob: str) -> list[str]:
    """
    Topics that *glob* means, as ``queue/topic``.

    Raises:
        NotFound: none. click.UsageError: they are of several storages. Unavailable: theirs is away.
    """
    if not any(letter in glob for letter in "*?["):
        return ["/".join(stock.topic(glob))]
    found = [path for path in map("/".join, stock.topic_names()) if fnmatch.fnmatchcase(path, glob)]
    stock.check()
    if not found:
        raise NotFound(f"no topic is called {glob!r}; 'pbus topic ls' lists them")
    storages = sorted({stock.storage_of[path.partition("/")[0]] for path in found})
    if len(storages) > 1:
        raise click.UsageError(f"{glob!r} means topics of several storages ({', '.join(storages)}): one at a time")
    return found


def _counted(context: Context, driver: Driver, stock: Stock, plan: Replay, file: str) -> dict[str, int]:
    """How many of each topic are meant; says how far it is when that takes its time."""
    from pbus.cli.stores import declare
    from pbus.storage.replay_source import Source

    for path in plan.topics:
        queue, _, topic = path.rpartition("/")
        if (queue, topic) not in stock.topics:
            declare(driver, stock.settings, queue)
    source = Source(driver, plan, plan.made_ms, file)
    clock, counts = SystemClock(), dict.fromkeys(plan.topics, 0)
    told_s = clock.monotonic_s()
    for path in plan.topics:
        looked = 0
        for page in source.pages(path):
            counts[path] += len(page.picked)
            looked += page.looked
            if clock.monotonic_s() >= told_s + _TELL_S:
                told_s = clock.monotonic_s()
                context.output.say(f"{path}: looked at {looked}, {counts[path]} of them are meant ..")
    return counts


def _be_a_group(driver: Driver, plan: Replay, counts: Mapping[str, int]) -> None:
    """
    Raises:
        NotFound: no topic has dead letters of the group that was named.
    """
    if not plan.group or any(counts.values()):
        return
    groups = [group for path in plan.topics for group in driver.dead_groups(*path.rsplit("/", 1))]
    if plan.group not in [group.fingerprint for group in groups]:
        where = plan.topics[0] if len(plan.topics) == 1 else "no topic of these"
        has = "has no" if len(plan.topics) == 1 else "has"
        raise NotFound(f"{where} {has} dead letters of group {plan.group!r}; 'pbus dead ls' lists the groups")


def _stages(plan: Replay) -> None:
    try:
        stages(plan.canary, plan.total)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--canary") from None


def _store(driver: Driver, plan: Replay) -> None:
    """
    From here on the scheduler knows.

    Raises:
        click.UsageError: there is one of that name, or one over the same dead letters.
    """
    for document in driver.documents(KIND):
        known = _read(document)
        both = set(plan.topics) & set(known.topics) if known and known.state in OPEN else set()
        if known and both and known.source == plan.source == "dead":
            raise click.UsageError(
                f"replay {known.name} is {known.state} over the dead letters of {sorted(both)[0]}: wait until it is "
                f"done, or 'pbus replay cancel {known.name}'"
            )
    if not driver.write_document(KIND, plan.name, plan.text(), 0):
        raise click.UsageError(f"there is a replay {plan.name} already: say another --name")


def _wake(settings: Settings) -> None:
    """The scheduler of this node looks at once, those of others within ten seconds."""
    from pbus.supervisor.control import call

    with suppress(PbusError):                         # no bus runs here, or it is not ours to wake
        call(settings.node.run_dir, "look", _WAKE_S, look="replays")


def _tell(context: Context, plan: Replay, counts: Mapping[str, int], dry_run: bool) -> None:
    if context.output.form != "table":
        rows = [{"topic": path, "jobs": jobs} for path, jobs in counts.items()]
        context.output.rows("topics", ("topic", "jobs"), rows, replay="" if dry_run else plan.name, total=plan.total)
    else:
        for path, jobs in counts.items():
            context.output.say(f"{path}: {jobs}")
    if not plan.total:
        context.output.say("nothing is meant: no replay")
        return
    speed = f" at {plan.rate:g}/s, {duration(plan.total / plan.rate)}" if plan.rate else ""
    ends = ", ".join(map(str, plan.ends))
    how = f"{speed}; stages end at {ends}" if plan.canary else speed
    if dry_run:
        context.output.say(f"would replay {plan.total}{how}")
    else:
        context.output.say(f"replay {plan.name}: {plan.total} jobs{how}; 'pbus replay show {plan.name}' tells more")


# -- what there is --------------------------------------------------------------------------------


@replay.command("ls")
@output_option
@pass_context
def list_replays(context: Context) -> int:
    """List replays, the newest first."""
    from pbus.cli.stores import opened

    settings = context.settings()
    away: list[Unavailable] = []
    rows: list[dict[str, Any]] = []
    for storage in settings.storage:
        try:
            with opened(settings, storage) as driver:
                rows += [dataclasses.asdict(known) for known in map(_read, driver.documents(KIND)) if known]
        except Unavailable as error:
            away.append(error)
    rows.sort(key=lambda row: -row["made_ms"])
    show(context.output, "replays", _COLUMNS, rows, _HEADS, _cells)
    if away:
        raise away[0]
    if not rows:
        context.output.say("nothing was ever replayed")
    return Exit.DONE


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    topics = row["topics"]
    more = f" +{len(topics) - 1}" if len(topics) > 1 else ""
    return [
        plain(escape(row["name"])), (row["state"], _GOOD.get(row["state"], "")), plain(row["source"]),
        plain(escape(topics[0]) + more if topics else "-"), count(row["replayed"]), count(row["total"]),
        count(row["failed_total"], "red"), plain(f"{row['rate']:g}/s" if row["rate"] else "-"),
        plain(escape(row["by"])), plain(_ago(row["made_ms"])), plain(escape(row["reason"])),
    ]


def _ago(at_ms: int) -> str:
    return duration(max(0.0, SystemClock().wall_s() - at_ms / 1000))


@replay.command("show")
@click.argument("name")
@output_option
@pass_context
def show_replay(context: Context, name: str) -> int:
    """Show how far a replay is, and how its jobs fare."""
    with ExitStack() as stack:
        _, _, known = _found(context, stack, name)
    if context.output.form != "table":
        context.output.document(dataclasses.asdict(known))
        return Exit.DONE
    ends = known.ends
    facts(context.output, [
        ("replay", plain(known.name)), ("state", (known.state, _GOOD.get(known.state, ""))),
        ("reason", plain(known.reason)), ("from", plain(known.source)), ("topics", plain(", ".join(known.topics))),
        ("filter", plain(known.filter)), ("group", plain(known.group)), ("guard", plain(known.guard)),
        ("rate", plain(f"{known.rate:g}/s" if known.rate else "")),
        ("stage", plain(f"{min(known.stage + 1, len(ends))} of {len(ends)} ({known.canary})" if known.canary else "")),
        ("replayed", plain(f"{known.replayed} of {known.total}")),
        ("gone", plain(f"{known.gone}, whose bodies are not kept any more" if known.gone else "")),
        ("judged", plain(_judged(known))), ("first", plain(known.first)), ("last", plain(known.last)),
        ("by", plain(f"{known.by}, {_ago(known.made_ms)} ago")),
        ("run by", plain(known.owner if known.state == "running" else "")),
    ])
    if known.state == "running" and not known.owner and SystemClock().wall_s() - known.made_ms / 1000 > 30:
        context.output.say("nobody runs it: is the bus running? 'pbus status'")
    return Exit.DONE


def _judged(known: Replay) -> str:
    if not known.is_watched:
        return ""
    waits = f", {len(known.watched)} are waited for" if known.watched else ""
    return f"{known.done_total} done, {known.failed_total} failed{waits}"


@replay.command()
@click.argument("name")
@pass_context
def pause(context: Context, name: str) -> int:
    """Let a replay wait; what it has pushed goes on."""
    return _change(context, name, "paused", ("running",))


@replay.command()
@click.argument("name")
@pass_context
def resume(context: Context, name: str) -> int:
    """Go on with a replay that waits, or that its guard has stopped: the guard judges anew."""
    return _change(context, name, "running", ("paused", "tripped"))


@replay.command()
@click.argument("name")
@pass_context
def cancel(context: Context, name: str) -> int:
    """End a replay; what it has pushed goes on, the rest stays as it is."""
    return _change(context, name, "cancelled", OPEN)


def _change(context: Context, name: str, state: str, allowed: Sequence[str]) -> int:
    with ExitStack() as stack:
        driver, document, known = _found(context, stack, name)
        for _ in range(_TRIES):
            if known.state == state:
                context.output.say(f"replay {name} is {state} already")
                return Exit.DONE
            if known.state not in allowed:
                context.output.say(f"pbus: replay {name} is {known.state}")
                return Exit.FAILED
            before, known.state, known.reason = known.state, state, ""
            known.changed_ms = int(SystemClock().wall_s() * 1000)
            if before == "tripped":
                known.judge_anew()
                known.watched = []
            if driver.write_document(KIND, name, known.text(), document.version):
                _wake(context.settings())
                context.output.say(f"replay {name}: {state}, {known.replayed} of {known.total} were replayed")
                return Exit.DONE
            # Its scheduler was faster.
            found = driver.documents(KIND, [name])
            if not found:
                break
            document, known = found[0], Replay.read(found[0].text)
    raise NotFound(f"replay {name} changes all the time, or is gone: try again")


def _found(context: Context, stack: ExitStack, name: str) -> tuple[Driver, Document, Replay]:
    """
    The replay *name*, and the store that has it, open for as long as *stack* is.

    Raises:
        NotFound: none is called so. Unavailable: nobody knows, because a store is away.
    """
    from pbus.cli.stores import opened

    settings, names = context.settings(), []
    away: list[Unavailable] = []
    for storage in settings.storage:
        try:
            driver = stack.enter_context(opened(settings, storage))
            documents = driver.documents(KIND)
        except Unavailable as error:
            away.append(error)
            continue
        for document in documents:
            known = _read(document)
            if document.name == name and known:
                return driver, document, known
            names.append(document.name)
    if away:
        raise away[0]
    raise NotFound(f"there is no replay {name!r}; there are: {', '.join(sorted(names)[:12]) or 'none'}")


def _read(document: Document) -> Replay | None:
    try:
        return Replay.read(document.text)
    except ValueError:
        return None

