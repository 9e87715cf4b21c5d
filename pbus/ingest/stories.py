"""
What an ingest child tells to the trace of jobs: who pushed them, by which values they are found, who was refused.

    batch that is stored --> Received, a ticket; marks of indexed values, a queue -+
    pushes that are refused --of one kind and client as one--> refusals ----------+--> TraceWriter
    attempts of programs and pull consumers, cancelled jobs ----------------------+

Rule: lossy and bounded, and after the replies: no producer waits for it.
"""

from __future__ import annotations

import json
from itertools import chain
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pbus.clock import Clock
from pbus.core import index
from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.outcome import Outcome
from pbus.core.plain import Plain, bodies_of
from pbus.core.trace import Received, Run, Shelf, Stored, decision, is_run
from pbus.ingest.whole import Whole
from pbus.storage.driver import Appended
from pbus.storage.traces import REFUSAL_BYTES
from pbus.storage.traces_buffer import Marks
from pbus.storage.traces_writer import MARKS_LATE_S, TraceWriter

if TYPE_CHECKING:
    from pbus.ingest.committer import Ticket
    from pbus.ingest.connection import Connection
    from pbus.ingest.transactions import Transaction

Peer = tuple[str, str, str, str]

KINDS: Final = 20
"""Refusals of a queue that are told apart within one turn of the writer; further ones are counted into the last."""
MARKED: Final = 8
"""Bodies of one refusal that can be found by their values."""
BEAT_S: Final = 600.0
_IN_HAND_S: Final = int(MARKS_LATE_S) + 1
_PART_BYTES: Final = 64
"""What one client of an append takes until it is written."""
_TEXT_CHARS: Final = 160
_NAME_CHARS: Final = 40


