"""``pbus upgrade``: new code of pbus takes over a bus that runs."""

from __future__ import annotations

from typing import Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.errors import Exit, NotRunning, PbusError

_ASK_S: Final = 60.0
_ANSWER_S: Final = 10.0
_WAIT_S: Final = 60.0
_EVERY_S: Final = 0.05


@click.command()
@click.option("--wait", is_flag=True, help="Return when the new processes serve and the old ones have handed over.")
@pass_context
def upgrade(context: Context, wait: bool) -> int:
    """
    Have the code of pbus that is on the disk now take over; nobody is disconnected, no job is lost or run twice.

    The new code is tried first, by a process of its own: it imports everything and reads the configuration. With a
    problem nothing is touched. Then the bus goes on in the same process (its pid stays) with the new code, and
    reloads. Consumers of topics whose configuration has not changed stay, and so does their code: 'pbus topic restart'
    loads it again. Returns when the new code has begun, or with --wait when its processes serve.

    Exits with 0 when done, 1 when the new code cannot take over (what runs goes on), 3 when the bus is not running,
    78 when the configuration is no good.
    """
    from pbus.supervisor.control import stream

    run_dir = context.run_dir()
    said: dict[str, Any] = {}
    for frame in stream(run_dir, "upgrade", _ASK_S):
        said = frame
    if not said:
        raise NotRunning("the bus hung up; its log says why")
    after = _adopted(run_dir, int(said["count"]) + 1)
    context.output.say(f"{said['before']} -> {after['version']}, pid {after['pid']}")
    return _follow(context, run_dir, int(after["number"])) if wait else Exit.DONE


def _adopted(run_dir: str, count: int) -> dict[str, Any]:
    """What the bus says of itself once that upgrade has happened."""
    from pbus.clock import SystemClock
    from pbus.supervisor.control import call

    clock = SystemClock()
    until_s = clock.monotonic_s() + _WAIT_S
    while clock.monotonic_s() < until_s:
        answer = call(run_dir, "upgraded", _ANSWER_S, reads=True)
        if answer["count"] >= count:
            return answer
        clock.sleep(_EVERY_S)
    raise PbusError("the new code has not begun; the log says why")


def _follow(context: Context, run_dir: str, number: int) -> int:
    from pbus.cli.reload import follow

    return follow(context, run_dir, number)
