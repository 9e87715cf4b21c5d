"""Fewer Python consumers are wanted, and all of them work: nobody's job is ended for that."""

from __future__ import annotations

from tests.support.shop import OpenShop
from tests.support.waiting import until


def test_a_job_is_finished_however_short_the_time_to_stop_is(shop: OpenShop) -> None:
    here = shop(concurrency={"min": 2, "max": 4}, python={"stop_timeout": "200ms"})
    here.push("sleep 6", "sleep 6")
    until(lambda: len(here.runs()) == 2, 10, "both have begun")
    here.bus.cli("topic", "scale", "gift/credit", "1", check=True)
    assert here.settled()["done_total"] == 2
    assert len(here.runs()) == 2
    until(lambda: len(here.bus.pids("consumer")) == 1, 10, "one has gone")
