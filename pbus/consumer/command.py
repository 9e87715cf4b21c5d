"""
Role consumer, for topics whose handler is a program: this process holds the claims, the program does the work.

    delivery child --jobs--> attachment --one at a time--> program (lines) --answer--> attachment
                                                              |
                     ended with a job: the job's fault -------+--> another one, in this process
                     ended without: its own fault ------------+--> we end too: the master knows how long to wait

Rule: nothing of the program runs in this process, so nothing of it can lose a result. Whatever the program does, a
job ends once, and why is said in its error, in the topic's log and, when it goes on, by ``pbus status``.
"""

from __future__ import annotations

import math
import os
import random
import select
import signal
from typing import Any, Final

from pbus.clock import Clock
from pbus.codec.lines import Encoder
from pbus.config.schema import CommandHandler
from pbus.config.values import signal_number
from pbus.consumer import attach
from pbus.consumer.attach import RawJob
from pbus.consumer.kin import FamilyMemory, Kin, family_rss_bytes
from pbus.consumer.launch import Launch, LaunchError
from pbus.consumer.lines_program import LinesProgram
from pbus.consumer.link import RECEIPTS_S, attachment_of
from pbus.consumer.pepper_program import PepperConsumer
from pbus.consumer.recycling import Limits, Recycling
from pbus.consumer.running import Running, time_to_stop_s
from pbus.consumer.watch import CodeWatch
from pbus.supervisor.child import Child
from pbus.telemetry.topic_log import TopicLog

LONGEST_PAUSE_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.05
PATIENCE_S: Final = 5.0
"""The end of its input asks a program to finish; the stop signal comes so much later, or after half of its time."""
BRISK_S: Final = 1.0
"""Programs that live shorter than this in good order (a process a job) are not told of one by one."""
KEEPS_FAILING: Final = 3
"""So many programs in a row that ended with their first job are a problem that people should know of."""


def run(child: Child) -> None:
    """The life of a command consumer."""
    args = child.spec.args
    child.start()
    log = TopicLog(args["log_dir"], args["queue"], args["topic"])
    child.on_frame("logs", lambda _: log.reopen())
    handler: CommandHandler = args["handler"]
    launch = launch_of(handler, talks=handler.protocol == "lines")
    watch_code(child, launch)
    if handler.protocol == "pepper":
        PepperConsumer(child, log, launch).serve()
    else:
        LinesConsumer(child, log, launch).serve()


def launch_of(handler: CommandHandler, *, talks: bool) -> Launch:
    """How the program of a topic is started."""
    return Launch(
        argv=handler.argv, cwd=handler.cwd, env=handler.env, user=handler.user, nice=handler.nice, talks=talks
    )


def watch_code(child: Child, launch: Launch) -> None:
    """Tell the master when a file that the program is started with has changed, while this process is asked to look."""
    CodeWatch(launch.files, [launch.cwd], lambda files: child.tell("changed", files=files)).listen_to(child)


def recycling_of(limits: Limits, program: Running, clock: Clock) -> Recycling:
    """When *program* is replaced by another."""
    return Recycling(limits, program.started_s, random.random, FamilyMemory(program.pid, clock))


