"""
Role consumer: one process that runs one topic's Python handler, one job at a time.

    load, setup -> ready -> jobs .. -> hand back what has not begun -> teardown -> exit

Rule: no gevent, no storage, no patched module: user code finds the Python it knows. Two threads: the main one runs
user code; the listener hears the master meanwhile (see supervisor/child.py) and speaks for the job that runs.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any, Final

from pbus.consumer import attach, stack
from pbus.consumer.attach import RawJob
from pbus.consumer.forks import RETURNED, Forks
from pbus.consumer.job import Job
from pbus.consumer.link import RECEIPTS_S, attachment_of
from pbus.consumer.output import Descriptors, Output
from pbus.consumer.push import PushClient
from pbus.consumer.python_handler import Answer, LoadError, PythonHandler
from pbus.consumer.recycling import Recycling, rss_bytes
from pbus.consumer.stop_signal import StopSignal
from pbus.consumer.watch import CodeWatch, LoadedModules
from pbus.supervisor.child import Child
from pbus.telemetry.sink import STDOUT
from pbus.telemetry.topic_log import DAY_BYTES, FOLDER, TopicLog, file_name

LOOK_S: Final = 0.05
"""Between jobs it is looked so often what user code has done to the process."""
_CLOSED: Final = "the handler closed descriptors that are not its own"
_DEAF: Final = f"{_CLOSED}: its process cannot be spoken to any more and is replaced"
_MENDED: Final = "the handler closed standard input, output or error: opened again"
_FULL: Final = "what programs print is dropped: the log of the day is full"


def run(child: Child) -> None:
    """The life of a consumer process. Ends the process with the handler's status if it calls sys.exit."""
    child.start()
    consumer = Consumer(child)
    consumer.load()
    consumer.listen()
    child.ready()
    status = consumer.work()
    consumer.tear_down()
    if status:
        sys.exit(status)


