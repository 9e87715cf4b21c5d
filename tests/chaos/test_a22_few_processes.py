"""
A22: a php-fpm with two processes, shared by a topic that would like eight and by a web site with a client of its own.

Nobody starves: connections are handed back before they are old, and with ``status_path`` and ``reserve`` pbus never
takes the last process. However many topics and children call one backend, its limit holds. An idle bus costs nothing.
"""

from __future__ import annotations

import os
import signal
import statistics
from collections import Counter

import pytest

from tests.support.fastcgi_stub import DONE, FastcgiStub, answering
from tests.support.ledger_handlers import PHP_SCRIPT
from tests.support.scenario import Scenario
from tests.support.talker import Pause
from tests.support.waiting import until
from tests.support.web_site import WebSite

SLOTS = 8
PATIENCE_S = 3.0
CONNECTIONS = 3


def _start(scenario: Scenario, backend: str = "") -> WebSite:
    fpm = scenario.fpm(pool={"pm.max_children": "2", "pm.status_path": "/status"})
    site = WebSite(fpm.path, fpm.script("site.php", "echo 'page';"))
    fpm.start()
    params = f'params = {{ LEDGER_DIR = "{scenario.ledger.ran_dir}" }}'
    topic = f'fastcgi = {{ backend = "php", script = "{PHP_SCRIPT}", {params} }}\nconcurrency = {SLOTS}'
    scenario.start({"credit": topic}, f'[backend.php]\nfastcgi = ["{fpm.address}"]\n{backend}')
    return site


@pytest.mark.parametrize("backend", ["", 'status_path = "/status"\nreserve = 1'], ids=["unknown-pool", "measured-pool"])
def test_neither_the_topic_nor_the_web_site_starves(scenario: Scenario, backend: str) -> None:
    site = _start(scenario, backend)
    with scenario.pushing(count=300, threads=2, pipeline=10, orders="linger=10") as producers:
        until(lambda: scenario.ran() > 20, 20, "jobs run")
        with site:
            until(lambda: scenario.ran() >= 300, 30, "all jobs run beside the site")
        producers.finish()
    scenario.settled()
    visits, longest_s, usual_s = len(site.waits_s), max(site.waits_s), statistics.median(site.waits_s)
    print(f"{visits} visitors, the longest waited {longest_s:.2f} s, the usual one {usual_s * 1000:.1f} ms")
    scenario.expect(dup=0)
    assert {run.attempt for run in scenario.ledger.runs("gift", "credit")} == {1}
    assert longest_s < PATIENCE_S
    assert visits >= (40 if backend else 2), "the reserved process is there for visitors"


def test_ten_topics_of_three_children_never_exceed_the_connections_of_their_backend(scenario: Scenario) -> None:
    stub = FastcgiStub(answering(lambda _, __: (Pause(0.005), DONE)))
    try:
        backend = f'[delivery]\nprocesses = 3\n[backend.php]\nfastcgi = ["{stub.address}"]\n'
        handler = 'fastcgi = { backend = "php", script = "/srv/a.php" }\nconcurrency = 8'
        topics = {f"t{number}": handler for number in range(10)}
        scenario.start(topics, f"{backend}max_connections = {CONNECTIONS}")
        scenario.client().lpush("gift", *(f"job-{number}" for number in range(60)))
        scenario.settled()
    finally:
        stub.close()
    pings = [request for request in stub.requests if request.form["type"] == "ping"]
    runs = Counter(request.form["topic"] for request in stub.requests if request.form["type"] == "data")
    print(f"at most {stub.peak} connections, {len(pings)} pings, runs {dict(runs)}")
    assert stub.peak <= CONNECTIONS
    assert runs == dict.fromkeys(topics, 60)
    assert len(pings) <= 2, "one for all topics; two where two children began at the very same moment"


def test_idle_bus_costs_the_web_site_nothing(scenario: Scenario) -> None:
    site = _start(scenario, 'status_path = "/status"')
    with scenario.pushing(count=100, pipeline=10) as producers:
        producers.finish()
    scenario.settled()
    (delivery,) = scenario.bus.pids("delivery")
    solo, beside = [], []
    for number in range(30):
        alone = number % 2 == 0
        until(lambda: not site.others(), 5, "the bus is idle: it has no connection")
        os.kill(delivery, signal.SIGSTOP if alone else signal.SIGCONT)
        (solo if alone else beside).extend(site.visit() for _ in range(10))
    os.kill(delivery, signal.SIGCONT)
    ratio = statistics.median(beside) / statistics.median(solo)
    print(f"{statistics.median(solo) * 1000:.2f} ms alone, {ratio:.2f} times that beside an idle bus")
    scenario.expect(dup=0)
    assert ratio <= 1.5
