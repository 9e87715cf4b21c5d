"""
A19: between pbus and Redis one reply in a hundred is lost after what it answers was executed, under load.

Whatever was executed is found out, not guessed and not done again: no producer hears of another one's job, no push
is stored twice. Half of the pushes carry a dedupe key, and their producers push them again whenever they got no
positive reply, and sometimes although they did.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.support.ledger import OK
from tests.support.nightly import figure
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

SHARE = 0.01
CUTS = figure(20, nightly=400)
CUTS_S = figure(60, nightly=600)
LEAST_REPEATED = figure(30, nightly=500)
MIX = {"dedupe": 0.5, "again": 0.2}


@pytest.mark.timeout(figure(120, nightly=900))
@pytest.mark.parametrize("scenario", ["redis"], indirect=True)
def test_lost_replies_of_redis_cost_nothing_and_tell_nobody_of_another_ones_job(scenario: Scenario) -> None:
    proxy = scenario.behind_a_proxy()
    bus = scenario.start({"credit": scenario.http(4), "mail": scenario.python(2), "audit": scenario.pulled()})
    pulling = scenario.pulling("audit", connections=3, count=8, elsewhere=True)
    with pulling as puller, scenario.pushing(threads=6, pause_s=0.005, mix=MIX) as producers:
        until(scenario.ran, 10, "jobs run")
        proxy.cut_share(SHARE)
        until(lambda: proxy.cuts >= CUTS, CUTS_S, lambda: f"{CUTS} replies are cut, not {proxy.cuts}")
        proxy.heal()
        producers.stop()
        scenario.settled()
        puller.stop()
    scenario.expect(dup=None)
    ids = _ids_by_key(scenario)
    pushes = [push for push in scenario.ledger.pushed() if "dedupe" in push.options]
    repeated = len(pushes) - len({push.key for push in pushes})
    print(f"{proxy.cuts} of {proxy.replies} replies cut, {len(pushes)} pushes with a dedupe key, {repeated} repeated")
    assert repeated >= LEAST_REPEATED
    assert not [key for key, told in ids.items() if len(told) > 1], "one dedupe key, two jobs"
    for topic in scenario.topics:
        assert not scenario.ledger.strangers(QUEUE, topic)
        runs = [run for run in scenario.ledger.runs(QUEUE, topic) if run.ok]
        assert len(runs) == len({run.key for run in runs}), "no process was killed, so nothing may have run twice"
    assert not bus.events("child.exited"), bus.tail()


def _ids_by_key(scenario: Scenario) -> dict[str, set[str]]:
    """Ids that producers were told, by the key of the push."""
    ids: dict[str, set[str]] = defaultdict(set)
    for push in scenario.ledger.pushed():
        if push.result == OK:
            ids[push.key].add(push.about)
    return ids
