"""
Reloads under load, seen from the handlers (A36 sees them from the clients): php-fpm, HTTP, a Python function and a
program. Each reload changes how one topic is tried again; nothing is lost, nothing runs twice, siblings keep their
processes.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.nightly import figure
from tests.support.scenario import Scenario
from tests.support.waiting import until

RELOADS = figure(3, nightly=20)


def test_no_reload_loses_a_job_or_runs_one_twice(scenario: Scenario) -> None:
    fpm = scenario.fpm()
    fpm.start()
    bus = scenario.start({
        "credit": scenario.fastcgi(fpm.address, 4), "mail": scenario.python(2), "score": scenario.http(4),
        "rank": scenario.command(2),
    })
    before = bus.pids("consumer")
    with scenario.pushing(threads=4, pause_s=0.001, orders="sleep=3") as producers:
        for number in range(RELOADS):
            ran = scenario.ran()
            until(lambda ran=ran: scenario.ran() > ran + 20, 20, "jobs run")
            _retry_after(bus.conf, number + 2)
            told = bus.cli("reload", "--wait")
            assert told.returncode == 0, told.stderr + bus.tail()
            assert told.stdout.count("\n") == 1, told.stdout
            assert f"queue.gift.topic.mail.retry.first: {number + 1}s -> {number + 2}s" in told.stdout
        producers.stop()
    scenario.settled()
    scenario.expect(dup=0)
    assert bus.pids("consumer") == before, "how it is tried again concerns no consumer"
    assert bus.status()["generation"] == 1 + RELOADS
    took_s = [event["took_s"] for event in bus.events("reload.done")]
    print(f"{RELOADS} reloads took {min(took_s):.2f} to {max(took_s):.2f} s")


def _retry_after(conf: Path, seconds: int) -> None:
    (conf / "later.toml").write_text(f'[queue.gift.topic.mail]\nretry = {{ first = "{seconds}s" }}\n')
