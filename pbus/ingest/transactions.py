"""
MULTI .. EXEC: commands that wait for EXEC, and whose pushes are one write.

    MULTI -> QUEUED, QUEUED .. -> EXEC -> parents looked up -> the pushes, one ticket -+-stored--> the other commands
              |  a refusal at once: EXEC will discard                                  |           in order -> one array
              +--DISCARD, RESET, QUIT, the end of the connection                       +-refused-> -EXECABORT

Rule: all pushes of a transaction are stored or none, and nothing else of it is done before they are: an ack beside
a push acks only what the push has stored. What can be said without the store is said when a command is queued. As a
whole it is bounded as one command is, and so are its replies.
"""

# ruff: noqa: ARG001 - the functions of the table have one signature
from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gevent
import gevent.event

from pbus.codec.handover import Queued
from pbus.codec.resp_reply import OK, error
from pbus.errors import StorageError
from pbus.ingest import parents, pushes
from pbus.ingest.committer import Ticket
from pbus.ingest.parents import Parent
from pbus.ingest.pops import REPLY_BYTES
from pbus.ingest.rows import Act, Later, Row
from pbus.ingest.sent import AllSent, AllUnread, OnSent, Unread
from pbus.ingest.whole import NOT_STORED, NOTHING, Whole, aborted

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection
    from pbus.ingest.pushes import Route

QUEUED: Final = b"+QUEUED\r\n"
A_TURN: Final = 64
"""Commands of one EXEC that are done before others get their turn."""
_KEPT_BYTES: Final = 64
"""What keeps one argument, beside its bytes."""
_EMPTY: Final = b"*0\r\n"

Command = tuple[Act, list[bytes]]


def begin(connection: Connection, arguments: list[bytes]) -> bytes:
    """``MULTI``: what follows waits for EXEC."""
    if connection.transaction is not None:
        return error("ERR MULTI calls can not be nested")
    connection.transact(Transaction(connection))
    return OK


