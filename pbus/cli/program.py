"""``pbus program ls|restart``: daemons of ``[program.NAME]`` that the bus keeps running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.grid import Cell, count, duration, plain, show, size, state
from pbus.cli.output import escape, output_option
from pbus.errors import Exit, NotRunning

_COLUMNS: Final = (
    "program", "state", "running", "wanted", "pids", "rss_bytes", "uptime_s", "restarts", "argv", "reason",
)
_HEADS: Final = ("program", "state", ">running", ">pid", ">up", ">rss", ">restarts", "reason")
_ASK_S: Final = 10.0


@click.group()
def program() -> None:
    """List and restart programs."""


@program.command("ls")
@output_option
@pass_context
def list_programs(context: Context) -> int:
    """
    List the programs of the configuration, and how they are.

    UP is the age of the youngest process, RESTARTS how often one ended that nobody had told to.
    """
    settings = context.settings()
    here = _running(context)
    rows = [{**_stopped(section.processes), **here.get(name, {}), "program": name, "argv": list(section.argv)}
            for name, section in sorted(settings.program.items())]
    show(context.output, "programs", _COLUMNS, rows, _HEADS, _cells)
    return Exit.DONE


@program.command("restart")
@click.argument("glob", metavar="GLOB", default="*")
@click.option("--wait", is_flag=True, help="Return when all have been replaced; exit status 1 if one failed.")
@output_option
@pass_context
def restart_programs(context: Context, glob: str, wait: bool) -> int:
    """
    Restart the programs that GLOB matches (all, without it), one process after the other.

    Each is asked to stop, and killed when it takes too long; the next one has its turn when the successor runs. One
    that was given up is tried again.
    """
    from pbus.cli.rollouts import restart

    return restart(context, "program", glob, wait)


def _running(context: Context) -> dict[str, dict[str, Any]]:
    """What the master knows of each; nothing when the bus does not run."""
    from pbus.supervisor.control import call

    try:
        answer = call(context.run_dir(), "status", _ASK_S, reads=True)
    except NotRunning:
        return {}
    return {row["program"]: row for row in answer["status"]["programs"]}


def _stopped(processes: int) -> dict[str, Any]:
    return {
        "state": "stopped", "running": 0, "wanted": processes, "pids": [], "rss_bytes": 0, "uptime_s": 0.0,
        "restarts": 0, "reason": "",
    }


def _cells(row: Mapping[str, Any]) -> Sequence[Cell]:
    pids = [str(pid) for pid in row["pids"]]
    named = " ".join(pids) if len(pids) <= 2 else f"{pids[0]} .."
    return [
        plain(escape(row["program"])), state(row["state"]), plain(f"{row['running']} of {row['wanted']}"),
        plain(named or "-"), plain(duration(row["uptime_s"]) if row["running"] else "-"),
        plain(size(row["rss_bytes"]) if row["pids"] else "-"), count(row["restarts"], "yellow"),
        plain(escape(row["reason"])),
    ]
