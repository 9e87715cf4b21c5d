"""A handler that pushes and then dies, once, and one that notes what was pushed."""

from __future__ import annotations

import os
import signal
from typing import Any


def push_then_die(job: Any) -> None:
    """The push is repeated with the attempt; its dedupe key makes it one job."""
    job.push("mail", "child", dedupe=job.id)
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def record(job: Any) -> None:
    """A line ``traceparent body`` in $RUNS_FILE.mail."""
    fd = os.open(f"{os.environ['RUNS_FILE']}.mail", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{job.traceparent} {job.text}\n".encode())
    os.close(fd)
