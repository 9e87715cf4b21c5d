"""``pbus reload``: the changed configuration is taken over by a bus that runs."""

from __future__ import annotations

from typing import Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import output_option
from pbus.errors import Exit

ASK_S: Final = 120.0
"""Another one may be under way, and this one begins when that is over."""
_ANSWER_S: Final = 10.0
_WAIT_S: Final = 120.0
_EVERY_S: Final = 0.05


@click.command()
@click.option("--wait", is_flag=True, help="Return when the old processes have handed everything over.")
@output_option
@pass_context
def reload(context: Context, wait: bool) -> int:
    """
    Take over a changed configuration; nobody is disconnected, no job is lost or run twice.

    The files are checked and tried first, by a process of their own; with a problem nothing changes (exit status 78).
    Prints what has changed and returns when that is known, or with --wait when it is in effect and the old processes
    have handed everything over (those that finish a long job may stay). Topics whose processes have to be replaced
    roll over one by one behind a first one.

    Exits with 0 when done, 1 when the new processes did not come up (the old ones go on), 3 when the bus is not
    running, 78 when the files cannot be taken over.
    """
    from pbus.supervisor.control import call

    run_dir = context.run_dir()
    answer = call(run_dir, "reload", ASK_S)
    tell(context, answer)
    return follow(context, run_dir, int(answer["number"])) if wait else Exit.DONE


def tell(context: Context, answer: dict[str, Any]) -> None:
    """What a check of the files has found."""
    output = context.output
    rows = [_row(line) for line in answer["changes"]]
    if output.form == "table":
        for line in answer["changes"]:
            output.line(line)
        if not rows:
            output.line("nothing has changed")
    else:
        output.rows("changes", ("sign", "file", "key", "value"), rows, number=answer["number"])
    touched = answer["touched"]
    if touched:
        output.say(f"{len(touched)} topic{'s' * (len(touched) > 1)} touched: {', '.join(touched)}")
    for key in answer["waiting"]:
        output.say(f"{key}: only 'pbus restart' takes it over")
    if answer["old_code"]:
        names = ", ".join(answer["old_code"])
        output.say(f"run code that is older than their files ('pbus topic restart' loads it): {names}")


def _row(line: str) -> dict[str, str]:
    sign, _, rest = line.partition(" ")
    file, key, value = [*rest.split(": ", 2), "", ""][:3]
    return {"sign": sign, "file": file, "key": key, "value": value}


def follow(context: Context, run_dir: str, number: int) -> int:
    """Until that reload is over and nobody old is left who hands over."""
    from pbus.clock import SystemClock
    from pbus.supervisor.control import call

    clock = SystemClock()
    until_s = clock.monotonic_s() + _WAIT_S
    while True:
        answer = call(run_dir, "reloaded", _ANSWER_S, reads=True, number=number)
        if answer["state"] != "working":
            break
        if clock.monotonic_s() > until_s:
            context.output.say(f"still there: {', '.join(answer['left']) or 'the reload itself'}; the log says why")
            return Exit.FAILED
        clock.sleep(_EVERY_S)
    if answer["state"] != "done":
        context.output.say(f"not taken over: {answer['reason']}")
        return int(answer["exit_status"])
    stay = f"; finishing what they run: {', '.join(answer['stay'])}" if answer["stay"] else ""
    context.output.say(f"generation {answer['generation']} since {answer['took_s']:.1f} s{stay}")
    return Exit.DONE
