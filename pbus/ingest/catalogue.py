"""
COMMAND: what clients ask about the commands, answered from the rows of the table.

Rule: nothing about a command is said here. redis-cli takes its hints and its help from DOCS, cluster
clients find keys by INFO and GETKEYS; the shapes are those of Redis 7 (server.c, commands.c).
"""

# ruff: noqa: ARG001 - the functions of the subcommands have one signature
from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pbus.codec.resp_reply import Status, Unordered, Value, encode, error, integer
from pbus.ingest import syntax
from pbus.ingest.rows import Row
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

Rows = Sequence[Row]
_HELP: Final = (
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", "(no subcommand)",
    "    Details of all commands.", "COUNT", "    How many commands there are.",
    "LIST [FILTERBY (MODULE name|ACLCAT category|PATTERN glob)]", "    Names of all commands.",
    "INFO [<command-name> ...]", "    Details of these commands.", "DOCS [<command-name> ...]",
    "    Documentation of these commands.", "GETKEYS <full-command>", "    The keys in a command.", "HELP",
    "    Prints this help.",
)


def answer(rows: Rows, connection: Connection, arguments: list[bytes]) -> bytes:
    """The reply to COMMAND."""
    connection.spend()
    what = arguments[1].lower() if len(arguments) > 1 else b"info"
    function = _SUBCOMMANDS.get(what)
    if function is None:
        return error(f"ERR unknown subcommand '{shown(arguments[1])}'. Try COMMAND HELP.")
    return function(rows, arguments[2:], connection.protocol)


