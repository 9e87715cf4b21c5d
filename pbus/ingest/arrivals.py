"""
Connections that come from older ingest children, by the door ``handover.N``.

    record and descriptor --names looked up, claims ours--> took --yours--> a connection like any other
                                   |                          |
                                   +-- back, with the reason  +-- the link ends before: dropped, it is served there

Rule: nothing is served here before the other side has said that it serves it no more. What a record says is checked; a
connection that cannot be carried on stays where it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import gevent
import gevent.event
import gevent.monkey

from pbus.codec import handover
from pbus.codec.handover import HandoverError, Record
from pbus.core.names import Owner
from pbus.core.outcome import Verdict
from pbus.ingest import carried, link, wire
from pbus.ingest.carried import Cargo, Stranded
from pbus.ingest.claims import Claim, Keeper, Left
from pbus.ingest.link import Link, LinkError
from pbus.ingest.puller import Puller
from pbus.ingest.server import Server
from pbus.ingest.settling import Arrival
from pbus.supervisor.child import Child

DOOR: Final = "handover"
CLAIMS_S: Final = 10.0
"""How long it may take until claims are ours; a call of a store takes 5 s at most, and one may run already."""
_DROPPED: Final = "the process that had its connection died on the way"

_Socket: Any = gevent.monkey.get_original("socket", "socket")


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection that is here and not ours yet."""

    sock: Any
    record: Record
    cargo: Cargo


