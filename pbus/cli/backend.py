"""``pbus backend ls|show``: addresses that handlers are called at, as the running bus sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.facts import facts
from pbus.cli.grid import Cell, count, plain, show, state
from pbus.cli.output import escape, output_option
from pbus.errors import Exit, NotFound, NotRunning

_COLUMNS: Final = (
    "backend", "address", "protocol", "state", "connections", "limit", "in_use", "waiting", "calls_total",
    "failed_total", "reason",
)
_HEADS: Final = (
    "backend", "address", "state", ">open", ">limit", ">busy", ">waiting", ">calls", ">failed", "reason",
)
_ASK_S: Final = 10.0


@click.group()
def backend() -> None:
    """List and show backends (php-fpm pools and HTTP services)."""


@backend.command("ls")
@output_option
@pass_context
def list_backends(context: Context) -> int:
    """
    List every address that handlers are called at.

    OPEN are connections, of at most LIMIT; BUSY ones run a job; WAITING jobs wait for one.
    """
    show(context.output, "backends", _COLUMNS, _rows(context), _HEADS, _cells)
    return Exit.DONE


@backend.command("show")
@click.argument("name", metavar="BACKEND|ADDRESS")
@output_option
@pass_context
def show_backend(context: Context, name: str) -> int:
    """Show the addresses of one backend in full."""
    import difflib

    rows = _rows(context)
    found = [row for row in rows if name in (row["backend"], row["address"])]
    if not found:
        known = sorted({row["backend"] or row["address"] for row in rows})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise NotFound(f"there is no backend {name!r}; {hint}")
    if context.output.form != "table":
        context.output.rows("backends", _COLUMNS, found)
        return Exit.DONE
    for place, row in enumerate(found):
        if place:
            context.output.line("")
        facts(context.output, _said(row))
    return Exit.DONE


def _rows(context: Context) -> list[dict[str, Any]]:
    """
    Raises:
        NotRunning: only a running bus knows.
    """
    from pbus.supervisor.control import call

    try:
        answer = call(context.run_dir(), "status", _ASK_S, reads=True)
    except NotRunning as error:
        raise NotRunning(f"{error}; 'pbus start --daemon' starts it") from None
    rows: list[dict[str, Any]] = answer["status"]["backends"]
    return rows


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    return [
        plain(escape(row["backend"] or "-")), plain(escape(row["address"])), state(row["state"]),
        count(row["connections"]), plain("-" if row["limit"] is None else str(row["limit"])), count(row["in_use"]),
        count(row["waiting"], "yellow"), count(row["calls_total"]), count(row["failed_total"], "yellow"),
        plain(escape(row["reason"])),
    ]


def _said(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    pool = row.get("pool") or {}
    rate = row.get("rate_per_s")
    lines: list[tuple[str, Cell]] = [
        ("address", plain(row["address"])), ("backend", plain(row["backend"])),
        ("protocol", plain(row.get("protocol", ""))),
        ("state", state(row["state"])), ("reason", plain(row["reason"])), ("topics", plain(" ".join(row["topics"]))),
        ("connections", plain(f"{row['connections']} open, {row['in_use']} busy, {row['waiting']} jobs wait for one")),
        ("limit", plain("none" if row["limit"] is None else f"{row['limit']} connections now")),
        ("rate", plain(f"{rate:g} calls a second" if rate else "")),
        ("calls", plain(f"{row['calls_total']}, {row['failed_total']} failed, {row.get('busy_total', 0)} met busy")),
    ]
    if pool:
        text = f"{pool.get('manager', '')}, {pool.get('active', '?')} of {pool.get('total', '?')} processes busy"
        queue = f", {pool.get('listen_queue', 0)} connections wait in its queue"
        lines.append(("php-fpm", plain(text + queue)))
    return lines
