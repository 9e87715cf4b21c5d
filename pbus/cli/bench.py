"""
``pbus bench``: how fast this machine is with pbus, as ratios to bare parts in the same run.

Rule: what is measured is a private bus in a temporary folder; a bus that runs and its store are not touched. When the
command ends, by itself or by a signal, everything that it started has ended and the folder is gone.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import table_lines
from pbus.clock import SystemClock
from pbus.errors import Exit, PbusError

if TYPE_CHECKING:
    from pbus.bench.figures import Figure
    from pbus.bench.report import Comparison
    from pbus.bench.rows import Options
    from pbus.bench.session import Part, Result

_STORES: Final = ("sqlite", "redis", "redis-always", "all")
_FORMS: Final = ("table", "json", "markdown")
_STDOUT: Final = "-"
_QUICK_ROUNDS: Final = 3
_QUICK_S: Final = 0.3
_QUICK_BACKLOG: Final = 200_000
_QUICK_CONNECTIONS: Final = 1_000
_IN_A_PART: Final = 0.15
"""How much of what is left of a part one round takes, as the bar shows it: nobody knows how many there will be."""


class NotComparable(PbusError):
    """The file of ``--compare`` is none of ours."""

    exit_status = Exit.USAGE


@click.command()
@click.argument("rows", nargs=-1, metavar="[ROW]...")
@click.option("--list", "listed", is_flag=True, help="Say which rows there are.")
@click.option("--store", type=click.Choice(_STORES), default="all", show_default=True, help="Measure on this store.")
@click.option("--rounds", type=click.IntRange(2, 1000), metavar="N",
              help="Pairs of slices of each figure (default: 5).")
@click.option("--seconds", type=click.FloatRange(0.05, 60), metavar="S", help="Length of a slice (default: 1.5).")
@click.option("--quick", is_flag=True, help="Short slices, few of them, small sizes: rough figures.")
@click.option("--quiet-wait", type=click.FloatRange(0, 3600), default=0.0, metavar="S",
              help="Wait so long, before each slice, for other programs to be quiet.")
@click.option("--backlog", type=click.IntRange(10_000), metavar="N",
              help="Jobs that wait in the row 'backlog' (default: 10,000,000).")
@click.option("--connections", type=click.IntRange(300), metavar="N",
              help="Connections of the row 'connections' (default: 10,000).")
@click.option("--dir", "folder", type=click.Path(exists=True, file_okay=False, writable=True), metavar="DIR",
              help="Make the temporary folder here: the disk that is measured.")
@click.option("-o", "--output", "form", type=click.Choice(_FORMS), default="table", show_default=True,
              help="Form of the figures on stdout.")
@click.option("--json", "document", is_flag=False, flag_value=_STDOUT, metavar="[FILE]",
              help="Write the figures to FILE as JSON, too; without FILE: to stdout, instead of a table.")
@click.option("--compare", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="Say what has changed since that document of --json.")
@click.option("--fail-under", type=click.FloatRange(0), metavar="PERCENT",
              help="With --compare: exit status 1 if a figure has got worse by more, and not by noise.")
@pass_context
def bench(context: Context, /, rows: tuple[str, ...], listed: bool, store: str, **given: Any) -> int:
    """
    Measure pbus on this machine, against bare parts in the same run.

    A ROW is one measurement, patterns such as 'growth-*' are allowed; without any all are measured but those with
    curves. Each needs a private bus and, where it is compared with them, redis-server, redis-benchmark (Debian:
    redis-tools) and php-fpm; what is not installed is skipped.
    """
    from pbus.bench.rows import selected

    document, rows = _document_and_rows(given["document"], rows)
    if given["fail_under"] is not None and given["compare"] is None:
        raise click.UsageError("--fail-under needs --compare FILE")
    parts = selected(rows, store)
    if listed:
        return _list(context, parts)
    _check_writable(document)
    then = _older(given["compare"])
    result = _measured(parts, _options(given))
    form = "json" if document == _STDOUT else given["form"]
    return _show(context, result, parts, then, form, document, given["fail_under"])


def _document_and_rows(document: str | None, rows: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """``--json pushes`` means the row, not a file of its name."""
    from pbus.bench.rows import ROWS

    return (_STDOUT, (document, *rows)) if document in ROWS else (document or "", rows)


def _check_writable(document: str) -> None:
    """Now, and not after a quarter of an hour."""
    if document and document != _STDOUT and not os.access(os.path.dirname(os.path.abspath(document)), os.W_OK):
        raise click.UsageError(f"--json: {document} cannot be written")


def _older(path: str | None) -> list[Figure] | None:
    from pbus.bench.figures import figures_of

    if path is None:
        return None
    try:
        return figures_of(json.loads(Path(path).read_text("utf-8")))
    except ValueError as error:
        raise NotComparable(f"{path}: {error}") from None


def _options(given: dict[str, Any]) -> Options:
    from pbus.bench.rows import Options

    quick: bool = given["quick"]
    usual = Options()
    return Options(
        rounds=given["rounds"] or (_QUICK_ROUNDS if quick else usual.rounds),
        slice_s=given["seconds"] or (_QUICK_S if quick else usual.slice_s), quiet_s=given["quiet_wait"],
        backlog=given["backlog"] or (_QUICK_BACKLOG if quick else usual.backlog),
        connections=given["connections"] or (_QUICK_CONNECTIONS if quick else usual.connections),
        folder=given["folder"] or "",
    )


def _list(context: Context, parts: Sequence[Part]) -> int:
    from pbus.bench.rows import ROWS

    stores: dict[str, list[str]] = {}
    named = {name for name, _ in parts} | {name for name, row in ROWS.items() if row.named}
    for name in ROWS:
        if name in named:
            stores[name] = [store for row, store in parts if row == name] or list(ROWS[name].stores)
    lines = [
        {"row": name, "stores": found, "seconds": ROWS[name].seconds * len(found), "measures": ROWS[name].what}
        for name, found in stores.items()
    ]
    context.output.rows("rows", ("row", "stores", "seconds", "measures"), lines)
    return Exit.DONE


# -- measuring ------------------------------------------------------------------------------------


def _measured(parts: Sequence[Part], options: Options) -> Result:
    """Whatever was started has ended afterwards."""
    from pbus.bench import private, session

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        with _Progress(parts) as progress:
            return session.run(parts, options, progress)
    finally:
        private.kill(os.getpid(), itself=False)


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    """Once: what follows is cleaning up, which nobody may interrupt."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Progress:
    """A bar on stderr, where that is a terminal."""

    def __init__(self, parts: Sequence[Part]) -> None:
        from pbus.bench.rows import ROWS

        self._weights = {name: 100 * ROWS[name].seconds for name, _ in parts}
        self._left = 0
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=sum(self._weights[name] for name, _ in parts), file=sys.stderr, show_percent=True,
                item_show_func=lambda item: item,
            )

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def begins(self, part: Part) -> None:
        self._left, self._text = self._weights[part[0]], " on ".join(part)
        self._advance(0, self._text)

    def made(self, rounds: int) -> None:
        self._advance(int(self._left * _IN_A_PART), f"{self._text}, round {rounds}")

    def ended(self, part: Part) -> None:
        self._advance(self._left, " on ".join(part))

    def _advance(self, steps: int, text: str) -> None:
        self._left -= steps
        if self._bar is not None:
            self._bar.update(steps, text)


