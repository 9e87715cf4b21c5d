"""
The command table: what a client may say, and which function answers.

Rule: a command is a row; rows have no business logic, their functions little. A function gets the
connection and the arguments (the name first), and returns the reply, or None when it has arranged
for one (``Connection.submit``, ``refuse``, ``wait`` and ``reply``). One command, one reply.
Wording of what is not ours: Redis 7 server.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pbus.codec.resp import Event, TooBig
from pbus.codec.resp_reply import bulk, encode, error, integer, simple
from pbus.ingest import looks, programs, pulls, pushes, session
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

Act = Callable[["Connection", list[bytes]], bytes | None]


@dataclass(frozen=True, slots=True)
class Row:
    """
    One command.

    Attributes:
        name: Lower case, as COMMAND shows it.
        act: Its function.
        arity: Number of elements with the name; negative: at least so many.
        push: Stores jobs. Several in a row are one append; every other command waits for those before it.
        anonymous: Answered before AUTH too (what connects, and nothing that shows anything).
        flags: As COMMAND shows them.
        keys: First key, last key, step, as COMMAND shows them.
    """

    name: str
    act: Act
    arity: int
    push: bool = False
    anonymous: bool = False
    flags: tuple[str, ...] = ("fast",)
    keys: tuple[int, int, int] = (0, 0, 0)


def command(connection: Connection, arguments: list[bytes]) -> bytes:
    """``COMMAND [COUNT|LIST|DOCS|INFO [name ..]]``."""
    connection.spend()
    rows, protocol = ROWS, connection.protocol
    what = arguments[1].lower() if len(arguments) > 1 else b"info"
    if what == b"count":
        return integer(len(rows))
    if what == b"list":
        return encode([row.name for row in rows], protocol)
    if what == b"docs":
        named = [row for row in map(find, arguments[2:]) if row] if len(arguments) > 2 else rows
        return encode({row.name: {"summary": _summary(row), "group": "generic"} for row in named}, protocol)
    if what == b"info":
        wanted = [find(name) for name in arguments[2:]] if len(arguments) > 2 else list(rows)
        return b"*%d\r\n" % len(wanted) + b"".join([_info_row(row, protocol) for row in wanted])
    return error(f"ERR unknown subcommand '{shown(arguments[1])}'. Try COMMAND HELP.")


def _summary(row: Row) -> str:
    """First sentence of the function that answers it."""
    return (row.act.__doc__ or "").strip().splitlines()[0].replace("``", "")


def _info_row(row: Row | None, protocol: int) -> bytes:
    if row is None:
        return encode(None, protocol) if protocol == 3 else b"*-1\r\n"
    first, last, step = row.keys
    flags = b"*%d\r\n" % len(row.flags) + b"".join([simple(flag) for flag in row.flags])
    empty = b"*0\r\n" * 4                             # ACL categories, tips, key specifications, subcommands
    name_and_arity = bulk(row.name.encode()) + integer(row.arity)
    return b"*10\r\n" + name_and_arity + flags + integer(first) + integer(last) + integer(step) + empty


_WRITE: Final = ("write", "denyoom", "fast")
_LOOK: Final = ("readonly", "fast")
_BLOCK: Final = ("write", "blocking")
_HELLO: Final = ("noscript", "loading", "stale", "fast", "no_auth", "allow_busy")

ROWS: Final = (
    Row("lpush", pushes.lpush, -3, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("rpush", pushes.lpush, -3, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("xadd", pushes.xadd, -5, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("pbus.add", pushes.add, -3, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("publish", pushes.publish, 3, push=True, flags=("pubsub", "fast")),
    Row("rpop", pulls.pop, -2, flags=("write", "fast"), keys=(1, 1, 1)),
    Row("lpop", pulls.pop, -2, flags=("write", "fast"), keys=(1, 1, 1)),
    Row("brpop", pulls.blocking_pop, -3, flags=_BLOCK, keys=(1, -2, 1)),
    Row("blpop", pulls.blocking_pop, -3, flags=_BLOCK, keys=(1, -2, 1)),
    Row("pbus.settle", programs.settle, -2, flags=("write", "fast")),
    Row("llen", looks.backlog, 2, flags=_LOOK, keys=(1, 1, 1)),
    Row("xlen", looks.backlog, 2, flags=_LOOK, keys=(1, 1, 1)),
    Row("hgetall", looks.numbers, 2, flags=("readonly",), keys=(1, 1, 1)),
    Row("hello", session.hello, -1, anonymous=True, flags=_HELLO),
    Row("auth", session.auth, -2, anonymous=True, flags=_HELLO),
    Row("quit", session.leave, -1, anonymous=True, flags=_HELLO),
    Row("reset", session.reset, 1, anonymous=True, flags=_HELLO),
    Row("ping", session.ping, -1, anonymous=True),
    Row("echo", session.echo, 2, anonymous=True),
    Row("select", session.select, 2, anonymous=True, flags=("loading", "stale", "fast")),
    Row("client", session.client, -2, anonymous=True, flags=("admin", "noscript", "loading", "stale")),
    Row("time", session.time, 1, anonymous=True, flags=("loading", "stale", "fast")),
    Row("info", session.info, -1, flags=("loading", "stale")),
    Row("config", session.config, -2, flags=("admin", "noscript", "loading", "stale")),
    Row("command", command, -1, flags=("loading", "stale")),
)


def _spellings(row: Row) -> list[bytes]:
    """The ways clients write it, so that the usual ones are found without being converted."""
    camel = row.name[0] + row.name[1:].capitalize()
    return [row.name.encode(), row.name.upper().encode(), row.name.capitalize().encode(), camel.encode()]


TABLE: Final[Mapping[bytes, Row]] = {spelling: row for row in ROWS for spelling in _spellings(row)}


def find(name: bytes) -> Row | None:
    """The row of a command, however it is written."""
    return TABLE.get(name) or TABLE.get(name.lower())


def execute(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """The reply to a command; None: it is arranged for."""
    row = find(arguments[0])
    if row is None:
        return error(_unknown(arguments))
    if not row.anonymous and not connection.server.directory.known(connection.access):
        if not row.push:
            return error("NOAUTH Authentication required.")
        pushes.refuse(connection, arguments, f"NOAUTH {row.name.upper()} needs AUTH first: not stored")
        return None
    if connection.access.void and not row.anonymous:
        if not row.push:
            return error("WRONGPASS the process of this token is gone: nothing is done")
        pushes.refuse(connection, arguments, "WRONGPASS the process of this token is gone: not stored")
        return None
    if len(arguments) < abs(row.arity) or (row.arity > 0 and len(arguments) != row.arity):
        if not row.push:
            return error(f"ERR wrong number of arguments for '{row.name}' command")
        text = f"BADVALUE wrong number of arguments for '{row.name}' command: not stored"
        pushes.refuse(connection, arguments, text)
        return None
    return row.act(connection, arguments)


def is_barrier(event: Event) -> bool:
    """Whether it has to wait until every push before it is answered."""
    if isinstance(event, list):
        row = find(event[0])
        return row is None or not row.push
    return not isinstance(event, TooBig)


def refuse_too_big(connection: Connection, event: TooBig) -> None:
    """The answer to a command that was over a limit and not kept."""
    row = find(event.kept[0]) if event.kept else None
    known = connection.server.directory.known(connection.access)
    if row is not None and row.push and known and event.what != "elements":
        pushes.refuse_too_big(connection, row.name, event)
        return
    what = {"bulk": "an argument has {} bytes", "elements": "the command has {} elements"}.get(
        event.what, "the command has more than {} bytes"
    ).format(event.size if event.what != "command" else event.limit)
    word = "TOOBIG" if known else "NOAUTH"
    limit = f", {event.limit} is the most" + ("" if known else " before AUTH")
    pushes.refuse(connection, event.kept, f"{word} {what}{limit}: not stored")


def _unknown(arguments: list[bytes]) -> str:
    shown_arguments = "".join(f"'{shown(argument, 128)}' " for argument in arguments[1:10])
    return f"ERR unknown command '{shown(arguments[0], 128)}', with args beginning with: {shown_arguments}"[:1000]
