"""``pbus deploy -- COMMAND``: put new code behind topics while none of their jobs runs."""

from __future__ import annotations

import fnmatch
import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.errors import Exit, NotFound, NotRunning, PbusError

if TYPE_CHECKING:
    from pbus.config.schema import Settings

_ASK_S: Final = 10.0
_LOOK_S: Final = 5.0
_EVERY_S: Final = 0.2
_LEAST_LEASE_S: Final = 1.0
_BAD: Final = ("down", "paused", "fatal", "rollout-failed")

Name = tuple[str, str]


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--topic", "glob", default="", metavar="GLOB", help="Only topics that this matches: 'gift/*'.")
@click.option("--backend", default="", metavar="BACKEND", help="Only topics whose handler is called there.")
@click.option("--timeout", default="5m", show_default=True, metavar="DURATION", help="Longest wait for what runs.")
@click.option(
    "--lease", default="20s", show_default=True, metavar="DURATION", help="The pause ends so long after a kill of this."
)
@click.option("--dry-run", is_flag=True, help="Only say which topics, what runs there now, and what would be run.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ..")
@pass_context
def deploy(
    context: Context, glob: str, backend: str, timeout: str, lease: str, dry_run: bool, command: tuple[str, ...]
) -> int:
    """
    Pause topics (all, or those chosen), wait until none of their jobs runs, run COMMAND, resume them.

    'pbus deploy --backend php -- systemctl reload php8.2-fpm': php-fpm's own reload kills running jobs; so none runs.
    The pause is for all nodes that share the store, pushes are taken meanwhile. Then handlers are asked what they take,
    calls begin one by one, and the events have a mark (deploy.done). The pause ends by itself when this command has
    died; Ctrl-C and TERM resume at once.

    Exits as COMMAND does (the topics are resumed whatever it says); 1 when a topic does not run afterwards, 3 when the
    bus is not running, 5 when no topic matches, 6 when another deploy holds one, 75 when jobs ran after --timeout.
    """
    timeout_s, lease_s = _duration_s("--timeout", timeout), _duration_s("--lease", lease)
    if lease_s < _LEAST_LEASE_S:
        raise click.UsageError(f"--lease: at least {_LEAST_LEASE_S:g} s")
    if shutil.which(command[0]) is None:
        raise click.UsageError(f"there is no command {command[0]!r}")
    settings = context.settings()
    names = chosen(settings, glob, backend)
    _is_running(settings)
    from pbus.cli.deploy_hold import Hold
    from pbus.cli.pauses import person

    hold = Hold(settings, names, f"{person()} on {settings.node.name}", lease_s)
    if dry_run:
        return _tell(context, names, hold.running(), command)
    return _deploy(context, settings, hold, command, timeout_s)


def _duration_s(option: str, text: str) -> float:
    from pbus.config.values import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _tell(context: Context, names: Sequence[Name], running: dict[str, int], command: Sequence[str]) -> int:
    for path in ("/".join(name) for name in names):
        context.output.line(f"would pause {path} ({running.get(path, 0)} running)")
    context.output.line(f"would run {shlex.join(command)}")
    return Exit.DONE


def _deploy(context: Context, settings: Settings, hold: Any, command: Sequence[str], timeout_s: float) -> int:
    from pbus.cli.deploy_flow import Deploy, Stops
    from pbus.cli.pauses import person
    from pbus.clock import SystemClock
    from pbus.supervisor.control import call

    held: list[str] = []

    def mark(status: int, took_s: float) -> None:
        held.extend("/".join(name) for name in hold.held)
        call(
            settings.node.run_dir, "deployed", _ASK_S, by=f"{person()} on {settings.node.name}",
            topics=["/".join(name) for name in hold.names],
            command=shlex.join(command), status=status, took_s=took_s,
        )

    stops = Stops()
    stops.install()
    status = Deploy(hold, command, timeout_s, mark, context.output.say, SystemClock(), stops).run()
    bad = _look(settings, held) if held and not stops.signum else []
    for line in bad:
        context.output.say(line)
    return status or (Exit.FAILED if bad else Exit.DONE)


def chosen(settings: Settings, glob: str, backend: str) -> list[Name]:
    """
    Topics that are meant, in order.

    Raises:
        UsageError: both were given. NotFound: none is meant.
    """
    if glob and backend:
        raise click.UsageError("--topic and --backend exclude each other")
    if backend and backend not in settings.backend and not _called_at(settings, backend):
        raise NotFound(f"there is no backend {backend!r}; there are: {', '.join(sorted(settings.backend)) or 'none'}")
    names = _called_at(settings, backend) if backend else sorted(
        (queue, topic) for queue, section in settings.queue.items() for topic in section.topic
        if not glob or fnmatch.fnmatchcase(f"{queue}/{topic}", glob)
    )
    if not names:
        raise NotFound(f"no topic uses {backend!r}" if backend else f"no topic matches {glob or '*'!r}")
    return names


def _called_at(settings: Settings, backend: str) -> list[Name]:
    """Topics whose php-fpm script is called at the backend of that name or address."""
    return sorted(
        (queue, name) for queue, section in settings.queue.items() for name, topic in section.topic.items()
        if topic.fastcgi is not None and backend in (topic.fastcgi.backend, topic.fastcgi.address)
    )


def _is_running(settings: Settings) -> None:
    """
    Raises:
        NotRunning: nobody would end the pause if we died.
    """
    from pbus.supervisor.control import call

    try:
        call(settings.node.run_dir, "ping", _ASK_S, reads=True)
    except NotRunning as error:
        raise NotRunning(f"{error}; so no job runs here: run the command itself, then 'pbus start'") from None


def _look(settings: Settings, paths: Sequence[str]) -> list[str]:
    """Topics that do not run after all, a line each; handlers are asked as soon as there is work."""
    from pbus.cli.stores import running_states
    from pbus.clock import SystemClock

    clock = SystemClock()
    until_s = clock.monotonic_s() + _LOOK_S
    while True:
        try:
            states = running_states(settings)
        except PbusError:
            return []
        rows = {path: states.get((path.partition("/")[0], path.partition("/")[2]), {}) for path in paths}
        bad = [f"{path} {row['state']}: {row['reason']}" for path, row in rows.items() if row.get("state") in _BAD]
        if not bad or clock.monotonic_s() >= until_s:
            return bad
        clock.sleep(_EVERY_S)
