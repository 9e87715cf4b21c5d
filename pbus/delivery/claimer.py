"""
The claimer: one greenlet per storage that turns room in the lanes into claimed deliveries.

    bell, room, 5 s --> which lanes may have work? --wants--> one claim call --> lanes

Rule: a lane is *hungry* while its topic may have ready deliveries that nobody here has asked for:
its bell rang, its last claim came back full, or it was not looked at for 5 s. Only hungry lanes are
asked and claimed for, so an idle bus costs one call in 5 s however many topics it has. A topic of
concurrency 1 that got nothing although its bell had rung is asked for again a little later: another
owner may still have held the last claim of it.

A braked topic is claimed for as its brake allows; its lane runs what it is given, as ever.

The comparison of the store's claims with ours runs in the claimer's turn, when no claim call is
open: what the store lists and nobody here knows goes back. It was claimed by a call whose reply got
lost: then nobody has run it. Or it was handed out here (``Seen``), and its end was written to a store that
has forgotten it: then it may have run.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import gevent
import gevent.event

from pbus.clock import Clock
from pbus.core.brake import Brake
from pbus.core.job import Delivery, Settlement
from pbus.core.outcome import Outcome, Rules, Verdict, judge
from pbus.delivery.lane import Lane
from pbus.delivery.store_health import Backoff, StoreHealth
from pbus.errors import Conflict, StorageError
from pbus.storage.driver import CLAIM_BYTES, Bell, Driver, Held, Want

LOOK_AGAIN_S: Final = 5.0
COMPARE_S: Final = 30.0
ASK_AGAIN_S: Final = 0.1
"""First pause before an exclusive claim that got nothing is repeated; it doubles until LOOK_AGAIN_S."""
SEEN_KEPT: Final = 10_000

Path = tuple[str, str]
"""(queue, topic)."""


class Unwritten(Protocol):
    """What of the desk is asked here."""

    @property
    def is_unsure(self) -> bool:
        """A settle failed that may have been executed, and is being repeated."""

    def pending(self, owner: str) -> set[tuple[str, str, str]]:
        """(queue, topic, id) of claims of *owner* whose end is not written yet."""


class Seen:
    """What was handed to lanes lately: the last SEEN_KEPT claims at least, by topic, id and attempt."""

    def __init__(self) -> None:
        self._young: set[tuple[str, str, str, int]] = set()
        self._old: set[tuple[str, str, str, int]] = set()

    def add(self, delivery: Delivery) -> None:
        """It goes to its lane."""
        if len(self._young) >= SEEN_KEPT:
            self._old, self._young = self._young, set()
        self._young.add((delivery.queue, delivery.topic, delivery.id, delivery.attempt))

    def __contains__(self, claim: object) -> bool:
        if not isinstance(claim, Held):
            return False
        key = (claim.queue, claim.topic, claim.id, claim.attempts + 1)
        return key in self._young or key in self._old


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
        brakes: The brake of each topic that has one.
        rules: What each topic allows.
        claimed: Told of what was claimed before lanes have it; None: nobody wants to know.
    """

    def __init__(
        self, store: Driver, lanes: Sequence[Lane], *, owner: str, desk: Unwritten, prepare: Callable[[], None],
        health: StoreHealth, fenced: Callable[[], None], log: Any, clock: Clock,
        brakes: Mapping[Path, Brake] | None = None, rules: Mapping[Path, Rules] | None = None,
        claimed: Callable[[Sequence[Delivery]], None] | None = None,
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
        self._brakes = brakes or {}
        self._rules = rules or {}
        self._claimed = claimed
        self._seen = Seen()
        self._hungry: set[Path] = set(self._lanes)
        self._just_looking: set[Path] = set()  # of the hungry: nobody said that there is work
        self._asking_again: dict[Path, tuple[float, float]] = {}  # when (monotonic seconds), and the pause before
        self._stirred = gevent.event.Event()
        self._to_compare: set[str] = set()
        self._backoff = Backoff()
        self._stopped = False
        self._waits = False
        self._in_turn = False
        self._ended = False
        self._is_away = False
        self._look_at_s = 0.0
        self._looked_s = 0.0  # when it was looked last what is due (monotonic seconds)
        self._compare_at_s = clock.monotonic_s() + COMPARE_S

    # -- what stirs it ------------------------------------------------------------------------------

    def wake(self) -> None:
        """A lane has room, or its state changed."""
        self._stirred.set()

    def came_back(self, queue: str) -> None:
        """That queue has ready deliveries again."""
        paths = self._by_queue.get(queue, ())
        self._hungry.update(paths)
        self._just_looking.difference_update(paths)
        self._stirred.set()

    def compare(self, owner: str) -> None:
        """Look soon which claims the store lists for *owner*."""
        self._to_compare.add(owner)
        self._stirred.set()

    def wait(self) -> None:
        """Claim nothing until ``begin``."""
        self._waits = True

    def begin(self) -> None:
        """Whoever had this to do has let go."""
        self._waits = False
        self._hungry.update(self._lanes)
        self._stirred.set()

    def stop(self) -> None:
        """Claim nothing more; comparisons go on until the end."""
        self._stopped = True

    def is_done_with(self, owner: str) -> bool:
        """After ``stop``: nothing is claimed in that name any more, and nothing of it is being looked up."""
        return self._stopped and not self._in_turn and owner not in self._to_compare

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
        self._in_turn = True
        try:
            self._take_turn()
        finally:
            self._in_turn = False
        self._is_away = False
        self._health.back("claimer")
        self._backoff.reset()

    def _take_turn(self) -> None:
        if self._is_away:
            self._prepare()
            self._hungry.update(self._lanes)
        self._compare_due()
        self._look_due()
        wants = self._wanted()
        if wants:
            self._claim(wants)

    def _look_due(self) -> None:
        now_s = self._looked_s = self._clock.monotonic_s()
        self._hungry.update(path for path, (at_s, _) in self._asking_again.items() if at_s <= now_s)
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_AGAIN_S
            self._just_looking.update(self._lanes.keys() - self._hungry)
            self._hungry.update(self._lanes)

    def _wanted(self) -> list[Want]:
        if self._stopped or self._waits or self._desk.is_unsure:
            return []  # unsure: what it repeats would end a claim of the same job that we take meanwhile
        return [want for path in tuple(self._hungry) for want in self._wants_of(path, self._looked_s)]

    def _wants_of(self, path: Path, now_s: float) -> Iterable[Want]:
        """What the lane wants, as far as its brake allows."""
        lane, brake = self._lanes[path], self._brakes.get(path)
        room = brake.room(now_s, lane.concurrency) if brake is not None and brake.sparing else None
        if room is None:
            return lane.wants()
        return _cut(lane.wants(), room) if room else ()

    def _claim(self, wants: list[Want]) -> None:
        asked: collections.Counter[Path] = collections.Counter()
        for want in wants:
            asked[want.queue, want.topic] += want.count
        spared = {path for path in asked if (brake := self._brakes.get(path)) is not None and brake.sparing}
        told = asked.keys() - self._just_looking
        self._just_looking.difference_update(asked)
        self._hungry.difference_update(asked)  # before the call: a bell that rings during it counts
        try:
            deliveries = self._store.claim(wants)
        except StorageError:
            self._to_compare.update(want.owner for want in wants)
            self._hungry.update(asked)
            raise
        by_lane: dict[Path, list[Delivery]] = collections.defaultdict(list)
        claimed_s = self._clock.wall_s()
        for delivery in deliveries:
            delivery.claimed_s = claimed_s
            by_lane[delivery.queue, delivery.topic].append(delivery)
            self._seen.add(delivery)
        if self._claimed is not None:
            self._claimed(deliveries)
        self._ask_again({(want.queue, want.topic) for want in wants if want.exclusive}, told, by_lane.keys())
        for path, group in by_lane.items():
            if path in spared:  # one that trips during the call has not let these through
                for delivery in group:
                    self._brakes[path].claimed(delivery.id)
            if len(group) >= asked[path] or sum(len(delivery.body) for delivery in group) >= CLAIM_BYTES:
                self._hungry.add(path)
                self._stirred.set()
            self._lanes[path].accept(group)

    def _ask_again(self, exclusive: Iterable[Path], told: Iterable[Path], given: Iterable[Path]) -> None:
        """
        Repeat exclusive claims that got nothing where somebody had said that there is work.

        A store does not tell a refused one from an empty topic, and rings no bell when the claim that stood in
        the way is acked; without this a topic would stand still until the next look.
        """
        told, given = set(told), set(given)
        for path in exclusive:
            _, pause_s = self._asking_again.pop(path, (0.0, 0.0))
            if path in given or not (pause_s or path in told):
                continue
            pause_s = pause_s * 2 or ASK_AGAIN_S
            if pause_s < LOOK_AGAIN_S:
                self._asking_again[path] = (self._clock.monotonic_s() + pause_s, pause_s)

    def _rest(self) -> None:
        """Until something stirs, or it is time to look again, or a brake lets the next one through."""
        if not self._to_compare:
            self._stirred.wait(max(0.0, self._due_s() - self._clock.monotonic_s()))
        self._stirred.clear()

    def _due_s(self) -> float:
        """
        When there is something to do without being stirred (monotonic seconds).

        What was due at the last look and is not done waits for room in its lane, and that stirs.
        """
        dues = [at_s for at_s, _ in self._asking_again.values()]
        dues += [brake.due_s() or 0.0 for path, brake in self._brakes.items() if brake.sparing and path in self._hungry]
        return min([self._look_at_s, *(due_s for due_s in dues if due_s > self._looked_s)])

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
            self._stray(owner, claim)
            for claim in held
            if claim.id not in known.get((claim.queue, claim.topic), ())
            and (claim.queue, claim.topic, claim.id) not in unwritten
        ]
        # What was settled between the two looks is refused here: every settle is a compare-and-set.
        if strays and any(took_effect := self._store.settle(strays)):
            self._log.info("claims.strays", owner=owner, count=sum(took_effect))
            for queue in {stray.queue for stray in strays}:
                self.came_back(queue)

    def _stray(self, owner: str, claim: Held) -> Settlement:
        """How a claim ends that the store lists and nobody here has in hand."""
        delivery = Delivery(
            id=claim.id, queue=claim.queue, topic=claim.topic, body=b"", attempt=claim.attempts + 1,
            crashes=claim.crashes, redelivered=False, traceparent="", content_type="", first_ms=0, owner=owner,
            key=claim.key, forgiven=claim.forgiven,
        )
        verdict = Verdict.UNSURE if claim in self._seen else Verdict.RELEASED
        outcome = Outcome(verdict=verdict, error="the store has forgotten how it ended")
        return judge(delivery, outcome, self._rules.get((claim.queue, claim.topic), Rules()), 0, 0.0)


def _cut(wants: Iterable[Want], room: int) -> Iterator[Want]:
    """As many of *wants* as fit into *room* deliveries, shared among their owners."""
    asking = list(wants)
    for number, want in enumerate(asking):
        count = min(want.count, -(-room // (len(asking) - number)))
        room -= count
        if count:
            yield dataclasses.replace(want, count=count)
