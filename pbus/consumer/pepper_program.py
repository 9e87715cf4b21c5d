"""
Programs of the old contract: they take their jobs themselves, by the token that stands in their arguments.

    start: ARGV -q queue/topic -h host -p port -a TOKEN -t jobs -H entry
        --RPOP, RPOP, ..--> ingest: the next RPOP ends the job before
    end:   status 0: PBUS.SETTLE done     status: failed     signal: crashed     by us: timeout, stopped
        --> another one

Rule: the jobs that a program holds are claimed in the name of this process, which says how they ended as soon as it
knows. It keeps a connection from its start on: while the bus stops, no new ones are let in. Which job a program was
handed stands in a file (supervisor/handed.py): nobody is killed in the middle of one because he is old, or too many.
"""

from __future__ import annotations

import dataclasses
import os
import random
import select
import signal
from typing import Any, Final

from pbus.config.schema import CommandHandler
from pbus.config.values import signal_number
from pbus.consumer.door import Door, DoorError, reachable
from pbus.consumer.kin import FamilyMemory, Kin
from pbus.consumer.launch import Launch, LaunchError
from pbus.consumer.recycling import Recycling
from pbus.consumer.running import Log, Running, time_to_stop_s
from pbus.core.tokens import PEPPER
from pbus.supervisor.child import Child
from pbus.supervisor.handed import Handed

