"""
Alarms of one store: one node decides, what it decided is in the store before anybody hears of it.

    look -> Board (core) -> documents "alarm" -> documents "message" -> Post, a try each -> documents "message"

    decider    document "decider": its owner moves it each heartbeat; whose stands still for ``lost_after`` (by our own
               clock, while our own calls worked) is replaced. All writes are compare-and-set, so even two deciders
               tell nothing twice: one of them fails to write, and begins anew with what is there.
    alarm      64 documents with all alarms of this store, by a hash of their ids
    message    one a notifier: to be sent, tried, sent; kept for an hour, so that who begins anew knows what was told
    ack, silence   what people said; only ``pbus alarm`` writes them

Rule: a message may reach its receiver twice when the process dies between the receiver's answer and the write; its id
is the same then. It never does so because of a restart, a reload or a second node alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import structlog

from pbus.clock import Clock
from pbus.core import alarms as rule
from pbus.core import notices
from pbus.core.alarm_texts import (
    ACK, ALARM, MESSAGE, SILENCE, ack_of, alarms_of, packed, shard_of, silence_of,
)
from pbus.core.alarms import Alarm, Board, Policy
from pbus.core.notices import Message
from pbus.errors import Conflict, StorageError
from pbus.scheduler.conditions import Conditions, Shared
from pbus.scheduler.notify import Post
from pbus.scheduler.readings import Readings
from pbus.scheduler.roster import Store
from pbus.scheduler.standing import Standing
from pbus.storage.documents import TEXT_BYTES, Document

LATE_S: Final = 5.0
LEAVE_S: Final = 2.0
KEEP_S: Final = 3_600.0
"""A message that was sent is remembered for so long."""
REPAIR_S: Final = 1_800.0
"""A message that is missing is made again when its alarm is not older."""
GONE_S: Final = 86_400.0
"""A node that was lost for so long is no matter any more."""
_FILL_S: Final = 10.0

DECIDER: Final = "decider"
_THE: Final = "alarms"

T = TypeVar("T")


class Alarms:
    """The duty."""

    name = "alarms"

    def __init__(
        self, store: Store, owner: str, policy: Policy, readings: Readings, conditions: Conditions, post: Post,
        heartbeat_s: float, lost_after_s: float, clock: Clock, log: structlog.typing.FilteringBoundLogger,
        look_s: float = 1.0,
    ) -> None:
        """
        Args:
            owner: Who decides, as long as nobody else does.
            policy: Who hears of what.
            look_s: Between two looks.
        """
        self._store = store
        self._driver = store.driver
        self._owner = owner
        self._policy = policy
        self._readings = readings
        self._conditions = conditions
        self._shared = Shared(store.driver, conditions)
        self._post = post
        self._heartbeat_s = heartbeat_s
        self._lost_after_s = lost_after_s
        self._clock = clock
        self._log = log.bind(storage=store.name)
        self._many = store.driver.capabilities.many_nodes
        self._board: Board | None = None
        self.standing = Standing()
        self._versions: dict[str, int] = {}
        self._ended: list[tuple[Message, str]] = []
        self._open: dict[str, tuple[int, Message]] = {}
        self._lease, self._renew_s = 0, 0.0
        self._seen, self._seen_s = 0, 0.0
        self._fill_s = 0.0
        self._fill_percent: float | None = None
        self._fails = False
        self._look_s = look_s

    def turn(self) -> float:
        try:
            self._turn()
        except Conflict:
            raise
        except StorageError as error:       # others find out whether it is away; a full one takes no document
            if not self._fails:
                self._log.warning("alarm.late", error=str(error))
            self._fails = True
            self.interrupted()
            return LATE_S
        self._fails = False
        return self._look_s

    def _turn(self) -> None:
        self._note_ends()
        if self._many:
            self._shared.tell()
            if not self._decides():
                self._board = None
                self.standing.follow(self._driver, self._clock.monotonic_s(), self._clock.wall_s())
                return
        if self._board is None:
            self._begin()
        self._look()
        self._deliver()

    def interrupted(self) -> None:
        """What was written last is not known; the silence of others means nothing."""
        self._board = None
        self._lease = self._seen = 0
        self._shared.interrupted()

    def leave(self) -> None:
        """This node ends in good order: the next one need not wait. Raises StorageError."""
        until_s = self._clock.monotonic_s() + LEAVE_S
        while self._post.is_busy and self._clock.monotonic_s() < until_s:
            self._clock.sleep(0.02)         # what is being sent would be sent again by the next one
        self._note_ends()
        if self._many:
            self._shared.leave()
            if self._lease:
                self._driver.drop_document(DECIDER, _THE, self._lease)

    # -- who decides ----------------------------------------------------------------------------

    def _decides(self) -> bool:
        now_s = self._clock.monotonic_s()
        if self._lease and now_s < self._renew_s:
            return True
        found = self._driver.documents(DECIDER, [_THE])
        current = found[0].version if found else 0
        if current and current != self._lease:
            if current != self._seen:
                self._seen, self._seen_s = current, now_s
            if now_s - self._seen_s < self._lost_after_s:
                self._lease = 0
                return False
        if current != self._lease:
            self._board = None
        self._lease = self._driver.write_document(DECIDER, _THE, self._owner, current)
        self._renew_s = now_s + self._heartbeat_s
        return bool(self._lease)

    # -- what is so -----------------------------------------------------------------------------

    def _look(self) -> None:
        board, now_s = self._board, self._clock.wall_s()
        assert board is not None
        others = self._shared.others() if self._many else []
        living = self._driver.beats() if self._many else None
        readings = self._readings.take(
            self._clock.monotonic_s(), self._conditions.own, others, living, self._fill(), self._store.name, now_s,
        )
        before = {alarm.id for alarm in board.alarms.values() if not alarm.over_s}
        board.look(readings, now_s, lambda reading: self._readings.because(reading, now_s))
        if board.alarms:
            self._hear_people(board)
        batches = [(f"{int(now_s * 1000)}-{batch.status}", batch) for batch in board.due(now_s)]
        for message, batch in batches:
            board.told(batch, message, now_s)
        self.standing.see(board, now_s)
        if not self._save(board):
            return
        self._tell_log(board, before)
        for message, batch in batches:
            self._write_messages(message, batch)
        self._forget_nodes(board, now_s)

    def _fill(self) -> float | None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._fill_s:
            self._fill_s = now_s + _FILL_S
            self._fill_percent = 100.0 * self._driver.fill().share
        return self._fill_percent

    def _hear_people(self, board: Board) -> None:
        acks = self._said(ACK, ack_of, lambda ack: ack.id in board.alarms)
        board.acks = {ack.id: ack for ack in acks}
        wall_s = self._clock.wall_s()
        board.silences = self._said(SILENCE, silence_of, lambda silence: silence.until_s > wall_s)

    def _said(self, kind: str, read: Callable[[str], T | None], holds: Callable[[T], bool]) -> list[T]:
        """What people said and what still holds; the rest is dropped."""
        found = []
        for one in self._driver.documents(kind):
            said = read(one.text)
            if said is not None and holds(said):
                found.append(said)
            else:
                self._driver.drop_document(kind, one.name, one.version)
        return found

    def _tell_log(self, board: Board, before: Iterable[str]) -> None:
        after = {alarm.id: alarm for alarm in board.alarms.values() if not alarm.over_s}
        for name, alarm in after.items():
            if name not in before:
                self._log.warning("alarm.fired", alarm=name, text=alarm.text, cause=alarm.cause)
        for name in set(before) - after.keys():
            self._log.info("alarm.over", alarm=name)

    def _forget_nodes(self, board: Board, now_s: float) -> None:
        gone = [
            alarm.subject for alarm in board.alarms.values()
            if alarm.kind == "node" and not alarm.over_s and now_s - alarm.fired_s > GONE_S
        ]
        if gone:
            self._shared.forget(gone)

    # -- what is kept ---------------------------------------------------------------------------

    def _begin(self) -> None:
        """With what is there; a message that was decided and not yet written is made again."""
        found = self._driver.documents(ALARM)
        self._versions = {one.name: one.version for one in found}
        board = self._board = Board(self._policy, alarms_of(one.text for one in found))
        self._readings.goes_on(alarm.subject for alarm in board.alarms.values() if alarm.kind == "error_back")
        messages = {one.name for one in self._driver.documents(MESSAGE)}
        oldest_ms = (self._clock.wall_s() - REPAIR_S) * 1000
        told = {name for alarm in board.alarms.values() for name in (alarm.told, alarm.told_over, alarm.told_up)}
        for name in sorted(told - {"", rule.NOBODY}):
            at_ms, _, status = name.partition("-")
            if at_ms.isdigit() and int(at_ms) >= oldest_ms:
                self._write_messages(name, board.told_by(name, status), messages)

    def _save(self, board: Board) -> bool:
        """Write what has changed; False: somebody else has, and all begins anew."""
        shards = {shard_of(name) for name in board.changed}
        board.changed.clear()
        by_shard: dict[str, list[Alarm]] = {shard: [] for shard in shards}
        for alarm in board.alarms.values() if shards else ():
            if (shard := shard_of(alarm.id)) in by_shard:
                by_shard[shard].append(alarm)
        for shard, alarms in by_shard.items():
            known = self._versions.get(shard, 0)
            version = self._driver.write_document(ALARM, shard, packed(alarms, TEXT_BYTES), known)
            if not version:
                self._board, self._lease = None, 0
                return False
            self._versions[shard] = version
        return True

    # -- what is told ---------------------------------------------------------------------------

    def _write_messages(self, name: str, batch: rule.Batch, there: Iterable[str] = ()) -> None:
        now_s = self._clock.wall_s()
        for notifier, alarms in batch.by_notifier(self._policy).items():
            message = notices.composed(name, notifier, batch.status, alarms, now_s, self._conditions.own.node)
            if message.name not in there:
                self._driver.write_document(MESSAGE, message.name, message.to_text(), 0)

    def _deliver(self) -> None:
        if not self._post.notifiers:
            return
        now_s = self._clock.wall_s()
        for document in self._driver.documents(MESSAGE):
            message = notices.read(document.text)
            if message is None or (not message.is_open and now_s - message.made_s > notices.GIVE_UP_S + KEEP_S) or (
                message.sent_s and now_s - message.sent_s > KEEP_S
            ):
                self._driver.drop_document(MESSAGE, document.name, document.version)
            elif message.is_open and message.next_s <= now_s and self._post.has_room:
                self._try(document, message, now_s)

    def _try(self, document: Document, message: Message, now_s: float) -> None:
        """Say that it is tried, and try it; somebody else who has said so is left to it."""
        message = notices.tried(message, now_s, self._post.lease_s(message))
        version = self._driver.write_document(MESSAGE, document.name, message.to_text(), document.version)
        if version:
            self._open[document.name] = version, message
            self._post.send(message, self._ended)

    def _note_ends(self) -> None:
        ends, self._ended[:] = self._ended[:], []
        for message, error in ends:
            version, _ = self._open.pop(message.name, (0, message))
            now_s = self._clock.wall_s()
            end = notices.ended(message, now_s, error, self._post.retry_first_s)
            if version:
                self._driver.write_document(MESSAGE, message.name, end.to_text(), version)
            if error:
                self._log.warning(
                    "alarm.untold", notifier=message.notifier, message=message.id, error=error, tries=message.tries,
                    gave_up=end.gave_up,
                )
            else:
                self._log.info(
                    "alarm.told", notifier=message.notifier, message=message.id, title=message.title,
                    took_s=round(now_s - message.made_s, 3),
                )