class LinesConsumer:
    """The loop between the attachment and the program. One a process."""

    def __init__(self, child: Child, log: TopicLog, launch: Launch) -> None:
        args = child.spec.args
        self._child = child
        self._clock = child.clock
        self._log = log
        self._handler: CommandHandler = args["handler"]
        self._launch = launch
        self._stop_signal = signal_number(self._handler.stop_signal)
        self._stop_timeout_s = time_to_stop_s(self._handler.stop_timeout_s, child.grace_s)
        self._encoder = Encoder(args["queue"], args["topic"])
        self._kin = Kin(child.clock)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._overdue = False
        self._program: LinesProgram | None = None
        self._watched: list[int] = []
        self._recycling: Recycling | None = None
        self._brisk = False  # the last program has left in good order so soon that it was not worth a line
        self._reason = ""  # why we end
        self._hasty = 0    # programs in a row that ended with their first job
        self._attachment = attachment_of(child, self._idle)

    def serve(self) -> None:
        """From the start of the first program to the end of the last. Does not return when a program is to blame."""
        try:
            self._start()
        except LaunchError as error:
            self._log.write("", "ERROR", str(error), os.getpid())
            self._child.fail(str(error))
        self._child.on_frame("overdue", self._on_overdue)
        self._child.on_frame("recall", self._recalled)
        self._child.on_drain(self._attachment.stop)
        self._child.ready()
        while (raw := self._attachment.next_job()) is not None:
            self._run(raw)
        self._attachment.unwatch(self._kin.news_fd)
        self._let_go()
        self._attachment.leave(RECEIPTS_S)
        if self._program is not None:
            self._program.finish(self._stop_signal, self._stop_timeout_s, self._patience_s)
        if self._reason:
            self._child.fail(self._reason)

    # -- jobs -------------------------------------------------------------------------------------

    def _run(self, raw: RawJob) -> None:
        program = self._program
        if program is None:
            self._attachment.put_back()  # the next look says that we leave
            return
        job_id: str = raw[attach.ID]
        line = self._encoder.job(
            job_id, raw[attach.ATTEMPT], raw[attach.REDELIVERED], raw[attach.TRACEPARENT], raw[attach.BODY],
            attach.replay_of(raw),
        )
        self._child.slot.begin(job_id)
        begun_s = self._clock.monotonic_s()
        answer = program.run(job_id, line, self._woken)
        if answer is None:
            self._child.slot.update(current="", running=0)
            self._attachment.put_back()
            self._ended_idle(program)
            return
        self._attachment.answer(answer.verdict, answer.error, answer.delay_s, self._clock.monotonic_s() - begun_s)
        self._child.slot.end(answer.verdict == "done")
        losses = self._log.losses
        self._child.problem("output", f"{self._child.spec.path}: {losses}" if losses else "")
        if program.over:
            self._ended_with_a_job(program)
        else:
            self._hasty = 0
            self._child.problem("program", "")
            self._recycle_when_due(program)

    def _ended_with_a_job(self, program: LinesProgram) -> None:
        """The job is to blame, or the answer: another program goes on, after a pause if they all end like this."""
        self._brisk = False
        if program.status is None:
            program.say("ERROR", f"{program.over}: killed")
            program.kill()
        else:
            program.say("ERROR", program.over.partition("\n")[0])  # the rest is in the log already
        self._hasty = self._hasty + 1 if program.jobs <= 1 else 1
        if self._hasty >= KEEPS_FAILING:
            self._child.problem("program", f"{self._child.spec.path}: {program.over}; {self._hasty} times in a row")
        self._bury(program)
        if self._hasty > 1:
            self._pause(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._hasty - 2, 10)))
        self._start_another()

    def _ended_idle(self, program: LinesProgram) -> None:
        """Nobody but itself is to blame, unless it had worked and left in good order."""
        well = program.status == 0 and program.jobs > 0
        self._brisk = well and program.age_s < BRISK_S
        if not self._brisk:
            program.say("INFO" if well else "ERROR", program.over.partition("\n")[0])
        self._bury(program)
        if well:
            self._start_another()
        else:
            self._give_up(program.over if program.jobs else f"{program.over}, before it had run a job")

    # -- programs ---------------------------------------------------------------------------------

    def _start(self) -> None:
        program = LinesProgram(
            self._launch, self._kin, self._log, self._clock, self._wake_fd, self._child.spec.args["timeout_s"],
            quiet=self._brisk,
        )
        self._program = program
        self._recycling = recycling_of(self._handler, program, self._clock)
        self._watched = [*program.out_fds, program.stdin_fd]
        self._attachment.watch(self._kin.news_fd, self._tend)
        for fd in program.out_fds:
            self._attachment.watch(fd, self._tend)
        self._attachment.watch(program.stdin_fd, self._tend_input, 0)  # it says so when nobody reads it any more

    def _start_another(self) -> None:
        if self._child.draining or self._reason:
            return
        try:
            self._start()
        except LaunchError as error:
            self._log.write("", "ERROR", str(error), os.getpid())
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        self._attachment.stop()

    def _let_go(self) -> None:
        """The attachment does not look at the program's pipes any more."""
        for fd in self._watched:
            self._attachment.unwatch(fd)
        self._watched = []

    def _bury(self, program: LinesProgram) -> None:
        self._let_go()
        program.bury()
        self._program = None

    def _tend(self, _: int) -> None:
        """Something has come from the program while it has no job, or it has ended."""
        program = self._program
        if program is None:
            self._kin.heard()
            return
        program.tend()
        if program.is_going:
            self._tend_input(0)
        elif program.over:
            self._judge_idle(program)

    def _tend_input(self, _: int) -> None:
        """It does not listen any more, or cannot be heard: it ends now, or it is ended."""
        program = self._program
        if program is not None:
            program.hang_up()
            self._judge_idle(program)

    def _judge_idle(self, program: LinesProgram) -> None:
        if program.status is None:
            program.kill()
        self._ended_idle(program)

    # -- recycling --------------------------------------------------------------------------------

    def _idle(self) -> float:
        """Called while there is no job: is the program too old? How long may the next wait last?"""
        if self._program is not None:
            self._recycle_when_due(self._program)
        return self._recycling.left_s(self._clock.monotonic_s()) if self._recycling is not None else math.inf

    def _recycle_when_due(self, program: LinesProgram) -> None:
        why = self._recycling.due(program.jobs, self._clock.monotonic_s()) if self._recycling is not None else ""
        if why and not self._child.draining:
            self._brisk = program.age_s < BRISK_S and why.startswith("max_jobs")
            if not self._brisk:
                program.say("INFO", f"{program.name} is replaced: {why}")
                rss_bytes = family_rss_bytes(program.pid)
                self._child.log.info("consumer.recycled", why=why, jobs=program.jobs, rss_bytes=rss_bytes)
            self._let_go()
            program.finish(self._stop_signal, self._stop_timeout_s, self._patience_s)
            self._program = None
            self._start_another()

    @property
    def _patience_s(self) -> float:
        return min(PATIENCE_S, self._stop_timeout_s / 2)

    # -- what the listener wants ------------------------------------------------------------------

    def _recalled(self, frame: dict[str, Any]) -> None:
        self._attachment.recall(frame["behind"])

    def _on_overdue(self, _: dict[str, Any]) -> None:
        self._overdue = True
        os.eventfd_write(self._wake_fd, 1)

    def _woken(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return
        program = self._program
        if self._overdue and program is not None:
            program.condemned = True
            program.say("ERROR", f"its job is overdue, {program.name} is sent {signal.Signals(self._stop_signal).name}")
            program.send(self._stop_signal)

    def _pause(self, seconds: float) -> None:
        """Wait, unless somebody wants something."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        deadline_s = self._clock.monotonic_s() + seconds
        while not self._child.draining and (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            if poll.poll(min(left_s, 0.1) * 1000):
                return
