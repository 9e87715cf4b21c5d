"""
Runs the programs of all clients at the same time and keeps what they print.

Rule: programs run side by side because nearly all of their time is waiting; what one of them asks for is
``Stage``'s business.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.clients.foreign.clients import Client
from tests.conformance.clients.foreign.stage import Stage
from tests.support import leftovers

SILENT_S = 60.0
"""Longest time between two lines of a program; what it asked for does not count, others may be slow."""


@dataclass(slots=True, kw_only=True)
class Ran:
    """
    What one program did.

    Attributes:
        got: Results by step.
        failed: Steps that ended in a way their program did not expect, and how.
        missing: Why it could not be started; raised again in each of its tests.
        stored: Bodies in Q.bulk and Q.cut in the end, by ``bulk`` and ``cut``.
        talk: What else it printed, and how it ended.
    """

    client: Client
    got: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: BaseException | None = None
    stored: dict[str, list[bytes]] = field(default_factory=dict)
    talk: str = ""

    def step(self, name: str) -> Mapping[str, Any]:
        """The result of a step; fails with what the program said when there is none."""
        self.is_there()
        if name not in self.got:
            why = self.failed.get(name, "nothing printed")
            pytest.fail(f"{self.client.name}, {name}: {why}\n{self.talk}", pytrace=False)
        return self.got[name]

    def is_there(self) -> None:
        """Skips, or fails in CI, when what it needs is not on this machine."""
        if self.missing is not None:
            raise self.missing


def run_all(clients: Iterable[Client], folder: Path) -> dict[str, Ran]:
    """Every program from its start to its end; by name of the client."""
    rans = {client.name: Ran(client=client) for client in clients}
    commands: dict[str, list[str]] = {}
    for name, ran in rans.items():
        try:
            commands[name] = ran.client.command()
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            ran.missing = reason
    chosen = [rans[name] for name in commands]
    try:
        if chosen:
            _play(chosen, commands, folder)
    except Exception as error:  # noqa: BLE001 - told by each test, in short but for the first one
        for place, ran in enumerate(chosen):
            ran.missing = error if place == 0 else pytest.fail.Exception(f"{error}"[:200], pytrace=False)
    return rans


def _play(rans: Sequence[Ran], commands: Mapping[str, list[str]], folder: Path) -> None:
    with Stage(folder, [ran.client for ran in rans]) as stage:
        threads = []
        for ran in rans:                              # started here: a program ends with the thread that started it
            process = _start(ran, commands[ran.client.name], stage)
            threads.append(threading.Thread(target=_follow, args=(ran, process, stage)))
            threads[-1].start()
        stage.serve()
        for thread in threads:
            thread.join()
        for ran in rans:
            ran.stored = stage.stored(ran.client)
    assert not stage.problems, stage.problems


def _start(ran: Ran, command: list[str], stage: Stage) -> subprocess.Popen[str]:
    with _errors(ran, stage).open("wb") as stderr:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd=stage.folder, text=True,
            env={**os.environ, **ran.client.environment, **stage.variables(ran.client)},
            preexec_fn=leftovers.end_with_the_tests,
        )


def _errors(ran: Ran, stage: Stage) -> Path:
    """Where the program's stderr goes."""
    return stage.folder / f"{ran.client.queue}.stderr"


def _follow(ran: Ran, process: subprocess.Popen[str], stage: Stage) -> None:
    """Take the lines of a program one by one, until it ends or is silent for too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = _deadline(process)
    said: list[str] = []
    try:
        for line in process.stdout:
            deadline.cancel()
            wanted = _take(ran, line, said)
            if wanted:
                stage.ask(ran.client.name, wanted)
                process.stdin.write("done\n")
                process.stdin.flush()
            deadline = _deadline(process)
    except OSError as error:                          # it ended instead of waiting
        said.append(f"{error}\n")
    finally:
        deadline.cancel()
        stage.leave(ran.client.name)
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
    printed = _errors(ran, stage).read_text(errors="replace")[-8000:]
    ran.talk = "".join(said[-40:]) + printed + f"(status {status})"


def _deadline(process: subprocess.Popen[str]) -> threading.Timer:
    timer = threading.Timer(SILENT_S, process.kill)
    timer.start()
    return timer


def _take(ran: Ran, line: str, said: list[str]) -> str:
    """Keep what a line says; what it asks for, or nothing."""
    try:
        message = json.loads(line)
    except ValueError:
        said.append(line)
        return ""
    if "got" in message:
        ran.got[message["step"]] = message["got"]
    elif "failed" in message:
        ran.failed[message["step"]] = message["failed"]
    return str(message.get("ask", ""))
