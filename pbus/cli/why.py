"""``pbus topic why``: facts from the bus, the stores and the configuration, for the rules of core/why.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pbus.cli.output import escape
from pbus.core.why import Facts, FailedAuth, reasons
from pbus.errors import Exit, NotRunning, PbusError

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.cli.stores import Stock
    from pbus.config.schema import Settings

_STATUS_S: Final = 5.0


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
    found = reasons(_facts(stock, name, _status(settings)))
    rows = [{"why": reason.why, "text": reason.text, "next": reason.todo} for reason in found]
    output = context.output
    if output.form != "table":
        output.rows("reasons", ("why", "text", "next"), rows, queue=name[0], topic=name[1])
        return Exit.DONE
    for row in rows:
        output.line(escape(row["text"]))
        output.line(f"  next: {escape(row['next'])}")
    return Exit.DONE


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
        **_numbers(stock, name), **_places(stock, name, row),
    )


def _numbers(stock: Stock, name: tuple[str, str]) -> dict[str, Any]:
    """What the store says; all None where it cannot be read, zeros where it does not have the topic yet."""
    if stock.storage_of.get(name[0]) in stock.away:
        return {}
    numbers, of_queue = stock.topics.get(name), stock.queues.get(name[0])
    counted = ("ready", "running", "delayed", "dead", "oldest_wait_s", "done_total")
    return {
        **{field: getattr(numbers, field) if numbers else 0 for field in counted},
        "paused": bool(numbers and numbers.paused_ms),
        "backlog": of_queue.backlog if of_queue else 0, "pushed_total": of_queue.pushed_total if of_queue else 0,
    }


def _places(stock: Stock, name: tuple[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """What runs its jobs, and how much of that there may be."""
    from pbus.cli.topic import handler_of

    section = stock.topic_section(name)
    if section is None:
        return {"handler": ""}
    slots = row.get("concurrency") or {}
    most = section.pull.max_open if section.pull is not None else slots.get("max") or section.concurrency.max
    limit = str((row.get("capacity") or {}).get("limited_by") or "")
    return {"handler": handler_of(section), "slots": int(slots.get("now") or 0), "most": int(most), "limited_by": limit}


def _failed(status: Mapping[str, Any]) -> tuple[FailedAuth, ...]:
    from pbus.clock import SystemClock

    now_ms = SystemClock().wall_s() * 1000
    return tuple(
        FailedAuth(
            address=row["address"], identity=row["identity"], tried=row["tried"], recent=row["recent"],
            ago_s=max(0.0, (now_ms - row["last_ms"]) / 1000),
        )
        for row in status.get("door", {}).get("failed_auths", ())
    )
