"""
``pbus job find QUEUE [PATH=VALUE ..]``: whether a job reached the bus, and what became of it.

    marks of the index --candidates--> bodies --match?--> found: where it is, and the command that repairs it
    no index of that path: the queue's log, as far as it is kept
    refusals of the queue, of that time and those values --> refused, with the word
    the last seconds, and those of which the index has not everything: the log, too, as far as it goes back
    neither, and nothing was left out --> never reached the bus

Rule: "never" is said only of a time for which everything is known; else it says since when, and what is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.output import escape
from pbus.clock import SystemClock
from pbus.core import index
from pbus.core.story import at
from pbus.errors import Exit

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.output import Output
    from pbus.cli.stores import Stock
    from pbus.storage.driver import Driver, Entry
    from pbus.storage.traces import Block, Traces

STEP_S: Final = 600
LOOKED_BACK_S: Final = 7_200
"""A beat of the index is looked for so long before the time that is asked for, at most as long as marks are kept."""
MOST_READ: Final = 100_000
"""Jobs of a log, where nothing is indexed."""
MOST_REFUSALS: Final = 1_000
PAGE: Final = 1_000
_NOTE_BYTES: Final = 64
"""A block that may be a note, without jobs, is no longer."""
_COLUMNS: Final = ("queue", "id", "pushed", "topics", "repair")


@dataclass(slots=True)
class Search:
    """
    What is looked for, and what is known.

    Attributes:
        queue: Where.
        wanted: Path -> value.
        since_s, until_s: Unix seconds, both included.
        now_s: When it is asked, unix seconds.
        jobs: Ids that have it.
        sure_from_s: Everything pushed since then is known; None: nothing is.
        sure_to_s: Up to then; None: to the end of the time that is asked for.
        gaps: Seconds of which jobs were left out.
        cut: The log was not read to its end.
    """

    queue: str
    wanted: Mapping[str, str]
    since_s: int
    until_s: int
    now_s: int
    jobs: dict[str, None] = field(default_factory=dict)
    sure_from_s: int | None = None
    sure_to_s: int | None = None
    gaps: set[int] = field(default_factory=set)
    cut: bool = False


def find(context: Context, queue: str, pairs: Sequence[str], since: str, until: str, limit: int) -> int:
    """Print what became of the jobs that are meant; see ``pbus job find``."""
    from pbus.cli.stores import queue_driver, take_stock
    from pbus.cli.traces import opened_traces

    stock = take_stock(context.settings())
    queue = stock.queue(queue)
    search = Search(queue, _wanted(pairs), *_times(since, until))
    section = stock.section(queue)
    is_indexed = bool(search.wanted) and section is not None and set(search.wanted) <= set(section.index)
    with queue_driver(stock, queue) as driver, opened_traces(stock.settings, stock.storage_of[queue]) as kept:
        if is_indexed and kept is not None:
            _by_index(search, kept, driver)
        else:
            _by_log(search, driver, limit)
        refused = _refusals(search, kept) if kept is not None else []
        strangers = _strangers(search, kept) if kept is not None and not search.jobs else 0
    jobs = list(search.jobs)[-limit:]
    _tell(context.output, search, _rows(stock, search, jobs), refused, strangers, is_indexed)
    return Exit.DONE if jobs else Exit.NOT_FOUND


# -- what is asked --------------------------------------------------------------------------------


def _wanted(pairs: Sequence[str]) -> dict[str, str]:
    wanted = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        path = path if path.startswith("$") else f"$.{path}"
        if not equals or not index.PATH.match(path):
            raise click.UsageError(f"{pair!r} is no PATH=VALUE, such as uid=88123 or order.id=7")
        wanted[path] = value
    return wanted


def _times(since: str, until: str) -> tuple[int, int, int]:
    now_s = SystemClock().wall_s()
    first, last = _moment(since, "--since", now_s), _moment(until, "--until", now_s) if until else now_s
    if first > now_s:
        raise click.UsageError(f"--since is in the future: {at(int(first * 1000))}")
    if last > now_s:
        raise click.UsageError(f"--until is in the future: {at(int(last * 1000))}; leave it out to look up to now")
    if first > last:
        raise click.UsageError(f"--since ({at(int(first * 1000))}) is after --until ({at(int(last * 1000))})")
    return int(first), int(last), int(now_s)


def _moment(text: str, option: str, now_s: float) -> float:
    """Unix seconds of a duration back from now, or of a moment (ISO 8601; without a zone: UTC)."""
    import datetime

    from pbus.config.values import duration_s

    with contextlib.suppress(ValueError):
        return now_s - duration_s(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} takes a duration such as 2h, or a moment such as 2026-11-23T14:03") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


# -- where it may be ------------------------------------------------------------------------------


def _by_index(search: Search, kept: Traces, driver: Driver) -> None:
    from pbus.codec.trace_block import needle

    marks = {index.mark(path.encode()): index.mark(value.encode()) for path, value in search.wanted.items()}
    asked = range(search.since_s, search.until_s + 1)
    needles = [needle(value) for value in marks.values()]
    candidates: list[str] = []
    for block in _blocks(search, kept):
        # There are thousands, and nearly all of them have nothing to say: that must be seen at a glance.
        with contextlib.suppress(ValueError):
            if needles[0] in block.data and all(each in block.data for each in needles):
                candidates += _candidates(block.data, marks)
            if len(block.data) <= _NOTE_BYTES or search.sure_from_s is None or block.second < search.sure_from_s:
                _learn(search, block, asked, set(marks))
    if search.sure_from_s is None or search.sure_from_s > search.since_s:
        _look_back(search, kept, set(marks))
    else:
        search.sure_from_s = search.since_s
    candidates += _unmarked(search, driver)
    for job in sorted(dict.fromkeys(candidates), key=_order):
        if _order(job)[0] // 1000 not in asked:
            continue
        record = driver.job(search.queue, job)
        # What retention has dropped cannot be compared; two values of one mark are one in four thousand million.
        if record is None or all(index.matches(record.body, *pair) for pair in search.wanted.items()):
            search.jobs[job] = None


def _blocks(search: Search, kept: Traces) -> Iterator[Block]:
    from pbus.core.trace import Shelf
    from pbus.storage.traces import MARKS_SPAN_S

    for first in range(search.since_s - search.since_s % MARKS_SPAN_S, search.until_s + 1, STEP_S):
        yield from kept.blocks(search.queue, Shelf.INDEX, first, min(first + STEP_S - 1, search.until_s))


def _learn(search: Search, block: Block, asked: range, wanted: set[int]) -> None:
    """Since when these paths are indexed, or that jobs of a second were left out."""
    from pbus.codec.trace_block import marked
    from pbus.storage.traces import MARKS_SPAN_S

    paths, jobs = marked(block.data)
    if not paths and block.second in asked:
        search.gaps.add(block.second)
    elif wanted <= set(paths):
        known_s = block.second + (MARKS_SPAN_S if jobs else 0)
        search.sure_from_s = known_s if search.sure_from_s is None else min(search.sure_from_s, known_s)


def _unmarked(search: Search, driver: Driver) -> list[str]:
    """
    Jobs of the seconds that the index does not have, by the log: those that were left out, and the last ones, whose
    marks are on their way. What the log has is no gap any more; without it nothing is known of the last seconds.
    """
    from pbus.storage.traces_writer import MARKS_LATE_S

    late = range(max(search.since_s, search.now_s - int(MARKS_LATE_S)), search.until_s + 1)
    begin_s, read, found = _log_begins_s(search.queue, driver), 0, list[str]()
    missing = search.gaps | set(late)
    for second in sorted(missing):
        if begin_s is None or second < begin_s or read > MOST_READ:
            continue
        for entry in _entries(driver, search.queue, second, second):
            read += 1
            if all(index.matches(entry.body, *pair) for pair in search.wanted.items()):
                found.append(entry.id)
            if read > MOST_READ:
                break
        else:
            if second > begin_s:                      # of the second in which it begins some jobs may be gone
                missing.discard(second)
    if missing & set(late):
        search.sure_to_s = late[0] - 1
    search.gaps = missing - set(late)
    return found


def _log_begins_s(queue: str, driver: Driver) -> int | None:
    oldest = driver.entries(queue, "0-0", "99999999999999-0", 1)
    return int(oldest[0].id.partition("-")[0]) // 1000 if oldest else None


def _candidates(block: bytes, marks: Mapping[int, int]) -> list[str]:
    from pbus.codec.trace_block import find_marks

    found: list[str] | None = None
    for path, value in marks.items():
        these = find_marks(block, path, value)
        found = these if found is None else [job for job in found if job in set(these)]
        if not found:
            return []
    return found or []


def _look_back(search: Search, kept: Traces, paths: set[int]) -> None:
    """Whether these paths were indexed before the time that is asked for: then all of it is known."""
    from pbus.codec.trace_block import marked
    from pbus.core.trace import Shelf
    from pbus.storage.traces import MARKS_SPAN_S

    for last in range(search.since_s - 1, search.since_s - LOOKED_BACK_S, -STEP_S):
        for block in kept.blocks(search.queue, Shelf.INDEX, last - STEP_S + 1, last):
            with contextlib.suppress(ValueError):
                known, jobs = marked(block.data)
                if paths <= set(known) and block.second + (MARKS_SPAN_S if jobs else 0) <= search.since_s:
                    search.sure_from_s = search.since_s
                    return


def _by_log(search: Search, driver: Driver, limit: int) -> None:
    """Read what the log keeps of that time."""
    for read, entry in enumerate(_entries(driver, search.queue, search.since_s, search.until_s)):
        if read >= MOST_READ or len(search.jobs) > limit:
            search.cut = True
            return
        if all(index.matches(entry.body, *pair) for pair in search.wanted.items()):
            search.jobs[entry.id] = None
    begin_s = _log_begins_s(search.queue, driver)
    if begin_s is not None:
        search.sure_from_s = max(search.since_s, begin_s)


def _entries(driver: Driver, queue: str, first_s: int, last_s: int) -> Iterator[Entry]:
    after, last = f"{first_s * 1000}-0", f"{last_s * 1000 + 999}-999999999"
    while page := driver.entries(queue, after, last, PAGE):
        yield from page
        ms, _, sequence = page[-1].id.partition("-")
        after = f"{ms}-{int(sequence) + 1}"


# -- who was refused ------------------------------------------------------------------------------


def _refusals(search: Search, kept: Traces) -> list[dict[str, Any]]:
    """Refusals of the queue in that time that are of these values, as far as that is known."""
    return [
        told for told in _told(kept.refusals(search.queue, MOST_REFUSALS), search)
        if told.get("more") or not told.get("marks") or _is_sure(search, told)
    ]


def _strangers(search: Search, kept: Traces) -> int:
    """Pushes of that time to names that nobody bears: perhaps it was one of them."""
    return sum(int(told.get("count", 1)) for told in _told(kept.refusals("", MOST_REFUSALS), search))


def _told(lines: Iterable[bytes], search: Search) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            told = json.loads(line)
            if search.since_s <= told["ts"] / 1000 < search.until_s + 1:
                yield told


# -- what is told ---------------------------------------------------------------------------------


def _rows(stock: Stock, search: Search, jobs: Sequence[str]) -> list[dict[str, Any]]:
    from pbus.cli.job_trace import story_of

    rows = []
    for job in jobs:
        story = story_of(stock, search.queue, job, children=False)
        now = dict(story.now()) if story is not None else {}
        dead = [topic for topic, place in story.places.items() if place.state == "dead"] if story is not None else []
        waits = [topic for topic, place in story.places.items() if place.state in ("ready", "delayed")] if story else []
        repair = [f"pbus job retry {search.queue}/{topic} {job}" for topic in dead]
        repair += [f"pbus job why {search.queue}/{topic} {job}" for topic in waits]
        rows.append({
            "queue": search.queue, "id": job, "pushed": at(int(job.partition("-")[0])), "topics": now, "repair": repair,
        })
    return rows


def _tell(
    output: Output, search: Search, rows: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, Any]],
    strangers: int, is_indexed: bool,
) -> None:
    verdict = _verdict(search, refused)
    if output.form != "table":
        output.rows(
            "jobs", _COLUMNS, rows, verdict=verdict, refused=list(refused), since_s=search.since_s,
            until_s=search.until_s, sure_from_s=search.sure_from_s, sure_to_s=search.sure_to_s,
            left_out=len(search.gaps), indexed=is_indexed,
        )
        return
    for row in rows:
        output.line(escape(f"found {row['queue']} {row['id']}, pushed {row['pushed']}"))
        if not row["topics"]:
            output.line("  the store has it no more; 'pbus job trace' may tell what became of it")
        for topic, text in row["topics"].items():
            output.line(escape(f"  {topic}: {text}"))
        for command in row["repair"]:
            output.line(escape(f"  {command}"))
    words: Counter[str] = Counter()
    for told in refused:
        words[told["word"]] += int(told.get("count", 1))
    for word, count in words.items():
        last = max((told for told in refused if told["word"] == word), key=lambda told: int(told["ts"]))
        peer = ", ".join(part for part in last.get("peer", ()) if part)
        sure = "" if _is_sure(search, last) else "; of which values is not known"
        output.line(escape(f"refused {count} times with {word}, the last {at(int(last['ts']))} from {peer}{sure}"))
        output.line(escape(f"  {last.get('text', '')}"))
    if not rows:
        for line in _nothing(search, verdict, strangers, is_indexed, bool(refused)):
            output.line(escape(line))


def _verdict(search: Search, refused: Sequence[Mapping[str, Any]]) -> str:
    if search.jobs:
        return "found"
    if any(_is_sure(search, told) for told in refused):
        return "refused"
    is_sure = search.sure_from_s is not None and search.sure_from_s <= search.since_s
    is_sure = is_sure and search.since_s <= _known_to_s(search)
    return "never" if is_sure and not refused and not search.gaps and not search.cut else "unknown"


def _known_to_s(search: Search) -> int:
    return search.until_s if search.sure_to_s is None else search.sure_to_s


def _is_sure(search: Search, told: Mapping[str, Any]) -> bool:
    """Whether that refusal is known to be of the values that are looked for."""
    values = {index.mark(value.encode()) for value in search.wanted.values()}
    return not values or any(values <= set(row) for row in told.get("marks", ()))


def _nothing(search: Search, verdict: str, strangers: int, is_indexed: bool, refused: bool) -> Iterator[str]:
    until_s = _known_to_s(search) if verdict == "never" else search.until_s
    between = f"between {at(search.since_s * 1000)} and {at(until_s * 1000 + 999)}"
    what = ", ".join(f"{path}={value}" for path, value in search.wanted.items()) or "any job"
    if verdict == "never":
        yield f"{what} never reached the bus {between}"
    elif verdict == "unknown":
        yield f"{what} is not found {between}, which is not to say that it never came:"
        if refused:
            yield "  it may have been among those that were refused"
        if _known_to_s(search) < search.since_s:
            yield "  what was pushed in these last seconds is not in the index yet; ask again"
            return
        if search.cut:
            yield f"  only the first {MOST_READ} jobs of that time were read; index {' and '.join(search.wanted)}"
        elif search.sure_from_s is None:
            why = "the index has no marks of it" if is_indexed else "the log is empty"
            yield f"  nothing is known of that time: {why}"
        elif search.sure_from_s > search.since_s:
            yield f"  {'the index' if is_indexed else 'the log'} begins at {at(search.sure_from_s * 1000)}"
        if search.gaps:
            yield (f"  in {len(search.gaps)} seconds jobs were left out of the index (the first "
                   f"{at(min(search.gaps) * 1000)}), and the log does not go back that far (see docs/traces.md)")
    if strangers:
        yield f"  {strangers} pushes to names that nobody bears were refused in that time"


def _order(job: str) -> tuple[int, int]:
    ms, _, sequence = job.partition("-")
    return int(ms), int(sequence)
