"""``pbus dead ls|show|retry|delete``: what was given up, by what it died of."""

from __future__ import annotations

import dataclasses
import re

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, duration, plain, show
from pbus.cli.output import brief, escape, output_option
from pbus.errors import Exit, NotFound

if TYPE_CHECKING:
    from pbus.storage.driver import DeadLetter, Driver, JobRecord

_GROUP_COLUMNS: Final = (
    "queue", "topic", "fingerprint", "count", "total", "first_ms", "last_ms", "reason", "error", "sample",
)
_GROUP_HEADS: Final = ("topic", ">count", "group", ">first", ">last", "reason", "error")
_COLUMNS: Final = ("queue", "topic", "id", "at_ms", "attempts", "crashes", "reason", "error", "fingerprint")
_HEADS: Final = ("id", ">died", ">attempts", "reason", "error")
_PAGE: Final = 500
_BODY: Final = 4096
_LAST_ATTEMPT: Final = re.compile(r"\Aattempt \d+ (?:of \d+ failed|failed, \d+ may be made): ")


@click.group()
def dead() -> None:
    """List, show, retry and delete dead letters."""


@dead.command("ls")
@click.argument("path", required=False, default="", metavar="[QUEUE[/TOPIC]]")
@output_option
@pass_context
def list_groups(context: Context, path: str) -> int:
    """
    List dead letters, grouped by their errors: everywhere, of a queue, or of a topic.

    COUNT are there now; FIRST and LAST tell how long ago one of the group died. 'pbus dead show' lists them one by one.
    """
    from pbus.cli.queue import purged
    from pbus.cli.stores import queue_driver, take_stock

    stock = take_stock(context.settings())
    names = purged(stock, path) if path else stock.topic_names()
    rows: list[dict[str, Any]] = []
    for queue, topic in names:
        numbers = stock.topics.get((queue, topic))
        if numbers is not None and numbers.dead:
            with queue_driver(stock, queue) as driver:
                rows += [dataclasses.asdict(group) for group in driver.dead_groups(queue, topic)]
    show(context.output, "groups", _GROUP_COLUMNS, rows, _GROUP_HEADS, _group_cells)
    if not rows and not stock.away:
        context.output.say("nothing is dead")
    stock.check()
    return Exit.DONE


def _group_cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    return [
        plain(escape(f"{row['queue']}/{row['topic']}")), count(row["count"], "red"), plain(row["fingerprint"] or "-"),
        plain(_ago(row["first_ms"])), plain(_ago(row["last_ms"])), plain(escape(row["reason"])),
        plain(escape(_gist(row["error"]))),
    ]


def _ago(at_ms: int) -> str:
    # The store's clock and this one differ a little; what died in the future died now.
    return duration(max(0.0, _now_s() - at_ms / 1000))


def _gist(error: str) -> str:
    """What differs among letters: that the last attempt failed is why they are here."""
    return _LAST_ATTEMPT.sub("", brief(error))


def _now_s() -> float:
    from pbus.clock import SystemClock

    return SystemClock().wall_s()


@dead.command("show")
@click.argument("path", metavar="QUEUE/TOPIC")
@click.argument("ids", nargs=-1, metavar="[ID..]")
@click.option("--group", default="", metavar="GROUP", help="Only those of this group of errors.")
@click.option("--limit", default=20, show_default=True, metavar="N", type=click.IntRange(1), help="At most so many.")
@output_option
@pass_context
def show_letters(context: Context, path: str, ids: tuple[str, ...], group: str, limit: int) -> int:
    """List the newest dead letters of a topic; with IDs, show those in full."""
    from pbus.cli.stores import topic_store

    _be_ids(ids)
    with topic_store(context.settings(), path) as (driver, queue, topic):
        if ids:
            return _show_some(context, driver, queue, topic, ids)
        rows = [dataclasses.asdict(letter) for letter in _letters(driver, queue, topic, group, limit)]
    if group and not rows:
        raise NotFound(f"{path} has no dead letters of group {group!r}; 'pbus dead ls {path}' lists the groups")
    show(context.output, "letters", _COLUMNS, rows, _HEADS, _letter_cells)
    return Exit.DONE


