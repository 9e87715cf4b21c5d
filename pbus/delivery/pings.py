"""
Which topics the handler at one address takes, asked once for all topics that use it.

    unknown --ping--> takes these, refuses those --3, 6, .. 60 s--> those are asked for again
       ^                        |
       +------ the address came back

The contract ``pepper``: a handler answers a ping with ``Code: 200`` and the list of its topics, so one
ping settles every topic of the same script at the same address that it lists. It is asked for the
others one by one; one that lists nothing takes what it does not refuse.

Rule: an address that was not asked, or refused, is shut for the topic; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import gevent

from pbus.codec.pepper import consume_topics
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.address import Address
from pbus.delivery.backend import Backend
from pbus.delivery.news import News
from pbus.delivery.rests import Rests
from pbus.delivery.shares import Flow

AGAIN_S: Final = 0.1
_LATER: Final = 4.0
"""A ping takes longer than a probe: the other children wait so many times longer for one that is under way."""
_NOT_THERE: Final = frozenset({Verdict.DOWN, Verdict.RELEASED, Verdict.UNSURE})


@dataclass(slots=True, eq=False)
class Member:
    """
    A topic that uses this handler. Owner: its lane.

    Attributes:
        path: ``queue/topic``.
        flow: Shut at addresses where it must not be called.
        ping: Sends the ping of this topic to the address.
        changed: Called when it was opened or shut there.
        rests: How long it rests.
        known: Somebody has asked.
        refusal: Why it is not taken, as far as was heard; empty: it is, or nobody knows.
        verdict: Of the refusal.
    """

    path: str
    flow: Flow
    ping: Callable[[Address], Outcome]
    changed: Callable[[], None]
    rests: Rests
    known: bool = False
    refusal: str = ""
    verdict: Verdict = Verdict.NOT_REGISTERED


class Roll:
    """
    What one endpoint (a script, a URL) at one address takes. One owner: the backends of the child.

    Args:
        backend, address: Where.
        endpoint: What is called there, the same text in every child.
        news: The other children.

    Attributes:
        address: As given.
        rest_s: Length of the last rest, 0 since a job was taken.
    """

    def __init__(self, backend: Backend, address: Address, endpoint: str, news: News) -> None:
        self.address = address
        self._about = ("ping", address.name, endpoint)
        self._news = news
        self._members: list[Member] = []
        self._told: dict[str, tuple[str, Verdict]] = {}
        self._asker: Any = None
        self.rest_s = 0.0
        news.listen(self._about, self._heard)
        backend.on_comeback(self._came_back)

    def join(self, member: Member) -> None:
        """One more topic; shut until somebody has asked."""
        member.flow.shut.add(self.address.name)
        self._members.append(member)
        if member.path in self._told:
            self._set(member, *self._told[member.path])

    def leave(self, member: Member) -> None:
        """A topic that takes nothing new; the last one ends the asking."""
        if member in self._members:
            self._members.remove(member)
        if not self._members:
            self._stop()

    def look(self) -> None:
        """There may be work: ask, if nobody has."""
        if self._asker is None and self._next() is not None:
            self._ask_in(self._news.later_s * _LATER)

    def refused(self, member: Member, text: str, verdict: Verdict) -> None:
        """A job of *member* was refused there: it is shut, and asked for again after a rest."""
        if member not in self._members or (member.known and member.refusal):
            return  # one of several that were under way; the first one counts
        self._learn({member.path: (text, verdict)}, tell=True)
        self._stop()
        self._asker = gevent.spawn(self._ask_again, self._next_rest_s())

    def works(self) -> None:
        """A job was taken there: the next rest is short again."""
        self.rest_s = 0.0

    def close(self) -> None:
        """Ask no more; idempotent."""
        self._stop()

    # -- asking ---------------------------------------------------------------------------------------

    def _ask_in(self, seconds: float) -> None:
        if self._asker is None:
            self._asker = gevent.spawn(self._ask, seconds)

    def _stop(self) -> None:
        if self._asker is not None and self._asker is not gevent.getcurrent():
            self._asker.kill(block=False)
        self._asker = None

    def _ask(self, seconds: float) -> None:
        """Until every topic is taken, or the address is down (its probe goes on)."""
        me = gevent.getcurrent()
        try:
            gevent.sleep(seconds)
            while not self.address.circuit.is_open and (member := self._next()) is not None:
                outcome = member.ping(self.address)
                if outcome.verdict in _NOT_THERE:
                    gevent.sleep(AGAIN_S)
                    continue
                self._learn(self._said(member, outcome), tell=True)
                if self._next() is None and any(each.refusal for each in self._members):
                    gevent.sleep(self._next_rest_s())
                    self._doubt_refusals()
        finally:
            if self._asker is me:
                self._asker = None

    def _next(self) -> Member | None:
        """A topic of which nobody knows whether it is taken."""
        return next((member for member in self._members if not member.known), None)

    def _doubt_refusals(self) -> None:
        """They are asked for again; until then they stay shut."""
        for member in self._members:
            member.known = not member.refusal

    def _said(self, asked: Member, outcome: Outcome) -> dict[str, tuple[str, Verdict]]:
        """What an answer means for each topic that it is about."""
        verdict = outcome.verdict
        if verdict is not Verdict.DONE:
            text = f"ping: {outcome.error or verdict.value}"
            itself = "code" in outcome.headers and verdict is Verdict.NOT_REGISTERED
            return {each.path: (text, verdict) for each in ([asked] if itself else self._members)}
        topics = consume_topics(outcome.headers, outcome.output)
        if topics is None:
            return {each.path: ("", verdict) for each in self._members if each is asked or not each.refusal}
        taken = [each.path for each in self._members if each.path in topics]
        said: dict[str, tuple[str, Verdict]] = dict.fromkeys(taken, ("", verdict))
        if asked.path not in topics:
            text = f"ping: the handler takes {', '.join(sorted(topics)) or 'nothing'}, not {asked.path}"
            said[asked.path] = (text, Verdict.NOT_REGISTERED)
        return said  # of one that is not listed nothing is known: a handler may list only what it was asked for

    def _next_rest_s(self) -> float:
        refused = [member for member in self._members if member.refusal]
        rests = refused[0].rests if refused else self._members[0].rests
        self.rest_s = rests.next_s(self.rest_s)
        if any(member.verdict is Verdict.MISCONFIGURED for member in refused):
            return max(self.rest_s, rests.misconfigured_s)
        return self.rest_s

    # -- learning -------------------------------------------------------------------------------------

    def _learn(self, said: Mapping[str, tuple[str, Verdict]], tell: bool) -> None:
        self._told.update(said)
        if tell:
            self._news.tell(self._about, said={path: list(each) for path, each in self._told.items()})
        for member in self._members:
            if member.path in said:
                self._set(member, *said[member.path])

    def _set(self, member: Member, refusal: str, verdict: Verdict) -> None:
        member.known, member.refusal, member.verdict = True, refusal, verdict
        if refusal:
            member.flow.shut.add(self.address.name)
        else:
            member.flow.shut.discard(self.address.name)
        member.changed()

    def _heard(self, frame: Mapping[str, Any]) -> None:
        """Another child has asked."""
        said = {str(path): (str(text), Verdict(verdict)) for path, (text, verdict) in frame["said"].items()}
        self._learn(said, tell=False)
        self._stop()
        if any(member.refusal for member in self._members):
            self._asker = gevent.spawn(self._ask_again, self._next_rest_s() + self._news.later_s * _LATER)

    def _ask_again(self, seconds: float) -> None:
        gevent.sleep(seconds)
        self._doubt_refusals()
        self._ask(0.0)

    def _came_back(self, address: Address) -> None:
        """Whatever answers there now may be something else."""
        if address is not self.address:
            return
        self._stop()
        self._told.clear()
        for member in self._members:
            member.known, member.refusal = False, ""
            member.flow.shut.add(address.name)
        self.look()
