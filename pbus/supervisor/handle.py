"""
A child as the master sees it: one handle a life, from the fork to the reaping.

Rule: facts only. What to do about them is decided by ``reconcile`` and done by ``Children``.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

from pbus.codec import frames
from pbus.supervisor import process
from pbus.supervisor.channel import Channel
from pbus.supervisor.health import Sample
from pbus.supervisor.reconcile import Place, Seen
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Slot, SlotView


@dataclass(slots=True, eq=False)
class Handle:
    """
    One life of one child. One owner: the master's ``Children``.

    Attributes:
        spec, index: Which child of which role.
        n: Serial number within the master's life; with the slot's index it makes the owner.
        boot, generation: What it was born into.
        slot, pid, channel: Its row, its process, our end of its control socket.
        born_s: Monotonic time of the fork.
        ready_s: When it said that its boot is over; None before.
        draining_since: When it was told to drain; None before.
        killed: It was sent KILL because a grace was over.
        condemned: It was sent KILL on demand (the timeout of a job): its death counts against nobody.
        overdue_since: When its job ran out of time; None: it did not.
        dumped: It was told to write down its stacks.
        busy_s: When it was last seen in the middle of a job.
        leaving: Why it leaves by itself (it is old, it has grown); empty: it does not.
        code: Which roll-out of its topic it was born into; a lower number is older code.
        trial: It is the first with new code, and may fail.
        too_big: How far it has grown, when it was killed for that.
        failure: Why it cannot start, as it said itself.
        stale: Files of its code that are other ones on the disk now, as it said when it was asked last.
        problems: What it wants people to know, by name.
        lanes: What it said about its topics, by (queue, topic).
        backends: What it said about addresses that it calls, by (backend, address).
        sample: Memory and processor, last time anybody looked.
        waits: It has not been told to begin its duties: an older one still has them.
        patient: It drains, and may take as long as what it runs.
        column: Where it counts in the histograms; -1: nowhere.
    """

    spec: RoleSpec
    index: int
    n: int
    boot: str
    generation: int
    slot: Slot
    pid: int
    channel: Channel
    born_s: float
    ready_s: float | None = None
    draining_since: float | None = None
    killed: bool = False
    condemned: bool = False
    overdue_since: float | None = None
    dumped: bool = False
    busy_s: float = 0.0
    leaving: str = ""
    code: int = 0
    trial: bool = False
    too_big: str = ""
    failure: str = ""
    stale: tuple[str, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    lanes: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    backends: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    sample: Sample = field(default_factory=Sample)
    column: int = -1
    waits: bool = False
    patient: bool = False

    @property
    def place(self) -> Place:
        """Where it lives."""
        return (self.spec.role, self.spec.path, self.index)

    @property
    def name(self) -> str:
        """What people call it: ``delivery 0``, ``consumer gift/credit 1``."""
        return (self.spec.title or self.spec.role).format(index=self.index)

    @property
    def seen(self) -> Seen:
        """The facts that deciding needs."""
        return Seen(
            n=self.n, place=self.place, generation=self.generation, stage=self.spec.drain_stage,
            draining_since=self.draining_since, killed=self.killed, stop_s=self.spec.stop_timeout_s,
            busy_s=self.busy_s, overdue_since=self.overdue_since, dumps=self.spec.dumps, dumped=self.dumped,
            alone=self.spec.alone,
        )

    @property
    def weighs_family(self) -> bool:
        """What it starts counts as its own."""
        return self.spec.weighs_group

    @property
    def stays(self) -> bool:
        """It neither drains nor leaves."""
        return self.draining_since is None

    @property
    def state(self) -> str:
        """``boot``, ``ready`` or ``draining``."""
        return "draining" if self.draining_since is not None else self.slot.state

    def tell(self, kind: str, **fields: Any) -> bool:
        """Send it a frame; False: it does not read."""
        return self.channel.send(frames.encode(kind, **fields))

    def drain(self, now: float, *, patient: bool = False) -> None:
        """Tell it to finish what runs and to exit; *patient*: however long that takes."""
        self.draining_since, self.patient = now, patient
        self.tell("drain", patient=patient)
        if self.ready_s is None:
            # It may not have come to listening yet; then the signal ends it, and nothing is lost by that.
            process.kill(self.pid, signal.SIGTERM, group=False)

    def hurry(self) -> None:
        """It drains, and what it runs may take no longer than the grace from now on."""
        if self.patient:
            self.patient = False
            self.tell("drain", patient=False)

    def begin(self) -> None:
        """Its duties are its own now."""
        self.waits = False
        self.tell("begin")

    def leave(self, why: str, now: float) -> None:
        """It has said that it ends by itself: its place is free, its end is no accident."""
        self.leaving, self.draining_since = why, now

    def overdue(self, now: float) -> None:
        """Its job is out of time: it may say what it does, and end by itself."""
        self.overdue_since, self.condemned = now, True
        self.tell("overdue")
        process.kill(self.pid, signal.SIGTERM, group=False)

    def dump(self) -> None:
        """Have it write its stacks to its log, even where it holds the interpreter."""
        self.dumped = True
        process.kill(self.pid, signal.SIGQUIT, group=False)

    def kill(self) -> None:
        """End it now, and what it started."""
        process.kill(self.pid, signal.SIGKILL, self.spec.own_group)


@dataclass(frozen=True, slots=True)
class Death:
    """A child that is no more: its handle, the row it left, minus the signal or the status it ended with."""

    handle: Handle
    row: SlotView
    exit_status: int

    @property
    def how(self) -> str:
        """For people: ``exit status 1``, ``killed by SIGSEGV``, with its own words if it had any."""
        if self.handle.too_big:
            return f"killed: {self.handle.too_big}"
        if self.exit_status < 0:
            try:
                return f"killed by {signal.Signals(-self.exit_status).name}"
            except ValueError:
                return f"killed by signal {-self.exit_status}"
        said = f" ({self.handle.failure})" if self.handle.failure else ""
        return f"exit status {self.exit_status}{said}"
