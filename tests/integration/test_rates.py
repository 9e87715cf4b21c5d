"""``rate`` on a real bus: of a Python topic and of a php-fpm backend, shared by two delivery children."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from tests.support.bus import BusFactory
from tests.support.ledger import Ledger
from tests.support.ledger_handlers import fastcgi_handler, python_environment, python_handler
from tests.support.php_fpm import PhpFpm
from tests.support.waiting import until

pytestmark = pytest.mark.alone

RATE = 20
JOBS = 50


def test_rates_bound_the_node_evenly_and_what_waits_stays_ready(tmp_path: Path, bus_factory: BusFactory) -> None:
    ledger = Ledger(tmp_path / "ledger")
    fpm = PhpFpm(tmp_path)
    fpm.start()
    try:
        php = f'fastcgi = {fastcgi_handler(ledger, fpm.address)}\nconcurrency = 4'
        bus = bus_factory(
            f'[delivery]\nprocesses = 2\n[backend.php]\nfastcgi = ["{fpm.address}"]\nrate = "{RATE}/s"\n'
            f'[queue.gift.topic.python]\npython = {python_handler()}\nconcurrency = 2\nrate = "{RATE}/s"\n'
            f'[queue.gift.topic.php]\n{php}\n',
            environment=python_environment(ledger),
        )
        began_s = time.time()
        with redis.Redis(port=bus.port) as client:
            client.lpush("gift", *(f"key-{number}" for number in range(JOBS)))
        until(lambda: ledger.executed_count("gift", "php") > 5, 20, "jobs run")
        rows = {topic: bus.topic("gift", topic) for topic in ("python", "php")}
        assert min(row["ready"] for row in rows.values()) > JOBS / 4, rows
        assert max(row["running"] for row in rows.values()) <= 12, rows
        until(lambda: min(ledger.executed_count("gift", topic) for topic in rows) == JOBS, 30, "all have run")
        until(lambda: bus.status()["backends"][0]["calls_total"] == JOBS, 5, "the status has heard of the last ones")
        (backend,) = bus.status()["backends"]
    finally:
        fpm.close()
    for topic in rows:
        starts = sorted(run.start_s for run in ledger.runs("gift", topic))
        assert starts[-1] - began_s >= (JOBS - 4) / RATE, topic
        in_a_second = max(sum(first <= each < first + 1.0 for each in starts) for first in starts)
        assert in_a_second <= RATE + 5, f"{topic}: {in_a_second} in one second"
        assert {run.attempt for run in ledger.runs("gift", topic)} == {1}
    assert (backend["backend"], backend["address"], backend["state"]) == ("php", fpm.address, "up")