def another(rows: Rows, connection: Connection, arguments: list[bytes]) -> bytes:
    """The reply to a subcommand that has no row."""
    name = arguments[0].decode("latin-1").upper()
    row = _find(rows, arguments[0])
    if row is None or arguments[1].lower() != b"help" or len(arguments) > 2:
        return error(f"ERR unknown subcommand '{shown(arguments[1])}'. Try {name} HELP.")
    lines = [f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for sub in row.subs:
        lines += [f"{sub.name.partition('|')[2].upper()} {sub.doc.syntax}".rstrip(), f"    {sub.doc.summary}"]
    return encode([Status(line) for line in [*lines, "HELP", "    Prints this help."]], connection.protocol)


def _count(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    return _wrong_number("count") if words else integer(len(rows))


def _help(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    return encode([Status(line) for line in _HELP], protocol)


# -- LIST, DOCS -----------------------------------------------------------------------------------


def _list(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    """``LIST [FILTERBY MODULE|ACLCAT|PATTERN value]``; subcommands are named when a filter asks."""
    if not words:
        return encode([row.name for row in rows], protocol)
    if len(words) != 3 or words[0].lower() != b"filterby":
        return error("ERR syntax error")
    by, value = words[1].lower(), words[2].decode("latin-1").lower()
    everything = [each for row in rows for each in (row, *row.subs)]
    if by == b"pattern":
        return encode([each.name for each in everything if fnmatch.fnmatchcase(each.name, value)], protocol)
    if by == b"aclcat":
        return encode([each.name for each in everything if f"@{value}" in _categories(each)], protocol)
    return encode([], protocol) if by == b"module" else error("ERR syntax error")


def _docs(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    named = rows if not words else [row for row in (_find(rows, word) for word in words) if row is not None]
    return encode({row.name: _doc(row) for row in named}, protocol)


def _doc(row: Row) -> Value:
    doc = row.doc
    found: dict[str, Value] = {"summary": doc.summary.rstrip("."), "since": doc.since, "group": doc.group}
    if doc.complexity:
        found["complexity"] = doc.complexity
    if row.subs:
        found["subcommands"] = {sub.name: _doc(sub) for sub in row.subs}
    elif arguments := _arguments(doc.syntax):
        found["arguments"] = [_argument(argument) for argument in arguments]
    return found


_arguments = functools.cache(syntax.parse)


def _argument(argument: syntax.Argument) -> Value:
    found: dict[str, Value] = {"name": argument.name, "type": argument.kind}
    if argument.kind not in ("block", "oneof"):
        found["display_text"] = argument.token if argument.kind == "pure-token" else argument.name
    if argument.kind == "key":
        found["key_spec_index"] = 0
    if argument.token:
        found["token"] = argument.token
    flags = [Status(flag) for flag in ("optional", "multiple") if getattr(argument, flag)]
    if flags:
        found["flags"] = Unordered(flags)
    if argument.parts:
        found["arguments"] = [_argument(part) for part in argument.parts]
    return found


# -- INFO -----------------------------------------------------------------------------------------


def _info(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    wanted = [_find(rows, word) for word in words] if words else list(rows)
    return encode([None if row is None else _details(row) for row in wanted], protocol)


def _details(row: Row) -> Value:
    first, last, step = row.keys
    return [
        row.name, row.arity, Unordered(Status(flag) for flag in row.flags), first, last, step,
        Unordered(Status(category) for category in _categories(row)), Unordered(), Unordered(_key_specs(row)),
        [_details(sub) for sub in row.subs] or Unordered(),
    ]


def _categories(row: Row) -> list[str]:
    """ACL categories, as far as the flags tell."""
    found = ["@write"] if row.push or "write" in row.flags else ["@read"] if "readonly" in row.flags else []
    found += [f"@{flag}" for flag in ("admin", "blocking", "fast") if flag in row.flags]
    return [*found, "@connection"] if row.doc.group == "connection" else found


def _key_specs(row: Row) -> list[Value]:
    """Where the keys are and what is done to them, in the form of Redis 7."""
    first, last, step = row.keys
    if not first:
        return []
    access = ["RO", "access"] if "readonly" in row.flags else ["RW", "insert" if row.push else "delete"]
    begin: Value = {"type": "index", "spec": {"index": first}}
    reach: Value = {"lastkey": last - first if last > 0 else last, "keystep": step, "limit": 0}
    find: Value = {"type": "range", "spec": reach}
    return [{"flags": Unordered(map(Status, access)), "begin_search": begin, "find_keys": find}]


# -- GETKEYS --------------------------------------------------------------------------------------


def _get_keys(rows: Rows, words: list[bytes], protocol: int) -> bytes:
    """The keys of a whole command."""
    if not words:
        return _wrong_number("getkeys")
    row = _find(rows, words[0])
    sub = row.sub(words[1]) if row is not None and len(words) > 1 else None
    row = sub or row
    if row is None:
        return error("ERR Invalid command specified")
    if len(words) < abs(row.arity) or (row.arity > 0 and len(words) != row.arity):
        return error("ERR Invalid number of arguments specified for command")
    keys = _keys_of(row, words)
    return encode(keys, protocol) if keys else error("ERR The command has no key arguments")


def _keys_of(row: Row, words: list[bytes]) -> list[bytes]:
    if "movablekeys" in row.flags:                    # STREAMS key .. id ..
        lower = [word.lower() for word in words]
        behind = words[lower.index(b"streams") + 1:] if b"streams" in lower else []
        return behind[:len(behind) // 2]
    first, last, step = row.keys
    return words[first:(last if last > 0 else len(words) + last) + 1:step] if first else []


# -- finding --------------------------------------------------------------------------------------


def _find(rows: Rows, name: bytes) -> Row | None:
    """The row of ``xinfo``, or of ``xinfo|stream``."""
    wanted = name.decode("latin-1").lower()
    return next((each for row in rows for each in (row, *row.subs) if each.name == wanted), None)


def _wrong_number(what: str) -> bytes:
    return error(f"ERR wrong number of arguments for 'command|{what}' command")


_SUBCOMMANDS: Final[dict[bytes, Callable[[Rows, list[bytes], int], bytes]]] = {
    b"count": _count, b"list": _list, b"docs": _docs, b"info": _info, b"getkeys": _get_keys, b"help": _help,
}
