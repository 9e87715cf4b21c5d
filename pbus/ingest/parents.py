"""
PBUS.PARENT: what a connection pushes belongs to the trace of the job that it works on.

    PBUS.PARENT id traceparent    later pushes without a trace of their own are in that one
    PBUS.PARENT id                the same; the bus looks up what trace the job brought
    PBUS.PARENT ""                no more

Rule: a trace helps people and stops nothing: a job that nobody finds has the trace that is made of its id,
which is the one its handlers saw. What a client may neither push to nor pull from is not looked at.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pbus.codec.resp_reply import OK, error
from pbus.core.names import JOB_ID
from pbus.core.traceparent import children_of, is_sampled
from pbus.ingest import options
from pbus.ingest.options import Refused
from pbus.ingest.words import shown
from pbus.storage.driver import JobRecord

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

SPAN_BYTES: Final = 8
LOOKED_AT: Final = 100
"""Queues in which a job is looked for: each is a call of a store."""
_RUNNING: Final = "running"


@dataclass(frozen=True, slots=True)
class Parent:
    """
    A job whose children are pushed.

    Attributes:
        id: The job; empty: there is none (any more).
        traceparent: As it was pushed, or empty; None: it has to be looked up.
        is_exported: Spans are: what it pushes is a child of the span that is named there, not of one nobody exports.
    """

    id: str
    traceparent: str | None = ""
    is_exported: bool = False

    def children(self, count: int) -> list[str]:
        """Trace contexts of so many things that it pushes, each with a span of its own (or of the job's span)."""
        if self.is_exported and is_sampled(self.traceparent or ""):
            return [self.traceparent or ""] * count
        return children_of(self.traceparent or "", self.id, os.urandom(SPAN_BYTES * count))


def name_parent(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``PBUS.PARENT id [traceparent]``: later pushes of this connection are that job's children; no id: nobody's."""
    try:
        parent = _read(arguments, connection.server.limits.option_bytes)
        if connection.server.exports_spans:
            parent = dataclasses.replace(parent, is_exported=True)
    except Refused as refused:
        reply = error(str(refused))
        return reply if connection.transaction is None else connection.transaction.refuse(reply)
    if connection.transaction is not None:
        return connection.transaction.add_parent(parent)
    if parent.traceparent is not None:
        connection.adopt(parent if parent.id else None)
        return OK

    connection.spend()

    def look() -> bytes:
        connection.adopt(found(connection, parent))
        return OK

    connection.server.ask(connection, look)
    return None


def found(connection: Connection, parent: Parent) -> Parent:
    """
    *parent* with the trace that it brought; asks stores where the connection has not read it itself.

    Ids are unique within a queue. Where several queues have that one, it is the one that runs now; where that is not
    one alone either, nobody can tell and none is taken.

    Raises:
        StorageError: a store cannot be asked now.
    """
    if connection.reader is not None:
        read = [claim.delivery for claim in connection.reader.claims.values() if claim.delivery.id == parent.id]
        if len(read) == 1:
            return dataclasses.replace(parent, traceparent=read[0].span or read[0].traceparent)
    jobs = _jobs(connection, parent.id)
    running = [job for job in jobs if any(place.state == _RUNNING for place in job.topics.values())]
    candidates = running or jobs
    return dataclasses.replace(parent, traceparent=candidates[0].traceparent if len(candidates) == 1 else "")


def _jobs(connection: Connection, job_id: str) -> list[JobRecord]:
    server, access = connection.server, connection.access
    seen = [
        queue for queue in server.directory.queues.values()
        if access.may_push(queue) or any(access.may_pull(topic) for topic in queue.topics.values())
    ]
    jobs = [server.stores[queue.storage].job(queue.name, job_id) for queue in seen[:LOOKED_AT]]
    return [job for job in jobs if job is not None]


def _read(arguments: list[bytes], most_bytes: int) -> Parent:
    if len(arguments) > 3:
        raise Refused("BADVALUE PBUS.PARENT takes the id of a job, and a traceparent: nothing is changed")
    if not arguments[1]:
        return Parent("")
    text = arguments[1].decode("latin-1")
    if JOB_ID.match(text) is None:
        raise Refused(f"BADVALUE PBUS.PARENT takes the id of a job, not '{shown(arguments[1])}': nothing is changed")
    if len(arguments) == 2:
        return Parent(text, None)
    return Parent(text, options.traceparent(arguments[2], "nothing is changed", most_bytes))
