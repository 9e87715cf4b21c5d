"""
Jobs of a Python handler with one INCR beside the other Python job queues, all on one redis-server (append-only file,
fsync each second), two processes each, in alternating slices of a backlog until its last job has run.
"""

from __future__ import annotations

import statistics

import pytest

from tests.bench.figures import Figure, Figures, median_figure
from tests.bench.rivals.team import RIVALS, Rival, Team
from tests.bench.slices import Patience
from tests.bench.stage import Stage
from tests.support.stamps import python_topic

SLICE_S = 3.0
JOBS = 50_000
CONSUMERS = 2
GOAL = 3.5
"""Times the best of them."""
FLOOR = 1.0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("function", ["incr", "incr_raw"])
def test_jobs_to_a_python_handler_beside_other_queues(
    stage: Stage, figures: Figures, patience: Patience, function: str
) -> None:
    rivals = [rival for rival in RIVALS if rival.is_installed]
    if not rivals:
        pytest.skip("none of them is installed: pip install -e '.[bench]'")
    server = stage.redis("store", appendonly="yes", appendfsync="everysec", auto_aof_rewrite_percentage="0")
    counter, broker = stage.client(server), stage.client(server, db=1)
    environment = {"REDIS_SOCKET": server.path, "HANDLER": function}
    bus = stage.bus({"py": python_topic(function, CONSUMERS)}, server, environment)
    client = {"incr": "redis-py", "incr_raw": "a bare socket"}[function]

    def ours() -> float:
        return JOBS / stage.drained_s(bus, JOBS)

    def theirs(rival: Rival) -> float:
        broker.flushdb()
        with Team(rival, stage.folder, server.path, lambda: int(counter.get("count") or 0), environment) as team:
            return team.rate(SLICE_S)

    ours()
    found = []
    for rival in rivals:
        pairs = patience.pairs(lambda rival=rival: theirs(rival), ours)  # type: ignore[misc]
        found.append(median_figure(
            f"INCR by {client}, beside {rival.name}", "jobs/s", pairs, beside={rival.name: rival.settings}
        ))
        figures.add(found[-1])
    best = min(found, key=lambda figure: figure.ratio or 0.0)
    figures.add(Figure(
        name=f"INCR by {client}, beside the best", unit="jobs/s", pbus=statistics.median(row.pbus for row in found),
        base=best.base, ratio=best.ratio, low=best.low, high=best.high, goal=GOAL, floor=FLOOR, others=best.others,
    ))

