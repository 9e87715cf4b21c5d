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

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import structlog

from pbus.clock import Clock
from pbus.core import alarms as rule
from pbus.core import notices
from pbus.core.alarms import Ack, Alarm, Board, Policy, Silence
from pbus.core.notices import Message
from pbus.errors import Conflict, StorageError
from pbus.scheduler.conditions import Conditions, Shared
from pbus.scheduler.notify import Post
from pbus.scheduler.readings import Readings
from pbus.scheduler.roster import Store
from pbus.storage.documents import TEXT_BYTES, Document

LOOK_S: Final = 1.0
LATE_S: Final = 5.0
LEAVE_S: Final = 2.0
SHARDS: Final = 64
KEEP_S: Final = 3_600.0
"""A message that was sent is remembered for so long."""
REPAIR_S: Final = 1_800.0
"""A message that is missing is made again when its alarm is not older."""
GONE_S: Final = 86_400.0
"""A node that was lost for so long is no matter any more."""
_FILL_S: Final = 10.0
_PEOPLE_S: Final = 2.0

ALARM, ACK, SILENCE, MESSAGE, DECIDER = "alarm", "ack", "silence", "message", "decider"
_THE: Final = "alarms"

T = TypeVar("T")


class Alarms:
    """The duty."""

    name = "alarms"

    def __init__(
        self, store: Store, owner: str, policy: Policy, readings: Readings, conditions: Conditions, post: Post,
        heartbeat_s: float, lost_after_s: float, clock: Clock, log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """
        Args:
            owner: Who decides, as long as nobody else does.
            policy: Who hears of what.
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
        self._versions: dict[str, int] = {}
        self._ended: list[tuple[Message, str]] = []
        self._open: dict[str, tuple[int, Message]] = {}
        self._lease, self._renew_s = 0, 0.0
        self._seen, self._seen_s = 0, 0.0
        self._people_s, self._fill_s = 0.0, 0.0
        self._fill_percent: float | None = None
        self._fails = False

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
        return LOOK_S

    def _turn(self) -> None:
        self._note_ends()
        if self._many:
            self._shared.tell()
            if not self._decides():
                self._board = None
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
            self._clock.monotonic_s(), self._conditions.own, others, living, self._fill(), self._store.name
        )
        before = {alarm.id for alarm in board.alarms.values() if not alarm.over_s}
        board.look(readings, now_s, self._readings.because)
        if board.alarms:
            self._hear_people(board)
        batches = [(f"{int(now_s * 1000)}-{batch.status}", batch) for batch in board.due(now_s)]
        for message, batch in batches:
            board.told(batch, message)
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
        now_s = self._clock.monotonic_s()
        if now_s < self._people_s:
            return
        self._people_s = now_s + _PEOPLE_S
        acks, silences = read_people(self._driver.documents(ACK), self._driver.documents(SILENCE))
        board.acks, board.silences = acks, silences

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
        board = self._board = Board(self._policy, read_alarms(found))
        self._people_s = 0.0
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
            version = self._driver.write_document(ALARM, shard, _packed(alarms), self._versions.get(shard, 0))
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
            end = notices.ended(message, now_s, error)
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


def shard_of(name: str) -> str:
    """The document that holds the alarm of that id."""
    return str(zlib.crc32(name.encode()) % SHARDS)


def read_alarms(documents: Iterable[Document]) -> list[Alarm]:
    """All alarms of a store; what cannot be read is none."""
    found = []
    for one in documents:
        rows = _json(one.text).get("alarms")
        found += [rule.read(row) for row in (rows if isinstance(rows, list) else ()) if isinstance(row, dict)]
    return [alarm for alarm in found if alarm is not None]


def read_people(acks: Iterable[Document], silences: Iterable[Document]) -> tuple[dict[str, Ack], list[Silence]]:
    """What people said: acknowledgements by the alarm's id, and silences."""
    known = [_made(Ack, one) for one in acks]
    return {ack.id: ack for ack in known if ack}, [each for one in silences if (each := _made(Silence, one))]


def _made(of: Callable[..., T], document: Document) -> T | None:
    names = {one.name for one in dataclasses.fields(of)}  # type: ignore[arg-type] # both are dataclasses
    try:
        return of(**{name: value for name, value in _json(document.text).items() if name in names})
    except TypeError:
        return None


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _packed(alarms: list[Alarm]) -> str:
    """For a document; where there are too many the newest lose what is only said about them, then are left out."""
    rows = [alarm.fields() for alarm in sorted(alarms, key=lambda alarm: alarm.fired_s)]
    text = json.dumps({"v": 1, "alarms": rows})
    if len(text) > TEXT_BYTES:
        bare = [{name: each for name, each in row.items() if name not in ("cause", "affected", "todo")} for row in rows]
        text = json.dumps({"v": 1, "alarms": bare})
        while len(text) > TEXT_BYTES:
            bare = bare[: len(bare) * 3 // 4]
            text = json.dumps({"v": 1, "alarms": bare})
    return text
