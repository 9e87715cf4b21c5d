"""
Loading code again: the common part of ``pbus topic restart`` and ``pbus program restart``.

Rule: the master does it; this asks, and with ``--wait`` asks again until every one of them has ended well or badly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pbus.cli.context import Context
from pbus.cli.grid import Cell, plain, show, state
from pbus.cli.output import escape
from pbus.errors import Exit, NotRunning

_ASK_S: Final = 10.0
_EVERY_S: Final = 0.2
_WORDS: Final = {
    "restarting": "begun: a process with the new code first, then the others one by one",
    "started": "nothing of it ran: started",
    "idle": "none of it is wanted now; the next one has the new code",
    "nothing": "nothing to restart: no process of this bus runs it",
}
_ALONE: Final = {**_WORDS, "restarting": "begun: one process after the other"}
_RESULTS: Final = {"done": "done", "failed": "failed", "working": "begun"}

Row = Mapping[str, Any]


def restart(context: Context, role: str, glob: str, wait: bool) -> int:
    """
    Have everything of *role* that *glob* matches load its code again.

    Returns:
        Exit status: 1 when one of them failed (known with *wait* only).
    """
    noun = "topic" if role == "consumer" else "program"
    words = _WORDS if role == "consumer" else _ALONE
    begun: list[dict[str, Any]] = _call(context, "restart", role=role, glob=glob)["rows"]
    rows = [{noun: row["path"], "result": row["how"], "reason": words[row["how"]]} for row in begun]
    if wait:
        ended = _wait(context, role, begun)
        rows = [_ended(noun, row, ended.get(row["path"])) for row in begun]
    show(context.output, f"{noun}s", (noun, "result", "reason"), rows, (noun, "result", "reason"), _cells(noun))
    failed = [row for row in rows if row["result"] == "failed"]
    for row in failed:
        context.output.say(f"{row[noun]}: {row['reason']}")  # all of it: the table may have cut it off
    return Exit.FAILED if failed else Exit.DONE


def _wait(context: Context, role: str, begun: Sequence[Row]) -> dict[str, Row]:
    from pbus.clock import SystemClock

    clock, told = SystemClock(), set[str]()
    asked = [[row["path"], row["code"]] for row in begun if row["how"] != "nothing"]
    while True:
        rows: list[dict[str, Any]] = _call(context, "restarted", reads=True, role=role, rows=asked)["rows"]
        for row in rows:
            if row["state"] != "working" and row["path"] not in told and len(rows) > 1:
                told.add(row["path"])
                context.output.say(f"{row['path']}: {row['state']}")
        if all(row["state"] != "working" for row in rows):
            return {row["path"]: row for row in rows}
        clock.sleep(_EVERY_S)


def _ended(noun: str, row: Row, ended: Row | None) -> dict[str, Any]:
    if ended is None or row["how"] == "idle":
        return {noun: row["path"], "result": row["how"], "reason": _WORDS[row["how"]]}
    reason = ended["reason"] or ("every process has the new code" if ended["state"] == "done" else "")
    return {noun: row["path"], "result": _RESULTS[ended["state"]], "reason": reason}


def _call(context: Context, kind: str, *, reads: bool = False, **fields: Any) -> dict[str, Any]:
    from pbus.supervisor.control import call

    try:
        return call(context.run_dir(), kind, _ASK_S, reads=reads, **fields)
    except NotRunning as error:
        raise NotRunning(f"{error}; 'pbus start --daemon' starts it") from None


def _cells(noun: str) -> Any:
    def cells(row: Row) -> Sequence[Cell]:
        return [plain(escape(row[noun])), state(row["result"]), plain(escape(row["reason"]))]

    return cells
