"""
How a start is told to the person who asked for it, in the foreground and across a double fork.

    pbus start --daemon --fork--> (session leader) --fork--> master
              ^--------- pipe: waiting, ready or failed -------|

Rule: the command returns when the bus is ready or has failed, with the exit status and the text
that a start in the foreground would have had.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from pbus import app
from pbus.cli.output import Output
from pbus.cli.upgraded import command
from pbus.config.load import Loaded
from pbus.config.schema import Settings
from pbus.errors import Exit, PbusError
from pbus.supervisor.master import Master

STDERR_FILE: Final = "pbus.stderr"
"""In log_dir: what an interpreter says when it cannot log any more, and the stacks that QUIT asks for."""


class Foreground:
    """Tells the terminal."""

    def __init__(self, output: Output, settings: Settings) -> None:
        self._output = output
        self._settings = settings

    def waiting(self, why: str) -> None:
        self._output.say(why)

    def ready(self, pid: int, problems: list[str]) -> None:
        node = self._settings.node
        self._output.say(f"{node.name} is {'degraded' if problems else 'running'}, pid {pid}")
        for address in app.listening(self._settings):
            self._output.say(f"  listens on {address}")
        self._output.say(f"  logs to {'standard output' if node.log_dir == '-' else node.log_dir}")
        for problem in dict.fromkeys(problems):
            self._output.say(f"  problem: {problem}")


class Pipe:
    """Tells the command at the other end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def waiting(self, why: str) -> None:
        self.tell(waiting=why)

    def ready(self, pid: int, problems: list[str]) -> None:
        self.tell(ready=pid, problems=problems)
        os.close(self._descriptor)
        self._descriptor = -1

    def tell(self, **fields: Any) -> None:
        """One line; nobody may be there any more to read it."""
        try:
            os.write(self._descriptor, json.dumps(fields).encode() + b"\n")
        except OSError:
            pass


def start_daemon(output: Output, loaded: Loaded) -> int:
    """
    Start the bus in the background and wait until it is ready.

    Returns:
        The exit status; of a failed start the one it failed with.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.fork()
    if first == 0:
        os.close(read)
        os.setsid()
        if os.fork():
            os._exit(0)
        _be_master(loaded, Pipe(write))
    os.close(write)
    os.waitpid(first, 0)
    terminal = Foreground(output, loaded.settings)
    for told in _lines(read):
        if "waiting" in told:
            terminal.waiting(told["waiting"])
        elif "ready" in told:
            terminal.ready(told["ready"], told["problems"])
            return Exit.DONE
        else:
            output.say(f"pbus: {told['failed']}")
            return int(told["exit_status"])
    output.say(f"pbus: the master died while it started; see {loaded.settings.node.log_dir}")
    return Exit.BUG


def _be_master(loaded: Loaded, pipe: Pipe) -> NoReturn:
    status: int = Exit.BUG
    try:
        settings = loaded.settings
        _leave_terminal(settings.node.log_dir)
        rehearse = app.rehearsal(loaded.tree.directory, settings)
        status = Master(app.plan(loaded), pipe, rehearse=rehearse, command=command(loaded.tree.directory)).run()
    except PbusError as error:
        status = error.exit_status
        pipe.tell(failed=str(error), exit_status=int(status))
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.FAILED
        pipe.tell(failed=str(error), exit_status=int(status))
    except BaseException as error:  # noqa: BLE001 - the last net of this process
        traceback.print_exc()
        pipe.tell(failed=f"internal error: {type(error).__name__}: {error}", exit_status=int(status))
    finally:
        sys.stderr.flush()
        os._exit(status)


def _leave_terminal(log_dir: str) -> None:
    """
    Standard streams of a daemon; with ``log_dir = "-"`` standard output stays, it is the log.

    A log_dir that cannot be had is no matter of this function: the master says so in its own words.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if log_dir != "-":
        talk = _stderr_file(log_dir)
        os.dup2(null if talk is None else talk, 1)
        os.dup2(null if talk is None else talk, 2)
        if talk is not None:
            os.close(talk)
    os.close(null)


def _stderr_file(log_dir: str) -> int | None:
    try:
        os.makedirs(log_dir, 0o750, exist_ok=True)
        return os.open(os.path.join(log_dir, STDERR_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError:
        return None


def _lines(descriptor: int) -> Iterator[dict[str, Any]]:
    with os.fdopen(descriptor) as pipe:
        for line in pipe:
            yield json.loads(line)
