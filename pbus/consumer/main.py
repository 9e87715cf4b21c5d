"""
Role consumer: one process that runs one topic's Python handler, one job at a time.

Rule: no gevent, no storage, no patched module: user code finds the Python it knows. ``run`` is
the whole life: load the handler, attach to a delivery child, work until told to finish, hand back
what has not begun.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Final

from pbus.consumer import attach
from pbus.consumer.attach import Attachment, RawJob
from pbus.consumer.job import Job
from pbus.consumer.output import Output, lead_descriptors_to
from pbus.consumer.python_handler import Answer, LoadError, PythonHandler
from pbus.supervisor.child import Child
from pbus.supervisor.listeners import connect_unix
from pbus.telemetry.sink import STDOUT
from pbus.telemetry.topic_log import FOLDER, TopicLog, file_name

RECEIPTS_S: Final = 5.0
"""How long a leaving consumer waits for its receipts; the delivery child has its results anyway."""
CONNECT_S: Final = 2.0


def run(child: Child) -> None:
    """The life of a consumer process. Ends the process with the handler's status if it calls sys.exit."""
    args = child.spec.args
    child.start()
    log = TopicLog(args["log_dir"], args["queue"], args["topic"])
    log.write("", "INFO", f"consumer {child.index} starts", os.getpid())
    output = Output(log)
    output.install()
    _lead_descriptors(child, log)
    try:
        handler = PythonHandler.load(args["handler"].call, args["handler"].path)
        handler.setup()
    except LoadError as error:
        log.write("", "ERROR", str(error), os.getpid())
        child.fail(str(error))
    attachment = _attachment(child)
    child.on_drain(attachment.stop)
    child.ready()
    status = Consumer(child, handler, attachment, output).work()
    handler.teardown()
    if status:
        sys.exit(status)


def _lead_descriptors(child: Child, log: TopicLog) -> None:
    """What bypasses Python's own streams ends up in the topic's log too, also after a rotation."""
    args = child.spec.args
    if args["log_dir"] == STDOUT:
        return
    path = os.path.join(args["log_dir"], FOLDER, file_name(args["queue"], args["topic"]))
    lead_descriptors_to(path)

    def follow(_: dict[str, Any]) -> None:
        log.reopen()
        lead_descriptors_to(path)

    child.on_frame("logs", follow)


def _attachment(child: Child) -> Attachment:
    args = child.spec.args
    path = os.path.join(child.run_dir, f"delivery.{child.index % args['deliveries']}.sock")
    identity = {"owner": str(child.owner), "queue": args["queue"], "topic": args["topic"], "pid": os.getpid()}

    def connect() -> socket.socket:
        return connect_unix(path, CONNECT_S)

    def attached(link: int) -> None:
        child.slot.update(link=link)

    return Attachment(connect, identity, attached, child.clock)


class Consumer:
    """The loop between the attachment and the handler. One a process."""

    def __init__(self, child: Child, handler: PythonHandler, attachment: Attachment, output: Output) -> None:
        self._slot = child.slot
        self._clock = child.clock
        self._queue: str = child.spec.args["queue"]
        self._topic: str = child.spec.args["topic"]
        self._handler = handler
        self._attachment = attachment
        self._output = output

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

    def _run(self, raw: RawJob) -> int | None:
        job_id: str = raw[attach.ID]
        self._slot.begin(job_id)
        self._output.begin(job_id)
        begun_s = self._clock.monotonic_s()
        answer = self._handler.run(self._job(raw))
        run_s = self._clock.monotonic_s() - begun_s
        self._output.end()
        self._attachment.answer(answer.verdict, answer.error, answer.delay_s, run_s)
        self._slot.end(_ok(answer))
        return answer.exit_status

    def _job(self, raw: RawJob) -> Job:
        return Job(
            id=raw[attach.ID], queue=self._queue, topic=self._topic, attempt=raw[attach.ATTEMPT],
            redelivered=raw[attach.REDELIVERED], body=raw[attach.BODY], traceparent=raw[attach.TRACEPARENT],
            content_type=raw[attach.CONTENT_TYPE], log=self._output.logger,
        )


def _ok(answer: Answer) -> bool:
    return answer.verdict == "done"