class Stories:
    """
    One per store of an ingest child. One owner: the store.

    Args:
        writer: Where everything goes.
        indexed: Queue -> paths of the values by which its jobs are found; only queues that have any.
        clock: When a push was refused.
    """

    def __init__(self, writer: TraceWriter, indexed: Mapping[str, Sequence[str]], clock: Clock) -> None:
        self._writer = writer
        self._tell = writer.buffer.tell
        self._clock = clock
        self._columns = {queue: [index.column(path) for path in paths] for queue, paths in indexed.items()}
        self._paths = {queue: tuple(index.mark(path.encode()) for path in paths) for queue, paths in indexed.items()}
        self._effort = index.Effort(clock.monotonic_s())
        self._beat_s = 0.0
        self._refused: dict[str, dict[tuple[str, Peer], dict[str, Any]]] = {}

    # -- pushes -----------------------------------------------------------------------------------

    def received(self, batch: Sequence[Ticket], appended: Sequence[Appended], all_stored: bool) -> None:
        """The tickets of an append were answered; *all_stored*: none of them was refused or a duplicate."""
        at = begin = 0
        queue = ""
        group: list[Ticket] = []
        for ticket in batch:
            pushes, count = ticket.pushes, ticket.count
            if not count:
                continue
            name = pushes.queue if type(pushes) is Plain else pushes[0].queue
            if not all_stored or type(ticket) is Whole:
                self._received_some(ticket, appended[at : at + count])
            elif group and name == queue:
                group.append(ticket)
                at += count
                continue
            if group:
                self._received_group(queue, group, appended[begin:at])
            plain = all_stored and type(ticket) is not Whole
            queue, group, begin = name, [ticket] if plain else [], at
            at += count
        if group:
            self._received_group(queue, group, appended[begin:at])

    def _received_group(self, queue: str, group: Sequence[Ticket], appended: Sequence[Appended]) -> None:
        """Tickets of one queue, side by side in one append: nearly always ids that follow one another."""
        count = len(appended)
        first, last = appended[0].id, appended[count - 1].id
        if is_run(first, last, count):
            parts = [(peer_of(ticket.connection), ticket.count) for ticket in group]
            self._tell(queue, Stored(first, parts), size=_PART_BYTES * len(parts))
            runs = [Run(first, count)]
        else:
            ids, at = [one.id for one in appended], 0
            for ticket in group:
                end = at + ticket.count
                self._tell(queue, Received(ids[at], ids[end - 1], peer_of(ticket.connection)))
                at = end
            runs = [Run(job, 1) for job in ids]
        if queue in self._columns:
            self._mark(queue, chain.from_iterable(bodies_of(ticket.pushes) for ticket in group), runs)

    def _received_some(self, ticket: Ticket, appended: Sequence[Appended]) -> None:
        """Of several queues, or not all of them: those that were stored now, one by one."""
        submitter: Any = ticket.connection
        peer = peer_of(submitter.client if type(ticket) is Whole else submitter)
        stored: dict[str, list[tuple[Push, str]]] = {}
        for push, answer in zip(ticket.pushes, appended, strict=True):
            if not answer.refused and not answer.duplicate:
                stored.setdefault(push.queue, []).append((push, answer.id))
        for queue, jobs in stored.items():
            for _, job in jobs:
                self._tell(queue, Received(job, job, peer))
            if queue in self._columns:
                self._mark(queue, (push.body for push, _ in jobs), [Run(job, 1) for _, job in jobs])

    def _mark(self, queue: str, of_pushes: Iterable[bytes], runs: Sequence[Run]) -> None:
        begin_s = self._clock.monotonic_s()
        if not self._effort.allows(begin_s):
            for second in {int(run.first.partition("-")[0]) // 1000 for run in runs}:
                self._writer.buffer.left_out(queue, second)
            self._writer.stir()
            return
        bodies = list(of_pushes)
        columns = [make(bodies) for make in self._columns[queue]]
        self._effort.spend(self._clock.monotonic_s() - begin_s)
        self._writer.buffer.mark(Marks(queue, runs, self._paths[queue], columns))

    def refused(
        self, queue: str, text: str, connection: Connection | Transaction, bodies: Sequence[bytes] = (),
    ) -> None:
        """
        A push was refused with *text*.

        Args:
            queue: A name of the configuration; empty: nobody bears the name that was asked for.
            bodies: As far as they are known.
        """
        peer = peer_of(getattr(connection, "client", connection))
        kinds = self._refused.setdefault(queue, {})
        if not kinds:
            self._writer.stir()
        kind = (text.partition(" ")[0], peer)
        told = kinds.get(kind)
        if told is None and len(kinds) >= KINDS:
            told = kinds[next(reversed(kinds))]
        if told is None:
            told = kinds[kind] = {
                "ts": int(self._clock.wall_s() * 1000), "word": kind[0], "text": text[:_TEXT_CHARS], "peer": peer,
                "size": 0, "count": 0, "marks": [],
            }
        told["count"] += 1
        told["size"] = max(told["size"], sum(map(len, bodies)))
        marks = told["marks"]
        some = bodies[: MARKED - len(marks)] if queue in self._columns else ()
        if some:
            marks += zip(*[make(some) for make in self._columns[queue]], strict=True)
        if not bodies or len(some) < len(bodies):
            told["more"] = 1                          # of which nobody knows the values

    def flush(self) -> None:
        """What was refused since the last turn of the writer becomes records."""
        if self._refused:
            refused, self._refused = self._refused, {}
            for queue, kinds in refused.items():
                for told in kinds.values():
                    self._writer.buffer.refused(queue, _packed(told))

    def begin(self, newest_ms: Mapping[str, int]) -> None:
        """
        Marks that wait to be written end with their process: what a predecessor may have had in hand is left out.

        Args:
            newest_ms: Indexed queue -> the newest job in its log, unix ms; of queues without one nothing.
        """
        for queue in self._columns:
            for end_s in {int(self._clock.wall_s()), newest_ms.get(queue, 0) // 1000} - {0}:
                for second in range(end_s - _IN_HAND_S, end_s + 1):
                    self._writer.buffer.left_out(queue, second)
        if self._columns:
            self._writer.stir()

    def beat(self) -> None:
        """Note now and then that these queues are indexed: then nothing found means that nothing came."""
        now_s = self._clock.monotonic_s()
        if self._columns and now_s >= self._beat_s:
            self._beat_s = now_s + BEAT_S
            job = f"{int(self._clock.wall_s() * 1000)}-0"
            for queue, paths in self._paths.items():
                self._writer.buffer.mark(Marks(queue, [Run(job, 0)], paths, [[] for _ in paths]))

    # -- deliveries -------------------------------------------------------------------------------

    def ended(self, delivery: Delivery, outcome: Outcome, settlement: Settlement) -> None:
        """An attempt of a program or of a pull consumer is over, and the store has it."""
        self._writer.ended(delivery, outcome, settlement, self._clock.wall_s())

    def popped(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """These were handed out, and are done by that."""
        now_s = self._clock.wall_s()
        for each in deliveries:
            ack = Settlement(owner=each.owner, queue=each.queue, topic=each.topic, id=each.id, move=Move.ACK)
            self._writer.ended(each, outcome, ack, now_s)

    def cancelled(self, queue: str, topic: str, ids: Sequence[str]) -> None:
        """A client has cancelled these, of all topics where none is named."""
        now_s = self._clock.wall_s()
        for job in ids:
            self._tell(queue, decision(job, topic, Move.CANCEL.value, now_s, "a client"), Shelf.KEPT)


def peer_of(client: Any) -> Peer:
    """Address, identity, client name and library of a connection, made once for as long as they do not change."""
    known = client.who
    if known is not None and known[0] is client.access and known[1] is client.name and known[2] is client.library:
        made: Peer = known[3]
        return made
    access, library = client.access, client.library or {}
    lib = " ".join([text for text in (library.get("lib-name", ""), library.get("lib-ver", "")) if text])
    peer = (
        client.peer[:_NAME_CHARS], "" if access.kind == "nobody" else access.name[:_NAME_CHARS],
        client.name[:_NAME_CHARS].decode("utf-8", "replace"), lib[:_NAME_CHARS],
    )
    client.who = (access, client.name, client.library, peer)
    return peer


def _packed(told: dict[str, Any]) -> bytes:
    """At most ``REFUSAL_BYTES`` of JSON: a record that is cut cannot be read."""
    for text in (told["text"], told["word"]):
        data = json.dumps({**told, "text": text}, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
        if len(data) <= REFUSAL_BYTES:
            return data
    bare = {**{name: told[name] for name in ("ts", "word", "size", "count")}, "more": 1}
    return json.dumps(bare, separators=(",", ":")).encode()
