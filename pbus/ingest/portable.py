"""
The part of a connection that leaves for another process, or has come from one.

    part --nothing in flight any more--> parted --record--> passed: it is nobody's here any more
                                                  \\------> rejoin: it stays, and goes on where it was

Rule: what makes up a connection is in fields of this class and of ``outlet``, all of it; a field that is added there
is passed, or its comment says why it need not be. While it parts, its input and the commands that were parsed lie
aside, so that the code that serves connections needs to know nothing of it: there is nothing to do.
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pbus.codec.handover import Record
from pbus.codec.resp import Event, RequestParser
from pbus.codec.resp_reply import error
from pbus.ingest import carried, commands
from pbus.ingest.access import Access
from pbus.ingest.carried import Cargo
from pbus.ingest.committer import Ticket
from pbus.ingest.outlet import Outlet, State
from pbus.ingest.parents import Parent
from pbus.ingest.sent import Unread
from pbus.ingest.takings import Refused
from pbus.ingest.tls import TlsSocket
from pbus.ingest.transactions import Transaction

if TYPE_CHECKING:
    from pbus.ingest.claims import Reader
    from pbus.ingest.connection import Connection
    from pbus.ingest.pops import Pop
    from pbus.ingest.server import Server

READ: Final = 1
WRITE: Final = 2


class Parting(Protocol):
    """Who takes connections elsewhere."""

    def parted(self, connection: Portable) -> None:
        """Nothing of it is in flight any more; may be said more than once."""


class Portable(Outlet):
    """What a connection is, as far as another process can carry it on."""

    __slots__ = (
        "_aside", "_joined", "_parser", "_parting", "_pending", "_queue", "_reader", "_reading", "_started_s",
        "_unread", "_waiting", "access", "began_s", "gone", "held_bytes", "id", "library", "name", "parent", "peer",
        "pop", "protocol", "reader", "transaction",
    )

    def __init__(self, server: Server, sock: Any, number: int, peer: str, access: Access) -> None:
        super().__init__(server, sock)
        self.id = number
        self.peer = peer
        self.access = access
        self.protocol = 2
        self.name = b""
        self.library: dict[str, str] | None = None
        self.began_s = server.clock.monotonic_s()
        self.pop: Pop | None = None
        self.reader: Reader | None = None
        self.transaction: Transaction | None = None
        self.parent: Parent | None = None
        self.gone = False
        self.held_bytes = 0                           # as the server counts it
        self._parser = RequestParser(server.limits_of(access))
        self._queue: list[Event] = []                 # parsed, not executed
        self._pending: collections.deque[Ticket] | None = None
        self._joined = 0                              # acks that are not answered yet
        self._waiting = False                         # a command is not answered yet and nothing may overtake it
        self._started_s: float | None = None          # since when a command is incomplete
        self._unread: Unread | None = None
        self._parting: Parting | None = None          # it is about to leave, and who wants to know when it can
        self._aside: tuple[RequestParser, list[Event]] | None = None
        self._reader = server.loop.io(sock.fileno(), READ)
        self._reading = True

    @abc.abstractmethod
    def transact(self, transaction: Transaction | None) -> None:
        """MULTI was said."""

    @abc.abstractmethod
    def adopt(self, parent: Parent | None) -> None:
        """Whose children it pushes."""

    @abc.abstractmethod
    def reads(self) -> Reader:
        """It is about to read."""

    @property
    @abc.abstractmethod
    def _whole(self) -> Connection:
        """All of it, not this part alone."""

    # -- leaving ------------------------------------------------------------------------------

    @property
    def portable(self) -> bool:
        """It can begin to part: no TLS around it, not over anyway, no refused command to be read to its end."""
        return (
            self._state in (State.OPEN, State.ENDING) and self._parting is None and not self._parser.skipping
            and type(self._socket) is not TlsSocket
        )

    @property
    def holds_claims(self) -> bool:
        """Jobs are with it that nobody has settled, or on their way to it."""
        return bool((self.reader is not None and self.reader.claims) or self._on_sent)

    @property
    def place(self) -> float:
        """Order in which connections leave: those who wait for jobs last, longest-waiting first."""
        return float(self.pop.taker.place_of(self.pop)) if self.pop is not None else -1.0

    def part(self, parting: Parting) -> None:
        """Read and do nothing more; *parting* hears when nothing is in flight any more, now perhaps."""
        self._parting = parting
        self._aside = self._parser, self._queue
        self._parser, self._queue = RequestParser(self._parser.limits), []
        self.server.set_aside(self)
        if self.pop is not None:
            self.pop.taker.part(self.pop)
        self._regulate()

    def _look_whether_parted(self) -> None:
        if self._reading:
            self._reading = False
            self._reader.stop()
        served = self._waiting and not (self.pop is not None and self.pop.parted)
        if self._parting is not None and not (self._pending or self._joined or served or self._out):
            if self._writer is not None:
                self._writer.stop()                   # what is not sent by now is in its record
            self._parting.parted(self)

    def record(self) -> Record:
        """All of it, once it has parted."""
        parser, queue = self._aside or (self._parser, self._queue)
        reader, parent = self.reader, self.parent
        return Record(
            id=self.id, peer=self.peer, protocol=self.protocol, name=self.name, library=self.library,
            began_s=self.began_s, identity=self.server.directory.identity(self.access),
            queued=self.transaction.queued if self.transaction is not None else None,
            parent=(parent.id, parent.traceparent or "") if parent is not None else None,
            said=[carried.said(event) for event in queue], unread=parser.unread() or b"", started_s=self._started_s,
            ended=self._state is State.ENDING, unsent=bytes(self._unsent or b""), stuck_s=self._stuck_s,
            sendings=[sending for one in self._on_sent or () for sending in one.sendings()],
            unsure=self._unread.sendings() if self._unread is not None else [],
            blocked=carried.blocked(self.pop) if self.pop is not None else None,
            claims=carried.claims(reader), oldest_s=reader.oldest_s if reader is not None else 0.0,
        )

    @property
    def descriptor(self) -> int:
        """Of its socket."""
        return int(self._socket.fileno())

    def rejoin(self) -> None:
        """It stays after all: go on where it was."""
        if self._aside is None or self._state is State.CLOSED:
            return
        self._parser, self._queue = self._aside
        self._parser.limits = self.server.limits_of(self.access)
        self._aside = self._parting = None
        self._reader.close()
        self._reader = self.server.loop.io(self._socket.fileno(), READ)  # the kernel may have forgotten the old one
        pop = self.pop
        if pop is not None and pop.parted:
            pop.parted = pop.over = False
            pop.taker.add(pop)
        if self._writer is not None and self._unsent is not None:
            self._writer.start(self._writable)
        self.server.watch(self)
        self.proceed()

    def pass_on(self, lost: Sequence[int] = ()) -> None:
        """
        It is another process' now: forget it without a word to anybody.

        Args:
            lost: Places of claims whose topic that process does not know.
        """
        self._state, self.gone = State.CLOSED, True
        self._reader.stop()
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self.server.closed(self)
        self.server.held_bytes -= self.held_bytes
        self.held_bytes = 0
        on_sent, self._on_sent = self._on_sent or [], None
        for one in on_sent:
            one.passed()
        if self.reader is not None:
            self.reader.pass_on(lost)
        self._aside, self._out, self._unsent, self._unread = None, [], None, None
        self.server.let_go(self._socket)

    # -- arriving -----------------------------------------------------------------------------

    def carry_on(self, record: Record, cargo: Cargo) -> None:
        """It has come from another process, which serves it no more: go on where it was."""
        self.protocol, self.name, self.library, self.began_s = (
            record.protocol, record.name, record.library, record.began_s
        )
        self.adopt(Parent(*record.parent) if record.parent is not None else None)
        if record.queued is not None:
            self._queue_again(record)
        self._queue = [carried.event(said) for said in record.said]
        self._parser.feed(record.unread)
        self._started_s = record.started_s
        if record.ended:
            self._state = State.ENDING
        if cargo.claims:
            self._read_again(record, cargo)
        self._on_sent = [one(self._whole) for one in cargo.on_sent] or None
        self._unread = cargo.unread
        if record.unsent:
            self._send_again(record)
        self.server.watch(self)
        self.account()
        self._wait_again(record)
        self.proceed()

    def _queue_again(self, record: Record) -> None:
        """What waits for EXEC, as this child sees it: a queue may be gone, or a right."""
        transaction = Transaction(self._whole)
        self.transact(transaction)
        assert record.queued is not None
        for words in record.queued.commands:
            commands.execute(self._whole, words)
        if record.queued.refused or record.identity.kind != self.access.kind:
            transaction.refuse(b"")
        self._out = []                                # its client has read what it was told of each

    def _read_again(self, record: Record, cargo: Cargo) -> None:
        reader, now_s = self.reads(), self.server.clock.monotonic_s()
        for claim in cargo.claims:
            reader.add(claim, claim.consumer, now_s)
        reader.oldest_s = record.oldest_s

    def _send_again(self, record: Record) -> None:
        self._unsent = bytearray(record.unsent)
        self._stuck_s = record.stuck_s
        self._writer = self.server.loop.io(self._socket.fileno(), WRITE)
        self._writer.start(self._writable)

    def _wait_again(self, record: Record) -> None:
        """The command that it waits in, which may have become impossible."""
        if record.blocked is None:
            return
        self._waiting = True
        try:
            carried.wait_again(self._whole, record.blocked)
        except Refused as refused:
            self.refuse_blocked(error(str(refused)))

    @abc.abstractmethod
    def refuse_blocked(self, reply: bytes) -> None:
        """The command that it waits in cannot be served here."""