NEVER: Final = 2_147_483_647
"""``-t`` of a program that is not replaced: it counts to this, and 0 would be none."""
QUICK_S: Final = 1.0
"""A program that ended sooner, in good order, is followed by the next one after a pause."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
LONGEST_HASTE_S: Final = 1.0
"""The same after one that ended by its job."""
LOOK_S: Final = 1.0
"""So often is looked at its memory, at what it has in hand, and for a door that is closed."""
FINISH_LOOK_S: Final = 0.2
OVERDUE_S: Final = 1.0
SETTLE_S: Final = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Bounds:
    """What of recycling.Limits is judged here; the jobs are counted by the program."""

    max_rss_bytes: int
    max_age_s: float
    max_jobs: int = 0


class PepperConsumer:
    """The loop around such programs. One a process."""

    def __init__(self, child: Child, log: Log, launch: Launch) -> None:
        args = child.spec.args
        self._child = child
        self._clock = child.clock
        self._log = log
        self._handler: CommandHandler = args["handler"]
        self._timeout_s: float = args["timeout_s"]
        self._launch = launch
        self._stop_signal = signal_number(self._handler.stop_signal)
        self._stop_timeout_s = time_to_stop_s(self._handler.stop_timeout_s, child.grace_s)
        self._kin = Kin(child.clock)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._overdue = False
        self._handed = Handed(child.run_dir)
        self._shown = ""    # the job that the scoreboard shows
        self._hasty = 0     # programs in a row that ended at once
        self._held = False  # the last of them held a job
        self._door_again_s = 0.0
        self._door_fd = -1
        if args["gateway"] is None:
            child.fail("programs of the pepper protocol need an address with a port in [ingest] listen")
        host, port = args["gateway"]
        self._door = Door(host, port, child.tokens[PEPPER], child.clock)
        self._place = (reachable(host), str(port))

    def serve(self) -> None:
        """From the first program to the last. Does not return when a program is to blame."""
        try:
            running = self._start()
        except LaunchError as error:
            self._give_up(str(error))
        self._child.on_frame("overdue", self._on_overdue)
        self._child.on_drain(self._wake)
        self._child.ready()
        while True:
            stopped = self._look_after(running)
            self._end(running, stopped)
            if self._child.draining or not self._pause():
                break
            try:
                running = self._start()
            except LaunchError as error:
                self._give_up(str(error))
        self._door.close()

    # -- one program ------------------------------------------------------------------------------

    def _start(self) -> Running:
        handler = self._handler
        jobs = max(1, round(handler.max_jobs * (1 - 0.1 * random.random()))) if handler.max_jobs else NEVER
        argv = [
            *self._launch.argv, "-q", self._child.spec.path, "-h", self._place[0], "-p", self._place[1],
            "-a", self._child.tokens[PEPPER], "-t", str(jobs), "-H", handler.entry,
        ]
        launch = dataclasses.replace(self._launch, argv=argv, shown=self._launch.name)
        running = Running(launch, self._kin, self._log, self._clock, self._wake_fd)
        self._door_fd = -1
        return running

    def _look_after(self, running: Running) -> str:
        """Until it has ended; answers why we ended it, empty when it ended by itself."""
        bounds = _Bounds(self._handler.max_rss_bytes, self._handler.max_age_s)
        recycling = Recycling(bounds, running.started_s, random.random, FamilyMemory(running.pid, self._clock))
        while not running.look():
            self._shows_job()
            if self._overdue:
                return self._stop_overdue(running)
            why = recycling.due(0, self._clock.monotonic_s())
            if why or self._child.draining:
                running.say("INFO", f"{running.name} is asked to finish: {why or 'the bus does not need it any more'}")
                return "stopped"
            self._keep_door(running)
            for fd, _ in running.attend(self._patience_s(recycling)):
                self._heard(running, fd)
        return ""

    def _patience_s(self, recycling: Recycling) -> float:
        """How long nothing needs to be looked at."""
        return min(LOOK_S, recycling.left_s(self._clock.monotonic_s()))

    def _shows_job(self) -> bool:
        """Whether it has a job in hand; if so the scoreboard says it too, for whoever looks for an idle one."""
        hand = self._handed.read(self._child.owner)
        job_id = hand.job_id if hand is not None else ""
        if job_id != self._shown:
            self._shown = job_id
            if job_id:
                self._child.slot.begin(job_id)
            else:
                self._child.slot.update(current="", running=0)
        return bool(job_id)

    def _heard(self, running: Running, fd: int) -> None:
        if fd == self._wake_fd:
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                pass
        elif fd == self._door_fd:  # nobody speaks to us there: it is over
            running.poll.unregister(fd)
            self._door_fd = -1
            self._door.close()

    def _keep_door(self, running: Running) -> None:
        now_s = self._clock.monotonic_s()
        if self._door.fd < 0 and now_s >= self._door_again_s:
            self._door_again_s = now_s + LOOK_S
            self._door.open()
        if self._door.fd >= 0 and self._door_fd != self._door.fd:
            self._door_fd = self._door.fd
            running.poll.register(self._door_fd, select.POLLIN)

    def _stop_overdue(self, running: Running) -> str:
        self._overdue = False
        running.send(self._stop_signal)
        signame = signal.Signals(self._stop_signal).name
        running.say("ERROR", f"its job is overdue, {running.name} is sent {signame}")
        return "timeout"

    # -- its end ----------------------------------------------------------------------------------

    def _end(self, running: Running, stopped: str) -> None:
        """End it if it lives, say what became of what it held, and judge its life."""
        if self._door_fd >= 0:
            running.poll.unregister(self._door_fd)
        age_s, how = running.age_s, ""
        if stopped:
            stopped = self._finish(running, stopped)
        else:
            how = running.how()
            running.bury()
        status = running.status
        if status == 0 and stopped != "timeout":  # a call that our signal interrupted may look like a success
            word, reason = "done", ""
        elif stopped or status is None:
            word, reason = stopped, self._reason_of(stopped)
        else:
            word, reason = "crashed" if status < 0 else "failed", f"the program {how}"
        held = self._settle(running, word, reason)
        self._shown = ""
        self._child.slot.update(current="", running=0)
        for _ in range(held):
            self._child.slot.end(word == "done")
        if stopped:
            self._hasty = 0
        else:
            self._judge(running, how, age_s, held)

    def _finish(self, running: Running, stopped: str) -> str:
        """Ask it to finish, and wait for that; answers why it was ended: its job may become overdue meanwhile."""
        running.send(self._stop_signal)
        deadline_s = self._clock.monotonic_s() + self._time_to_stop_s(stopped)
        while not running.look():
            if stopped != "timeout" and self._overdue:
                stopped = self._stop_overdue(running)
                deadline_s = self._clock.monotonic_s() + self._time_to_stop_s(stopped)
            elif stopped != "timeout" and self._shows_job() and not self._bus_stops():
                deadline_s = self._clock.monotonic_s() + self._stop_timeout_s
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:  # it has just been looked what it has in hand
                break
            running.attend_quietly(min(FINISH_LOOK_S, left_s))
        if running.status is None:
            running.say("WARNING", f"{running.name} did not finish in time and is killed")
            running.kill()
        running.bury()
        if self._overdue:  # it was heard of only now: what ended since may be what our signal interrupted
            self._overdue, stopped = False, "timeout"
        return stopped

    def _bus_stops(self) -> bool:
        """No ingest child takes anything any more: then the grace is over for all of us at once."""
        rows = self._child.scoreboard.living()
        return not any(row.state in ("boot", "ready") for row in rows if row.role == "ingest")

    def _time_to_stop_s(self, stopped: str) -> float:
        """For how long the master waits for the end of an overdue job, or of us."""
        if stopped == "stopped":
            return self._stop_timeout_s
        return time_to_stop_s(self._handler.stop_timeout_s, OVERDUE_S)

    def _reason_of(self, stopped: str) -> str:
        if stopped == "timeout":
            return f"no answer within {self._timeout_s:g} s, the program was stopped"
        return "the program was stopped in the middle of its job"

    def _settle(self, running: Running, word: str, reason: str) -> int:
        try:
            return self._door.settle(word, reason, SETTLE_S)
        except DoorError as error:
            if word in ("done", "stopped"):
                self._handed.take(self._child.owner)  # its job is repeated, but it did not fail
            running.say("ERROR", f"the bus does not take the end of {running.name}: {error}")
            self._child.fail(f"the end of {running.name} could not be settled: {error}")

    def _judge(self, running: Running, how: str, age_s: float, held: int) -> None:
        """A job may be to blame, or the program; one that just left in good order is followed."""
        reason = f"{running.name} {how}"
        if running.status != 0 and not held:
            self._give_up(reason)
        level = "INFO" if running.status == 0 else "ERROR"
        self._log.write("", level, reason.partition("\n")[0], running.pid)
        self._hasty = self._hasty + 1 if age_s < QUICK_S else 0
        self._held = bool(held)

    def _pause(self) -> bool:
        """Wait before the next one where they end at once; False: it is not needed any more."""
        if self._hasty:
            longest_s = LONGEST_HASTE_S if self._held else LONGEST_PAUSE_S
            pause_s = min(longest_s, FIRST_PAUSE_S * 2.0 ** min(self._hasty - 1, 10))
            self._child.wait_drain(pause_s)
        return not self._child.draining

    def _give_up(self, reason: str) -> None:
        self._log.write("", "ERROR", reason.partition("\n")[0], os.getpid())
        self._child.fail(reason)

    # -- what the listener wants ------------------------------------------------------------------

    def _on_overdue(self, _: dict[str, Any]) -> None:
        self._overdue = True
        self._wake()

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
