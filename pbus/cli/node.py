"""
``pbus start | stop | restart | status``: this machine's bus as a whole.

Rule: ``start`` turns into the master; the others only talk to it through its sockets. What a
failed start has to say is printed where the person is, with ``--daemon`` too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import output_option
from pbus.errors import Exit, NotRunning, PbusError

if TYPE_CHECKING:
    from pbus.supervisor.control import Refused

_ASK_S: Final = 10.0
_STOP_SPARE_S: Final = 10.0
_EVERY_S: Final = 0.05


@click.command()
@click.option("--daemon", is_flag=True, help="Return when the bus is ready, and leave it running.")
@pass_context
def start(context: Context, daemon: bool) -> int:
    """Start the bus, in the foreground or with --daemon."""
    from pbus import app
    from pbus.cli import upgraded
    from pbus.cli.daemon import Foreground, start_daemon
    from pbus.supervisor.master import Master

    if (asked := _asked_by_a_bus(context)) is not None:
        return asked
    loaded = context.loaded()
    if daemon:
        return start_daemon(context.output, loaded)
    plan, announcer, directory = app.plan(loaded), Foreground(context.output, loaded.settings), context.config_dir
    rehearse = app.rehearsal(directory, loaded.settings)
    return Master(plan, announcer, rehearse=rehearse, command=upgraded.command(directory)).run()


def _asked_by_a_bus(context: Context) -> int | None:
    """A bus that runs wants this code to take it over, or to say whether it could; None: a person starts one."""
    from pbus.cli import upgraded
    from pbus.supervisor import upgrades

    if os.environ.pop(upgrades.REHEARSE, ""):
        return upgraded.rehearse(context)
    descriptor = os.environ.pop(upgrades.ADOPT, "")
    return upgraded.adopt(context, int(descriptor)) if descriptor else None


@click.command()
@click.option("--fast", is_flag=True, help="Do not wait for running jobs; they run again later.")
@pass_context
def stop(context: Context, fast: bool) -> int:
    """Stop the bus; running jobs may finish (see node.grace)."""
    _stop_and_wait(context.run_dir(), fast)
    context.output.say("stopped")
    return Exit.DONE


@click.command()
@pass_context
def restart(context: Context) -> int:
    """Stop the bus and start it again with --daemon; an invalid configuration changes nothing."""
    loaded = context.loaded()
    from pbus.cli.daemon import start_daemon

    try:
        _stop_and_wait(loaded.settings.node.run_dir, fast=False)
        context.output.say("stopped")
    except NotRunning:
        context.output.say("was not running")
    return start_daemon(context.output, loaded)


@click.command()
@output_option
@pass_context
def status(context: Context) -> int:
    """
    Show processes, topics and problems.

    Of a topic: READY jobs wait, DELAYED ones wait for their next attempt, DEAD ones were given up; OLDEST is the wait
    of the oldest ready one; DONE counts deliveries, FAILED counts attempts; SLOTS are calls or processes that it has.

    Exits with 0 when running, 3 when not running, 4 when degraded.
    """
    from pbus.cli.status_view import document, lines
    from pbus.supervisor.control import Refused, call

    try:
        answer: dict[str, Any] = call(context.run_dir(), "status", _ASK_S, reads=True)["status"]
    except NotRunning as error:
        raise NotRunning(f"{error}; 'pbus start --daemon' starts it") from None
    except Refused as error:
        raise _silent(error, context.run_dir(), "nothing is known of it now") from None
    if context.output.form == "table":
        for line in lines(answer, context.output):
            context.output.line(line)
    else:
        document(answer, context.output)
    return Exit.DEGRADED if answer["state"] == "degraded" else Exit.DONE


def _stop_and_wait(run_dir: str, fast: bool) -> None:
    """
    Ask the master to stop and wait until it is gone.

    Raises:
        NotRunning: there is none.
        PbusError: it is still there long after its grace.
    """
    from pbus.clock import SystemClock
    from pbus.supervisor import lock
    from pbus.supervisor.control import Refused, call

    clock = SystemClock()
    try:
        answer = call(run_dir, "stop", _ASK_S, fast=fast)
    except Refused as error:
        raise _silent(error, run_dir, "it has been asked to stop, and does when it goes on") from None
    deadline = clock.monotonic_s() + answer["grace_s"] + _STOP_SPARE_S
    while lock.holder(run_dir):
        if clock.monotonic_s() > deadline:
            raise PbusError(f"pid {answer['pid']} is still there; its log says why")
        clock.sleep(_EVERY_S)


def _silent(error: Refused, run_dir: str, then: str) -> PbusError:
    """*error*, or when nobody answered in time: who it is, and what to do."""
    from pbus.supervisor import control, lock

    pid = lock.holder(run_dir)
    if error.exit_status != Exit.TEMPORARY or not pid:
        return error
    end = f"'kill -9 {pid}' ends it at once, no job is lost"
    return control.Refused(f"the master, pid {pid}, does not answer in time (frozen?): {then}; {end}", Exit.TEMPORARY)
