"""
Man pages, written from the commands and from the schema of the configuration:

    python -m pbus.cli.manual man       writes man/man1/pbus.1, man/man1/pbus-push.1 .., man/man5/pbus.conf.5

Rule: nothing about a command, an option or a key is said twice; what stands here belongs to none of them. setup.py
installs the pages below share/man, and a test compares them with what this writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from pbus import __version__
from pbus.cli.main import COMMANDS, INTERRUPTED, pbus
from pbus.config.reference import KeyText, tables
from pbus.errors import Exit

MEANINGS: Final[dict[Exit, str]] = {
    Exit.DONE: "done",
    Exit.FAILED: "it failed, or what it asked for did (a job, a roll-out, a reload); the text says why",
    Exit.USAGE: "the command line is wrong",
    Exit.NOT_RUNNING: "no bus of this configuration runs on this machine",
    Exit.DEGRADED: "it runs, but not all is well ('pbus status', 'pbus doctor')",
    Exit.NOT_FOUND: "there is no queue, topic, job or whatever was named",
    Exit.REFUSED: "it destroys something and was not confirmed (--yes), or is not allowed in the present state",
    Exit.UNAVAILABLE: "a store, or the port of the bus, cannot be reached",
    Exit.BUG: "a mistake in pbus; PBUS_DEBUG=1 shows where",
    Exit.TEMPORARY: "not now: another master runs, an address is in use, somebody does not answer in time",
    Exit.NO_PERMISSION: "no permission, for a file, an address or a queue",
    Exit.CONFIG: "the configuration is invalid; nothing was changed",
}
"""What an exit status of ``pbus`` means."""

INTERRUPTION: Final = "interrupted (Ctrl-C)"

_OPTIONS: Final = {
    "-c DIR, --config DIR": "the configuration folder; it may stand anywhere on the line, of every command",
    "-h, --help": "say what the command takes; of every command",
    "-V, --version": "say which version this is",
}
_FILES: Final = {
    "./conf.d, /etc/pbus/conf.d": "the configuration, see pbus.conf(5)",
    "RUN_DIR/pbus.pid": "held by the master as long as it lives; the pid in it is for people",
    "RUN_DIR/*.sock": "where the commands, and the processes of the bus, meet",
    "DATA_DIR/pbus.db": "the jobs, where no other storage is configured",
    "LOG_DIR/pbus.log, LOG_DIR/topic/": "events as JSON lines; what handlers print",
}
_ENVIRONMENT: Final = {
    "PBUS_CONFIG": "the configuration folder, where no -c names one",
    "PBUS_DEBUG": "1: an error of pbus itself ends with a traceback",
}
_SIGNALS: Final = {
    "TERM, INT": "stop: running jobs may finish (node.grace); once more: at once",
    "QUIT": "stop at once; every process writes to its standard error what it was doing",
    "HUP": "reload the configuration, as 'pbus reload'",
    "USR2": "have the code on the disk take over, as 'pbus upgrade'",
    "USR1": "open the log files again, for logrotate",
    "TTIN, TTOU": "one ingest process more, one less, until the next reload or start",
}
_CONF_INTRODUCTION: Final = (
    "pbus reads a folder of TOML files: that after -c, else $PBUS_CONFIG, else ./conf.d, else /etc/pbus/conf.d.",
    "All *.toml files of the folder and of the folders below it are read in name order into one tree. Tables may be "
    "spread over files; a key may be set in one file only. A folder below it belongs to the business system of its "
    "name. ${VAR} in a text is taken from the environment. Relative paths are relative to the parent of the folder.",
    "Durations are written \"250ms\" \"10s\" \"5m\" \"2h\" \"7d\"; sizes \"64KiB\" \"1MiB\"; rates \"100/s\"; "
    "addresses \"127.0.0.1:12018\" or \"unix:PATH\".",
    "'pbus config check' prints everything that is wrong, 'pbus config show' what is in effect and which file says "
    "so, 'pbus config schema' a JSON Schema for editors.",
)


def pages() -> dict[str, str]:
    """Path below the manual's folder -> roff."""
    found = {"man1/pbus.1": overview(), "man5/pbus.conf.5": configuration()}
    context = click.Context(pbus, info_name="pbus")
    for name in COMMANDS:
        command = pbus.get_command(context, name)
        assert command is not None
        found[f"man1/pbus-{name}.1"] = "\n".join(_of_command(name, command)) + "\n"
    return found


