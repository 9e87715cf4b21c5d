"""A log that cannot be written is no secret: the status says so, until it can."""

from __future__ import annotations

import os
import signal

from pbus.errors import Exit
from tests.support.bus import BusFactory
from tests.support.waiting import until

PULL = {"queue": {"gift": {"topic": {"credit": {"pull": {}}}}}}


def test_log_that_cannot_be_written_is_a_problem_until_it_can(bus_factory: BusFactory) -> None:
    bus = bus_factory(PULL)
    log = bus.folder / "var/log/pbus.log"
    kept = log.with_suffix(".kept")
    log.rename(kept)
    log.mkdir()  # as good as a full disk: nothing can be appended
    master = bus.pids("master")[0]

    def told() -> list[str]:
        os.kill(master, signal.SIGHUP)  # which it answers with a line in the log
        return [text for text in bus.status()["problems"] if "logs cannot be written" in text]

    texts = until(told, 10, "it is said")
    assert all(": logs cannot be written: Is a directory, " in text and "dropped" in text for text in texts)
    assert bus.cli("status").returncode == Exit.DEGRADED
    log.rmdir()
    kept.rename(log)
    bus.wait(("running",), 10)
    assert bus.events("log.dropped")
