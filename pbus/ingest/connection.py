"""
One client's connection: a state machine driven by readiness, no greenlet of its own.

    readable -> recv -> parser -> commands -> replies -> one send -> (the rest when writable)
                          ^          |
                          |          +-- pushes: tickets at the committer, answered in order
                          +--------------- any other command waits until those are answered;
                                           one that asks the store holds up what follows it

Rule: everything that makes up a connection is explicit in its fields (identity, protocol, name, what
it waits for, input not used, output not sent), nothing hides on a stack. Replies leave in the order
of the commands, one each. What it holds is bounded: it is not read from while too much waits.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pbus.codec.resp import Event, Limits, RequestParser, Run, TooBig
from pbus.codec.resp_reply import error
from pbus.core.outcome import Verdict
from pbus.errors import ProtocolError
from pbus.ingest import commands, pulls, pushes, short, wire
from pbus.ingest.access import Access
from pbus.ingest.claims import Claim, Reader
from pbus.ingest.committer import Committer, Ticket
from pbus.ingest.outlet import State
from pbus.ingest.pops import Pop
from pbus.ingest.portable import Portable
from pbus.ingest.puller import Puller
from pbus.ingest.sent import OnSent, Unread

if TYPE_CHECKING:
    from pbus.ingest.parents import Parent
    from pbus.ingest.server import Server
    from pbus.ingest.transactions import Transaction

COMMANDS_A_TURN: Final = 64
"""Fairness: nobody gets more done in one turn of the loop."""
RECV_BYTES: Final = 64 * 1024
UNPARSED_BYTES: Final = 64 * 1024
"""Input kept while what was read before waits for something."""
LINGER_S: Final = 1.0
"""How long a refused connection is still read from, so that its last reply is not lost to a reset."""
_NO_ROUTES: Final[Mapping[bytes, Any]] = {}
_GONE: Final = "its connection closed before the ack"
_CLOSED: Final = "pbus closed its connection before the ack"


class Connection(Portable):
    """
    A client, from accept to close. Its owner is the server; it runs in callbacks of the loop.

    Attributes:
        id: Number within this child, for CLIENT ID.
        peer: Address as text.
        access: Who it is and what it may do.
        protocol: 2 or 3.
        name, library: As the client set them.
        began_s: Monotonic time of its accept.
        pop: The command it is blocked in, if it is one that takes jobs.
        reader: What it has read and nobody has settled; None: it never read anything.
        transaction: What it has queued since MULTI, until EXEC is answered.
        parent: The job whose children it pushes.
        routes: Those of its identity, where nothing about its pushes is special; else none.
        gone: Nothing can be sent to it any more.
        held_bytes: What it keeps of commands that are not done yet and of replies not read, as the server counts it.
    """

    __slots__ = ("_committer", "_in_flight_bytes", "_keen", "_most", "_paused", "_postponed", "_spent", "routes")

    def __init__(self, server: Server, sock: Any, number: int, peer: str, access: Access) -> None:
        super().__init__(server, sock, number, peer, access)
        # None of these passes to another process: they are of this turn, of this child, or follow from others.
        self._in_flight_bytes = 0
        self._committer: Committer | None = None      # where it pushed to last
        self._spent = False                           # a costly command has used up its turn
        self._paused = False                          # the committer is full
        self._postponed = False                       # it has had its share of this turn
        self._keen = False                            # its death is looked for as that of a reader
        self.routes: Mapping[bytes, Any] = _NO_ROUTES
        self.become(access)
        self._reader.start(self._readable)

    # -- for commands -------------------------------------------------------------------------

    @property
    def from_here(self) -> bool:
        """Whether the client is on this machine, also when it came in by an address that others see."""
        return self.access.local or wire.is_of_one_machine(self._socket)

    def become(self, access: Access) -> None:
        """Another identity, and its limits; it is as fresh as a connection."""
        self.access = access
        self.transact(None)
        self.adopt(None)
        self._parser.limits = self.server.limits_of(access)
        # The limits of what follows AUTH are known after AUTH only.
        self._most = COMMANDS_A_TURN if self.server.directory.known(access) else 1

    @property
    def limits(self) -> Limits:
        """What one command may be."""
        return self._parser.limits

    def transact(self, transaction: Transaction | None) -> None:
        """MULTI was said; None: what it began is over."""
        before, self.transaction = self.transaction, transaction
        self._choose_routes()
        if before is not None:
            before.end()
            self.account()
        if transaction is not None:
            self.server.watch(self)                   # it keeps what is queued

    def adopt(self, parent: Parent | None) -> None:
        """Its pushes are children of *parent* from now on; None: of nobody."""
        self.parent = parent
        self._choose_routes()

    def _choose_routes(self) -> None:
        special = self.transaction is not None or self.parent is not None
        self.routes = _NO_ROUTES if special else self.access.routes

    def submit(self, ticket: Ticket, committer: Committer) -> None:
        """Have pushes stored; their replies take their place among the others."""
        if self._pending is None:
            self._pending = collections.deque()
        self._pending.append(ticket)
        self._in_flight_bytes += ticket.size
        self._committer = committer
        if not committer.submit(ticket):
            self._paused = True
            committer.pause(self)

    def refuse(self, reply: bytes) -> None:
        """The answer to a command that goes nowhere, in its place among the others."""
        transaction = self.transaction
        if transaction is not None and transaction.executing:
            transaction.answer(reply)
            return
        self.server.tally.error(reply)
        if transaction is not None:
            self._out.append(transaction.refuse(reply))
        elif self._pending:
            self._pending.append(Ticket(self, reply=reply))
        else:
            self._out.append(reply)

    def spend(self) -> None:
        """The command at hand costs as much as a turn of small ones: the next one comes in another turn."""
        self._spent = True

    def wait(self) -> None:
        """The command at hand is answered later (``reply``); nothing of this client overtakes it."""
        if self.transaction is not None:
            self.transaction.begins()
        self._waiting = True

    def reply(self, reply: bytes, on_sent: OnSent | None = None, unread: Unread | None = None) -> None:
        """
        The answer that was waited for.

        Args:
            on_sent: Called once: True when the reply was handed to the kernel, False when it never will be.
            unread: Told when the client has gone without reading what the kernel had of it, as far as one can tell.
        """
        self.pop = None
        if self.transaction is not None:
            self.transaction.answer(reply, on_sent, unread)
            return
        self._waiting = False
        if reply[:1] == b"-":
            self.server.tally.error(reply)
        if unread is not None and not self.gone:
            self._unread = unread
            if wire.has_ended(self._socket):
                self.close()
        if self.gone:
            if on_sent is not None:
                on_sent(False)
            return
        self._out.append(reply)
        if on_sent is not None:
            self._on_sent = [*(self._on_sent or []), on_sent]
        self.proceed()

    def take(self, pop: Pop, puller: Puller) -> None:
        """The command at hand is *pop*, and *puller* serves it."""
        if self._state is State.ENDING:
            pop.client_ended()
        puller.add(pop)
        self.pop = pop

    def popped(self, pop: Pop) -> None:
        """The pop it was blocked in is over."""
        try:
            pulls.answer(self, pop)
        except Exception:  # noqa: BLE001 - a bug ends one connection, its jobs go back, and the log has it
            pop.taker.delivered(pop.got, sent=False)
            self.failed()

    def parted(self, pop: Pop) -> None:
        """Nothing is claimed any more for the pop it is blocked in."""
        if pop is self.pop:
            self._regulate()

    def refuse_blocked(self, reply: bytes) -> None:
        """The pop it was blocked in cannot be served in this process."""
        self.reply(reply)

    @property
    def _whole(self) -> Connection:
        return self

    def reads(self) -> Reader:
        """What it has read and nobody has settled: it is about to read."""
        if self.reader is None:
            self.reader = Reader(self)
        return self.reader

    def holds(self) -> None:
        """It has open claims from now on."""
        self.server.watch(self)
        self._look_for_death(keen=True)

    def time_over(self, claim: Claim) -> None:
        """The oldest job that it has read is not settled in time; the others may have been begun."""
        timeout_s = claim.topic.rules.timeout_s
        self.server.note_timeout(self, claim.topic.path, claim.delivery.id, timeout_s)
        self._leave(Verdict.TIMEOUT, f"no ack within {timeout_s:g} s", gone=False)
        self.close()

    def promise(self) -> Ticket:
        """A place among the replies for one that comes later, by ``fulfil``."""
        ticket = Ticket(self)
        if self.transaction is not None:
            return ticket
        if self._pending is None:
            self._pending = collections.deque()
        self._pending.append(ticket)
        return ticket

    def fulfil(self, ticket: Ticket, reply: bytes) -> None:
        """What was promised has come."""
        if self.transaction is not None:
            self.transaction.answer(reply)
            return
        self.server.tally.error(reply)
        ticket.reply = reply
        self.answered(ticket)
        self.proceed()

    def join(self) -> Ticket:
        """``promise`` and ``wait`` at once: only acks overtake an ack that is not answered (``conclude``)."""
        self.wait()
        if self.transaction is None:
            self._joined += 1
        return self.promise()

    def conclude(self, ticket: Ticket, reply: bytes) -> None:
        """``fulfil`` of what joined."""
        if self.gone:
            return
        if self.transaction is None:
            self._joined -= 1
            self._waiting = self._joined > 0
        self.fulfil(ticket, reply)

    def has_spent(self) -> bool:
        """Whether a costly command was done since this was asked last."""
        spent, self._spent = self._spent, False
        return spent

    def shut(self) -> None:
        """Send what there is to send, and do nothing of what follows."""
        self._state, self.gone = State.SHUT, True
        self.transact(None)
        self._queue, self._parser = [], RequestParser(self._parser.limits)
        self._shut_s = self.server.clock.monotonic_s()
        self.server.watch(self)

    def account(self) -> None:
        """Tell the server what is kept for this client."""
        if self._state is State.CLOSED:
            return
        held = self._parser.held_bytes + (len(self._unsent) if self._unsent is not None else 0)
        if self.transaction is not None:
            held += self.transaction.size
        change, self.held_bytes = held - self.held_bytes, held
        self.server.hold(change)

    def failed(self) -> None:
        """A bug ends it, and the log has it."""
        self.server.log.exception("client.failed", peer=self.peer)
        self.cut()

    # -- for the committer --------------------------------------------------------------------

    def answered(self, ticket: Ticket) -> None:
        """A ticket has its reply; it leaves when all before it have theirs."""
        self._in_flight_bytes -= ticket.size
        pending = self._pending
        while pending and (reply := pending[0].reply) is not None:
            self._out.append(reply)
            pending.popleft()
        if not pending:
            self._pending = None

    def settled(self, ticket: Ticket) -> None:
        """``answered`` and ``proceed`` at once."""
        if not short.answer(self, ticket):
            self.answered(ticket)
            self.proceed()

    def proceed(self) -> None:
        """Something it waited for has come: go on."""
        self._paused = self._postponed = False
        try:
            if self._queue or self._parser.unparsed_bytes:
                self._work()
            else:
                self._flush()
            if not self._reading:
                self._regulate()
        except Exception:  # noqa: BLE001 - a bug ends one connection, and the log has it
            self.failed()

    # -- for the server -----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """It is between two commands: nothing is owed in either direction."""
        return not (
            self._queue or self._pending or self._waiting or self.transaction or self._out or self._unsent is not None
            or self._parser.partial or self._parser.unparsed_bytes
        )

    def check(self, now_s: float) -> bool:
        """Once a second while watched: close it if it is too slow; False when nothing is to be watched."""
        limits = self.server.limits
        reading = self._check_reader(now_s)
        if self._state is State.SHUT and self._unsent is None and now_s - self._shut_s >= LINGER_S:
            self.close()
        elif self._unsent is not None and now_s - self._stuck_s >= limits.unread_time_s:
            self.server.note_slow(self, "unread_time")
            self.close()
        elif self._started_s is not None:
            if not self._reading or self._pending or self._waiting:
                self._started_s = now_s               # we kept it waiting; what came before is answered first
            elif now_s - self._started_s >= limits.command_time_s:
                self.server.note_slow(self, "command_time")
                text = f"ERR the command was not complete after {limits.command_time_s:g} s: not stored"
                self._out.append(error(text))
                self.shut()
                self._flush()
        if reading or self._state is State.SHUT or self.transaction is not None:
            return True
        return self._unsent is not None or self._started_s is not None

    def _check_reader(self, now_s: float) -> bool:
        """Whether it has to be looked at again because of what it reads."""
        if self.reader is None:
            return False
        self.reader.look(now_s)
        if not self.reader.claims:
            self._look_for_death(keen=False)
        return bool(self.reader.claims)

    def evict(self, limit_bytes: int) -> None:
        """Clients keep too much here, and this one the most."""
        self._leave(Verdict.UNSURE, _CLOSED, gone=False)
        self.server.note_slow(self, "memory" if self._unsent is None else "memory_replies")
        if self._unsent is not None or self._pending or self._waiting:
            self.close()                              # a word would be taken for the answer to what is not answered yet
            return
        what = f"unfinished commands of all clients have more than {limit_bytes >> 20} MiB, this one the most"
        self._out.append(error(f"UNAVAILABLE {what}: not stored, this connection ends"))
        self.shut()
        self._flush()
        self.account()

    def drain(self) -> None:
        """
        Close it if it is idle and has sent nothing more; else it is asked again.

        That of a living program stays: what its last job ended with is still to be said on it. So does that of a
        reader, until what it has read is settled.
        """
        if self.access.kind == "pepper" and not self.access.void:
            return
        if self.reader is not None and self.reader.claims:
            return
        if self._state is State.OPEN and self.idle:
            self._readable()
        if self.idle:
            self.close()

    def cut(self) -> None:
        """Close it for reasons of ours: what it has read is not its crash."""
        self._leave(Verdict.UNSURE, _CLOSED, gone=False)
        self.close()

    def _leave(self, verdict: Verdict, text: str, *, gone: bool) -> None:
        if self.reader is not None and self.reader.claims:
            self.reader.leave(verdict, text, gone=gone)

    def look(self) -> None:
        """What came with a handshake waits to be read, and nothing else will say so."""
        self._readable()

    def close(self) -> None:
        """Forget it; what it pushed is stored all the same, what it read or was about to take goes back."""
        if self._state is State.CLOSED:
            return
        self._state, self.gone = State.CLOSED, True
        self._reader.stop()
        self._reader.close()
        self._end_output()
        self._queue = []
        self.transact(None)
        self.server.held_bytes -= self.held_bytes
        self.held_bytes = 0
        if self.pop is not None:
            self.pop.taker.cancel(self.pop)
            self.pop = None
        self._aside = None
        self._tell_sent(False)
        self._leave(Verdict.CRASHED, _GONE, gone=True)
        self.server.closed(self)

    def _look_for_death(self, *, keen: bool) -> None:
        if keen is not self._keen:
            self._keen = keen
            limits = self.server.limits
            wire.look_for_death(self._socket, int(limits.keepalive_reader_s if keen else limits.keepalive_s), keen=keen)

    # -- input --------------------------------------------------------------------------------

    def _readable(self) -> None:
        committer = self._committer
        if committer is not None and committer.full and self._state is State.OPEN:
            self._paused = True                       # nobody reads what would have to wait in memory
            committer.pause(self)
            self._regulate()
            return
        try:
            data = self._socket.recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._lost(True)
            self.close()
            return
        if not data:
            self._ended()
            return
        if self._state is State.SHUT:
            return
        try:
            if not short.take(self, data):
                self._take_in(data)
        except Exception:  # noqa: BLE001 - a bug ends one connection, and the log has it
            self.failed()

    def _take_in(self, data: bytes) -> None:
        """Parse what came, and do what is complete."""
        parser = self._parser
        parser.feed(data)
        if not (self._waiting or self._postponed):
            self._work()
        if parser.partial or parser.unparsed_bytes or self.held_bytes:
            self.account()
        if self._paused or self._in_flight_bytes > short.IN_FLIGHT_BYTES or parser.unparsed_bytes > UNPARSED_BYTES:
            self._regulate()

    def _lost(self, unread: bool) -> None:
        """The client has gone: without having read the reply in question, or after it."""
        callback, self._unread = self._unread, None
        if callback is not None and unread:
            callback.unread()

    def _ended(self) -> None:
        """The client sends nothing more: what it sent is answered; who is blocked wants no answer."""
        if self._unread is not None:
            self._lost(wire.was_reset(self._socket))
        if self._state is State.SHUT or self.pop is not None:
            self.close()
            return
        self._state = State.ENDING
        self._work()
        self._regulate()

    def _work(self) -> None:
        """Execute what is complete, a bounded number of commands; the rest in the next turn."""
        parser, budget = self._parser, COMMANDS_A_TURN
        while not (self._waiting or self.gone or (self._unsent is not None and self._clogged)):
            if budget <= 0:
                self._postponed = True
                self.server.later(self)
                break
            if not self._queue and not self._parse(budget):
                if not parser.unparsed_bytes:
                    break
                budget = 0                            # it was all blank
                continue
            done = self._execute()
            if not done:
                break
            budget = 0 if self._spent else budget - done
            self._spent = False
            if not self._queue and not parser.unparsed_bytes:
                break
        if self._out or self._state is not State.OPEN:
            self._flush()
        if parser.partial and self._started_s is None and self._state is State.OPEN:
            self._started_s = self.server.clock.monotonic_s()
            self.server.watch(self)

    def _parse(self, budget: int) -> bool:
        """Whether there is a complete command."""
        self._unread = None                           # who goes on has read what was sent
        self._queue = self._parser.parse(min(budget, self._most))
        if self._queue:
            self._started_s = None
        return bool(self._queue)

    def _execute(self) -> int:
        """Events of the queue until one has to wait for those before it; how many commands that was."""
        queue, done = self._queue, 0
        self._queue = []
        for place, event in enumerate(queue):
            if type(event) is Run:
                if pushes.run(self, event):
                    done += len(event.lasts)
                    continue
                self._queue = [[*event.head, last] for last in event.lasts] + queue[place + 1:]
                return done if done and not self._joined else done + self._execute()
            if self._pending and not self._joined and commands.is_barrier(event):
                self._queue = queue[place:]
                return done
            done += 1
            self._run(event)
            if self._joined and place + 1 < len(queue) and commands.is_ack(queue[place + 1]):
                continue
            if self._waiting or self.gone or self._spent:
                self._queue = [] if self.gone else queue[place + 1:]
                return done
        return done

    def _run(self, event: Event) -> None:
        if isinstance(event, list):
            reply = commands.execute(self, event)
            if reply is not None:
                if reply[:1] == b"-":
                    self.server.tally.error(reply)
                if self._pending:                     # acks that are not answered yet
                    self._pending.append(Ticket(self, reply=reply))
                else:
                    self._out.append(reply)
        elif isinstance(event, TooBig):
            self.server.tally.limit(event.what)
            commands.refuse_too_big(self, event)
        elif isinstance(event, ProtocolError):
            self.server.note_garbage(self, event.reply)
            self._out.append(error(f"{event.reply}: not stored, this connection ends"))
            self.shut()

    def _regulate(self) -> None:
        """Read on, or wait until what was read is dealt with."""
        if self._state is State.CLOSED:
            return
        if self._parting is not None:
            self._look_whether_parted()
            return
        wanted = self._state is State.SHUT or (
            self._state is State.OPEN
            and not self._paused
            and not self._clogged
            and self._in_flight_bytes <= short.IN_FLIGHT_BYTES
            and self._parser.unparsed_bytes <= UNPARSED_BYTES
        )
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._reader.start(self._readable)
            else:
                self._reader.stop()
                if self._clogged:
                    self.server.tally.limit("unread")

    @property
    def _all_answered(self) -> bool:
        aside = self._aside is not None               # it may have more to say, to another process
        return not (aside or self._queue or self._pending or self._waiting or self._parser.unparsed_bytes)

    def _watch(self) -> None:
        self.server.watch(self)