def overview() -> str:
    """pbus(1)."""
    lines = [*_head("pbus", 1, "a job bus"), ".SH SYNOPSIS", ".B pbus", "[OPTIONS] COMMAND [ARGS]..."]
    lines += [".SH DESCRIPTION", *_paragraphs(pbus.help or "")]
    lines.append(".SH OPTIONS")
    for name, text in _OPTIONS.items():
        lines += _item(name, text)
    lines.append(".SH COMMANDS")
    for name, entry in COMMANDS.items():
        lines += _item(f"pbus-{name}(1)", entry.help)
    lines.append(".SH EXIT STATUS")
    for status, text in [*((int(status), text) for status, text in MEANINGS.items()), (INTERRUPTED, INTERRUPTION)]:
        lines += _item(str(status), text)
    for title, table in (("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES), ("SIGNALS TO THE MASTER", _SIGNALS)):
        lines.append(f".SH {title}")
        for name, text in table.items():
            lines += _item(name, text)
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pbus.conf (5)"]) + "\n"


def configuration() -> str:
    """pbus.conf(5)."""
    lines = [*_head("pbus.conf", 5, "configuration of pbus"), ".SH DESCRIPTION"]
    for paragraph in _CONF_INTRODUCTION:
        lines += [".PP", _text(paragraph)]
    for table in tables():
        lines += [f".SH [{_text(table.name)}]", _text(table.text.replace("**", ""))]
        for key in table.keys:
            lines += [*_item(key.key, _plain(key.text)), ".br", _text(_nature(key))]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pbus (1),", ".BR pbus-config (1)"]) + "\n"


def _nature(key: KeyText) -> str:
    default = "required" if key.default == "required" else f"default {key.default}"
    return f"({_plain(key.kind)}; {default}; takes effect: {key.effect})"


def _of_command(name: str, command: click.Command) -> Iterator[str]:
    line = f"pbus {name}"
    yield from _head(f"pbus-{name}", 1, COMMANDS[name].help.rstrip("."))
    yield from (".SH SYNOPSIS", *_usage(command, line), ".SH DESCRIPTION", *_paragraphs(command.help or ""))
    options = [entry for param in command.params for entry in _option(param)]
    if options:
        yield from (".SH OPTIONS", *options)
    if isinstance(command, click.Group):
        yield from (".SH COMMANDS", *_below(command, line))
    yield from (".SH EXIT STATUS", "See", ".BR pbus (1).", ".SH SEE ALSO", ".BR pbus (1),", ".BR pbus.conf (5)")


def _below(group: click.Group, above: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        line = f"{above} {name}"
        yield from (f".SS {_text(line)}", *_usage(command, line), *_paragraphs(command.help or ""))
        for param in command.params:
            yield from _option(param)
        if isinstance(command, click.Group):
            yield from _below(command, line)


# What click would say of a parameter differs from version to version of it; these pages do not.


def _usage(command: click.Command, line: str) -> Iterator[str]:
    words = ["[OPTIONS]", *(_argument(param) for param in command.params if isinstance(param, click.Argument))]
    if isinstance(command, click.Group):
        words += ["COMMAND", "[ARGS]..."]
    yield from (f".B {_text(line)}", _text(" ".join(words)))


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    word = _choices(argument) or (argument.name or "").upper()
    return (word if argument.required else f"[{word}]") + ("..." if argument.nargs == -1 else "")


def _choices(param: click.Parameter) -> str:
    return "|".join(str(choice) for choice in param.type.choices) if isinstance(param.type, click.Choice) else ""


def _option(param: click.Parameter) -> list[str]:
    """The entry of an option; nothing for arguments, for what is hidden, and for -c, which is pbus(1)'s."""
    if not isinstance(param, click.Option) or param.hidden or ("-c" in param.opts and not param.expose_value):
        return []
    value = "" if param.is_flag or param.count else f" {param.metavar or _choices(param) or param.type.name.upper()}"
    default = f" (default: {param.default})" if param.show_default and not param.is_flag else ""
    names = ", ".join(sorted(param.opts, key=len)) + "".join(f" / {name}" for name in param.secondary_opts)
    return _item(names + value, (param.help or "").strip() + default)


# -- roff -------------------------------------------------------------------------------------


def _head(name: str, section: int, what: str) -> list[str]:
    return [
        f'.TH {name.upper()} {section} "" "pbus {__version__}" "pbus"',
        ".\\\" Written by 'python -m pbus.cli.manual man'.",
        ".nh", ".ad l", ".SH NAME", f"{_text(name)} \\- {_text(what[:1].lower() + what[1:])}",
    ]


def _item(name: str, text: str) -> list[str]:
    return [".TP", f"\\fB{_text(name)}\\fR", _text(text)]


def _paragraphs(help: str) -> Iterator[str]:
    """The help of a command: paragraphs, and blocks after ``\\b`` that stay as they are written."""
    for paragraph in re.split(r"\n\s*\n", _dedented(help).strip()):
        if paragraph.startswith("\b"):
            yield from (".PP", ".nf", *(_text(line) for line in paragraph.split("\n")[1:]), ".fi")
        else:
            yield from (".PP", _text(" ".join(paragraph.split())))


def _dedented(help: str) -> str:
    shown = help.partition("\f")[0].split("\n")  # click hides what stands after a form feed
    return "\n".join(line if line.startswith("    ") else line.strip() for line in shown)


def _plain(markdown: str) -> str:
    return markdown.replace("**", "").replace("`", "")


def _text(text: str) -> str:
    """*text* as roff prints it: no escape, no macro, and a hyphen that can be copied."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def write(folder: Path) -> None:
    """Write every page below *folder*, and remove those of commands that are gone."""
    found = pages()
    for stale in folder.glob("man*/*"):
        if str(stale.relative_to(folder)) not in found:
            stale.unlink()
    for path, text in found.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "man"))
