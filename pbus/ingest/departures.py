"""
Connections that go to a newer ingest child, one small slice after the other.

    here --part--> parting --nothing in flight--> ready --record, descriptor--> sent --took--> theirs: forgotten
      ^               | takes too long               |                            |
      +---------------+------------------------------+--- the link ends, back ----+

Rule: a connection is served here until the newer child says that it has it and is told that it may begin; nobody ever
waits for another one's passage. What cannot pass (TLS, whoever is refused over there) is served here as long as the
grace allows, and closed between two commands.
"""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import gevent
import gevent.event
import gevent.socket

from pbus.codec import handover
from pbus.core.names import Owner
from pbus.ingest.arrivals import DOOR
from pbus.ingest.claims import Claim, Keeper
from pbus.ingest.connection import Connection
from pbus.ingest.link import Link, LinkError
from pbus.ingest.portable import Portable
from pbus.ingest.puller import Puller
from pbus.ingest.server import Server
from pbus.ingest.settling import Arrival
from pbus.supervisor import listeners
from pbus.supervisor.child import Child
from pbus.supervisor.scoreboard import SlotView

SLICE: Final = 16
"""Connections that begin to part in one turn, and that one frame carries."""
WINDOW: Final = 48
"""Those that have stopped here and have not begun there."""
FRAME_BYTES: Final = 1024 * 1024
"""A frame above this carries nobody else: unsent replies and unread commands may be large."""
ANSWER_S: Final = 2.0
"""A newer child that says nothing for so long is given up; whoever was on the way is served here again."""
CLAIMS_S: Final = 6.0
"""The same where claims change hands: a call of a store may take 5 s."""
PART_S: Final = 8.0
"""What is in flight takes 5 s at most, a wrong password 3; whoever takes longer stays."""
CONNECT_S: Final = 1.0
AGAIN_S: Final = 0.05
LOOK_S: Final = 0.25
TRIES: Final = 40
"""Without anybody who takes connections, before it is given up."""