class Consumer:
    """The loop between the attachment and the handler. One a process."""

    def __init__(self, child: Child) -> None:
        args = child.spec.args
        self._child = child
        self._slot = child.slot
        self._clock = child.clock
        self._queue: str = args["queue"]
        self._topic: str = args["topic"]
        self._settings = args["handler"]
        self._spans: bool = args.get("spans", False)
        self._log = TopicLog(args["log_dir"], self._queue, self._topic)
        self._log.write("", "INFO", f"consumer {child.index} starts", os.getpid())
        self._output = Output(self._log)
        self._output.install()
        log_dir = args["log_dir"]
        path = "" if log_dir == STDOUT else os.path.join(log_dir, FOLDER, file_name(self._queue, self._topic))
        self._descriptors = Descriptors(path, DAY_BYTES)
        self._descriptors.lead()
        self._forks = Forks()
        self._attachment = attachment_of(child, self._idle)
        self._stop_signal = StopSignal(self._settings.stop_signal, lambda: self._attachment.running)
        door, tls = args["door"], args["tls"]
        self._pusher = PushClient(door.address, child.tokens["push"], tls)
        self._recycling = Recycling(self._settings, self._clock.monotonic_s(), random.random)
        self._jobs = 0
        self._last = ""  # id of the job that was begun last
        self._look_at_s = 0.0
        self._look_around_s = 0.0
        self._looked_after = 0
        self._leaves = False

    # -- boot -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Import the handler and prepare it; one that cannot be used ends the process, and the master knows why."""
        try:
            self._handler = PythonHandler.load(self._settings.call, self._settings.path)
            self._handler.setup()
        except LoadError as error:
            if not self._forks.is_consumer:
                self._forks.end(None)
            self._log.write("", "ERROR", str(error), os.getpid())
            self._child.fail(str(error))
        if not self._forks.is_consumer:
            self._forks.end(None)

    def listen(self) -> None:
        """Let the listener act for us while user code runs."""
        child = self._child
        child.on_drain(self._attachment.stop)
        child.on_frame("drain", lambda _: self._stop_signal.give())
        child.on_frame("logs", self._follow_logs)
        child.on_frame("recall", lambda frame: self._recalled(frame["behind"]))
        child.on_frame("overdue", lambda _: self._overdue())
        modules = LoadedModules(os.path.realpath(self._settings.path or os.getcwd()))
        CodeWatch(modules, [self._settings.path], lambda files: child.tell("changed", files=files)).listen_to(child)

    # -- the main thread --------------------------------------------------------------------------

    def work(self) -> int:
        """
        Run jobs until the bus wants no more.

        Returns:
            Exit status: 0, or what the handler gave to ``sys.exit``.
        """
        status = None
        while status is None:
            raw = self._attachment.next_job()
            if raw is None:
                break
            status = self._run(raw)
        self._attachment.leave(RECEIPTS_S)
        return status or 0

    def tear_down(self) -> None:
        """Let the handler give back what it holds."""
        self._handler.teardown()
        if not self._forks.is_consumer:
            self._forks.end(None)

    def _run(self, raw: RawJob) -> int | None:
        job_id: str = raw[attach.ID]
        self._last = job_id
        self._slot.begin(job_id)
        self._output.begin(job_id)
        begun_s = self._clock.monotonic_s()
        answer = self._handler.run(self._job(raw))
        ended_s = self._clock.monotonic_s()
        self._output.end()
        if not self._forks.is_consumer:
            self._forks.end(answer.exit_status)
        self._attachment.answer(answer.verdict, answer.error, answer.delay_s, ended_s - begun_s)
        self._slot.end(_ok(answer))
        self._jobs += 1
        if ended_s >= self._look_at_s or self._jobs == self._recycling.jobs:
            self._look(ended_s)
        return answer.exit_status

    def _job(self, raw: RawJob) -> Job:
        return Job(
            id=raw[attach.ID], queue=self._queue, topic=self._topic, attempt=raw[attach.ATTEMPT],
            redelivered=raw[attach.REDELIVERED], body=raw[attach.BODY], traceparent=raw[attach.TRACEPARENT],
            content_type=raw[attach.CONTENT_TYPE], log=self._output.logger, pusher=self._pusher,
            replay_of=attach.replay_of(raw), spans=self._spans,
        )

    def _idle(self) -> float:
        """Before each wait for work; how long it may last."""
        now_s = self._clock.monotonic_s()
        self._look(now_s)
        if self._looked_after != self._jobs:
            return LOOK_S  # what the last job has done is looked at in a moment
        return self._recycling.left_s(now_s)

    def _look(self, now_s: float) -> None:
        """Between two jobs: whether this process has to be replaced, and now and then what became of it."""
        self._look_at_s = now_s + min(LOOK_S, self._recycling.pause_s)
        if now_s >= self._look_around_s:
            self._look_around_s = now_s + LOOK_S
            self._look_around()
        why = self._recycling.due(self._jobs, now_s)
        if why and not self._leaves:
            self._leaves = True
            self._child.tell("leaving", why=why)
            self._child.log.info("consumer.recycled", why=why, jobs=self._jobs, rss_bytes=rss_bytes())
            self._attachment.stop()

    def _look_around(self) -> None:
        """What user code did to the process: closed descriptors, forked children that came back, a full log."""
        self._looked_after = self._jobs
        if self._forks.take_returned():
            self._complain(RETURNED)
        if self._descriptors.bound():
            self._log.write(self._last, "WARNING", _FULL, os.getpid())
        losses = self._log.losses or (_FULL if self._descriptors.is_full else "")
        self._child.problem("output", f"{self._queue}/{self._topic}: {losses}" if losses else "")
        if self._descriptors.mend():
            self._complain(_MENDED)
        if self._child.is_deaf and not self._leaves:
            self._leaves = True
            self._complain(_DEAF)
            self._attachment.stop()
        elif self._attachment.robbed:
            self._complain(_CLOSED)
        self._attachment.robbed = False

    def _complain(self, text: str) -> None:
        self._log.write(self._last, "ERROR", text, os.getpid())
        self._attachment.trouble(self._last, text)

    # -- the listener -----------------------------------------------------------------------------

    def _recalled(self, behind: str) -> None:
        self._attachment.recall(behind)

    def _overdue(self) -> None:
        """Delivery has decided, the master kills: tell where the job is, and begin nothing more."""
        self._attachment.stuck(*stack.of_job(self._handler.loop))
        self._attachment.stop()

    def _follow_logs(self, _: dict[str, Any]) -> None:
        self._log.reopen()
        self._descriptors.lead()


def _ok(answer: Answer) -> bool:
    return answer.verdict == "done"
