"""Completion: what Tab offers, in a real bash too; whatever is wrong, it is silent and quick."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pbus.cli import completion
from pbus.cli.completion import NAMES, SHELLS
from pbus.cli.main import COMMANDS, COMPLETING, pbus

ROOT = Path(__file__).parents[3]
FILES = """
[queue.gift]
system = "live"
[queue.gift.topic]
credit = { pull = {}, wrong = 1 }
mail = { pull = {} }
[queue.login.topic.log]
[backend.live-php]
[program.sync]
[notify.ops]
[system.billing]
"""
NOUN = re.compile(r"QUEUE|TOPIC|GLOB|BACKEND|SYSTEM|NOTIFIER")
PLAIN = {"alarm silence --kind", "job curl --topic"}
"""Not a name that the configuration has alone: kinds, or a topic without its queue."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text(FILES)
    return tmp_path


def offered(line: str, folder: Path) -> list[str]:
    """What Tab at the end of *line* offers."""
    words = line.split(" ")
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), COMPLETING: "bash_complete",
        "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "pbus"], cwd=folder, env=env, capture_output=True, text=True, timeout=15, check=True
    )
    assert answer.stderr == ""
    return [item.partition(",")[2] for item in answer.stdout.split()]


def tries(line: str, folder: Path) -> Iterator[list[str]]:
    """What is offered, again and again: on a busy machine the time for names may be over before they are read."""
    return (offered(line, folder) for _ in range(10))


@pytest.mark.parametrize(("line", "offers"), [
    ("pbus topic show gift/", ["gift/credit", "gift/mail"]), ("pbus push l", ["login"]),
    ("pbus dead ls g", ["gift", "gift/credit", "gift/mail"]), ("pbus backend show ", ["live-php"]),
    ("pbus program restart s", ["sync"]), ("pbus system show ", ["billing", "live"]),
    ("pbus alarm test ", ["ops"]), ("pbus tail lo", ["log", "login/log"]), ("pbus compl", ["completion"]),
    ("pbus topic show nobody", []),
])
def test_names_of_the_configuration_are_offered(folder: Path, line: str, offers: list[str]) -> None:
    assert offers in tries(line, folder)


def test_names_are_those_of_the_folder_on_the_line(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "b.toml").write_text("[queue.elsewhere]\n")
    assert ["elsewhere"] in tries("pbus push -c other ", folder)


def test_no_configuration_offers_nothing(tmp_path: Path) -> None:
    assert offered("pbus push -c nowhere ", tmp_path) == []


def test_every_place_for_a_name_has_its_names() -> None:
    without = {
        f"{line} {param.opts[0]}" for line, noun, param in _params()
        if NOUN.search(param.metavar or "") and (noun, param.name) not in NAMES
    }
    assert without == PLAIN & without, "a row for pbus/cli/completion.py"


def test_configuration_that_does_not_answer_is_waited_for_briefly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")  # opening it waits for a writer
    context = click.Context(pbus, obj=completion.Context(str(tmp_path)))
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    assert completion._complete(NAMES["push", "queue"], context, "") == []
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    completion.completion.main([shell], standalone_mode=False)
    script = capsys.readouterr().out
    assert f"{COMPLETING}={shell}_complete" in script
    assert "pbus completion" in script.split("\n\n")[0], "how it is used"


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes(folder: Path) -> None:
    program = folder / "pbus"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pbus "$@"\n')
    program.chmod(0o755)
    script = (
        'source <(pbus completion bash); COMP_WORDS=(pbus topic show gift/); COMP_CWORD=3; _pbus_completion pbus\n'
        'echo "${COMPREPLY[@]}"; complete -p pbus'
    )
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}

    def answers() -> Iterator[str]:
        for _ in range(10):
            yield subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True).stdout

    expected = "gift/credit gift/mail\ncomplete -o nosort -F _pbus_completion pbus\n"
    assert any(answer == expected for answer in answers())


def _params() -> Iterator[tuple[str, str, click.Parameter]]:
    """Line of the command, its first word, and each parameter."""

    def below(command: click.Command, line: str, noun: str) -> Iterator[tuple[str, str, click.Parameter]]:
        for param in command.params:
            yield line, noun, param
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from below(child, f"{line} {name}", noun)

    context = click.Context(pbus)
    for noun in COMMANDS:
        command = pbus.get_command(context, noun)
        assert command is not None
        yield from below(command, noun, noun)
