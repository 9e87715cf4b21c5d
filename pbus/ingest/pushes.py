"""
Pushes: LPUSH, RPUSH, XADD, PBUS.ADD, PUBLISH, and how each is answered.

Rule: a push is refused alone and says what is stored; never ``-ERR`` (phpredis makes that a silent
false), never 0 (programs take it for a failure and push again).
"""

# ruff: noqa: ARG002 - the ways to answer have one signature
from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pbus.codec import pepper
from pbus.codec.resp import Run, TooBig
from pbus.codec.resp_reply import bulk, error, integer
from pbus.core.job import Push, PushOptions
from pbus.core.names import is_name
from pbus.core.plain import Plain
from pbus.ingest import options, programs
from pbus.ingest.access import QueueEntry
from pbus.ingest.committer import Form, Ticket
from pbus.ingest.options import Refused
from pbus.ingest.store import Store
from pbus.ingest.words import shown
from pbus.storage.driver import Appended

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection
    from pbus.ingest.parents import Parent


class Backlog:
    """An integer: the queue's backlog after the write."""

    alike = True

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        # One append computes the backlog once a queue, after all of its pushes.
        reply = integer(appended[-1].backlog)
        return reply * len(appended) if each else reply

    def refused(self, text: str, commands: int) -> bytes:
        return error(text) * commands


class Ids(Backlog):
    """The job's id."""

    alike = False

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        return b"".join([bulk(one.id.encode()) for one in appended])


class Topics(Backlog):
    """An integer: how many topics get it."""

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        return integer(appended[0].topics)


class PepperJson:
    """
    The old contract: a bulk of JSON, whatever happened.

    Attributes:
        traceparent: Of this one command: its jobs are one trace.
    """

    alike = False

    def __init__(self) -> None:
        self._trace = os.urandom(16).hex()
        self.traceparent = f"00-{self._trace}-{self._trace[:16]}-01"  # made here: no span of anybody

    def stored(self, appended: Sequence[Appended], each: bool) -> bytes:
        return bulk(pepper.pushed_json([one.id for one in appended], self._trace))

    def refused(self, text: str, commands: int) -> bytes:
        return bulk(pepper.pushed_json(None, self._trace, text)) * commands

    def adopt(self, parent: Parent) -> None:
        """Its jobs are in the trace of *parent*."""
        (self.traceparent,) = parent.children(1)
        self._trace = self.traceparent.split("-")[1]


class QueuedPepperJson(PepperJson):
    """The same between MULTI and EXEC, where clients read one line: QUEUED, or an error."""

    def refused(self, text: str, commands: int) -> bytes:
        return error(text) * commands


BACKLOG: Final = Backlog()
IDS: Final = Ids()
TOPICS: Final = Topics()
_RUN_FORMS: Final[dict[bytes, Form]] = {
    b"LPUSH": BACKLOG, b"lpush": BACKLOG, b"lPush": BACKLOG, b"RPUSH": BACKLOG, b"rpush": BACKLOG, b"rPush": BACKLOG,
    b"PBUS.ADD": IDS, b"pbus.add": IDS,
}


@dataclass(frozen=True, slots=True)
class Route:
    """
    Where a key leads, for an identity that may push there.

    Attributes:
        name: The queue.
        store: Where it is kept.
        closed: The list of the store's gate; looked at by *importance*.
        ttl: Options of a push that says nothing: the queue's own ttl; None: it has none.
    """

    name: str
    store: Store
    closed: list[str]
    importance: int
    ttl: PushOptions | None = None

    @property
    def refusal(self) -> str:
        """What a push is told that may not come near the store now; empty: it may."""
        return self.closed[self.importance]


def run(connection: Connection, commands: Run) -> bool:
    """
    Pushes of one body each to one queue, as long as nothing about them is special; False: it is.

    This is what producers do all day, so it is short: the head has been checked when its route was
    made, and the parser has checked the lengths.
    """
    head = commands.head
    form = _RUN_FORMS.get(head[0])
    if form is None or len(head) != 2:
        return False
    access = connection.access
    route: Route | None = connection.routes.get(head[1])
    if route is None or route.closed[route.importance] or connection.server.small_bodies:
        return False
    if access.lives is not None and not access.lives():
        return False
    queue, bodies = route.name, commands.lasts
    if route.ttl is not None:
        ttl = route.ttl
        pushes = [Push(queue, body, options=ttl) for body in bodies]
        ticket = Ticket(connection, pushes, sum(map(len, bodies)), True, form)
    else:
        ticket = Ticket(connection, Plain(queue, bodies), sum(map(len, bodies)), True, form)
    connection.submit(ticket, route.store.committer)
    return True


