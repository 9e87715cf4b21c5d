"""
The delivery child itself: its stores, lanes and consumers' door, and its life from boot to exit.

Rule: assembles and keeps time; decides nothing about jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import gevent
from gevent.threadpool import ThreadPool

from pbus.config.schema import Queue, System, Topic
from pbus.core.names import Owner, split_topic_path, topic_path
from pbus.delivery.address import share_of
from pbus.delivery.backend_board import BackendBoard
from pbus.delivery.backends import Backends
from pbus.delivery.call_lane import CallLane, make_call_lane
from pbus.delivery.comparing import plan_of, shadows_of
from pbus.delivery.consumer_lane import Attached, ConsumerLane
from pbus.delivery.consumer_link import Door, Link
from pbus.delivery.lane import Lane
from pbus.delivery.lent import Lent
from pbus.delivery.lives import Lives
from pbus.delivery.news import News
from pbus.delivery.report import Report
from pbus.delivery.store_side import StoreSide
from pbus.delivery.throttle import Throttle, throttle_of
from pbus.delivery.work import Standing, Work, backend_fields, is_telling
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make, queue_specs
from pbus.storage.threaded import Threaded
from pbus.storage.traces_writer import TraceWriter, make_writer
from pbus.supervisor.attempt_spans import AttemptSpans, make_pump
from pbus.supervisor.child import Child
from pbus.supervisor.slow import Slow
from pbus.telemetry.topic_log import TopicLog

TICK_S: Final = 0.2
LANES_AGAIN_S: Final = 30.0
ROUND_S: Final = 0.5
"""How often is looked for what has changed: a bus with hundreds of idle topics has to stay idle."""
TROUBLE_S: Final = 60.0
"""So long after the last one ``pbus status`` tells what a handler has done to its own process."""
GOODBYE_S: Final = 2.0
"""How long consumers that hold nothing any more may take to leave before we do."""
QUICK_S: Final = 2.0
"""Most of what runs has finished so soon after another child has taken over."""
LAST_SECOND_S: Final = 1.0
"""So long before the grace is over what still runs is reported, while that can be written."""

LaneState = tuple[str, str, int]


class DeliveryChild:
    """One per process. Everything runs in its one thread (the stores that block have one each)."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._clock = child.clock
        args = child.spec.args
        self._queues: dict[str, Queue] = dict(args["queues"])
        self._processes: int = args["delivery"].processes
        self._lives = Lives(child.scoreboard, child.clock)
        log_dir = args["node"].log_dir
        self._work = Work(child.index, child.row_of, child.clock)
        self._report = Report(child, lambda queue, topic: TopicLog(log_dir, queue, topic), self._work.row)
        self._news = News(child.tell, child.index)
        child.on_frame("news", self._news.hear)
        self._systems: Mapping[str, System] = args["systems"]
        self._backends = Backends(
            args["backends"], processes=self._processes, index=child.index, clock=child.clock, news=self._news
        )
        self._lent = Lent(child.owner.n, self._backends, self._news, self._part, self._living)
        self._consumers: dict[str, int] = {  # at first
            topic_path(queue, topic): settings.concurrency.min
            for queue, section in self._queues.items() for topic, settings in section.topic.items()
        }
        self._rates: dict[str, tuple[Throttle, float]] = {}  # of topics with consumers: what keeps to their rate
        self._backend_board = BackendBoard(self._backends, child.tell, child.clock, shadows_of(self._queues))
        plan = args.get("otel")
        self._spans = AttemptSpans(make_pump(child, plan), plan.sampler) if plan is not None else None
        self._stores = {name: self._store_side(name, target) for name, target in args["stores"].items()}
        self._lanes: dict[tuple[str, str], Lane] = {(lane.queue, lane.topic): lane for lane in self._make_lanes()}
        self._by_path = {topic_path(*name): lane for name, lane in self._lanes.items()}
        self._door = Door(child.listeners[f"delivery.{child.index}"], self._admit)
        self._told: dict[tuple[str, str], LaneState] = {}
        self._stopped: dict[tuple[str, str], str] = {}  # topics that do not run, as the log has it
        self._troubles: dict[str, float] = {}  # topics whose handler did what it should not: until when that is told
        self._tell_again_s = 0.0
        self._round_s = 0.0
        self._deaths = 0
        self._is_fenced = False

    def live(self) -> None:
        """From boot to the end of the drain."""
        self._news.catch_up()
        waits = self._child.waits
        for name, side in self._stores.items():
            lanes = [lane for lane in self._lanes.values() if self._queues[lane.queue].storage == name]
            if lanes:
                side.start(lanes, wait_s=self._child.grace_s, claims=not waits)
        self._child.on_frame("logs", lambda _: self._report.reopen_logs())
        self._child.on_frame("shares", self._share)
        self._child.on_frame("expected", self._expect)
        self._child.on_frame("deployed", self._deployed)
        if waits:
            self._child.ready()
            self._child.wait_turn()
            self._lent.wait()
            for side in self._stores.values():
                side.begin()
        gevent.spawn(self._tell_work)
        if self._spans is not None:
            gevent.spawn(self._spans.pump.run)
        self._door.open()
        if not waits:
            self._child.ready()
        has_consumers = any(isinstance(lane, ConsumerLane) for lane in self._lanes.values())
        tick_s = TICK_S if has_consumers else ROUND_S  # only consumers are looked after more often
        while not self._child.wait_drain(tick_s):
            self._tick()
        self._drain()

    # -- boot -------------------------------------------------------------------------------------

    def _store_side(self, name: str, target: StoreTarget) -> StoreSide:
        driver: Driver = make(target)
        if driver.capabilities.blocking:
            driver = Threaded(driver, ThreadPool(1).apply)
        rules = {
            (queue, topic): settings.rules
            for queue, of_queue in self._queues.items() if of_queue.storage == name
            for topic, settings in of_queue.topic.items()
        }
        brakes = {
            (queue, topic): self._queues[queue].topic[topic].brake.policy for (queue, topic), rule in rules.items()
            if not rule.shadow  # one that always fails is what it is there to find out
        }
        return StoreSide(
            name, driver, queue_specs(self._queues, name), rules,
            brakes=brakes, child=self._child, report=self._report, fenced=self._fenced, work=self._work,
            traces=self._trace_writer(target), spans=self._spans, shadows=plan_of(self._queues, name),
        )

    def _trace_writer(self, target: StoreTarget) -> TraceWriter | None:
        child = self._child
        by = f"{child.owner.node}/delivery.{child.index}"
        writer = make_writer(target, child.spec.args["traces"], by, lambda: ThreadPool(1).apply, child.clock)
        if writer is not None:
            slow = Slow(child.histograms.read, child.clock)
            writer.before.append(lambda: setattr(writer, "slow_us", slow.limits_us()))
        return writer

    def _part(self, total: int) -> int:
        """Ours of a number that all delivery children share, rather one too many."""
        return -(-total // self._processes)

    def _living(self) -> set[int]:
        return {row.n for row in self._child.scoreboard.living() if row.role == "delivery"}

    def _make_lanes(self) -> Iterator[Lane]:
        for queue, of_queue in self._queues.items():
            side = self._stores[of_queue.storage]
            for topic, settings in of_queue.topic.items():
                if is_fed(settings):
                    yield self._consumer_lane(side, queue, topic, settings)
                elif settings.fastcgi is not None or settings.http is not None:
                    yield from self._call_lane(side, queue, topic, settings)

    def _consumer_lane(self, side: StoreSide, queue: str, topic: str, settings: Topic) -> ConsumerLane:
        """Consumer i attaches to child i modulo their number; which there are changes, so every child has a lane."""
        consumers = self._consumers.get(topic_path(queue, topic), 0)
        expected = share_of(consumers, self._processes, self._child.index)
        throttle = throttle_of(settings.rate_per_s, max(1, expected) / max(1, consumers), side.desk.wake, self._clock)
        if throttle is not None:
            self._rates[topic_path(queue, topic)] = throttle, settings.rate_per_s
        lane = ConsumerLane(
            queue, topic, timeout_s=settings.timeout_s, exclusive=settings.concurrency.max == 1,
            expected=expected, desk=side.desk, link_n=self._child.owner.n, look=self._lives.look,
            kill=self._kill, compare=side.compare, clock=self._clock, recall=self._recall, trouble=self._trouble,
            hold=settings.on_unknown == "hold", throttle=throttle,
        )
        side.desk.receipts_for(queue, topic, lane.settled)
        return lane

    def _call_lane(self, side: StoreSide, queue: str, topic: str, settings: Topic) -> Iterator[Lane]:
        """One that may be given a share; a topic that keeps its order is called by the first child."""
        of_queue = self._queues[queue]
        of_node = max(1, settings.concurrency.min)
        if settings.concurrency.max > 1 or self._child.index == 0:
            yield make_call_lane(
                queue, topic, settings, concurrency=share_of(of_node, self._processes, self._child.index),
                of_node=of_node, backends=self._backends, desk=side.desk, owner=str(self._child.owner),
                clock=self._clock, system=of_queue.system,
                system_weight=self._systems[of_queue.system].weight if of_queue.system in self._systems else 1,
            )

    # -- the plan ---------------------------------------------------------------------------------

    def _share(self, frame: Mapping[str, Any]) -> None:
        """How many calls at once topics make from now on, in all of this node: this child makes its part of them."""
        for path, total in frame["topics"].items():
            lane = self._lanes.get(split_topic_path(path))
            if isinstance(lane, CallLane):
                of_node = max(1, total)
                lane.resize(share_of(of_node, self._processes, self._child.index), of_node)
                self._work.look_at(path)

    def _expect(self, frame: Mapping[str, Any]) -> None:
        """How many consumers of topics attach here from now on, and to all delivery children: they share the rate."""
        for path, (here, total) in frame["topics"].items():
            lane = self._lanes.get(split_topic_path(path))
            if isinstance(lane, ConsumerLane):
                lane.expected = here
                self._work.look_at(path)
                if here and path in self._rates:
                    throttle, rate_per_s = self._rates[path]
                    throttle.change(rate_per_s * here / total)

    def _deployed(self, frame: Mapping[str, Any]) -> None:
        """What is called for these topics is other code now."""
        lanes = [self._by_path.get(path) for path in frame["topics"]]
        for backend in {lane.backend for lane in lanes if isinstance(lane, CallLane)}:
            backend.start_slowly()

    def _tell_work(self) -> None:
        """At each full second: what attempts took, for whoever plans."""
        while True:
            gevent.sleep(1.0 - self._clock.monotonic_s() % 1.0)
            self._work.begin(self._clock.monotonic_s())
            told = {
                backend.name: fields for backend in self._backends
                if backend.name and backend.is_used and is_telling(fields := backend_fields(backend))
            }
            lanes = [
                (path, self._standing(lane)) for path, lane in self._by_path.items()
                if lane.busy or self._work.wants(path)
            ]
            frame = self._work.frame(lanes, told, self._clock.monotonic_s())
            if frame is not None:
                self._child.tell("work", **frame)
            dropped = {name: count for name, side in self._stores.items() if (count := side.dropped())}
            if dropped:
                self._child.tell("traces", dropped=dropped)

    def _standing(self, lane: Lane) -> Standing:
        """Consumers that are not there yet do not close a topic: they are what the plan is about."""
        is_open = isinstance(lane, ConsumerLane) or lane.state == "running"
        braked = self._stores[self._queues[lane.queue].storage].spares(lane.queue, lane.topic)
        return Standing(is_open and not braked, lane.concurrency, lane.busy)

    # -- consumers --------------------------------------------------------------------------------

    def _admit(self, link: Link, frame: dict[str, Any]) -> Attached | None:
        """A consumer of this boot and of a topic that is fed here; nothing can be settled for another boot's."""
        lane = self._lanes.get((frame["queue"], frame["topic"]))
        who, us = Owner.parse(frame["owner"]), self._child.owner
        is_ours = (who.node, who.boot) == (us.node, us.boot) and self._lives.is_process(who, link.peer_pid)
        if isinstance(lane, ConsumerLane) and is_ours:
            return lane.attach(link, frame)
        self._child.log.warning("consumer.refused", owner=str(who), queue=frame["queue"], topic=frame["topic"])
        return None

    def _kill(self, owner: str) -> None:
        self._child.log.warning("consumer.overdue", owner=owner)
        self._child.tell("kill", owner=owner)

    def _recall(self, owner: str, behind: str) -> None:
        """What waits in that consumer's hand behind a slow job is to come back, for others to run."""
        self._child.tell("recall", owner=owner, behind=behind)

    def _trouble(self, queue: str, topic: str, job_id: str, text: str) -> None:
        """User code did something to its own process that concerns us; a problem for a while."""
        self._child.log.error("consumer.trouble", queue=queue, topic=topic, job=job_id, text=text)
        path = topic_path(queue, topic)
        self._troubles[path] = self._clock.monotonic_s() + TROUBLE_S
        self._child.problem(f"trouble {path}", f"{path}: {text} (job {job_id})")

    def _forget_troubles(self, now_s: float) -> None:
        for path in [path for path, until_s in self._troubles.items() if until_s <= now_s]:
            del self._troubles[path]
            self._child.problem(f"trouble {path}", "")

    def _kill_overdue_orphans(self) -> None:
        """
        A consumer at work does not notice that its delivery child died; its timeout holds all the same.

        What it held is given back by the scheduler, as for any consumer without a delivery child.
        """
        for row, age_s in self._lives.orphans():
            queue, topic = split_topic_path(row.path)
            if row.index % self._processes != self._child.index or (queue, topic) not in self._lanes:
                continue
            timeout_s = self._queues[queue].topic[topic].timeout_s
            if timeout_s and age_s > timeout_s:
                node, boot = self._child.owner.node, self._child.owner.boot
                self._kill(f"{node}/{boot}/{row.slot}.{row.n}")

    # -- a few times a second ---------------------------------------------------------------------

    def _tick(self) -> None:
        deaths = self._child.scoreboard.deaths
        died, self._deaths = deaths != self._deaths, deaths
        for lane in self._lanes.values():
            if isinstance(lane, ConsumerLane):
                if died:
                    lane.see_deaths()
                lane.tick()
        now_s = self._clock.monotonic_s()
        if now_s < self._round_s:
            return
        self._round_s = now_s + ROUND_S
        self._lent.look()
        self._child.slot.update(running=self._busy())
        self._kill_overdue_orphans()
        self._forget_troubles(now_s)
        if now_s >= self._tell_again_s:
            self._tell_again_s = now_s + LANES_AGAIN_S
            self._told.clear()
            self._backend_board.forget()
        self._tell_lanes()
        self._backend_board.tell()

    def _tell_lanes(self) -> None:
        """Tell the master what has changed (and everything now and then: frames to it may be dropped)."""
        for path, lane in self._lanes.items():
            state = self._state_of(lane)
            if self._told.get(path) != state:
                self._told[path] = state
                self._child.tell(
                    "lane", queue=lane.queue, topic=lane.topic, state=state[0], reason=state[1],
                    concurrency=state[2],
                )
                self._log_lane(path, lane)

    def _state_of(self, lane: Lane) -> LaneState:
        """What its lane says, or that it is braked while the lane itself could run."""
        braked = self._stores[self._queues[lane.queue].storage].braked(lane.queue, lane.topic)
        if lane.state == "running" and braked:
            return "braked", braked, lane.concurrency
        return lane.state, lane.reason, lane.concurrency

    def _log_lane(self, path: tuple[str, str], lane: Lane) -> None:
        """The topic's log has why it does not run (of consumers the master says why they are not there)."""
        if isinstance(lane, ConsumerLane) or self._stopped.get(path, "running") == lane.state:
            return
        self._stopped[path] = lane.state
        self._report.topic_changed(lane.queue, lane.topic, lane.state, lane.reason)

    def _busy(self) -> int:
        return sum(lane.busy for lane in self._lanes.values())

    def _fenced(self) -> None:
        """Somebody declared this boot dead: nothing can be claimed or settled under it any more."""
        if not self._is_fenced:
            self._is_fenced = True
            self._child.log.critical("boot.fenced", owner=str(self._child.owner))
            self._child.tell("fenced")

    # -- drain ------------------------------------------------------------------------------------

    def _hand_on(self) -> bool:
        """
        Another child does this from now on: let consumers go to it one by one, and finish what runs here.

        However long that takes, unless the bus stops meanwhile.

        Returns:
            Whether nothing is left.
        """
        self._door.close()
        self._backends.leave()
        began_s = self._clock.monotonic_s()
        for lane in self._lanes.values():
            if not isinstance(lane, ConsumerLane):
                lane.drain()
        self._lent.tell()
        while self._child.patient:
            for lane in self._lanes.values():
                if isinstance(lane, ConsumerLane):
                    lane.hand_on(self._stores[self._queues[lane.queue].storage].is_done_with)
            if self._is_finished() and not self._has_consumers():
                return True
            self._tick()
            self._lent.tell()
            self._child.slot.update(running=max(1, self._busy()))  # the master lets us live as long as there is any
            quick = self._clock.monotonic_s() - began_s < QUICK_S
            gevent.sleep(TICK_S / 10 if quick else TICK_S)
        return False

    def _drain(self) -> None:
        """Claim nothing, let what runs finish, write everything, go."""
        for side in self._stores.values():
            side.stop_claiming()
        if self._child.patient and self._hand_on():
            self._leave()
            return
        began_s = self._clock.monotonic_s()
        for lane in self._lanes.values():
            lane.drain()
        give_up_s = began_s + max(self._child.grace_s - LAST_SECOND_S, self._child.grace_s / 2)
        killed = False
        while not self._is_finished():
            self._tick()
            if not killed and self._clock.monotonic_s() >= give_up_s:
                killed = True
                for lane in self._lanes.values():
                    lane.kill()
            gevent.sleep(TICK_S / 10)
        self._see_off()
        self._leave()

    def _leave(self) -> None:
        """Everything is written."""
        self._lent.tell()
        self._work.count()
        self._door.close()
        self._backends.close()
        for side in self._stores.values():
            side.close()
        if self._spans is not None:
            self._spans.pump.close()

    def _has_consumers(self) -> bool:
        return any(lane.owners for lane in self._lanes.values() if isinstance(lane, ConsumerLane))

    def _is_finished(self) -> bool:
        return not self._busy() and all(side.desk.idle for side in self._stores.values())

    def _see_off(self) -> None:
        """Consumers that hold nothing leave by themselves, once they have their last receipts."""
        until_s = self._clock.monotonic_s() + GOODBYE_S
        lanes = [lane for lane in self._lanes.values() if isinstance(lane, ConsumerLane)]
        while any(lane.concurrency for lane in lanes) and self._clock.monotonic_s() < until_s:
            gevent.sleep(TICK_S / 20)


def is_fed(settings: Topic) -> bool:
    """Consumer processes of the topic attach to a delivery child (those of the pepper contract pop for themselves)."""
    return settings.python is not None or (settings.command is not None and settings.command.protocol == "lines")
