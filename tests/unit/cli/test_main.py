"""The frame of the command line: -c anywhere, lazy commands, exit statuses, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pbus.cli import main as frame
from pbus.cli.context import Context, pass_context
from pbus.errors import BootError, ConfigError, Exit, NotFound, NotRunning, Problem, Unavailable

ROOT = Path(__file__).parents[3]
GOOD = '[queue.gift.topic.credit]\npython = { call = "gift.jobs:credit" }\n'


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``one`` and ``two`` hold a configuration each; ``broken`` holds two problems."""
    for name, text in (("one", GOOD), ("two", GOOD + "[queue.more]\n"), ("broken", "[nod]\n[node]\ngrace = 5\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.toml").write_text(text)
    return tmp_path


def pbus(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    line = [sys.executable, "-m", "pbus", *args]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=15)


@click.group()
def rooms() -> None:
    """A group as a room would write one."""


@rooms.command()
@click.argument("word", nargs=-1)
@pass_context
def where(context: Context, word: tuple[str, ...]) -> None:
    """Says which folder is meant."""
    click.echo(" ".join([context.config_dir, *word]))


@click.command()
@click.argument("kind")
def fails(kind: str) -> int:
    """Ends as a room's command might."""
    raised: dict[str, BaseException] = {
        "config": ConfigError([Problem("a.toml", "node.x", "is wrong"), Problem("b.toml", "y", "too")]),
        "boot": BootError("the port is in use", Exit.TEMPORARY), "not-running": NotRunning("nobody is there"),
        "not-found": NotFound("no queue 'x'"), "away": Unavailable("connection refused"),
        "usage": click.UsageError("what?"), "interrupt": KeyboardInterrupt(), "abort": click.Abort(),
        "permission": PermissionError(13, "Permission denied", "/x"),
        "file": FileNotFoundError(2, "No such file", "/x"),
        "bug": ValueError("oops \x1b[31m"), "exit": click.exceptions.Exit(4),
    }
    if kind in raised:
        raise raised[kind]
    return Exit.DEGRADED


@pytest.fixture(autouse=True)
def rooms_in_the_table() -> Iterator[None]:
    """Rows of the table that lead to this file."""
    rows = {"rooms": frame.Entry(f"{__name__}:rooms", "a group"), "fails": frame.Entry(f"{__name__}:fails", "fails")}
    frame.COMMANDS.update(rows)
    yield
    for name in rows:
        del frame.COMMANDS[name]


@pytest.mark.parametrize("line", [
    "-c {one} rooms where", "rooms -c {one} where", "rooms where -c {one}", "rooms where a -c {one} b",
    "rooms where --config={one}", "-c {two} rooms where -c {one}", "rooms where -c{one}",
])
def test_config_folder_is_accepted_anywhere_on_the_line(
    folders: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(line.format(one=folders / "one", two=folders / "two").split()) == 0
    assert capsys.readouterr().out.split()[0] == str(folders / "one")


def test_double_dash_ends_the_options(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["-c", str(folders / "one"), "rooms", "where", "--", "-c", "x"]) == 0
    assert capsys.readouterr().out == f"{folders / 'one'} -c x\n"


@pytest.mark.parametrize(("kind", "status", "text"), [
    ("config", 78, "a.toml: node.x: is wrong\nb.toml: y: too\n"),
    ("boot", 75, "pbus: the port is in use\n"),
    ("not-running", 3, "pbus: nobody is there\n"),
    ("not-found", 5, "pbus: no queue 'x'\n"),
    ("away", 69, "pbus: connection refused\n"),
    ("permission", 77, "pbus: no permission: /x\n"),
    ("file", 1, "pbus: No such file: /x\n"),
    ("bug", 70, "pbus: internal error: ValueError: oops \\x1b[31m (PBUS_DEBUG=1 shows where)\n"),
    ("interrupt", 130, "\n"), ("abort", 130, ""), ("exit", 4, ""), ("returns", 4, ""),
])
def test_every_end_has_its_exit_status_and_one_text(
    kind: str, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.main(["fails", kind]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.lstrip("\n") == text.lstrip("\n")


@pytest.mark.parametrize("line", ["fails usage", "fails", "fails a b", "--nonsense", "statsu", "rooms nowhere"])
def test_usage_error_is_two(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(line.split()) == 2
    assert capsys.readouterr().out == ""


def test_mistyped_command_is_met_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    frame.main(["statsu"])
    assert "no such command 'statsu'; did you mean 'status'?" in capsys.readouterr().err


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBUS_DEBUG", "1")
    with pytest.raises(ValueError, match="oops"):
        frame.main(["fails", "bug"])


def test_help_lists_every_command_and_imports_none(tmp_path: Path) -> None:
    code = (
        "import sys; from pbus.cli.main import main; status = main(['--help'])\n"
        "print(status, sorted(name for name in sys.modules if name.startswith('pbus.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=15,
    )
    listing, _, last = done.stdout.rstrip().rpartition("\n")
    for name in frame.COMMANDS.keys() - {"rooms", "fails"}:
        assert f"\n  {name} " in listing
    assert last == "0 ['pbus.cli', 'pbus.cli.context', 'pbus.cli.main', 'pbus.cli.output', 'pbus.errors']"


@pytest.mark.parametrize("name", list(frame.COMMANDS))
def test_rows_of_the_table_lead_to_commands(name: str) -> None:
    command = frame.pbus.get_command(click.Context(frame.pbus), name)
    assert command is not None
    assert command.name == name


def test_config_check_is_zero_or_names_every_problem(folders: Path) -> None:
    good = pbus("config", "check", "-c", "one", cwd=folders)
    assert (good.returncode, good.stdout, good.stderr) == (0, "ok: 1 queue, 1 topic, 1 storage, 0 backends\n", "")
    bad = pbus("-c", "broken", "config", "check", cwd=folders)
    assert (bad.returncode, bad.stdout) == (78, "")
    file = folders / "broken/a.toml"
    assert bad.stderr.splitlines() == [
        f"{file}: nod: unknown key; did you mean 'node'?",
        f'{file}: node.grace: expected a duration such as "10s", not 5',
    ]


def test_config_folder_defaults_to_the_variable_then_to_conf_d(folders: Path) -> None:
    (folders / "one").rename(folders / "conf.d")
    assert pbus("config", "check", cwd=folders).stdout.startswith("ok: 1 queue,")
    assert pbus("config", "check", cwd=folders, PBUS_CONFIG="two").stdout.startswith("ok: 2 queues,")
    assert pbus("config", "check", "-c", "conf.d", cwd=folders, PBUS_CONFIG="two").stdout.startswith("ok: 1 queue,")


def test_no_configuration_at_all_is_a_clear_problem(tmp_path: Path) -> None:
    if Path("/etc/pbus/conf.d").exists():
        pytest.skip("this machine has a configuration of its own")
    done = pbus("config", "check", cwd=tmp_path)
    assert done.returncode == 78
    assert "-c DIR" in done.stderr


def test_config_show_speaks_json(folders: Path) -> None:
    done = pbus("config", "show", "-o", "json", "node", "-c", "one", cwd=folders)
    document = json.loads(done.stdout)
    assert document["v"] == 1
    assert {"key": "node.grace", "value": "30s", "origin": "default"} in document["settings"]
    assert all(row["key"].startswith("node.") for row in document["settings"])


def test_reader_that_went_away_is_no_traceback(folders: Path) -> None:
    line = f"{sys.executable} -m pbus config show -o jsonl -c one | head -n 1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=folders, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=15,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["v"] == 1


def test_a_folder_or_key_that_is_not_there_is_said(folders: Path) -> None:
    nowhere = pbus("status", "-c", "nowhere", cwd=folders)
    assert (nowhere.returncode, "does not exist" in nowhere.stderr) == (78, True)
    unknown = pbus("config", "show", "queue.nobody", "-c", "one", cwd=folders)
    assert (unknown.returncode, unknown.stdout) == (5, "")
