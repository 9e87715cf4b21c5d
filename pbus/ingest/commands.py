"""
The command table: what a client may say, and which function answers.

Rule: a command is a row; rows have no business logic, their functions little. A function gets the
connection and the arguments (the name first), and returns the reply, or None when it has arranged
for one (``Connection.submit``, ``refuse``, ``wait`` and ``reply``). One command, one reply.
After a change of a row: ``python -m pbus.ingest.reference`` (docs/protocol.md has a line of it).
Wording of what is not ours: Redis 7 server.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pbus.codec.resp import Event, Run, TooBig
from pbus.codec.resp_reply import error
from pbus.ingest import (
    cancels, catalogue, groups, looks, parents, programs, pulls, pushes, session, stream_looks, streams, transactions,
)
from pbus.ingest.rows import Act, Doc, Row
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection


def command(connection: Connection, arguments: list[bytes]) -> bytes:
    """``COMMAND [COUNT|LIST|DOCS|INFO|GETKEYS ..]``."""
    return catalogue.answer(ROWS, connection, arguments)


def another(connection: Connection, arguments: list[bytes]) -> bytes:
    """A subcommand that is not in the table: HELP, or none of ours."""
    return catalogue.another(ROWS, connection, arguments)


def _subs(name: str, act: Act, *each: tuple[str, int, str, str]) -> tuple[Row, ...]:
    """Subcommands that their command answers: name, arity, syntax and summary; the page has one line for all."""
    group = "connection" if name == "client" else "server"
    return tuple([
        Row(f"{name}|{sub}", act, arity, Doc(group, syntax, "as Redis", what)) for sub, arity, syntax, what in each
    ])


_WRITE: Final = ("write", "denyoom", "fast")
_LOOK: Final = ("readonly", "fast")
_BLOCK: Final = ("write", "blocking")
_HELLO: Final = ("noscript", "loading", "stale", "fast", "no_auth", "allow_busy")
_ADMIN: Final = ("admin", "noscript", "loading", "stale")
_STALE: Final = ("loading", "stale", "fast")

_PUSH: Final = Doc(
    "push", "queue body [body ...]", "integer",
    "Store one job a body, for every topic of the queue: all or none.",
    "The number is the queue's backlog after this write: jobs that the slowest topic has not taken yet; at least the "
    "number of bodies, never 0", "one write",
)
_POP: Final = Doc(
    "pull", "queue/topic [n]", "body, bodies or nil", "Take jobs of a topic that is pulled, at most once.",
    "Done when the reply has been handed to the kernel. Any mix of L and R is first in, first out. `RPOP queue` means "
    "its only such topic; no more than the topic's `max_open` (1000) in one reply",
)
_BLOCKING_POP: Final = Doc(
    "pull", "queue/topic [queue/topic ...] seconds", "key and body, or nil", "Take one job, or wait for one.",
    "The first key that has one; 0 seconds: for ever",
)
_RANGE: Final = (
    "At most 1,000 jobs and about 4 MiB of bodies a reply; go on behind the last id, `(id`. Fields: `body`, and `key` "
    "and `traceparent` where there are any"
)
_OPEN: Final = (
    "Of the oldest 10,000, at most 1,000 a reply. The consumer is what a client of the same ingest process called "
    "itself, else the process that holds the claim; idle is since the claim was read, of another process' claim since "
    "the job was pushed"
)
_BACKLOG: Final = Doc("look", "<queue | queue/topic>", "integer", "The backlog of a queue or of a topic.")

ROWS: Final = (
    Row("lpush", pushes.lpush, -3, _PUSH, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("rpush", pushes.lpush, -3, _PUSH, push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("xadd", pushes.xadd, -5, Doc(
        "push", "queue * BODY body [DELAY ms] [DEDUPE k] [TTL ms] [KEY k] [TRACEPARENT t]", "job id",
        "Store one job with options.", "Options are below",
    ), push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("pbus.add", pushes.add, -3, Doc(
        "push", "queue body [DELAY ms] [DEDUPE k] [TTL ms] [KEY k] [TRACEPARENT t]", "job id",
        "Store one job with options.", "The same as `XADD`",
    ), push=True, flags=_WRITE, keys=(1, 1, 1)),
    Row("publish", pushes.publish, 3, Doc(
        "push", "queue body", "integer", "Store one job, and answer how many topics get it.",
    ), push=True, flags=("pubsub", "fast")),
    Row("pbus.parent", parents.name_parent, -2, Doc(
        "push", "id [traceparent]", "OK", "Later pushes of this connection are children of that job.",
        "Those that bring no `traceparent` of their own; an empty id ends it (below)",
    ), multi="own"),
    Row("rpop", pulls.pop, -2, _POP, flags=("write", "fast"), keys=(1, 1, 1), multi="checked"),
    Row("lpop", pulls.pop, -2, _POP, flags=("write", "fast"), keys=(1, 1, 1), multi="checked"),
    Row("brpop", pulls.blocking_pop, -3, _BLOCKING_POP, flags=_BLOCK, keys=(1, -2, 1)),
    Row("blpop", pulls.blocking_pop, -3, _BLOCKING_POP, flags=_BLOCK, keys=(1, -2, 1)),
    Row("xreadgroup", streams.read, -7, Doc(
        "pull", "GROUP topic consumer [COUNT n] [BLOCK ms] [NOACK] STREAMS queue [queue ...] id [id ...]",
        "as Redis, or nil", "Claim jobs of a topic that is pulled: at least once, until they are acked.",
        "`>`: new ones; an id such as `0`: those that this connection has read under this name and nobody has acked, "
        "above it. Fields body, attempt, redelivered, traceparent. `COUNT` absent: 16 a queue; `BLOCK 0`: for ever; "
        "`NOACK`: done as with `RPOP` (below)",
    ), flags=("write", "blocking", "movablekeys"), multi="checked"),
    Row("xack", streams.ack, -4, Doc(
        "pull", "queue topic id [id ...]", "integer", "Settle jobs as done.",
        "From any connection with the identity, at any ingest child. Answers how many somebody held until now",
    ), ack=True, flags=("write", "fast"), keys=(1, 1, 1), multi="checked"),
    Row("pbus.nack", streams.nack, -4, Doc(
        "pull", "queue topic id [DELAY ms] [REASON text] [DEAD]", "integer",
        "Give a job back as failed: tried again by the topic's policy, or after the delay.",
        "`DEAD`: to the dead letters at once. 1, or 0 when nobody held it",
    ), ack=True, flags=("write", "fast"), keys=(1, 1, 1), multi="checked"),
    Row("xgroup", another, -2, Doc("pull", "", "as Redis", "Groups are topics."), flags=(), subs=(
        Row("xgroup|create", groups.create, -5, Doc(
            "pull", "queue topic <id | $> [MKSTREAM] [ENTRIESREAD n]", "BUSYGROUP", "Answers that the topic exists.",
            "`NOTOPIC` and what to do when it does not: topics are made in the configuration",
        ), flags=("write", "denyoom"), keys=(2, 2, 1)),
        Row("xgroup|createconsumer", groups.create_consumer, 5, Doc(
            "pull", "queue topic consumer", "1 or 0", "Nothing to do: a consumer is whoever reads under that name.",
            "0: it holds claims",
        ), flags=("write", "denyoom"), keys=(2, 2, 1)),
        Row("xgroup|delconsumer", groups.delete_consumer, 5, Doc(
            "pull", "queue topic consumer", "0", "Nothing to do: what a consumer holds is never dropped.",
        ), flags=("write",), keys=(2, 2, 1)),
        Row("xgroup|destroy", groups.keep, 4, Doc(
            "pull", "queue topic", "BADVALUE", "Refused: topics are removed from the configuration.",
        ), flags=("write",), keys=(2, 2, 1)),
        Row("xgroup|setid", groups.keep, -5, Doc(
            "pull", "queue topic <id | $> [ENTRIESREAD n]", "BADVALUE", "Refused: a topic goes on where it is.",
        ), flags=("write",), keys=(2, 2, 1)),
    )),
    Row("xautoclaim", groups.autoclaim, -6, Doc(
        "pull", "queue topic consumer min-idle-ms start [COUNT n] [JUSTID]", "0-0 and two empty lists",
        "Nothing to do: claims of a reader that is gone go back by themselves.",
    ), flags=("write", "fast"), keys=(1, 1, 1)),
    Row("xclaim", groups.claim, -6, Doc(
        "pull",
        "queue topic consumer min-idle-ms id [id ...] [IDLE ms] [TIME ms] [RETRYCOUNT n] [FORCE] [JUSTID] [LASTID id]",
        "an empty list", "Nothing to do, as XAUTOCLAIM.",
    ), flags=("write", "fast"), keys=(1, 1, 1)),
    Row("pbus.settle", programs.settle, -2, Doc(
        "pull", "<DONE | FAILED | CRASHED | TIMEOUT | STOPPED> [reason]", "integer",
        "How a program under a token ended, said by the process around it.", "Answers how many claims ended (below)",
    ), flags=("write", "fast"), multi="checked"),
    Row("llen", looks.backlog, 2, _BACKLOG, flags=_LOOK, keys=(1, 1, 1), multi="checked"),
    Row("xlen", looks.backlog, 2, _BACKLOG, flags=_LOOK, keys=(1, 1, 1), multi="checked"),
    Row("hgetall", looks.numbers, 2, Doc(
        "look", "<queue | queue/topic>", "map", "Numbers of a queue or of a topic.",
        "ready, running, delayed, dead, oldest_wait_ms, in_per_s and done_per_s (between two looks; the first after a "
        "minute takes half a second), concurrency (calls or processes a node has)",
    ), flags=("readonly",), keys=(1, 1, 1), multi="checked"),
    Row("xrange", stream_looks.range_of, -4, Doc(
        "look", "queue start end [COUNT n]", "entries", "Jobs that are in the log of a queue, by their ids.", _RANGE,
        "O(N), the jobs of the reply",
    ), flags=("readonly",), keys=(1, 1, 1), multi="checked"),
    Row("xrevrange", stream_looks.range_of, -4, Doc(
        "look", "queue end start [COUNT n]", "entries", "The same, newest first.",
        complexity="O(N), the jobs of the reply",
    ), flags=("readonly",), keys=(1, 1, 1), multi="checked"),
    Row("xpending", stream_looks.pending, -3, Doc(
        "look", "queue topic [[IDLE min-idle-ms] start end n [consumer]]", "as Redis",
        "Open claims of a topic, in sum or one by one.", _OPEN, "O(N), the open claims",
    ), flags=("readonly",), keys=(1, 1, 1), multi="checked"),
    Row("xinfo", another, -2, Doc("look", "", "as Redis", "What there is to know of a stream."), flags=(), subs=(
        Row("xinfo|stream", stream_looks.stream, -3, Doc(
            "look", "queue [FULL [COUNT n]]", "map", "What the store has of a queue.", "`length` is what `XLEN` says",
        ), flags=("readonly",), keys=(2, 2, 1), multi="checked"),
        Row("xinfo|groups", stream_looks.groups, 3, Doc(
            "look", "queue", "maps", "The topics of a queue that you may look at.",
            "`pending`: running, `lag`: ready; `last-delivered-id`: the newest that is sure to have been handed out",
        ), flags=("readonly",), keys=(2, 2, 1), multi="checked"),
        Row("xinfo|consumers", stream_looks.consumers, 4, Doc(
            "look", "queue topic", "maps", "Who holds open claims of a topic.",
        ), flags=("readonly",), keys=(2, 2, 1), multi="checked"),
    )),
    Row("xdel", cancels.of_queue, -3, Doc(
        "cancel", "queue id [id ...]", "integer", "Cancel jobs that have not begun, for every topic.",
        "How many of them there was something to cancel of; what runs goes on. Rights as for a push",
    ), flags=("write", "fast"), keys=(1, 1, 1), multi="checked"),
    Row("lrem", cancels.of_topic, 4, Doc(
        "cancel", "queue/topic n id", "1 or 0", "Cancel a job for one topic, if it has not begun there.",
        "The number is not looked at",
    ), flags=("write",), keys=(1, 1, 1), multi="checked"),
    Row("multi", transactions.begin, 1, Doc(
        "transactions", "", "OK", "What follows waits for EXEC.", "Every command then answers `QUEUED`, or at once why "
        "it cannot be (below)",
    ), multi="now"),
    Row("exec", transactions.execute, 1, Doc(
        "transactions", "", "array", "Store all pushes that wait, or none, then do the other commands.",
        "The replies in the order of the commands; `-EXECABORT`: nothing of it is stored, nothing is done",
        "one write, and the other commands",
    ), flags=("noscript", "loading", "stale"), multi="now"),
    Row("discard", transactions.discard, 1, Doc(
        "transactions", "", "OK", "Forget what waits.",
    ), multi="now"),
    Row("auth", session.auth, -2, Doc(
        "connection", "[name] password", "OK", "Say who you are.", "`name`: a queue, `queue/topic` or a system (above)",
    ), anonymous=True, flags=_HELLO, multi="never"),
    Row("hello", session.hello, -1, Doc(
        "connection", "[protocol [AUTH name password] [SETNAME text]]", "map",
        "Choose RESP2 or RESP3, and say who you are.",
    ), anonymous=True, flags=_HELLO, multi="never"),
    Row("client", session.client, -2, Doc(
        "connection", "subcommand [argument ...]", "as Redis", "What client libraries tell and ask of a connection.",
        "`SETNAME` `GETNAME` `ID` `INFO` `LIST` `SETINFO` `REPLY ON` `NO-EVICT` `NO-TOUCH` `TRACKING OFF`",
    ), anonymous=True, flags=_ADMIN, subs=_subs(
        "client", session.client, ("setname", 3, "text", "Name the connection."),
        ("getname", 2, "", "The name of the connection."), ("id", 2, "", "Its number within this process."),
        ("info", 2, "", "What is known of it."), ("list", -2, "", "Connections of the same identity."),
        ("setinfo", 4, "<LIB-NAME text | LIB-VER text>", "Name the library."),
        ("reply", 3, "ON", "Every command has its reply."), ("no-evict", 3, "<ON | OFF>", "Nothing to do."),
        ("no-touch", 3, "<ON | OFF>", "Nothing to do."), ("tracking", -3, "OFF", "There are no keys to track."),
    )),
    Row("select", session.select, 2, Doc(
        "connection", "index", "OK", "There is one database, 0.",
    ), anonymous=True, flags=_STALE),
    Row("ping", session.ping, -1, Doc(
        "connection", "[message]", "PONG, or the message", "Whether the connection lives.",
    ), anonymous=True),
    Row("echo", session.echo, 2, Doc("connection", "message", "the message", "Answers the message."), anonymous=True),
    Row("reset", session.reset, 1, Doc(
        "connection", "", "RESET", "As after connecting: nobody, RESP2, no name.",
    ), anonymous=True, flags=_HELLO, multi="now"),
    Row("quit", session.leave, -1, Doc(
        "connection", "", "OK", "Closes the connection.",
    ), anonymous=True, flags=_HELLO, multi="now"),
    Row("command", command, -1, Doc(
        "server", "[<COUNT | LIST | DOCS | INFO | GETKEYS> [argument ...]]", "as Redis", "This table, for clients.",
        complexity="O(N), the commands asked for",
    ), flags=("loading", "stale"), subs=_subs(
        "command", command, ("count", 2, "", "How many there are."),
        ("list", -2, "[FILTERBY <MODULE name | ACLCAT category | PATTERN glob>]", "Their names."),
        ("docs", -2, "[name [name ...]]", "What people read about them."),
        ("info", -2, "[name [name ...]]", "What programs read about them."),
        ("getkeys", -3, "name [argument ...]", "The keys in a command."),
    )),
    Row("config", session.config, -2, Doc(
        "server", "GET pattern [pattern ...]", "map", "What clients look at; the settings of pbus are in its files.",
    ), flags=_ADMIN, subs=_subs("config", session.config, ("get", -3, "pattern [pattern ...]", "What is set."))),
    Row("info", session.info, -1, Doc(
        "server", "[section [section ...]]", "text", "Numbers of the process that answers.",
    ), flags=("loading", "stale")),
    Row("time", session.time, 1, Doc(
        "server", "", "seconds and microseconds", "The clock of the bus.",
    ), anonymous=True, flags=_STALE),
)


_NOAUTH: Final = "NOAUTH Authentication required."


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
    text = _unknown(arguments) if row is None else _refusal(row, connection, arguments)
    if row is not None and row.subs and len(arguments) > 1 and not text and (sub := row.sub(arguments[1])) is not None:
        row, text = sub, _miscount(sub, arguments)    # those of the table are answered by their own functions
    if connection.transaction is not None:
        return connection.transaction.take(row, arguments, text)
    if row is None or (text and not row.push):
        return error(text)
    if text:
        pushes.refuse(connection, arguments, text)
        return None
    return row.act(connection, arguments)


def _refusal(row: Row, connection: Connection, arguments: list[bytes]) -> str:
    """Why a command is not even looked at; empty: it is."""
    inside = row.multi == "now" and connection.transaction is not None  # whoever began may end it
    if not row.anonymous and not inside:
        if not connection.server.directory.known(connection.access):
            return f"NOAUTH {row.name.upper()} needs AUTH first: not stored" if row.push else _NOAUTH
        if connection.access.void:
            return f"WRONGPASS the process of this token is gone: {'not stored' if row.push else 'nothing is done'}"
    return _miscount(row, arguments)


def _miscount(row: Row, arguments: list[bytes]) -> str:
    """That a command has too few or too many elements, if it has."""
    if len(arguments) == row.arity or (row.arity < 0 and len(arguments) >= -row.arity):
        return ""
    what = f"wrong number of arguments for '{row.name}' command"
    return f"BADVALUE {what}: not stored" if row.push else f"ERR {what}"


def is_barrier(event: Event) -> bool:
    """Whether it has to wait until every push before it is answered."""
    if isinstance(event, list):
        row = find(event[0])
        return row is None or not row.push
    return not isinstance(event, TooBig)


def is_ack(event: Event) -> bool:
    """Whether it may be done together with acks before it."""
    words = event.head if isinstance(event, Run) else event
    row = find(words[0]) if isinstance(words, list | tuple) else None
    return row is not None and row.ack


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