def execute(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``EXEC``: store all pushes that wait, do the other commands, and answer all of them."""
    transaction = connection.transaction
    return error("ERR EXEC without MULTI") if transaction is None else transaction.execute()


def discard(connection: Connection, arguments: list[bytes]) -> bytes:
    """``DISCARD``: forget what waits."""
    if connection.transaction is None:
        return error("ERR DISCARD without MULTI")
    connection.transact(None)
    return OK


class Transaction:
    """
    What one connection has queued since MULTI, and how EXEC does it. Its owner is the connection.

    Attributes:
        size: Bytes that it keeps.
    """

    __slots__ = (
        "_answered", "_at", "_commands", "_connection", "_executing", "_on_sent", "_parent", "_parents", "_refused",
        "_replies", "_reply", "_reply_bytes", "_routes", "_said", "_tickets", "_unread", "size",
    )

    def __init__(self, connection: Connection) -> None:
        self.size = 0
        self._connection = connection
        self._said: list[list[bytes]] = []            # all of it as it came: another process may carry it on
        self._refused = False                         # a command was: EXEC does nothing
        self._executing = False
        self._replies: list[bytes] = []               # one a command, empty until it is known
        self._tickets: dict[int, Ticket] = {}         # the pushes, by their place
        self._routes: dict[str, Route] = {}           # where those go
        self._parents: dict[int, Parent] = {}
        self._commands: dict[int, Command] = {}       # everything else
        self._parent = connection.parent              # whose children the next pushes are
        self._at = 0                                  # the command that is being done
        self._answered = gevent.event.Event()         # it has its reply
        self._reply = b""
        self._reply_bytes = 0
        self._on_sent: list[OnSent] = []
        self._unread: list[Unread] = []

    @property
    def client(self) -> Connection:
        """Whose it is."""
        return self._connection

    @property
    def executing(self) -> bool:
        """EXEC was said: what is answered now is a part of its reply."""
        return self._executing

    @property
    def queued(self) -> Queued:
        """What waits for EXEC, for another process."""
        return Queued(commands=self._said, refused=self._refused)

    # -- after MULTI --------------------------------------------------------------------------

    def take(self, row: Row | None, arguments: list[bytes], refusal: str) -> bytes | None:
        """The reply to a command after MULTI; *refusal*: why it cannot be, as far as its row and identity say."""
        if row is not None and row.multi == "now" and not refusal:
            return row.act(self._connection, arguments)
        refusal = refusal or self._bound(arguments)
        if refusal or row is None:
            return self.refuse(error(refusal))
        if row.multi == "never" or ("blocking" in row.flags and _blocks(row, arguments)):
            return self.refuse(error(f"ERR Command not allowed inside a transaction: {row.name.upper()}"))
        self.size += _size(arguments)
        self._said.append(arguments)
        self._connection.account()
        if self._connection.gone:                     # all clients together keep too much, this one the most
            return None
        if row.push or row.multi == "own":
            return row.act(self._connection, arguments)
        if row.multi == "checked" and (reply := self._rehearse(row, arguments)):
            return self.refuse(reply)
        return self.add(row.act, arguments)

    def _rehearse(self, row: Row, arguments: list[bytes]) -> bytes:
        """What a command answers that is wrong, without the store; empty: nothing."""
        try:
            reply = row.act(self._connection, arguments)
        except Later:
            return b""
        return reply if reply is not None and reply[:1] == b"-" else b""

    def begins(self) -> None:
        """
        A command begins to ask the store.

        Raises:
            Later: not before EXEC.
        """
        if not self._executing:
            raise Later

    def _bound(self, arguments: list[bytes]) -> str:
        """Why it is too much; as a whole a transaction is bounded as one command is."""
        limits = self._connection.limits
        if len(self._replies) >= limits.elements:
            return f"TOOBIG a transaction has at most {limits.elements} commands: nothing of it is stored"
        if self.size + _size(arguments) > limits.command_bytes:
            return f"TOOBIG a transaction has at most {limits.command_bytes} bytes: nothing of it is stored"
        return ""

    def refuse(self, reply: bytes) -> bytes:
        """A command cannot be queued, *reply* says why: nothing of the transaction will be done."""
        self._refused = True
        return reply

    def add(self, act: Act, arguments: list[bytes]) -> bytes:
        """A command that is done by EXEC, after the pushes."""
        self._commands[len(self._replies)] = (act, arguments)
        return self._queued()

    def add_push(self, ticket: Ticket, route: Route) -> bytes:
        """Pushes that are in order."""
        self._routes[route.name] = route
        self._tickets[len(self._replies)] = ticket
        return self._queued()

    def add_parent(self, parent: Parent) -> bytes:
        """Whose children the pushes behind it are."""
        self._parents[len(self._replies)] = parent
        return self._queued()

    def _queued(self) -> bytes:
        self._replies.append(b"")
        return QUEUED

    # -- EXEC ---------------------------------------------------------------------------------

    def execute(self) -> bytes | None:
        """The reply to EXEC; None: it comes later."""
        connection = self._connection
        refusal = self._obstacle()
        if refusal or not self._replies:
            connection.transact(None)
            return error(refusal) if refusal else _EMPTY
        if not self._tickets and not self._commands and not self._unknown_parents:
            self._name_parents()
            connection.transact(None)
            return self._array()
        self._executing = True
        connection.wait()
        if self._unknown_parents:
            gevent.spawn(self._look_up)
        else:
            self._submit()
        return None

    def _obstacle(self) -> str:
        """Why nothing can be done; empty: it can be tried."""
        if self._refused:
            return "EXECABORT Transaction discarded because of previous errors: nothing of it is stored"
        if self._connection.access.void:
            return aborted(f"WRONGPASS the process of this token is gone{NOT_STORED}")
        first = next(iter(self._routes.values()), None)
        for route in self._routes.values():
            if first is not None and route.store is not first.store:
                what = f"a transaction pushes to queues of one storage, {first.name} and {route.name} are in two"
                return aborted(f"BADVALUE {what}{NOT_STORED}")
            if route.refusal:
                route.store.committer.refused_total += sum([len(ticket.pushes) for ticket in self._tickets.values()])
                return aborted(route.refusal)
        return ""

    def _look_up(self) -> None:
        """Ask stores whose children the pushes are; the life of a greenlet."""
        try:
            for place in self._unknown_parents:
                self._parents[place] = parents.found(self._connection, self._parents[place])
        except StorageError as failure:
            self._finish(error(f"EXECABORT UNAVAILABLE {failure}{NOTHING}, try again in 1 s"))
        except Exception:  # noqa: BLE001 - a bug ends one connection, and the log has it
            self._connection.failed()
        else:
            self._submit()

    def _submit(self) -> None:
        """Have the pushes stored, as children of whoever was named before each of them."""
        if not self._tickets:
            self._go_on()
            return
        parent = self._parent
        for place in range(len(self._replies)):
            if place in self._parents:
                parent = self._parents[place]
            elif parent is not None and parent.id and place in self._tickets:
                pushes.adopt(parent, self._tickets[place])
        committer = next(iter(self._routes.values())).store.committer
        committer.submit(Whole(self, list(self._tickets.values())))

    def answered(self, ticket: Ticket) -> None:
        """The pushes are stored, or not."""
        assert isinstance(ticket, Whole)
        if ticket.refusal:
            self._finish(error(ticket.refusal))
            return
        for place, reply in zip(self._tickets, ticket.replies, strict=True):
            self._keep(place, reply)
        self._go_on()

    def proceed(self) -> None:
        """Its connection goes on by itself, when EXEC is answered."""

    def settled(self, ticket: Ticket) -> None:
        """The same as ``answered``."""
        self.answered(ticket)

    def _go_on(self) -> None:
        """The pushes are stored: do the others."""
        self._name_parents()
        if not self._commands:
            self._finish(self._array())
        elif not self._connection.gone:
            gevent.spawn(self._perform)

    @property
    def _unknown_parents(self) -> list[int]:
        """Places of those whose traces have to be looked up."""
        return [place for place, parent in self._parents.items() if parent.traceparent is None]

    def _name_parents(self) -> None:
        for place, parent in self._parents.items():
            self._connection.adopt(parent if parent.id else None)
            self._keep(place, OK)

    def _perform(self) -> None:
        """One command after the other, each when the one before is answered; the life of a greenlet."""
        connection = self._connection
        try:
            for done, (place, (act, arguments)) in enumerate(self._commands.items(), 1):
                self._keep(place, self._done(act, arguments))
                if connection.gone:
                    return
                if connection.has_spent() or done % A_TURN == 0:
                    gevent.sleep(0)
            self._finish(self._array())
        except Exception:  # noqa: BLE001 - a bug ends one connection, and the log has it
            connection.failed()

    def _done(self, act: Act, arguments: list[bytes]) -> bytes:
        if self._reply_bytes > REPLY_BYTES:
            return error(f"TOOBIG the replies of one transaction are at most {REPLY_BYTES >> 20} MiB: not done")
        self._answered.clear()
        reply = act(self._connection, arguments)
        if reply is not None:
            return reply
        self._answered.wait()
        return self._reply

    def answer(self, reply: bytes, on_sent: OnSent | None = None, unread: Unread | None = None) -> None:
        """The reply of the command that is being done; as ``Connection.reply``."""
        if self._connection.gone:
            if on_sent is not None:
                on_sent(False)
        else:
            self._on_sent += [on_sent] if on_sent is not None else []
            self._unread += [unread] if unread is not None else []
        self._reply = reply
        self._answered.set()

    def end(self) -> None:
        """The connection has done with it: who waits for an answer need not."""
        self._answered.set()
        told, self._on_sent = self._on_sent, []
        for on_sent in told:
            on_sent(False)

    def _keep(self, place: int, reply: bytes) -> None:
        self._replies[place] = reply
        self._reply_bytes += len(reply)

    def _array(self) -> bytes:
        for reply in self._replies:
            if reply[:1] == b"-":
                self._connection.server.tally.error(reply)
        return b"*%d\r\n" % len(self._replies) + b"".join(self._replies)

    def _finish(self, reply: bytes) -> None:
        """EXEC is answered."""
        on_sent, self._on_sent = self._on_sent, []
        unread, self._unread = self._unread, []
        self._connection.transact(None)
        self._connection.reply(
            reply, AllSent(on_sent) if on_sent else None, AllUnread(unread) if unread else None
        )


def _blocks(row: Row, arguments: list[bytes]) -> bool:
    """Whether it may wait: XREADGROUP does where it says so, all others do."""
    if row.name != "xreadgroup":
        return True
    words = [argument.lower() for argument in arguments[4:]]
    streams = words.index(b"streams") if b"streams" in words else len(words)
    return b"block" in words[:streams]


def _size(arguments: list[bytes]) -> int:
    return sum([len(argument) for argument in arguments]) + _KEPT_BYTES * len(arguments)
