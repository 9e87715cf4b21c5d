"""``pbus system ls|show|report``: business systems, what they own, what waits there and what they used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, plain, show
from pbus.cli.output import escape, output_option
from pbus.errors import Exit, NotFound

if TYPE_CHECKING:
    from pbus.cli.stores import Stock

_COLUMNS: Final = (
    "system", "title", "owner", "weight", "queues", "topics", "ready", "running", "delayed", "dead", "done_total",
    "failed_total",
)
_HEADS: Final = (
    "system", "title", "owner", ">weight", ">queues", ">topics", ">ready", ">running", ">delayed", ">dead", ">done",
)
_SUMS: Final = ("ready", "running", "delayed", "dead", "done_total", "failed_total")


@click.group()
def system() -> None:
    """List and show business systems, and what they used."""


@system.command("ls")
@output_option
@pass_context
def list_systems(context: Context) -> int:
    """List business systems, with the sums of their queues."""
    from pbus.cli.stores import take_stock

    stock = take_stock(context.settings())
    show(context.output, "systems", _COLUMNS, [_row(stock, name) for name in _names(stock)], _HEADS, _cells)
    stock.check()
    return Exit.DONE


@system.command("show")
@click.argument("name", metavar="SYSTEM")
@output_option
@pass_context
def show_system(context: Context, name: str) -> int:
    """Show one system and its queues."""
    from pbus.cli.queue import queue_table
    from pbus.cli.stores import take_stock

    stock = take_stock(context.settings())
    _must_exist(stock, name)
    row, queues = _row(stock, name), _queues(stock, name)
    if context.output.form != "table":
        context.output.rows("systems", _COLUMNS, [row | {"queue": queues}])
    else:
        facts(context.output, [
            ("system", plain(name)), ("title", plain(row["title"])), ("owner", plain(row["owner"])),
            ("cost center", plain(row["cost_center"])), ("weight", plain(str(row["weight"]))),
            ("running", count(row["running"])), ("dead", count(row["dead"], "red")),
        ])
        context.output.line("")
        queue_table(context, stock, queues)
    stock.check()
    return Exit.DONE


@system.command("report")
@click.option(
    "--month", default="", is_flag=False, flag_value="", metavar="[YYYY-MM]",
    help="Of UTC (default: this one); kept for 400 days.",
)
@click.option("--system", "name", default="", metavar="SYSTEM", help="Only this one (default: all).")
@output_option
@pass_context
def report_systems(context: Context, month: str, name: str) -> int:
    """
    Show what each system used in a month: jobs, bytes, hours in handlers, attempts a job, its share of all hours.

    The bytes are those of bodies that attempts were made at. Hours of processors are known of Python and command
    handlers; those of php-fpm and HTTP backends are not the bus's to measure.
    """
    from pbus.cli.statistics import system_report
    from pbus.cli.stores import take_stock

    stock = take_stock(context.settings())
    if name:
        _must_exist(stock, name)
    return system_report(context, stock, [name] if name else _names(stock), month)


def _must_exist(stock: Stock, name: str) -> None:
    import difflib

    names = _names(stock)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise NotFound(f"there is no system {name!r}; {hint}")


def _names(stock: Stock) -> list[str]:
    """Of the configuration, with those that queues name."""
    return sorted({*stock.settings.system, *(section.system for section in stock.settings.queue.values())})


def _queues(stock: Stock, name: str) -> list[str]:
    return sorted(queue for queue, section in stock.settings.queue.items() if section.system == name)


def _row(stock: Stock, name: str) -> dict[str, Any]:
    section = stock.settings.system.get(name)
    queues = _queues(stock, name)
    topics = [topic for queue in queues for topic in stock.topic_names(queue)]
    known = [stock.topics[topic] for topic in topics if topic in stock.topics]
    unread = any(stock.storage_of[queue] in stock.away for queue in queues)
    return {
        "system": name, "title": section.title if section else "", "owner": section.owner if section else "",
        "cost_center": section.cost_center if section else "", "weight": section.weight if section else 1,
        "queues": len(queues), "topics": len(topics),
        **{key: None if unread else sum(getattr(numbers, key) for numbers in known) for key in _SUMS},
    }


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    return [
        plain(escape(row["system"])), plain(escape(row["title"]) or "-"), plain(escape(row["owner"]) or "-"),
        count(row["weight"]), count(row["queues"]), count(row["topics"]), count(row["ready"]), count(row["running"]),
        count(row["delayed"]), count(row["dead"], "red"), count(row["done_total"]),
    ]