def lpush(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``LPUSH queue body [body ..]``, ``RPUSH``: one job a body, all or nothing."""
    if programs.is_push_back(connection, arguments):
        if connection.transaction is not None and not connection.transaction.executing:
            return connection.transaction.add(lpush, arguments)
        programs.push_back(connection, arguments)
        return None
    form = form_of(connection, arguments)
    try:
        route = _route(connection, arguments[1])
        traceparent = form.traceparent if isinstance(form, PepperJson) else ""
        pushes = [Push(route.name, body, traceparent, "", route.ttl, 0) for body in arguments[2:]]
        pushes[0].span = len(pushes)
        return _submit(connection, route, pushes, form)
    except Refused as refused:
        _refuse(connection, form, arguments, str(refused), arguments[2:])
    return None


def xadd(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``XADD queue * body B [delay MS] [dedupe K] [ttl MS] [key K] [traceparent T]``."""
    try:
        route = _route(connection, arguments[1])
        if arguments[2] != b"*":
            text = f"XADD takes * as its id, not '{shown(arguments[2])}' (ids are made here)"
            raise Refused(f"BADVALUE {text}: not stored")
        asked = _asked(connection, route, arguments[3:], options.BODY)
        if asked.body is None:
            raise Refused("BADVALUE XADD needs the field body: not stored")
        return _submit(connection, route, [Push(route.name, asked.body, asked.traceparent, "", asked.options)], IDS)
    except Refused as refused:
        _refuse(connection, IDS, arguments, str(refused), arguments[2:])
    return None


def add(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``PBUS.ADD queue body [DELAY ms] [DEDUPE k] [TTL ms] [KEY k] [TRACEPARENT t]``."""
    try:
        route = _route(connection, arguments[1])
        asked = _asked(connection, route, arguments[3:])
        return _submit(connection, route, [Push(route.name, arguments[2], asked.traceparent, "", asked.options)], IDS)
    except Refused as refused:
        _refuse(connection, IDS, arguments, str(refused), arguments[2:])
    return None


def _asked(connection: Connection, route: Route, pairs: Sequence[bytes], also: bytes = b"") -> options.Asked:
    """What a typed push asks for. Raises Refused."""
    ttl_ms = route.ttl.ttl_ms if route.ttl else 0
    return options.read(pairs, ttl_ms, also, connection.server.limits.option_bytes)


def publish(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``PUBLISH queue body``: the number of topics that get it."""
    try:
        route = _route(connection, arguments[1])
        return _submit(connection, route, [Push(route.name, arguments[2], options=route.ttl)], TOPICS)
    except Refused as refused:
        _refuse(connection, IDS, arguments, str(refused), arguments[2:])
    return None


def refuse(connection: Connection, arguments: Sequence[bytes], text: str) -> None:
    """A push that is not even looked at, answered in its own form."""
    _refuse(connection, form_of(connection, arguments), arguments, text, arguments[2:])


def form_of(connection: Connection, arguments: Sequence[bytes]) -> Form:
    """How a push is answered, known before anything is known of whether it may: JSON to ``LPUSH pepper-queue/any``."""
    if len(arguments) > 1 and arguments[0].lower() in (b"lpush", b"rpush"):
        directory, key = connection.server.directory, arguments[1]
        name, slash, _ = key.partition(b"/")
        queue = directory.queue(name) if slash and directory.queue(key) is None else None
        if queue is not None and queue.pepper:
            return PepperJson() if connection.transaction is None else QueuedPepperJson()
    return BACKLOG


def refuse_too_big(connection: Connection, name: str, event: TooBig) -> None:
    """The answer to a push with an argument over the limit (or all of them together)."""
    form = form_of(connection, event.kept)
    try:
        where = shown(event.kept[1]) if len(event.kept) > 1 else name.upper()
        if len(event.kept) > 1:
            _route(connection, event.kept[1])
        kind = "bytes a body" if event.what == "bulk" else "bytes a command"
        size = f", this one has {event.size}" if event.what == "bulk" else ""
        raise Refused(f"TOOBIG {where} takes at most {event.limit} {kind}{size}: not stored, send it smaller")
    except Refused as refused:
        _refuse(connection, form, event.kept, str(refused))


def _refuse(
    connection: Connection, form: Form, arguments: Sequence[bytes], text: str, bodies: Sequence[bytes] = ()
) -> None:
    """Answer a push that is not stored, in its form; *bodies*: they may have options among them."""
    connection.refuse(form.refused(text, 1))
    if len(arguments) > 1:
        connection.server.refused(connection, arguments[1], text, bodies)


def adopt(parent: Parent, ticket: Ticket) -> None:
    """The pushes of *ticket* that bring no trace of their own are children of *parent*."""
    if isinstance(ticket.form, PepperJson):           # its trace is ours
        ticket.form.adopt(parent)
        for push in ticket.pushes:
            push.traceparent = ticket.form.traceparent
        return
    orphans = [push for push in ticket.pushes if not push.traceparent]
    for push, traceparent in zip(orphans, parent.children(len(orphans)), strict=True):
        push.traceparent = traceparent


def _submit(connection: Connection, route: Route, pushes: list[Push], form: Form) -> bytes | None:
    most = connection.server.max_body_bytes
    for push in pushes:
        if len(push.body) > most:
            text = f"TOOBIG {route.name} takes at most {most} bytes a body, this one has {len(push.body)}"
            raise Refused(f"{text}: not stored, send it smaller")
    if route.refusal:
        route.store.committer.refused_total += len(pushes)
        connection.refuse(form.refused(route.refusal, 1))
        if route.store.stories is not None:
            route.store.stories.refused(route.name, route.refusal, connection, [push.body for push in pushes])
        return None
    size = sum([len(push.body) for push in pushes])
    ticket = Ticket(connection, pushes, size, False, form)
    if connection.transaction is not None:
        return connection.transaction.add_push(ticket, route)
    if connection.parent is not None:
        adopt(connection.parent, ticket)
    connection.submit(ticket, route.store.committer)
    return None


def _route(connection: Connection, key: bytes) -> Route:
    """
    Where *key* leads; remembered for the identity, so that the checks are made once.

    Raises:
        Refused: nowhere, or this identity may not.
    """
    routes = connection.access.routes
    known: Route | None = routes.get(key)
    if known is not None:
        return known
    server = connection.server
    queue = server.directory.queue(key)
    if queue is not None:
        route = routes[key] = _route_to(_checked(connection, queue), server.stores[queue.storage])
        return route
    name, slash, _ = key.partition(b"/")
    queue = server.directory.queue(name) if slash else None
    if queue is not None:
        _checked(connection, queue)  # who may not push is not told which topics there are
        if queue.pepper:
            return _route_to(queue, server.stores[queue.storage])
    raise Refused(_no_queue(connection, key, queue))


def _route_to(queue: QueueEntry, store: Store) -> Route:
    ttl = PushOptions(ttl_ms=queue.ttl_ms) if queue.ttl_ms else None
    return Route(queue.name, store, store.gate.closed, queue.importance, ttl)


def _checked(connection: Connection, queue: QueueEntry) -> QueueEntry:
    access = connection.access
    if not access.may_push(queue):
        if access.kind == "nobody":
            raise Refused(f"NOAUTH {queue.name} needs AUTH {queue.name} PASSWORD first: not stored")
        if access.kind == "topic" and access.name.partition("/")[0] == queue.name:
            raise Refused(f"NOPERM {access.name} is a topic and only takes; AUTH {queue.name} pushes: not stored")
        if access.kind == "pepper":
            raise Refused(f"NOPERM the token of {access.name} may not push to {queue.name}: not stored")
        raise Refused(f"NOPERM {access.name} may not push to {queue.name}: not stored")
    if queue.name in connection.server.directory.gone:
        why = "is not in the configuration any more, what it has is finished"
        raise Refused(f"NOQUEUE '{queue.name}' {why}: not stored")
    if not queue.topics:
        text = f"NOTOPIC {queue.name} has no topic, nobody would get the job: not stored"
        raise Refused(f"{text}, add [queue.{queue.name}.topic.NAME] to the configuration")
    return queue


def _no_queue(connection: Connection, key: bytes, queue: QueueEntry | None) -> str:
    name = shown(key)
    if queue is not None:
        if name.partition("/")[2] in queue.topics:
            return f"NOQUEUE '{name}' is a topic; push to '{queue.name}': not stored"
        return f"NOQUEUE '{name}' is no queue; push to '{queue.name}', all of its topics get the job: not stored"
    allowed = [entry.name for entry in connection.server.directory.queues.values() if connection.access.may_push(entry)]
    first = name.partition("/")[0]
    near = difflib.get_close_matches(first[:64], allowed, n=1)
    hint = ", the name of a queue has letters, digits, '_', '.' and '-'"
    if near:
        hint = f", did you mean '{near[0]}'?"
    elif is_name(first):
        hint = f", add [queue.{first}] to the configuration"
    return f"NOQUEUE there is no queue '{name}': not stored{hint}"