class Arrivals:
    """Everything of one child that comes from older ones. One owner: ``main``."""

    def __init__(self, child: Child, server: Server) -> None:
        self._child = child
        self._server = server
        self._door = child.listeners.get(f"{DOOR}.{child.index}")
        self._links: set[Link] = set()
        self._guests = 0
        self._closing = False

    def start(self) -> None:
        """Let them come."""
        if self._door is not None:
            gevent.spawn(self._accept, self._door)

    def close(self) -> None:
        """Nobody new; what has been said is finished."""
        self._closing = True
        door, self._door = self._door, None
        if door is not None:
            wire.forget(self._server.loop, door.fileno())
            door.close()
        for one in self._links:
            one.end_hearing()

    @property
    def idle(self) -> bool:
        """Nobody is on the way."""
        return not self._links

    def _accept(self, door: Any) -> None:
        while not self._closing:
            try:
                sock, _ = door.accept()
            except OSError:
                if not self._closing:
                    self._child.clock.sleep(1.0)      # no descriptors, most likely: the other side tries again
                continue
            gevent.spawn(self._serve, sock)

    def _serve(self, sock: Any) -> None:
        """One link, from its first word to its end; the life of a greenlet."""
        one, guests, owner = Link(sock), dict[int, _Guest](), ""
        self._links.add(one)
        if self._closing:
            one.end_hearing()
        try:
            owner = self._welcome(one, sock)
            while True:
                for frame in one.hear():
                    self._take(one, owner, frame, guests)
                gevent.sleep(0)                       # those who are here already get their turn
        except LinkError as error:
            if guests:
                self._child.log.warning("handover.broken", reason=str(error), connections=len(guests))
        except Exception:  # the log has it, and the other side serves on
            self._child.log.exception("handover.failed")
        finally:
            self._links.discard(one)
            one.close()
            self._drop(list(guests.values()), owner)

    def _welcome(self, one: Link, sock: Any) -> str:
        """
        Who is there, as a holder of claims.

        Raises:
            LinkError: somebody whom we do not take anything from.
        """
        row = link.caller(self._child, sock)
        if row is None:
            self._child.log.error("handover.stranger")
            raise LinkError("it is no ingest child of this bus")
        (hello,) = one.hear()
        version = hello.get("version")
        if hello["kind"] != "hello" or version != handover.VERSION or self._closing:
            text = "it drains" if self._closing else f"it speaks version {handover.VERSION}, not {version!r}"
            one.say("refused", text=text, version=handover.VERSION)
            raise LinkError(text)
        one.say("welcome", version=handover.VERSION)
        own = self._child.owner
        return str(Owner(own.node, own.boot, row.slot, row.n))

    def _take(self, one: Link, owner: str, frame: dict[str, Any], guests: dict[int, _Guest]) -> None:
        if frame["kind"] == "pass":
            items = frame["items"]
            self._receive(one, owner, items, one.take(len(items)), guests)
        elif frame["kind"] == "yours":
            for number in frame["ns"]:
                self._begin(guests.pop(number))
        else:
            raise LinkError(f"what is a frame of the kind {frame['kind']!r}?")

    # -- they come ----------------------------------------------------------------------------

    def _receive(
        self, one: Link, owner: str, items: Sequence[Any], descriptors: Sequence[int], guests: dict[int, _Guest]
    ) -> None:
        """Make ready whoever can be carried on here, and say so."""
        back: dict[str, str] = {}
        coming: dict[int, _Guest] = {}
        for (number, data), descriptor in zip(items, descriptors, strict=True):
            sock = _Socket(fileno=descriptor)
            sock.setblocking(False)
            try:
                coming[number] = self._guest(sock, data, len(guests) + len(coming))
            except (HandoverError, Stranded) as reason:
                sock.close()
                back[str(number)] = str(reason)
        missed = self._claim(owner, list(coming.values()))
        for number, guest in coming.items():
            if guest in missed:
                self._drop([guest], owner)
                back[str(number)] = "its claims could not be had"
            else:
                guests[number] = guest
        lost = {str(number): guests[number].cargo.lost for number in coming if number in guests}
        with contextlib.suppress(LinkError):          # what was said before that may still give us some of them
            taken = [number for number in coming if number in guests]
            one.say("took", ns=taken, lost={n: at for n, at in lost.items() if at}, back=back)

    def _guest(self, sock: Any, data: bytes, others: int) -> _Guest:
        """
        Raises:
            HandoverError, Stranded: it cannot be carried on.
        """
        if self._server.connections_now + others >= self._server.most_connections:
            raise Stranded(f"there are {self._server.most_connections} connections already")
        record = handover.decode(data)
        for said in record.said:
            carried.event(said)
        return _Guest(sock, record, carried.cargo_of(self._server, record))

    def _claim(self, owner: str, guests: Sequence[_Guest]) -> set[_Guest]:
        """Have the stores make ours what they have read; those where that failed."""
        parts: dict[Keeper, list[Claim]] = {}
        for guest in guests:
            for claim in guest.cargo.coming:
                parts.setdefault(claim.keeper, []).append(claim)
        waiting = [(keeper, Arrival(owner, claims)) for keeper, claims in parts.items()]
        for keeper, arrival in waiting:
            assert isinstance(keeper, Puller)
            keeper.arrive(arrival)
        gevent.wait([arrival.done for _, arrival in waiting], timeout=CLAIMS_S)
        unknown = {keeper for keeper, arrival in waiting if arrival.ours is None}
        missed = {guest for guest in guests if any(claim.keeper in unknown for claim in guest.cargo.coming)}
        ours = {(keeper, key) for keeper, arrival in waiting for key in arrival.ours or ()}
        for guest in guests:
            if guest not in missed:
                guest.cargo.keep(lambda claim: (claim.keeper, claim.key) in ours)
        return missed

    def _begin(self, guest: _Guest) -> None:
        """It is ours."""
        try:
            self._server.carry_on(guest.sock, guest.record, guest.cargo)
        except Exception:  # a bug ends one connection, and the log has it
            self._child.log.exception("client.failed", peer=guest.record.peer)
            guest.sock.close()

    def _drop(self, guests: Sequence[_Guest], owner: str) -> None:
        """They stay with *owner*, and so do their claims; those of one that is dead go back."""
        for guest in guests:
            with contextlib.suppress(OSError):
                guest.sock.close()
        parts: dict[Keeper, list[Claim]] = {}
        for guest in guests:
            for claim in guest.cargo.coming:
                parts.setdefault(claim.keeper, []).append(claim)
        for keeper, claims in parts.items():
            assert isinstance(keeper, Puller)
            if self._server.tokens.lives(Owner.parse(owner)):
                keeper.return_to(owner, claims)
            else:
                keeper.left(Left(claims, Verdict.UNSURE, _DROPPED, True))
