"""
The door: accepts connections, and does for all of them what is done once a turn or once a second.

Rule: nobody waits here. Everything runs in callbacks of the loop, except calls of a store, which
have greenlets of their own. Accepting is fair: few a turn, none while this child holds far more
than its siblings or while descriptors are short.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gevent
import gevent.monkey

from pbus.codec.handover import Record
from pbus.codec.resp import Limits
from pbus.codec.resp_reply import error
from pbus.config.schema import Ingest
from pbus.errors import StorageError
from pbus.ingest.access import Access, Directory, TopicEntry
from pbus.ingest import wire
from pbus.ingest.carried import Cargo
from pbus.ingest.connection import Connection
from pbus.ingest.failures import Failures
from pbus.ingest.guesses import Guesses
from pbus.ingest.holder import Holder
from pbus.ingest.portable import Portable
from pbus.ingest.puller import Puller
from pbus.ingest.store import Store
from pbus.ingest.tally import SLOW, Tally
from pbus.ingest.tls import Certificates, Reception
from pbus.ingest.tokens import Tokens
from pbus.ingest.wire import KEEPALIVE_TRIES
from pbus.supervisor.child import Child
from pbus.telemetry import log as logs

ACCEPTS_A_TURN: Final = 8
SHORT_PAUSE_S: Final = 1.0
"""How long no connection is accepted when descriptors have run out."""
COMMAND_BYTES_BEFORE_AUTH: Final = 1024 * 1024
COMMAND_BYTES: Final = 64 * 1024 * 1024
"""One command as a whole; twice the largest body where that is more."""
LEAST_BULK_BYTES: Final = 1024
FEW_CONNECTIONS: Final = 128
"""Room for fewer is a problem, not just a note."""
_SWEEP_S: Final = 1.0
_SPARE: Final = 16
_RESERVED_FILES: Final = 32
_LOGGED_A_SWEEP: Final = 10
_SAID_EVERY_S: Final = 10.0
"""Between two lines about the same lack of descriptors."""
_SHORT_ERRORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOOPBACK: Final = ("127.", "::ffff:127.")
_LOOPBACK_6: Final = "::1"
_READ: Final = 1

# The interpreter's own class: gevent's makes two watchers a socket, and connections have their own.
_Socket: Any = gevent.monkey.get_original("socket", "socket")


class Server:
    """
    Every connection of one ingest child. One per child; owns its connections and listeners.

    Attributes:
        connections: Those that are open.
        directory: Names and identities.
        stores: By name.
        limits: What a client may ask for.
        most_connections: How many may be open at once.
        held_bytes: What is kept for all of them: unfinished commands, unread replies.
        guesses: Who tried wrong passwords.
        failures: Who failed to prove who they are, to be told.
        tokens: Who bears a token.
        tally: What was refused, and who was closed.
        reception: Who has not shaken hands yet; None: no door speaks TLS.
        small_bodies: The largest body is less than what names need, so the parser does not check bodies.
    """

    exports_spans = False
    """What jobs push are children of their spans; set before ``start`` where there is a receiver of [otel]."""

    def __init__(
        self, child: Child, ingest: Ingest, directory: Directory, stores: Mapping[str, Store],
        certificates: Certificates | None = None,
    ) -> None:
        """*certificates*: of the doors that speak TLS; None: none does."""
        self.clock = child.clock
        self.loop = gevent.get_hub().loop
        self.limits = ingest.limits
        self.max_body_bytes = ingest.max_body_bytes
        self.directory = directory
        self.stores = stores
        self.connections: dict[Connection, None] = {}
        self.held_bytes = 0
        self.guesses = Guesses(child.clock)
        self.tokens = Tokens(child)
        self.tally = Tally()
        self.failures = Failures(directory)
        for store in stores.values():
            store.committer.refusing = self.tally.refuse
        self.accepted_total = 0
        self.rejected_total = 0
        self._admitted = 0
        self.owner = str(child.owner)
        self.pid = os.getpid()
        self._began_s = child.clock.monotonic_s()
        self._child = child
        self.log = child.log
        self._alone = ingest.processes == 1
        self.most_connections = self._connections_allowed()
        self.small_bodies = ingest.max_body_bytes < LEAST_BULK_BYTES
        self._full, self._before_auth = self._parser_limits(ingest)
        self._most_held = max(ingest.limits.memory_bytes, 4 * self._full.command_bytes)
        self._listeners, self._receives = _listeners(child.listeners, ingest)
        self.reception = Reception(self, certificates) if certificates is not None else None
        self._acceptors = [self.loop.io(sock.fileno(), _READ) for sock in self._listeners]
        self._accepting = False
        self._pause_until_s = 0.0
        self._pause_said_s = float("-inf")
        self._watched: dict[Any, None] = {}           # connections, as the next one
        self._later: dict[Any, None] = {}
        self._later_timer = self.loop.timer(0.0)
        self._sweep_timer = self.loop.timer(_SWEEP_S, _SWEEP_S)
        self._logged = 0
        self._unlogged = 0
        self._open = self._draining = False

    def _connections_allowed(self) -> int:
        """As configured, or as many as there are descriptors for (some stay for the stores and the log)."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = max(0, allowed - len(os.listdir("/proc/self/fd")) - _RESERVED_FILES)
        wanted = self.limits.connections
        if free < wanted:
            self.log.warning("connections.limited", wanted=wanted, possible=free, descriptors=allowed)
        if free < min(wanted, FEW_CONNECTIONS):
            what = f"{free} connections fit into {allowed} descriptors, ingest.limits.connections allows {wanted}"
            self._child.problem("descriptors", f"{what}: raise 'ulimit -n' (systemd: LimitNOFILE) of the bus")
        return min(free, wanted)

    @staticmethod
    def _parser_limits(ingest: Ingest) -> tuple[Limits, Limits]:
        limits = ingest.limits
        bulk = max(ingest.max_body_bytes, LEAST_BULK_BYTES)
        full = Limits(limits.elements, bulk, max(COMMAND_BYTES, 2 * bulk), limits.inline_bytes)
        early = Limits(
            min(limits.elements, limits.elements_before_auth), min(limits.bulk_before_auth_bytes, bulk),
            min(COMMAND_BYTES_BEFORE_AUTH, full.command_bytes), limits.inline_bytes,
        )
        return full, early

    # -- life ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Do what is done once a second; connections may come from other children."""
        logs.hold()
        self._sweep_timer.start(self._sweep)

    def start(self) -> None:
        """Accept, too; idempotent."""
        if not self._sweep_timer.active:
            self.begin()
        self._open = True
        self._accept_from(True)

    def shut_doors(self) -> None:
        """Take no new connection; those that are here go on."""
        self._open = False
        self._accept_from(False)
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            acceptor.close()
        for listener in self._listeners if acceptors else ():
            self.let_go(listener)

    def drain(self) -> None:
        """Take no new connection, answer what has begun, close whoever is between two commands."""
        if self._draining:
            return
        self.shut_doors()
        self._draining = True
        if self.reception is not None:
            self.reception.close()
        for store in self.stores.values():
            store.puller.end_blocked()
            store.holder.end_blocked()
        self._drain_idle()

    def _drain_idle(self) -> None:
        for connection in list(self.connections):
            connection.drain()

    @property
    def idle(self) -> bool:
        """Nothing is owed to anybody; while draining, whoever became idle is closed first."""
        if self._draining:
            self._drain_idle()
        stores = self.stores.values()
        if self.connections:
            return False
        return all(store.committer.idle and store.puller.idle and store.holder.idle for store in stores)

    def close(self) -> None:
        """The grace is over."""
        for connection in list(self.connections):
            connection.cut()

    # -- accepting ----------------------------------------------------------------------------

    def _accept_from(self, wanted: bool) -> None:
        if wanted is self._accepting:
            return
        self._accepting = wanted
        for acceptor, listener, receives in zip(self._acceptors, self._listeners, self._receives, strict=False):
            if wanted:
                acceptor.start(self._accept, listener, self.reception if receives else None)
            else:
                acceptor.stop()

    def _accept(self, listener: Any, reception: Reception | None) -> None:
        for _ in range(ACCEPTS_A_TURN if self._alone else 1):
            try:
                # accept() would wrap it in the class that gevent put in place of the interpreter's.
                descriptor, address = listener._accept()
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno in _SHORT_ERRORS:
                    self._pause(f"no descriptors left ({failure.strerror})")
                return                                # else the client has given up already
            sock = _Socket(listener.family, listener.type, listener.proto, fileno=descriptor)
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX:
                self.welcome(sock, "unix", local=True)
            else:
                self.welcome(sock, f"{address[0]}:{address[1]}", _is_here(address[0]), reception)

    def welcome(self, sock: Any, peer: str, local: bool, reception: Reception | None = None) -> None:
        """A connection has come in; *local*: from this machine; *reception*: to a door that speaks TLS."""
        self.accepted_total += 1
        if self.connections_now >= self.most_connections:
            self.rejected_total += 1
            self.tally.close("connections")
            if reception is None:
                with contextlib.suppress(OSError):    # it may be gone already
                    sock.send(error("ERR max number of clients reached"))
            sock.close()
        elif reception is not None:
            reception.receive(sock, peer, local)
        else:
            self.admit(sock, peer, local)

    def admit(self, sock: Any, peer: str, local: bool) -> Connection:
        """It may speak."""
        self._admitted += 1
        connection = Connection(self, sock, self._admitted, peer, self.directory.nobody(local))
        self.connections[connection] = None
        return connection

    def _pause(self, why: str) -> None:
        """Accept nothing for a moment; said once in ten seconds."""
        now_s = self.clock.monotonic_s()
        if now_s >= self._pause_said_s + _SAID_EVERY_S:
            self._pause_said_s = now_s
            self.log.error("accept.paused", reason=why, connections=len(self.connections))
        self._pause_until_s = now_s + SHORT_PAUSE_S
        self._accept_from(False)

    def _far_above_siblings(self) -> bool:
        """This child holds well more connections than the mean of the ingest children."""
        if self._alone:
            return False
        counts = [row.connections for row in self._child.scoreboard.living() if row.role == self._child.spec.role]
        mean = sum(counts) / max(1, len(counts))
        return len(self.connections) > 1.25 * mean + _SPARE

    # -- for connections ----------------------------------------------------------------------

    def limits_of(self, access: Access) -> Limits:
        """What one command of that identity may be."""
        return self._full if self.directory.known(access) else self._before_auth

    def closed(self, connection: Any) -> None:
        """It is gone."""
        self.connections.pop(connection, None)
        self._watched.pop(connection, None)
        self._later.pop(connection, None)

    def watch(self, connection: Portable) -> None:
        """Something of it must not take for ever: look at it once a second."""
        self._watched[connection] = None

    def hold(self, change_bytes: int) -> None:
        """A connection keeps that much more (or less); when all keep too much, those with the most go."""
        self.held_bytes += change_bytes
        if self.held_bytes > self._most_held and change_bytes > 0:
            # Not one at a time: finding the largest means looking at all.
            for connection in sorted(self._watched, key=lambda one: one.held_bytes, reverse=True):
                if self.held_bytes <= self._most_held // 8 * 7:
                    break
                connection.evict(self._most_held)

    def later(self, connection: Connection) -> None:
        """It has had its share of this turn: go on in the next."""
        if not self._later:
            self._later_timer.start(self._next_turn)
        self._later[connection] = None

    def set_aside(self, connection: Portable) -> None:
        """It is about to leave for another process: nothing is done with it here."""
        self._watched.pop(connection, None)
        self._later.pop(connection, None)

    def let_go(self, sock: Any) -> None:
        """Close our end of a socket that another process has: the loop would hear of it for ever."""
        wire.forget(self.loop, sock.fileno())
        sock.close()

    def carry_on(self, sock: Any, record: Record, cargo: Cargo) -> Connection:
        """A connection that has come from another child."""
        self._admitted = max(self._admitted, record.id)
        access = self.directory.readmit(record.identity, self.tokens.lives)
        connection = Connection(self, sock, record.id, record.peer, access)
        self.connections[connection] = None
        connection.carry_on(record, cargo)
        return connection

    def ask(self, connection: Connection, read: Callable[[], bytes]) -> None:
        """Answer the command at hand with *read*, which asks a store and may take its time."""
        connection.wait()
        gevent.spawn(self._answer, connection, read)

    def after(self, connection: Connection, seconds: float, answer: Callable[[], bytes]) -> None:
        """Answer the command at hand with *answer*, called in so many seconds."""
        connection.wait()
        gevent.spawn_later(seconds, self._answer, connection, answer)

    def puller(self, topic: TopicEntry) -> Puller:
        """Who claims for that topic."""
        return self.stores[self.directory.queues[topic.queue].storage].puller

    def holder(self, topic: TopicEntry) -> Holder:
        """Who claims for programs of that topic."""
        return self.stores[self.directory.queues[topic.queue].storage].holder

    @staticmethod
    def _answer(connection: Connection, read: Callable[[], bytes]) -> None:
        try:
            reply = read()
        except StorageError as failure:
            reply = error(f"UNAVAILABLE {failure}: nothing is known, try again in 1 s")
        except Exception:                             # one command, one reply, whatever it is; the log has it
            connection.server.log.exception("client.failed", peer=connection.peer)
            reply = error("ERR internal error, the log of the bus says more: nothing is known")
        connection.reply(reply)

    def _next_turn(self) -> None:
        connections, self._later = list(self._later), {}
        for connection in connections:
            connection.proceed()

    # -- once a second ------------------------------------------------------------------------

    def _sweep(self) -> None:
        now_s = self.clock.monotonic_s()
        for connection in list(self._watched):
            if not connection.check(now_s):
                self._watched.pop(connection, None)
        if self._open:
            self._accept_from(now_s >= self._pause_until_s and not self._far_above_siblings())
        if self.reception is not None:
            self.reception.sweep(now_s, self.limits.command_time_s)
        self._child.slot.update(
            connections=self.connections_now, done=self.stored_total, failed=self.refused_total
        )
        self._tell()
        if self._unlogged:
            self.log.warning("client.more", count=self._unlogged)
        self._logged = self._unlogged = 0

    def _tell(self) -> None:
        """The master hears what was refused since the last time."""
        news, failed = self.tally.news(), self.failures.take()
        for address, _, tried, count in failed:
            self._say("auth.refused", address, identity=tried, count=count)
        if news or failed:
            self._child.tell("door", **news, failed=failed)

    def refused(self, connection: Connection, key: bytes, text: str, bodies: Sequence[bytes] = ()) -> None:
        """A push to *key* was refused with *text*: somebody may ask what became of it."""
        queue = self.directory.queue(key)
        store = self.stores[queue.storage] if queue is not None else next(iter(self.stores.values()))
        if store.stories is not None:
            store.stories.refused(queue.name if queue is not None else "", text, connection, bodies)

    # -- numbers and notes --------------------------------------------------------------------

    @property
    def connections_now(self) -> int:
        """Those who have not shaken hands yet, too."""
        return len(self.connections) + len(self.reception or ())

    @property
    def stored_total(self) -> int:
        """Pushes stored by this child."""
        return sum(store.committer.stored_total for store in self.stores.values())

    @property
    def refused_total(self) -> int:
        """Pushes refused because a store was away."""
        return sum(store.committer.refused_total for store in self.stores.values())

    @property
    def uptime_s(self) -> float:
        """Age of this child."""
        return self.clock.monotonic_s() - self._began_s

    def note_slow(self, connection: Connection, why: str) -> None:
        """A client is closed because it is too slow (``tally.SLOW``)."""
        self.tally.close(why)
        self._note("client.slow", connection, reason=SLOW[why])

    def note_timeout(self, connection: Connection, path: str, job: str, timeout_s: float) -> None:
        """A client is closed because it has read a job and not settled it in time."""
        self.tally.close("timeout")
        self._note("client.timeout", connection, topic=path, job=job, timeout=f"{timeout_s:g} s")

    def note_garbage(self, connection: Connection, what: str) -> None:
        """A client is closed because it does not speak the protocol."""
        self.tally.close("inline" if what.endswith("inline request") else "garbage")
        self._note("client.garbage", connection, reason=what)

    def note_handshake(self, peer: str, reason: str, what: str) -> None:
        """A client of a door that speaks TLS is closed; *reason* is counted, *what* is told."""
        self.tally.close(reason)
        self._say("client.garbage", peer, reason=what)

    def note_certificates(self, renewed: bool, problem: str) -> None:
        """Whether the files of ``[ingest] tls`` were renewed, and what is wrong with them."""
        if renewed:
            self.log.info("tls.renewed")
        self._child.problem("tls", problem)

    def _note(self, event: str, connection: Connection, **fields: str) -> None:
        self._say(event, connection.peer, **fields)

    def _say(self, event: str, peer: str, **fields: object) -> None:
        """One line in the log; a flood of them is counted."""
        if self._logged >= _LOGGED_A_SWEEP:
            self._unlogged += 1
            return
        self._logged += 1
        self.log.warning(event, peer=peer, **fields)


def _is_here(host: str) -> bool:
    """Whether a peer's address is this machine's own; ``::1`` is one address, ``::1:2`` is somebody else's."""
    return host == _LOOPBACK_6 or host.startswith(_LOOPBACK)


def _listeners(named: Mapping[str, Any], ingest: Ingest) -> tuple[list[Any], list[bool]]:
    """The doors, and which of them speak TLS; ``ingest.0`` is the first of ``listen``."""
    places = sorted(int(name.rpartition(".")[2]) for name in named if name.startswith("ingest."))
    keepalive_s = int(ingest.limits.keepalive_s)
    listeners = [_listener(named[f"ingest.{place}"], keepalive_s) for place in places]
    return listeners, [not ingest.doors[place].plain for place in places]


def _listener(sock: Any, keepalive_s: int) -> Any:
    """*sock* as the interpreter's own; what is set here, accepted connections inherit (Linux)."""
    listener = _Socket(fileno=os.dup(sock.fileno()))
    sock.close()
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive_s)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive_s)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TRIES)
    return listener
