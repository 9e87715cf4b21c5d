"""``pbus doctor``: looks around (checkup.py), lets core/doctor.py judge, prints what is wrong, its effect, its fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import escape, output_option
from pbus.core.doctor import AWAY, ERROR, NOTE, SEVERITIES, WARNING, Finding, findings, worst
from pbus.errors import Exit

if TYPE_CHECKING:
    from pbus.cli.output import Output

_COLUMNS: Final = ("severity", "check", "subject", "what", "effect", "fix")
_COLOURS: Final = {ERROR: "red", WARNING: "yellow", NOTE: ""}
_INDENT: Final = " " * 9


@click.command()
@click.option("--script", default="", metavar="PATH", help="pbus-doctor.php as php-fpm sees it: asks pools for more.")
@output_option
@pass_context
def doctor(context: Context, script: str) -> int:
    """
    Look for what is wrong, or will be, with the bus and what surrounds it.

    Stores, php-fpm pools, limits of open files, addresses, certificates, topics; each finding with its effect and how
    to repair it. Nothing is changed. The bus may run or not.

    Exits with 0 without an error (warnings and notes are told), 4 with one, 69 when a store or the bus cannot be asked.
    """
    from pbus.cli.checkup import look

    found = findings(look(context.settings(), script))
    output = context.output
    if output.form == "table":
        _tell(output, found)
    else:
        counts = {severity: _count(found, severity) for severity in SEVERITIES}
        rows = [dataclasses.asdict(finding) for finding in found]
        output.rows("findings", _COLUMNS, rows, worst=worst(found), counts=counts)
    if any(finding.check in AWAY for finding in found):
        return Exit.UNAVAILABLE
    return Exit.DEGRADED if worst(found) == ERROR else Exit.DONE


def _tell(output: Output, found: Sequence[Finding]) -> None:
    """The findings for people, and how many there are."""
    for finding in found:
        colour = _COLOURS[finding.severity]
        head = finding.severity.ljust(len(_INDENT))
        output.line((output.style(head, colour) if colour else head) + escape(f"{finding.subject}: {finding.what}"))
        output.line(_INDENT + escape(finding.effect))
        output.line(_INDENT + "fix: " + escape(finding.fix))
    if found:
        output.line("")
    output.line(", ".join(_counted(_count(found, severity), severity) for severity in SEVERITIES))


def _count(found: Sequence[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in found)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
