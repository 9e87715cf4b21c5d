"""
Looking on costs no job: the logs cannot be written, a follower does not read, and every job runs once as ever.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.support.bus import BusFactory
from tests.support.ledger import Ledger
from tests.support.ledger_handlers import python_environment, python_handler
from tests.support.producers import RedisPy
from tests.support.waiting import until

JOBS = 2000
FAILING = 500
TOPIC = (
    f'[queue.gift.topic.mail]\npython = {python_handler()}\nconcurrency = 2\nretry = {{ first = "10ms" }}\n'
    "brake = { min_jobs = 100000 }\n"  # it gives attempts back, and here each one counts
)


def test_logs_that_cannot_be_written_and_a_follower_that_does_not_read_cost_no_job(
    bus_factory: BusFactory, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    bus = bus_factory(TOPIC, environment=python_environment(ledger))
    log = bus.folder / "var/log/pbus.log"
    log.rename(log.with_suffix(".kept"))
    log.mkdir()  # as good as a full disk: nothing can be appended
    follower = subprocess.Popen(
        [sys.executable, "-m", "pbus", "tail", "jobs", "-c", str(bus.conf)], env=bus.environment, cwd=bus.folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        with (
            RedisPy(ledger, bus.port, "gift", count=JOBS, pipeline=10, name="good") as good,
            RedisPy(ledger, bus.port, "gift", count=FAILING, orders="fail=1", name="failing") as failing,
        ):
            good.finish()
            failing.finish()
        until(lambda: ledger.executed_count("gift", "mail") >= JOBS + FAILING, 60, "everything has run")
        assert follower.poll() is None, "somebody has to look on"
    finally:
        follower.kill()
        follower.communicate()
    failed = Counter(run.key for run in ledger.runs("gift", "mail") if not run.ok)
    again = [run for run in ledger.runs("gift", "mail") if failed[run.key] > 1]
    assert again == [], "an attempt that failed ran more than once"
    [verdict] = ledger.expect_nothing_lost("gift", ["mail"]).values()
    assert (verdict.ok, verdict.refused, verdict.failed_attempts) == (JOBS + FAILING, 0, FAILING)
    until(lambda: bus.topic("gift", "mail")["done_total"] == JOBS + FAILING, 20, "everything is settled")
    topic = bus.topic("gift", "mail")
    assert (topic["failed_total"], topic["dead"]) == (FAILING, 0)
