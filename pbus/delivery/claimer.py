"""
The claimer: one greenlet per storage that turns room in the lanes into claimed deliveries.

    bell, room, 5 s --> which lanes may have work? --wants--> one claim call --> lanes

Rule: a lane is *hungry* while its topic may have ready deliveries that nobody here has asked for:
its bell rang, its last claim came back full, or it was not looked at for 5 s. Only hungry lanes are
asked and claimed for, so an idle bus costs one call in 5 s however many topics it has.

The comparison of the store's claims with ours runs in the claimer's turn, when no claim call is
open: what the store lists and nobody here knows goes back. It was claimed by a call whose reply got
lost, or its end was written to a store that has forgotten it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.core.job import Delivery, Move, Settlement
from pbus.delivery.lane import Lane
from pbus.delivery.store_health import Backoff, StoreHealth
from pbus.errors import Conflict, StorageError
from pbus.storage.driver import CLAIM_BYTES, Bell, Driver, Want

LOOK_AGAIN_S: Final = 5.0
COMPARE_S: Final = 30.0

Path = tuple[str, str]
"""(queue, topic)."""


class Unwritten(Protocol):
    """What of the desk is asked here."""

    @property
    def is_unsure(self) -> bool:
        """A settle failed that may have been executed, and is being repeated."""

    def pending(self, owner: str) -> set[tuple[str, str, str]]:
        """(queue, topic, id) of claims of *owner* whose end is not written yet."""


class Claimer:
    """
    One owner: its own greenlets, ``run`` and ``listen``.

    Args:
        store: Where is claimed.
        lanes: The lanes of this storage.
        owner: Our own identity, whose claims FastCGI and HTTP calls run under.
        desk: Knows the claims that are settled but not written.
        prepare: Declares queues again after the store was away (it may have lost them).
        health: Told how calls went.
        fenced: Called once when the store refuses this boot.
        log: Where surprises are said.
        clock: Where intervals come from.
    """

    def __init__(
        self, store: Driver, lanes: Sequence[Lane], *, owner: str, desk: Unwritten, prepare: Callable[[], None],
        health: StoreHealth, fenced: Callable[[], None], log: Any, clock: Clock,
    ) -> None:
        self._store = store
        self._lanes: dict[Path, Lane] = {(lane.queue, lane.topic): lane for lane in lanes}
        self._by_queue: dict[str, list[Path]] = collections.defaultdict(list)
        for path in self._lanes:
            self._by_queue[path[0]].append(path)
        self._owner = owner
        self._desk = desk
        self._prepare = prepare
        self._health = health
        self._fenced = fenced
        self._log = log
        self._clock = clock
        self._hungry: set[Path] = set(self._lanes)
        self._stirred = gevent.event.Event()
        self._to_compare: set[str] = set()
        self._backoff = Backoff()
        self._stopped = False
        self._ended = False
        self._is_away = False
        self._look_at_s = 0.0
        self._compare_at_s = clock.monotonic_s() + COMPARE_S

    # -- what stirs it ------------------------------------------------------------------------------

    def wake(self) -> None:
        """A lane has room, or its state changed."""
        self._stirred.set()

    def came_back(self, queue: str) -> None:
        """That queue has ready deliveries again."""
        self._hungry.update(self._by_queue.get(queue, ()))
        self._stirred.set()

    def compare(self, owner: str) -> None:
        """Look soon which claims the store lists for *owner*."""
        self._to_compare.add(owner)
        self._stirred.set()

    def stop(self) -> None:
        """Claim nothing more; comparisons go on until the end."""
        self._stopped = True

    def end(self) -> None:
        """No store call any more; ``run`` returns."""
        self._ended = True
        self._stirred.set()

    def listen(self, bell: Bell) -> None:
        """The bell's greenlet: whatever it tells makes lanes hungry. Runs for ever."""
        backoff = Backoff()
        while True:
            try:
                rung = bell.wait(LOOK_AGAIN_S)
            except Exception as error:  # noqa: BLE001 deaf for a while; every 5 s is looked anyway
                if not isinstance(error, StorageError):
                    self._log.error("bell.broken", exc_info=error)
                gevent.sleep(backoff.pause_s())
                continue
            backoff.reset()
            self._heard(rung)

    def _heard(self, rung: Iterable[str] | None) -> None:
        if rung is None:
            # The store may have been away, and come back without its last seconds: then it lists claims of jobs
            # whose end it has forgotten, while no call of ours need have failed.
            self._to_compare.update(self.owners())
            self._hungry.update(self._lanes)
            self._stirred.set()
            return
        for queue in rung:
            self.came_back(queue)

    # -- its turn -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Claim until the end (or until fenced)."""
        while not self._ended:
            try:
                self.turn()
            except Conflict:
                self._stopped = True
                self._fenced()
                return
            except Exception as error:  # noqa: BLE001 a driver's bug must not end deliveries: said, then tried again
                self._failed(error)
            else:
                self._rest()

    def turn(self) -> None:
        """
        Compare what is due, then claim once.

        Raises:
            StorageError: a call failed; everything it touched will be compared.
        """
        if self._is_away:
            self._prepare()
            self._hungry.update(self._lanes)
        self._compare_due()
        self._look_due()
        wants = self._wanted()
        if wants:
            self._claim(wants)
        self._is_away = False
        self._health.back("claimer")
        self._backoff.reset()

    def _look_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_AGAIN_S
            self._hungry.update(self._lanes)

    def _wanted(self) -> list[Want]:
        if self._stopped or self._desk.is_unsure:
            return []  # unsure: what it repeats would end a claim of the same job that we take meanwhile
        return [want for path in tuple(self._hungry) for want in self._lanes[path].wants()]

    def _claim(self, wants: list[Want]) -> None:
        asked: collections.Counter[Path] = collections.Counter()
        for want in wants:
            asked[want.queue, want.topic] += want.count
        self._hungry.difference_update(asked)  # before the call: a bell that rings during it counts
        try:
            deliveries = self._store.claim(wants)
        except StorageError:
            self._to_compare.update(want.owner for want in wants)
            self._hungry.update(asked)
            raise
        by_lane: dict[Path, list[Delivery]] = collections.defaultdict(list)
        for delivery in deliveries:
            by_lane[delivery.queue, delivery.topic].append(delivery)
        for path, group in by_lane.items():
            if len(group) >= asked[path] or sum(len(delivery.body) for delivery in group) >= CLAIM_BYTES:
                self._hungry.add(path)
                self._stirred.set()
            self._lanes[path].accept(group)

    def _rest(self) -> None:
        """Until something stirs, or it is time to look again."""
        if not self._to_compare:
            self._stirred.wait(max(0.0, self._look_at_s - self._clock.monotonic_s()))
        self._stirred.clear()

    def _failed(self, error: Exception) -> None:
        self._to_compare.update(self.owners())
        if not self._is_away:
            self._log.warning("store.away", error=str(error), kind=type(error).__name__,
                              exc_info=None if isinstance(error, StorageError) else error)
        self._is_away = True
        self._health.away("claimer", error)
        gevent.sleep(self._backoff.pause_s())

    # -- the comparison -----------------------------------------------------------------------------

    def owners(self) -> set[str]:
        """In whose names the lanes claim."""
        names = {self._owner}
        for lane in self._lanes.values():
            names.update(getattr(lane, "owners", ()))
        return names

    def _compare_due(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._compare_at_s:
            self._compare_at_s = now_s + COMPARE_S
            self._to_compare.update(self.owners())
        while self._to_compare:
            owner = next(iter(self._to_compare))
            self._give_back_strays(owner)
            self._to_compare.discard(owner)

    def _give_back_strays(self, owner: str) -> None:
        held = self._store.held(owner)
        unwritten = self._desk.pending(owner)
        known = {path: lane.known(owner) for path, lane in self._lanes.items()} if held else {}
        strays = [
            Settlement(owner=owner, queue=claim.queue, topic=claim.topic, id=claim.id, move=Move.RELEASE)
            for claim in held
            if claim.id not in known.get((claim.queue, claim.topic), ())
            and (claim.queue, claim.topic, claim.id) not in unwritten
        ]
        # What was settled between the two looks is refused here: every settle is a compare-and-set.
        if strays and any(took_effect := self._store.settle(strays)):
            self._log.info("claims.strays", owner=owner, count=sum(took_effect))
            for queue in {stray.queue for stray in strays}:
                self.came_back(queue)
