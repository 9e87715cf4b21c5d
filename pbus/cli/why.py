"""``pbus topic why|job why``: facts from the bus, the stores and the configuration, for the rules of core/why.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pbus.cli.output import brief, escape
from pbus.core.why import STORED, Address, Facts, FailedAuth, Reason, reasons
from pbus.errors import Exit, NotFound, NotRunning, PbusError, StorageError

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.stores import Stock
    from pbus.config.schema import Settings, Topic
    from pbus.core.why_job import Holder, JobFacts
    from pbus.storage.driver import JobRecord, Place

_STATUS_S: Final = 5.0
_COLUMNS: Final = ("topic", "state", "why", "text", "next")


def tell(context: Context, path: str) -> int:
    """
    Print the reasons; exit status 0 whatever they are.

    Raises:
        NotFound: there is no such topic.
    """
    from pbus.cli.stores import take_stock

    settings = context.settings()
    stock = take_stock(settings)
    name = stock.topic(path)
    rows = _rows(reasons(_facts(stock, name, _status(settings))))
    if context.output.form != "table":
        context.output.rows("reasons", ("why", "text", "next"), rows, queue=name[0], topic=name[1])
    else:
        _say(context, rows, "")
    return Exit.DONE


def tell_job(context: Context, words: Sequence[str]) -> int:
    """
    Print why a job is not done, topic by topic; exit status 0 whatever that is.

    Raises:
        NotFound: no queue has the job; says what its id tells.
    """
    from pbus.cli.job import split
    from pbus.cli.stores import take_stock
    from pbus.cli.traces import replays_of
    from pbus.core import why_job

    stock = take_stock(context.settings())
    path, job_id = split(words, one=True)
    record, topics = _found(stock, path, job_id)
    status = _status(stock.settings)
    jobs = [_job(stock, record, topic, status) for topic in topics or _topics(stock, record)]
    again = replays_of(stock.settings, stock.storage_of[record.queue], record.queue, record.id)
    rows = [
        {"topic": job.topic.topic, "state": job.state or "-", **row}
        for job in jobs for row in _rows(why_job.reasons(job))
    ]
    if context.output.form != "table":
        context.output.rows(
            "reasons", _COLUMNS, rows, queue=record.queue, id=record.id, replay_of=record.replay_of, replayed=again
        )
        return Exit.DONE
    replay = f"; it is a replay of {record.replay_of}" if record.replay_of else ""
    context.output.line(escape(f"{record.queue} {record.id}: {why_job.age_of(record.id, _now_ms())}{replay}"))
    for job in jobs:
        mine = [row for row in rows if row["topic"] == job.topic.topic]
        state, replayed = job.state or "not on its way there", again.get(job.topic.topic)
        context.output.line(escape(f"{job.topic.path}  {state}{f', {replayed}' if replayed else ''}"))
        _say(context, mine, "  ")
    if not jobs:
        context.output.line(f"  {escape(record.queue)} has no topics: nobody is to get it")
    return Exit.DONE


def _rows(found: Sequence[Reason]) -> list[dict[str, Any]]:
    return [{"why": reason.why, "text": reason.text, "next": reason.todo} for reason in found]


def _say(context: Context, rows: Sequence[Mapping[str, Any]], margin: str) -> None:
    for row in rows:
        context.output.line(margin + escape(row["text"]))
        context.output.line(f"{margin}  next: {escape(row['next'])}")


def _now_ms() -> int:
    from pbus.clock import SystemClock

    return int(SystemClock().wall_s() * 1000)


def _status(settings: Settings) -> Mapping[str, Any]:
    """What the bus says; without it just how far it does not."""
    from pbus.supervisor.control import call

    try:
        status: Mapping[str, Any] = call(settings.node.run_dir, "status", _STATUS_S, reads=True)["status"]
    except NotRunning:
        return {"state": "stopped"}
    except PbusError:
        return {"state": "unknown"}
    return status


# -- a topic --------------------------------------------------------------------------------------


def _facts(stock: Stock, name: tuple[str, str], status: Mapping[str, Any]) -> Facts:
    queue, topic = name
    bus = "running" if status["state"] in ("running", "degraded") else str(status["state"])
    rows = [row for row in status.get("topics", ()) if (row["queue"], row["topic"]) == name]
    row: Mapping[str, Any] = rows[0] if rows else {}
    section = stock.section(queue)
    away = stock.away.get(stock.storage_of.get(queue, ""))
    return Facts(
        queue=queue, topic=topic, system=section.system if section else "", bus=bus,
        store_away=str(away) if away else "", state=str(row.get("state", bus)), reason=str(row.get("reason", "")),
        max_backlog=section.max_backlog if section else 0, failed_auths=_failed(status),
        addresses=_addresses(status, f"{queue}/{topic}"), **_numbers(stock, name), **_places(stock, name, row),
    )


def _numbers(stock: Stock, name: tuple[str, str]) -> dict[str, Any]:
    """What the store says; all None where it cannot be read, zeros where it does not have the topic yet."""
    if stock.storage_of.get(name[0]) in stock.away:
        return {}
    numbers, of_queue = stock.topics.get(name), stock.queues.get(name[0])
    counted = ("ready", "running", "delayed", "dead", "oldest_wait_s", "done_total")
    return {
        **{field: getattr(numbers, field) if numbers else 0 for field in (*counted, "waiting")},
        **(_pause(stock, name, numbers.paused_ms) if numbers and numbers.paused_ms else {}),
        "backlog": of_queue.backlog if of_queue else 0, "pushed_total": of_queue.pushed_total if of_queue else 0,
    }


def _pause(stock: Stock, name: tuple[str, str], paused_ms: int) -> dict[str, Any]:
    from pbus.cli.stores import queue_driver
    from pbus.storage.pauses import pausers

    who = ""
    try:
        with queue_driver(stock, name[0]) as driver:
            who = pausers(driver, {name: paused_ms}).get(name, "")
    except StorageError:
        pass                                          # it went away just now: the rest is known
    return {"paused": True, "paused_s": max(0.0, (_now_ms() - paused_ms) / 1000), "paused_by": who}


def _places(stock: Stock, name: tuple[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """What runs its jobs, and how much of that there may be."""
    from pbus.cli.topic import handler_of

    section, slots = stock.topic_section(name), row.get("concurrency") or {}
    if section is None:
        kept = {"handler": STORED, "slots": int(slots.get("now") or 0), "most": int(slots.get("max") or 0)}
        return kept if row.get("served") else {"handler": ""}
    most = section.pull.max_open if section.pull is not None else slots.get("max") or section.concurrency.max
    limit = str((row.get("capacity") or {}).get("limited_by") or "")
    return {
        "handler": handler_of(section), "slots": int(slots.get("now") or 0), "most": int(most), "limited_by": limit,
        "rate_per_s": section.rate_per_s, **_shadow(section),
    }


def _shadow(section: Topic) -> dict[str, str]:
    from pbus.config.values import written_percent

    return {"shadow_of": section.shadow_of, "sample": written_percent(section.sample)} if section.shadow_of else {}


def _addresses(status: Mapping[str, Any], path: str) -> tuple[Address, ...]:
    return tuple(
        Address(str(row["address"]), str(row["state"]), str(row.get("reason", "")))
        for row in status.get("backends", ()) if path in row.get("topics", ())
    )


def _failed(status: Mapping[str, Any]) -> tuple[FailedAuth, ...]:
    now_ms = _now_ms()
    return tuple(
        FailedAuth(
            address=row["address"], identity=row["identity"], tried=row["tried"], recent=row["recent"],
            ago_s=max(0.0, (now_ms - row["last_ms"]) / 1000),
        )
        for row in status.get("door", {}).get("failed_auths", ())
    )


# -- a job ----------------------------------------------------------------------------------------


def _found(stock: Stock, path: str, job_id: str) -> tuple[JobRecord, tuple[str, ...]]:
    """
    The job, and the topics that were named.

    Raises:
        NotFound: with what its id tells, and how long jobs are kept.
    """
    from pbus.cli.grid import duration
    from pbus.cli.job import found
    from pbus.core.why_job import age_of

    try:
        return found(stock, path, job_id)
    except NotFound as error:
        if job_id not in str(error):
            raise                                     # it is about the queue
        kept = [section.retention_s for section in stock.settings.queue.values()]
        longest = f"; jobs that every topic is through with are kept for {duration(max(kept))}" if kept else ""
        raise NotFound(f"{error}; {age_of(job_id, _now_ms())}{longest}") from None


def _topics(stock: Stock, record: JobRecord) -> list[str]:
    """Those it is on its way to, and those of its queue that began later."""
    return sorted({*record.topics, *(topic for _, topic in stock.topic_names(record.queue))})


def _job(stock: Stock, record: JobRecord, topic: str, status: Mapping[str, Any]) -> JobFacts:
    from pbus.core.why_job import JobFacts

    place = record.topics.get(topic)
    facts = _facts(stock, (record.queue, topic), status)
    if place is None:
        return JobFacts(id=record.id, topic=facts, state="", now_ms=_now_ms())
    return JobFacts(
        id=record.id, topic=facts, state=place.state, now_ms=_now_ms(), attempts=place.attempts, crashes=place.crashes,
        due_ms=place.due_ms, expires_ms=record.expires_ms, at_ms=place.at_ms, key=record.key, behind=place.behind,
        reason=place.reason, error=brief(place.error), holder=_holder(stock.settings, record.id, place, status),
    )


def _holder(settings: Settings, job_id: str, place: Place, status: Mapping[str, Any]) -> Holder | None:
    """Who has it in hand: a process of this node as its master knows it, or one of another node."""
    from pbus.cli.status_view import process_name
    from pbus.core.names import Owner
    from pbus.core.why_job import Holder

    try:
        owner = Owner.parse(place.owner)
    except ValueError:
        return None
    if owner.node != str(status.get("node") or settings.node.name):
        return Holder(node=owner.node, process="a process")
    rows = [row for row in status.get("processes", ()) if row.get("owner") == place.owner]
    if not rows:
        return Holder(node=owner.node, process="a process" if status["state"] == "unknown" else "")
    row = rows[0]
    runs = str(row["job"])
    return Holder(
        node=owner.node, process=process_name(row), pid=int(row["pid"]),
        since_s=row["job_s"] if runs == job_id else None, runs=runs if runs not in ("", job_id) else "",
    )
