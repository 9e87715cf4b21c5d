"""
The lane of a topic whose handler runs in processes of its own.

    claim in the consumer's name --> hand --jobs--> consumer --result--> desk --receipt--> consumer

The claims belong to the consumer process: it outlives this delivery child with them, and it is the
scoreboard that says which one had begun when a consumer dies. So a lost connection alone means
nothing; the consumer is *detached* until it comes back or is known to be dead.

Rule: everything in ``hand`` ends exactly once, at the desk.

Where jobs begin at a rate, a consumer is given one job at a time. Where nothing may run twice (``hold``) it gets
the next one when the store has what became of the last: so at most one claim of a dead consumer may have run,
and the scoreboard says whether it was begun.

What waits behind a job that takes longer than a whole frame should is called back for others to run; its consumer's
listener thread hands it back while user code runs. Nothing is sent to such a consumer before it answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pbus.clock import Clock
from pbus.codec.frames import encode
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.consumer_hand import (
    VERDICTS,
    Connection,
    Consumer,
    Life,
    frames_of,
    outcome_of,
    overdue_outcome,
    signal_name,
)
from pbus.delivery.finished import Finished
from pbus.delivery.lane import Desk
from pbus.delivery.pace import FRAME_WORK_S
from pbus.delivery.throttle import Throttle
from pbus.storage.driver import Want

SEVERED_S: Final = 0.1
"""A process that still lives so long after its connection ended has not ended with it."""
STATUS_S: Final = 1.0
"""How long the master may take to write down how a process ended that is gone."""
KILL_AGAIN_S: Final = 1.0
OVERRUN_S: Final = 2 * FRAME_WORK_S
"""A frame that takes so long has a slow job in it."""
RECALL_AGAIN_S: Final = 1.0


class ConsumerLane:
    """
    See ``lane.Lane``. One owner: the delivery child's one thread.

    Args:
        queue, topic: Whose lane it is.
        timeout_s: Longest attempt, 0 for none.
        exclusive: Concurrency 1: no two owners hold claims of the topic at once.
        expected: Consumers that are to attach here, at first; 0: none, and nobody misses them.
        desk: Where outcomes go.
        link_n: Our serial number, which the consumers write into the scoreboard.
        look: Tells what is known of the process of an owner.
        kill: Asks the master to kill the process of an owner.
        compare: Asks the claimer to compare the store's claims of an owner with ours.
        clock: Where ages come from.
        recall: Asks the master to call back what waits in the hand of an owner behind a job.
        trouble: Told (queue, topic, job id, text) of what user code did to its own process.
        hold: An attempt that may have run is never repeated.
        throttle: The rate at which jobs begin; None: any.
    """

    def __init__(
        self, queue: str, topic: str, *, timeout_s: float, exclusive: bool, expected: int, desk: Desk, link_n: int,
        look: Callable[[str, int], Life], kill: Callable[[str], None], compare: Callable[[str], None], clock: Clock,
        recall: Callable[[str, str], None] | None = None,
        trouble: Callable[[str, str, str, str], None] | None = None,
        hold: bool = False, throttle: Throttle | None = None,
    ) -> None:
        self.queue = queue
        self.topic = topic
        self._timeout_s = timeout_s
        self._exclusive = exclusive
        self.expected = expected
        self._desk = desk
        self._link_n = link_n
        self._look = look
        self._kill = kill
        self._compare = compare
        self._clock = clock
        self._recall = recall or _nobody
        self._trouble = trouble or _nobody
        self._hold = hold
        self._one_by_one = hold or throttle is not None
        self._throttle = throttle
        self._consumers: dict[str, Consumer] = {}
        self._draining = False
        self._handing_on = False
        self._killed = False
        self._turn = 0

    # -- Lane ---------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``running``, or ``down`` while no consumer is attached."""
        return "running" if self.concurrency or not self.expected else "down"

    @property
    def reason(self) -> str:
        """Why it is not running."""
        return "" if self.state == "running" else "no consumer process is attached"

    @property
    def concurrency(self) -> int:
        """Consumers attached now."""
        return sum(1 for consumer in self._consumers.values() if consumer.link is not None)

    def wants(self) -> list[Want]:
        """
        A frame for each consumer that has answered half of its last one; whose turn is first changes.

        Nothing for one with results that must be written first: those it repeats, because an earlier delivery
        child may have written one already, and the repetition would end a new claim of the same job.
        """
        if self._draining or self._handing_on:
            return []
        wants = []
        slow_s = self._clock.monotonic_s() - OVERRUN_S
        for consumer in self._consumers.values():
            if consumer.link is None or consumer.leaving or consumer.unwritten:
                continue
            if consumer.hand and consumer.since_s < slow_s:
                continue
            frame = 1 if self._one_by_one else consumer.pace.frame
            if len(consumer.hand) <= frame // 2:
                wants.append(Want(consumer.owner, self.queue, self.topic, frame, exclusive=self._exclusive))
        if len(wants) > 1:
            self._turn = (self._turn + 1) % len(wants)
            wants = wants[self._turn :] + wants[: self._turn]
        if wants and self._throttle is not None:
            return wants[: self._throttle.room()]
        return wants

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Send them to their owners; what an owner cannot take any more goes back as it was."""
        if self._throttle is not None:
            self._throttle.spend(len(deliveries))
        for owner, group in itertools.groupby(deliveries, lambda delivery: delivery.owner):
            jobs = list(group)
            consumer = self._consumers.get(owner)
            if consumer is None or consumer.link is None or consumer.leaving or self._draining or self._handing_on:
                self._release(jobs)
                continue
            consumer.fed_s = self._clock.monotonic_s()
            if not consumer.hand:
                consumer.since_s = consumer.fed_s
            for delivery in jobs:
                consumer.hand[delivery.id] = delivery
            for frame in frames_of(jobs):
                consumer.link.send(frame)

    def known(self, owner: str) -> set[str]:
        """Ids in the hand of that consumer."""
        consumer = self._consumers.get(owner)
        return set(consumer.hand) if consumer is not None else set()

    @property
    def owners(self) -> list[str]:
        """Consumers in whose name this lane claims."""
        return list(self._consumers)

    @property
    def busy(self) -> int:
        """Deliveries in the hands of consumers."""
        return sum(len(consumer.hand) for consumer in self._consumers.values())

    def drain(self) -> None:
        """Tell every consumer to finish what it has begun and hand back the rest."""
        self._draining = True
        for consumer in self._consumers.values():
            self._say_finish(consumer)

    def hand_on(self, is_done_with: Callable[[str], bool]) -> None:
        """
        Let those go who hold nothing: they attach to whoever comes after us. What they hold is finished here.

        Call it again and again. *is_done_with*: everything of that consumer is written and nothing is claimed for it,
        so nothing that we do later can meet what it is given elsewhere.
        """
        self._handing_on = True
        self.expected = 0  # who is missing here is not missed
        for consumer in list(self._consumers.values()):
            if consumer.link is None or consumer.hand or consumer.unwritten or not is_done_with(consumer.owner):
                continue
            del self._consumers[consumer.owner]
            link, consumer.link = consumer.link, None
            link.finish()

    def kill(self) -> None:
        """Have the master kill those that still work; what they had begun goes back UNSURE."""
        self._killed = True
        for consumer in self._consumers.values():
            if consumer.hand:
                self._kill(consumer.owner)

    # -- consumers come, answer and go ----------------------------------------------------------

    def attach(self, link: Connection, frame: dict[str, Any]) -> Attached:
        """
        A consumer came in, new or back from another delivery child.

        What it says is the whole truth about what it holds: results that nobody receipted are
        settled (again), what it holds is in hand, and everything else in its name goes back.
        """
        owner: str = frame["owner"]
        before = self._consumers.pop(owner, None)
        known = self._replace(before)
        life = self._look(owner, frame["pid"])
        now_s = self._clock.monotonic_s()
        consumer = Consumer(owner, frame["pid"], link, now_s - life.current_s, fed_s=now_s)
        self._consumers[owner] = consumer
        link.send(encode("attached", link=self._link_n, brief=True))
        for ticket, result in frame["results"]:
            delivery = known.pop(ticket[0]) if ticket[0] in known else self._delivery(owner, ticket)
            consumer.unwritten.add(ticket[0])
            self._desk.finish(delivery, outcome_of(result, consumer.pid))
        for ticket in frame["holds"]:
            job_id = ticket[0]
            consumer.hand[job_id] = known.pop(job_id) if job_id in known else self._delivery(owner, ticket)
        self._release(known.values())
        self._compare(owner)
        if self._draining:
            self._say_finish(consumer)
        self._desk.wake()
        return Attached(self, consumer, link)

    def heard(self, consumer: Consumer, frames: Iterable[dict[str, Any]]) -> float:
        """Results and hand-backs of one read; answers in how many seconds to read again."""
        strangers: list[str] = []
        for frame in frames:
            match frame["kind"]:
                case "done":
                    strangers += self._done(consumer, frame["ended"])
                case "result":
                    strangers += self._answered(consumer, frame)
                case "unstarted":
                    strangers += self._handed_back(consumer, frame)
                case "stuck":
                    if frame["id"] == consumer.overdue:
                        consumer.place, consumer.stack = frame["place"], frame["stack"]
                case "trouble":
                    self._trouble(self.queue, self.topic, frame["id"], frame["text"])
        if strangers and consumer.link is not None:
            consumer.link.send(encode("settled", ids=strangers))  # no claim of theirs is left to settle
        left = len(consumer.hand)
        if left <= consumer.pace.frame // 2:
            self._desk.wake()
        return consumer.pace.next_look_s(left)

    def gone(self, consumer: Consumer, link: Connection) -> None:
        """Its connection has ended: detached, until it attaches again or is found dead."""
        if consumer.link is link:
            consumer.link = None
            consumer.detached_s = self._clock.monotonic_s()
            self._see_after(consumer)

    def settled(self, owner: str, ids: Sequence[str]) -> None:
        """The store has what became of these: the consumer may forget them."""
        consumer = self._consumers.get(owner)
        if consumer is None:
            return
        if consumer.unwritten:
            consumer.unwritten.difference_update(ids)
            self._desk.wake()
        if consumer.link is not None:
            consumer.link.send(encode("settled", ids=list(ids)))

    def tick(self) -> None:
        """Look after timeouts and the dead. Called a few times a second."""
        for consumer in list(self._consumers.values()):
            if consumer.link is None:
                self._see_after(consumer)
            else:
                self._watch(consumer)
                self._call_back(consumer)

    def see_deaths(self) -> None:
        """
        Somebody has died: hang up on those whose process is over.

        What they forked may hold their connection open for as long as it likes. Results that wait
        in the connection are heard first.
        """
        for consumer in list(self._consumers.values()):
            if consumer.link is not None and not self._look(consumer.owner, consumer.pid).alive:
                consumer.link.close()

    # -- inside -----------------------------------------------------------------------------------

    def _answered(self, consumer: Consumer, result: dict[str, Any]) -> list[str]:
        """
        One attempt is over; answers its id if that is not in hand.

        An answer to a job whose time is over is too late: its process ends, and that is the end of the attempt. (A
        consumer that runs a program may end that instead, and says so.)
        """
        delivery = consumer.hand.get(result["id"])
        if delivery is None:
            return [result["id"]]
        if consumer.overdue == delivery.id:
            if VERDICTS.get(result["verdict"]) not in (Verdict.TIMEOUT, Verdict.CRASHED):
                return []
            consumer.overdue = ""
        del consumer.hand[delivery.id]
        consumer.since_s = self._clock.monotonic_s()
        consumer.pace.answered(result["run_s"], len(delivery.body))
        if self._hold:
            consumer.unwritten.add(result["id"])
        self._desk.finish(delivery, outcome_of(result, consumer.pid))
        return []

    def _done(self, consumer: Consumer, ended: Sequence[tuple[str, float]]) -> list[str]:
        """These (id, seconds) ended well, as ``_answered``; answers the ids that are not in hand."""
        deliveries: list[Delivery] = []
        runs_s: list[float] = []
        strangers: list[str] = []
        hand, pace = consumer.hand, consumer.pace
        for job_id, run_s in ended:
            delivery = hand.get(job_id)
            if delivery is None:
                strangers.append(job_id)
            elif job_id != consumer.overdue:
                del hand[job_id]
                deliveries.append(delivery)
                runs_s.append(run_s)
                pace.answered(run_s, len(delivery.body))
        if deliveries:
            consumer.since_s = self._clock.monotonic_s()
            if self._hold:
                consumer.unwritten.update(delivery.id for delivery in deliveries)
            self._desk.done(Finished(deliveries, runs_s, f"pid {consumer.pid}", self._clock.wall_s()))
        return strangers

    def _handed_back(self, consumer: Consumer, frame: dict[str, Any]) -> list[str]:
        """Jobs that have not begun go back; answers the ids that are not in hand."""
        consumer.leaving |= frame["leaving"]
        here = [job_id for job_id in frame["ids"] if job_id in consumer.hand]
        self._release([consumer.hand.pop(job_id) for job_id in here])
        return [job_id for job_id in frame["ids"] if job_id not in here]

    def _see_after(self, consumer: Consumer) -> None:
        """A detached consumer: is it dead, and how did it die?"""
        if not consumer.hand:
            self._bury(consumer, Life(alive=False, current=""))  # if it lives, it will say so
            return
        life = self._look(consumer.owner, consumer.pid)
        now_s = self._clock.monotonic_s()
        if life.alive:
            consumer.severed |= now_s - consumer.detached_s > SEVERED_S
            self._watch(consumer)
            return
        consumer.dead_since_s = consumer.dead_since_s or now_s
        if life.current is None or life.exit_status is not None or now_s - consumer.dead_since_s >= STATUS_S:
            self._bury(consumer, life)

    def _bury(self, consumer: Consumer, life: Life) -> None:
        """What it held ends here; the store may list more, claimed while it died."""
        if self._consumers.get(consumer.owner) is consumer:
            del self._consumers[consumer.owner]
        begun = life.current if life.current is not None else next(iter(consumer.hand), "")
        may_have_run = consumer.severed
        for job_id, delivery in consumer.hand.items():  # in the order they were worked on
            if job_id == begun:
                outcome = self._last_outcome(consumer, job_id, life)
                may_have_run &= life.current is None
            elif job_id == consumer.overdue:
                outcome = overdue_outcome(consumer, self._timeout_s)
            else:
                verdict = Verdict.UNSURE if may_have_run else Verdict.RELEASED
                error = "its consumer died without a connection" if may_have_run else ""
                outcome = Outcome(verdict=verdict, error=error, target=f"pid {consumer.pid}")
            self._desk.finish(delivery, outcome)
        consumer.hand = {}
        self._compare(consumer.owner)
        self._desk.wake()

    def _last_outcome(self, consumer: Consumer, job_id: str, life: Life) -> Outcome:
        """What became of the job that its dead consumer had begun."""
        target = f"pid {consumer.pid}"
        if job_id == consumer.overdue:
            return overdue_outcome(consumer, self._timeout_s)
        if life.current is None or self._killed or consumer.overdue:
            return Outcome(verdict=Verdict.UNSURE, error="its consumer was stopped", target=target)
        if life.exit_status is not None and life.exit_status >= 0:
            text = f"consumer {consumer.pid} exited with status {life.exit_status} while holding the job"
            return Outcome(verdict=Verdict.FAILED, error=text, target=target)
        text = f"consumer {consumer.pid} died of {signal_name(life.exit_status)}"
        return Outcome(verdict=Verdict.CRASHED, error=text, target=target)

    def _watch(self, consumer: Consumer) -> None:
        """
        Kill a consumer whose job exceeds the timeout.

        Results may still wait unread in its socket, so a job must look overdue at two ticks, and
        the scoreboard must say that it is the one that runs.
        """
        now_s = self._clock.monotonic_s()
        if consumer.overdue:  # whatever it does now: it was condemned
            if now_s - consumer.asked_s >= KILL_AGAIN_S:
                consumer.asked_s = now_s
                self._kill(consumer.owner)
            return
        if not self._timeout_s or not consumer.hand or now_s - consumer.since_s < self._timeout_s:
            return
        first = next(iter(consumer.hand))
        if consumer.suspect != first:
            consumer.suspect = first
            return
        if self._look(consumer.owner, consumer.pid).current == first:
            consumer.overdue, consumer.asked_s = first, now_s
            self._kill(consumer.owner)

    def _call_back(self, consumer: Consumer) -> None:
        """
        Have jobs handed back that wait behind one that takes long, so that others can run them.

        Not where only one owner may hold claims of the topic: nobody else could.
        """
        now_s = self._clock.monotonic_s()
        if len(consumer.hand) < 2 or self._exclusive or consumer.leaving or consumer.overdue:
            return
        if now_s - consumer.fed_s >= OVERRUN_S and now_s - consumer.recalled_s >= RECALL_AGAIN_S:
            consumer.recalled_s = now_s
            self._recall(consumer.owner, next(iter(consumer.hand)))

    @staticmethod
    def _replace(before: Consumer | None) -> dict[str, Delivery]:
        """End what we know of an earlier connection of the same process; answers what it had in hand."""
        if before is None:
            return {}
        if before.link is not None:
            before.link.close()
        before.link = None
        hand, before.hand = before.hand, {}
        return hand

    def _say_finish(self, consumer: Consumer) -> None:
        consumer.leaving = True
        if consumer.link is not None:
            consumer.link.send(encode("finish"))

    def _release(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._desk.finish(delivery, Outcome(verdict=Verdict.RELEASED))

    def _delivery(self, owner: str, ticket: Sequence[Any]) -> Delivery:
        """What a consumer brought along from another delivery child; its body is in the consumer."""
        job_id, attempt, redelivered, crashes, first_ms, forgiven = ticket
        return Delivery(
            id=job_id, queue=self.queue, topic=self.topic, body=b"", attempt=attempt, crashes=crashes,
            redelivered=redelivered, traceparent="", content_type="", first_ms=first_ms, owner=owner,
            forgiven=forgiven,
        )


class Attached:
    """A consumer's connection as its ``Guest``: tells the lane whose it is."""

    def __init__(self, lane: ConsumerLane, consumer: Consumer, link: Connection) -> None:
        self._lane = lane
        self._consumer = consumer
        self._link = link

    def heard(self, frames: list[dict[str, Any]]) -> float:
        """Pass on what was read."""
        return self._lane.heard(self._consumer, frames)

    def gone(self) -> None:
        """Pass on that it is over."""
        self._lane.gone(self._consumer, self._link)


def _nobody(*_: str) -> None:
    """Nobody wants to know."""
