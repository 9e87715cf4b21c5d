"""
The ``pbus`` command: one row a noun, imported when it is asked for, and what exit statuses mean.

Rule: nothing is imported here that ``pbus --help`` does not need. No user ever sees a traceback
unless PBUS_DEBUG=1; every error ends as one text on stderr and an exit status of errors.Exit.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from pbus import __version__
from pbus.cli.context import Context, config_option
from pbus.errors import ConfigError, Exit, PbusError


class Entry(NamedTuple):
    """A row of the command table: where the click command lives, and its line in ``pbus --help``."""

    target: str
    help: str


COMMANDS: Final[dict[str, Entry]] = {
    "start": Entry("pbus.cli.node:start", "Start the bus, in the foreground or with --daemon."),
    "stop": Entry("pbus.cli.node:stop", "Stop the bus; running jobs may finish."),
    "restart": Entry("pbus.cli.node:restart", "Stop the bus and start it again."),
    "reload": Entry("pbus.cli.reload:reload", "Take over a changed configuration; nobody is disconnected."),
    "deploy": Entry("pbus.cli.deploy:deploy", "Run a command while no job of the chosen topics runs."),
    "upgrade": Entry("pbus.cli.upgrade:upgrade", "Have new code of pbus take over; nobody is disconnected."),
    "status": Entry("pbus.cli.node:status", "Show processes, topics and problems."),
    "top": Entry("pbus.cli.top:top", "Watch topics and processes, full screen."),
    "doctor": Entry("pbus.cli.doctor:doctor", "Look for what is wrong, with its effect and its repair."),
    "tail": Entry("pbus.cli.tail:tail", "Follow jobs, events, errors or a topic's log."),
    "push": Entry("pbus.cli.push:push", "Push jobs to a queue, and wait for their results."),
    "demo": Entry("pbus.cli.demo:demo", "Run a bus with two handlers and account for every job."),
    "bench": Entry("pbus.cli.bench:bench", "Measure pbus on this machine, against bare parts."),
    "topic": Entry("pbus.cli.topic:topic", "List, show, try, pause, resume and remove topics."),
    "queue": Entry("pbus.cli.queue:queue", "List, show, pause, resume, purge and export queues."),
    "dead": Entry("pbus.cli.dead:dead", "List, show, retry and delete dead letters."),
    "replay": Entry("pbus.cli.replay:replay", "Run dead letters or kept jobs again, in stages, under a guard."),
    "job": Entry("pbus.cli.job:job", "Retry, settle, cancel, reproduce and export jobs."),
    "alarm": Entry("pbus.cli.alarm:alarm", "List, acknowledge and silence alarms, try who is told."),
    "backend": Entry("pbus.cli.backend:backend", "List and show backends."),
    "program": Entry("pbus.cli.program:program", "List and restart programs."),
    "system": Entry("pbus.cli.system:system", "List and show business systems."),
    "autoscale": Entry("pbus.cli.autoscale:autoscale", "Try settings of the autoscaler over recorded work."),
    "import": Entry("pbus.cli.importing:importing", "Take over the configuration and the jobs of a Pepperbus."),
    "config": Entry("pbus.cli.config:config", "Check, show and compare the configuration."),
    "completion": Entry("pbus.cli.completion:completion", "Print what bash, zsh or fish needs to complete pbus."),
}

COMPLETING: Final = "_PBUS_COMPLETE"
"""A shell's function sets it (pbus/cli/completion.py): then click completes the line instead of running it."""

_GROUP: Final = "pbus"
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells write it (128 + SIGINT)."""


class Commands(click.Group):
    """A group whose commands are rows of a table; each gets ``-c DIR``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if COMPLETING in os.environ:
            from pbus.cli.completion import completing

            command = completing(command, cmd_name)
        return with_config_option(command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table: click would import every command to have its line."""
        rows = [CompletionItem(name, help=row.help) for name, row in COMMANDS.items() if name.startswith(incomplete)]
        return [*rows, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def with_config_option(command: click.Command) -> click.Command:
    """
    A copy of *command*, and of every command below it, that takes ``-c DIR`` (and ``--config DIR``, where the command
    does not mean a file of its own by that).

    click knows an option only at the command that declares it; people write it wherever they
    are on the line.
    """
    twin = copy.copy(command)
    own = [name for option in command.params for name in option.opts]
    twin.params = [*command.params, config_option(short="--config" in own)]
    if isinstance(twin, click.Group):
        twin.commands = {name: with_config_option(child) for name, child in twin.commands.items()}
    return twin


@click.command(_GROUP, cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="pbus", message="%(prog)s %(version)s")
def pbus() -> None:
    """A job bus: push with any Redis client; php-fpm, HTTP and Python handlers run the jobs."""


def main(args: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        args: The line without the program's name; None: ``sys.argv``.

    Returns:
        The exit status (see errors.Exit).
    """
    try:
        return _run(args)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_went_away()
    except Exception as error:
        if os.environ.get("PBUS_DEBUG") == "1":
            raise
        return _explain(error)


def _run(args: Sequence[str] | None) -> int:
    answer: Any = with_config_option(pbus).main(
        args=None if args is None else list(args), prog_name=_GROUP, standalone_mode=False, obj=Context()
    )
    sys.stdout.flush()
    return int(answer) if isinstance(answer, int) else Exit.DONE


def _reader_went_away() -> int:
    """``pbus .. | head``: not an error worth a text; what is still buffered has no reader either."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return Exit.FAILED


def _explain(error: Exception) -> int:
    """Say *error* on stderr; the exit status that belongs to it."""
    talk = Context().output
    if isinstance(error, ConfigError):
        talk.say(str(error))
        return error.exit_status
    if isinstance(error, PbusError):
        talk.say(f"pbus: {error}")
        return error.exit_status
    if isinstance(error, PermissionError):
        talk.say(f"pbus: no permission: {error.filename or error}")
        return Exit.NO_PERMISSION
    if isinstance(error, OSError):
        talk.say(f"pbus: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return Exit.FAILED
    talk.say(f"pbus: internal error: {type(error).__name__}: {error} (PBUS_DEBUG=1 shows where)")
    return Exit.BUG


if __name__ == "__main__":
    sys.exit(main())