class Departures:
    """
    Everything of one child that goes to newer ones. One owner: ``main``.

    Attributes:
        passed: How many have gone.
        longest_s: The longest that one of them was served by nobody.
    """

    def __init__(self, child: Child, server: Server) -> None:
        self.passed = 0
        self.longest_s = 0.0
        self._child = child
        self._server = server
        self._to: int | None = None
        self._until_s = 0.0
        self._staying: set[Portable] = set()
        self._numbers = 0
        self._parting: dict[Portable, float] = {}     # since when, monotonic
        self._ready: dict[Portable, float] = {}
        self._sent: dict[int, tuple[Portable, float]] = {}
        self._heard: list[dict[str, Any]] = []
        self._broken: LinkError | None = None
        self._news = gevent.event.Event()
        child.on_frame("handover", self._note)

    def _note(self, frame: dict[str, Any]) -> None:
        self._to = int(frame["to"])

    def run(self, until_s: float, arriving: Callable[[], bool]) -> None:
        """
        Until everybody has gone who can, at the latest until *until_s* (monotonic); at once where nobody was named.

        Args:
            arriving: Others are still on their way to this child.
        """
        if self._to is None:
            return
        self._until_s = until_s
        clock, began_s, tries = self._child.clock, self._child.clock.monotonic_s(), 0
        self._server.shut_doors()
        while clock.monotonic_s() < until_s and tries < TRIES and (self._going() or self._later() or arriving()):
            if self._target() is None:
                tries += not self._siblings("boot")   # nobody comes any more: the bus stops
            elif going := self._going():
                tries = 0 if self._try(going) else tries + 1
            self._drain_refused()
            clock.sleep(AGAIN_S if tries or self._target() is None or not self._going() else 0.0)
        self._child.log.info(
            "handover.done", passed=self.passed, stay=len(self._server.connections),
            took_s=round(clock.monotonic_s() - began_s, 3), longest_ms=round(self.longest_s * 1000),
        )

    def _going(self) -> list[Connection]:
        """Who can go now: those that wait for jobs last, in the order in which they wait."""
        connections = [one for one in self._server.connections if one.portable and one not in self._staying]
        return sorted(connections, key=lambda one: one.place)

    def _later(self) -> bool:
        """Somebody is here who is not asked to leave yet: TLS, a refused command that is read to its end."""
        return any(not one.portable and not one.gone for one in self._server.connections)

    def _drain_refused(self) -> None:
        for one in [one for one in self._server.connections if one in self._staying]:
            one.drain()

    # -- to whom ------------------------------------------------------------------------------

    def _target(self) -> SlotView | None:
        """The newest child that takes connections; the one that was named, where it is one of these."""
        rows = self._siblings("ready")
        newest = [row for row in rows if row.generation == max(row.generation for row in rows)]
        return min(newest, key=lambda row: (row.index != self._to, row.connections), default=None)

    def _siblings(self, state: str) -> list[SlotView]:
        own = self._child
        return [
            row for row in own.scoreboard.living()
            if row.role == own.spec.role and row.state == state and row.n != own.owner.n
        ]

    def _try(self, going: Sequence[Connection]) -> bool:
        """Pass them on, by one link; whether anybody went."""
        target = self._target()
        if target is None:
            return False
        try:
            link, owner = self._connect(target)
        except (LinkError, OSError) as error:
            self._child.log.warning("handover.refused", reason=str(error), to=target.pid)
            return False
        self._heard, self._broken, before = [], None, self.passed
        listening = gevent.spawn(self._listen, link)
        try:
            self._pass(link, owner, collections.deque(going))
        except LinkError as error:
            self._child.log.warning("handover.broken", reason=str(error), to=target.pid, back=len(self._sent))
        finally:
            listening.kill()
            link.close()
            self._take_back(owner)
        return self.passed > before

    def _connect(self, target: SlotView) -> tuple[Link, str]:
        """
        A link to whoever serves that door, and who that is as a holder of claims.

        Raises:
            LinkError, OSError: there is none.
        """
        link = Link(_connected(self._child.door(f"{DOOR}.{target.index}")))
        try:
            with gevent.Timeout(ANSWER_S, LinkError("it does not answer")):
                link.ask_for_credentials()
                link.say("hello", version=handover.VERSION)
                (answer,) = link.hear()
            row = link.speaker(self._child)
            if row is None:
                raise LinkError("it is no ingest child of this bus")
            if answer["kind"] != "welcome":
                raise LinkError(str(answer.get("text", answer["kind"])))
        except BaseException:
            link.close()
            raise
        own = self._child.owner
        return link, str(Owner(own.node, own.boot, row.slot, row.n))

    # -- one link -----------------------------------------------------------------------------

    def _listen(self, link: Link) -> None:
        """The life of a greenlet: what the other side says, for ``_pass``."""
        try:
            while True:
                heard = link.hear()
                self._heard += heard                  # not before: ``_answers`` puts another list in its place
                self._news.set()
        except LinkError as error:
            self._broken = error
            self._news.set()

    def _pass(self, link: Link, owner: str, going: collections.deque[Connection]) -> None:
        """
        All of *going*, as far as they can.

        Raises:
            LinkError: the link is over before that.
        """
        clock = self._child.clock
        answered_s = clock.monotonic_s()
        while True:
            self._news.clear()
            if self._answers(link, owner):
                answered_s = clock.monotonic_s()
            self._ask(going)
            self._send(link)
            if not (going or self._parting or self._ready or self._sent):
                return
            if going and len(self._ready) + len(self._sent) < WINDOW:
                gevent.sleep(0)
                continue
            self._news.wait(LOOK_S)
            now_s = clock.monotonic_s()
            self._be_patient(now_s, answered_s)
            self._give_up_slow(now_s)

    def _be_patient(self, now_s: float, answered_s: float) -> None:
        """
        Raises:
            LinkError: what was sent is not answered for too long, or there is no time left.
        """
        if now_s >= self._until_s:
            raise LinkError("the grace is over")
        if not self._sent:
            return
        limit_s = CLAIMS_S if any(one.holds_claims for one, _ in self._sent.values()) else ANSWER_S
        oldest_s = min([since_s for _, since_s in self._sent.values()])
        if now_s - max(answered_s, oldest_s) > limit_s:
            raise LinkError(f"it says nothing for {limit_s:g} s")

    def _ask(self, going: collections.deque[Connection]) -> None:
        """The next slice is to leave."""
        now_s = self._child.clock.monotonic_s()
        for _ in range(SLICE):
            if not going or len(self._ready) + len(self._sent) >= WINDOW:
                return
            one = going.popleft()
            if one.portable:
                self._parting[one] = now_s
                one.part(self)

    def parted(self, connection: Portable) -> None:
        """Nothing of it is in flight any more."""
        since_s = self._parting.pop(connection, None)
        if since_s is not None:
            self._ready[connection] = since_s
            self._news.set()

    def _give_up_slow(self, now_s: float) -> None:
        for one in [one for one, since_s in self._parting.items() if one.gone or now_s - since_s > PART_S]:
            del self._parting[one]
            if not one.gone:
                self._stay(one)

    def _stay(self, one: Portable) -> None:
        self._staying.add(one)
        one.rejoin()

    def _send(self, link: Link) -> None:
        while self._ready:
            items: list[tuple[int, bytes]] = []
            descriptors: list[int] = []
            size = 0
            while self._ready and len(items) < SLICE and size < FRAME_BYTES:
                one = next(iter(self._ready))
                since_s = self._ready.pop(one)
                if not one.gone:
                    self._numbers += 1
                    self._sent[self._numbers] = (one, since_s)
                    items.append((self._numbers, handover.encode(one.record())))
                    descriptors.append(one.descriptor)
                    size += len(items[-1][1])
            if items:
                link.say("pass", descriptors, items=items)

    def _answers(self, link: Link, owner: str) -> bool:
        """What was heard; whether that was anything."""
        heard, self._heard = self._heard, []
        for frame in heard:
            for number, text in frame["back"].items():
                one, _ = self._sent.pop(int(number))
                self._child.log.warning("handover.back", peer=one.peer, reason=text)
                self._claim_back(owner, [one])
                self._stay(one)
            if frame["ns"]:
                link.say("yours", ns=frame["ns"])
            now_s = self._child.clock.monotonic_s()
            for number in frame["ns"]:
                one, since_s = self._sent.pop(number)
                one.pass_on(frame["lost"].get(str(number), ()))
                self.passed += 1
                self.longest_s = max(self.longest_s, now_s - since_s)
        if self._broken is not None:
            raise self._broken
        return bool(heard)

    # -- back ---------------------------------------------------------------------------------

    def _take_back(self, heir: str) -> None:
        """Whoever was on the way goes on here, with the claims that *heir* may have by now."""
        back = [one for one, _ in self._sent.values()]
        self._claim_back(heir, back)
        for one in [*self._parting, *self._ready, *back]:
            one.rejoin()
        self._parting, self._ready, self._sent = {}, {}, {}

    def _claim_back(self, heir: str, connections: Iterable[Portable]) -> None:
        parts: dict[Keeper, list[Claim]] = {}
        for one in connections:
            for claim in one.reader.claims.values() if one.reader is not None else ():
                parts.setdefault(claim.keeper, []).append(claim)
        for keeper, claims in parts.items():
            assert isinstance(keeper, Puller)
            keeper.arrive(Arrival(heir, claims))


def _connected(path: str) -> Any:
    """
    A socket at the door at *path*.

    Raises:
        OSError: nobody is there.
    """
    sock = gevent.socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(CONNECT_S)
        with listeners.unix_path(path) as short:
            sock.connect(short)
        sock.settimeout(None)
    except OSError:
        sock.close()
        raise
    return sock