def _letter_cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    return [
        plain(row["id"]), plain(_ago(row["at_ms"])), count(row["attempts"]), plain(escape(row["reason"])),
        plain(escape(_gist(row["error"]))),
    ]


def _show_some(context: Context, driver: Driver, queue: str, topic: str, ids: Sequence[str]) -> int:
    rows, missing = [], []
    for job_id in ids:
        record = driver.job(queue, job_id)
        place = record.topics.get(topic) if record else None
        if record is None or place is None or place.state != "dead":
            missing.append(job_id)
            continue
        rows.append({
            "queue": queue, "topic": topic, "id": job_id, "at_ms": place.at_ms, "attempts": place.attempts,
            "crashes": place.crashes, "reason": place.reason, "error": place.error, "fingerprint": place.fingerprint,
            "body": record.body.decode("utf-8", "replace"), "traceparent": record.traceparent, "key": record.key,
        })
    if context.output.form != "table":
        context.output.rows("letters", _COLUMNS, rows)
    else:
        for row in rows:
            _show_one(context, row)
    for job_id in missing:
        context.output.say(f"pbus: {queue}/{topic} {job_id} is not dead{_but(context, queue, topic, job_id)}")
    return Exit.NOT_FOUND if missing else Exit.DONE


def _but(context: Context, queue: str, topic: str, job_id: str) -> str:
    """What became of a dead letter that a replay has handled."""
    from pbus.cli.traces import replays_of

    section = context.settings().queue.get(queue)
    again = replays_of(context.settings(), section.storage, queue, job_id).get(topic) if section else None
    return f" any more: {again}" if again else ""


def _show_one(context: Context, row: Mapping[str, Any]) -> None:
    body = row["body"]
    facts(context.output, [
        ("job", plain(f"{row['queue']}/{row['topic']} {row['id']}")), ("died", plain(f"{_ago(row['at_ms'])} ago")),
        ("attempts", plain(str(row["attempts"]))), ("crashes", plain(str(row["crashes"] or ""))),
        ("reason", (row["reason"], "red")), ("group", plain(row["fingerprint"])), ("key", plain(row["key"])),
        ("trace", plain(row["traceparent"])),
        ("body", plain(body if len(body) <= _BODY else f"{body[:_BODY]}.. ({len(body)} characters)")),
    ])
    for line in row["error"].splitlines():
        context.output.line(f"    ! {escape(line)}")