# -- showing --------------------------------------------------------------------------------------


def _show(
    context: Context, result: Result, parts: Sequence[Part], then: list[Figure] | None, form: str, document: str,
    fail_under: float | None,
) -> int:
    from pbus.bench.report import compare

    commands = {f"pbus bench {name} --store {store}" for name, store in parts}
    comparison = None if then is None else compare(result.figures, then, commands)
    at = datetime.datetime.fromtimestamp(SystemClock().wall_s(), datetime.UTC).isoformat(timespec="seconds")
    told = result.document(at) | _told(comparison)
    if document and document != _STDOUT:
        Path(document).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if form == "json":
        context.output.line(json.dumps(told))
    else:
        _print(context, result, comparison, form)
    for what, missed in (("skipped", result.skipped), ("failed", result.failed)):
        for name, store, reason in missed:
            context.output.say(f"pbus: {what}: {name} on {store}: {reason}")
    return _status(context, result, comparison, fail_under)


def _told(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {}
    changes = {
        key: {"percent": round(change.percent, 2), "noise": change.noise} for key, change in comparison.changes.items()
    }
    return {"compared": {"changes": changes, "only_now": comparison.only_now, "only_then": comparison.only_then}}


def _print(context: Context, result: Result, comparison: Comparison | None, form: str) -> None:
    from pbus.bench import report

    if form == "markdown":
        context.output.line(report.markdown(result.figures, result.machine, comparison))
        return
    if result.figures:
        heads, rows = report.cells(result.figures, comparison)
        keys = [head.lower() for head in heads]
        for line in table_lines(keys, [dict(zip(keys, row, strict=True)) for row in rows], None):
            context.output.line(line)
    context.output.line(report.about(result.machine))
    if comparison is not None:
        for text, names in (("only in this run", comparison.only_now), ("not in this run", comparison.only_then)):
            if names:
                context.output.line(f"{text}: {'; '.join(names)}")


def _status(context: Context, result: Result, comparison: Comparison | None, fail_under: float | None) -> int:
    worse = [] if comparison is None or fail_under is None else comparison.worse(fail_under)
    if worse:
        context.output.say(f"pbus: worse by more than {fail_under:g} %: {', '.join(worse)}")
    nothing = not result.figures and not result.curves
    return Exit.FAILED if worse or result.failed or nothing else Exit.DONE
