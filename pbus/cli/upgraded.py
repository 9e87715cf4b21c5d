"""
The new code's side of an upgrade: what ``pbus start`` does when it is asked by a bus that runs.

    rehearse   may I take over? read the configuration, import everything, answer in a line of JSON
    adopt      go on as the master of what came through the exec

Rule: the settings that were rehearsed are those that are adopted: the files are not read a second time in between.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import sys
import traceback
from typing import Any, Final

from pbus import __version__, app
from pbus.cli.context import Context
from pbus.config.load import Loaded
from pbus.config.standing import differences
from pbus.errors import Exit, PbusError
from pbus.supervisor import adoption, own_code, upgrade, upgrades
from pbus.supervisor.master import Master

_LAST_LINES: Final = 3


class Quiet:
    """Nobody waits at a terminal: the log has it."""

    def waiting(self, why: str) -> None:
        """Nobody listens."""

    def ready(self, pid: int, problems: list[str]) -> None:
        """Nobody listens."""


def command(directory: str) -> list[str]:
    """What starts the bus of *directory* again as this process was started: interpreter, its flags, program."""
    head = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return [sys.executable, *head[1:], "start", "-c", directory] if sys.executable and head else []


def rehearse(context: Context) -> int:
    """Answer on stdout what an upgrade to this code would come to, and say why it would not."""
    answer: dict[str, Any]
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a module prints when it is imported is no answer
    try:
        answer = _rehearsed(context, json.loads(sys.stdin.buffer.read()))
    except PbusError as error:
        answer = {"failed": str(error), "exit_status": int(error.exit_status)}
    except Exception as error:  # noqa: BLE001 - anything at all is a reason to leave the old code where it is
        where = "".join(traceback.format_exc().splitlines(keepends=True)[-_LAST_LINES:]).strip()
        answer = {"failed": f"{type(error).__name__}: {error}\n{where}", "exit_status": int(Exit.FAILED)}
    with os.fdopen(out, "w") as file:
        file.write("\n" + json.dumps(answer) + "\n")
    return Exit.DONE


def _rehearsed(context: Context, question: dict[str, Any]) -> dict[str, Any]:
    if question["layout"] != upgrade.VERSION:
        what = f"this version carries a bus in layout {upgrade.VERSION}, the one that runs in {question['layout']}"
        raise PbusError(f"{what}: 'pbus restart' takes it over")
    loaded = context.loaded()
    kept = differences(loaded.settings, question["standing"])
    if kept:
        raise _Standing(f"only 'pbus restart' takes over: {', '.join(kept)}")
    plan = app.plan(loaded)
    _compile_all()
    for spec in plan.roles:
        importlib.import_module(spec.module)
    return {"version": __version__, "settings": base64.b64encode(pickle.dumps(loaded)).decode()}


class _Standing(PbusError):
    """The configuration has what a bus that runs cannot take over."""

    exit_status = Exit.CONFIG


def _compile_all() -> None:
    """Every file of ours, also those that are imported only when somebody asks for them."""
    for path, _, names in os.walk(own_code.folder()):
        for name in names:
            if name.endswith(".py"):
                file = os.path.join(path, name)
                with open(file, "rb") as source:
                    compile(source.read(), file, "exec")


def adopt(context: Context, descriptor: int) -> int:
    """Go on as the master of the bus whose state is in *descriptor*."""
    os.environ.pop(upgrades.ADOPT, None)
    state = upgrades.taken(descriptor)
    loaded = _loaded(state.settings, context)
    plan = app.plan(loaded)
    directory = context.config_dir
    before = adoption.plan_of(plan, state, same_memory=adoption.fits(state))
    return Master(
        before, Quiet(), rehearse=app.rehearsal(directory, loaded.settings),
        command=command(directory), adopts=adoption.Adopts(state, plan),
    ).run()


def _loaded(pickled: bytes, context: Context) -> Loaded:
    try:
        loaded = pickle.loads(pickled)  # written by the rehearsal of this code, in a pipe and a memory of our own
        if isinstance(loaded, Loaded):
            return loaded
    except Exception:  # noqa: BLE001 - the code was replaced once more in between
        traceback.print_exc()
    return context.loaded()