def _letters(driver: Driver, queue: str, topic: str, group: str, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    for page in pages(driver, queue, topic, group):
        found += page
        if len(found) >= limit:
            break
    return found[:limit]


def pages(driver: Driver, queue: str, topic: str, group: str) -> Iterator[list[DeadLetter]]:
    """All dead letters of a topic, newest first, or those of one group."""
    last: DeadLetter | None = None
    while page := driver.dead_letters(queue, topic, _PAGE, fingerprint=group, before=last):
        last = page[-1]
        yield page


# -- retry, delete --------------------------------------------------------------------------------

Act = Callable[[str, str, Sequence[str]], list[bool]]


def _which(function: Callable[..., int]) -> Callable[..., int]:
    """The ways to say which dead letters are meant."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only say how many it would be."),
        click.option("--all", "everything", is_flag=True, help="All of the topic."),
        click.option("--group", default="", metavar="GROUP", help="Those of this group of errors."),
        click.argument("ids", nargs=-1, metavar="[ID..]"),
        click.argument("path", metavar="QUEUE/TOPIC"),
    ):
        function = option(function)
    return function


@dead.command()
@_which
@pass_context
def retry(context: Context, path: str, ids: tuple[str, ...], group: str, everything: bool, dry_run: bool) -> int:
    """Make dead letters ready again, with all attempts before them: by ID, of a group, or all."""
    from pbus.cli.stores import topic_store

    _one_way(ids, group, everything)
    with topic_store(context.settings(), path) as (driver, queue, topic):
        chosen, missing = _chosen(driver, queue, topic, ids, group)
        return _do(context, f"{queue}/{topic}", chosen, "" if dry_run else "made ready again", "would make ready again",
                   _told(context, queue, topic, "revive", driver.revive), missing)


@dead.command()
@_which
@click.option("--yes", is_flag=True, help="Do not refuse to destroy them.")
@pass_context
def delete(
    context: Context, path: str, ids: tuple[str, ...], group: str, everything: bool, dry_run: bool, yes: bool
) -> int:
    """Delete dead letters for good: by ID, of a group, or all. They stay counted, as forgotten."""
    from pbus.cli.stores import Refused, topic_store

    _one_way(ids, group, everything)
    with topic_store(context.settings(), path) as (driver, queue, topic):
        chosen, missing = _chosen(driver, queue, topic, ids, group)
        if chosen and not yes and not dry_run:
            raise Refused(f"{queue}/{topic}: {len(chosen)} dead letters would be destroyed: say --yes")
        return _do(context, f"{queue}/{topic}", chosen, "" if dry_run else "deleted", "would delete",
                   _told(context, queue, topic, "forget", driver.forget_dead), missing)


def _told(context: Context, queue: str, topic: str, word: str, act: Act) -> Callable[[Sequence[str]], list[bool]]:
    """*act* for some ids; the stories of those for which it took effect have who did it."""

    def do(some: Sequence[str]) -> list[bool]:
        from pbus.cli.traces import tell, who
        from pbus.clock import SystemClock
        from pbus.core.trace import decision

        took_effect, now_s, person = act(queue, topic, some), SystemClock().wall_s(), who()
        settings = context.settings()
        section = settings.queue.get(queue)
        if section is not None:
            done = [job for job, ours in zip(some, took_effect, strict=True) if ours]
            tell(settings, section.storage, queue, [decision(job, topic, word, now_s, person) for job in done])
        return took_effect

    return do


def _one_way(ids: Sequence[str], group: str, everything: bool) -> None:
    if sum([bool(ids), bool(group), everything]) != 1:
        raise click.UsageError("say which, in one way: ID.., --group GROUP or --all")
    _be_ids(ids)


def _be_ids(words: Sequence[str]) -> None:
    from pbus.core.names import JOB_ID

    for word in words:
        if not JOB_ID.match(word):
            raise click.UsageError(f"{word!r} is no job id (<unix ms>-<sequence>, as 'pbus dead show' prints it)")


def _chosen(
    driver: Driver, queue: str, topic: str, ids: Sequence[str], group: str
) -> tuple[list[str], list[str]]:
    """
    Ids that are meant, and named ones that are not dead.

    Oldest first, and all of them before the first is touched, as they may die again meanwhile.
    """
    if ids:
        named = list(dict.fromkeys(ids))
        dead = [job_id for job_id in named if _is_dead(driver.job(queue, job_id), topic)]
        return dead, [job_id for job_id in named if job_id not in dead]
    found = [letter.id for page in pages(driver, queue, topic, group) for letter in page]
    if group and not found:
        raise NotFound(f"{queue}/{topic} has no dead letters of group {group!r}; 'pbus dead ls' lists the groups")
    return found[::-1], []


def _is_dead(record: JobRecord | None, topic: str) -> bool:
    return record is not None and topic in record.topics and record.topics[topic].state == "dead"


def _do(
    context: Context, path: str, ids: Sequence[str], done: str, would: str, act: Callable[[Sequence[str]], list[bool]],
    missing: Sequence[str],
) -> int:
    count = len(ids)
    for start in range(0, len(ids) if done else 0, _PAGE):
        count -= act(ids[start : start + _PAGE]).count(False)      # somebody else was faster
    context.output.say(f"{path}: {done or would}: {count}")
    for job_id in missing[:20]:
        context.output.say(f"pbus: {path} {job_id} is not dead")
    if len(missing) > 20:
        context.output.say(f"pbus: and {len(missing) - 20} more")
    return Exit.NOT_FOUND if missing else Exit.DONE
