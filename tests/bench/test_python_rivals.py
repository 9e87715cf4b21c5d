"""
Jobs of a Python handler with one INCR beside the other Python job queues, all on one redis-server (append-only file,
fsync each second), two processes each, in alternating slices of a backlog until its last job has run.

Beside each ratio stands what a job took of the processor, the redis-server included: on a machine that has other things
to do it says more than the rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import pytest

from pbus.bench.bare import Bare
from pbus.bench.figures import Figure, median_figure
from tests.bench.rivals.team import RIVALS, Rival, Team
from pbus.bench.load import python_topic
from pbus.bench.machine import cpu_s
from pbus.bench.servers import RedisServer
from pbus.bench.slices import Patience
from pbus.bench.stage import STORES, Stage
from tests.bench.conftest import Figures

SLICE_S = 3.0
JOBS = 50_000
CONSUMERS = 2
GOAL = 3.5
"""Times the best of them."""
FLOOR = 1.0
CLIENTS = {"incr": "redis-py", "incr_raw": "a bare socket"}


class _Processor:
    """What jobs take of it: ``begin`` and ``end`` around each slice. One owner: one side of the comparison."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self._before_s = 0.0
        self._us: list[float] = []

    def begin(self, pids: list[int]) -> None:
        self._pids, self._before_s = pids, cpu_s(pids)

    def end(self, jobs: int) -> None:
        self._us.append((cpu_s(self._pids) - self._before_s) / jobs * 1e6)

    def __str__(self) -> str:
        return f"{statistics.median(self._us):.0f} us"


class _Rivalry:
    """pbus at work beside one rival after the other."""

    def __init__(self, stage: Stage, patience: Patience, server: RedisServer, environment: Mapping[str, str]) -> None:
        self._stage = stage
        self._patience = patience
        self._server = server
        self._environment = environment
        self._counter = stage.client(server)
        self._broker = stage.client(server, db=1)
        self._bus = stage.bus({"py": python_topic(environment["HANDLER"], CONSUMERS)}, server, environment)
        self._of_bus = [pid for role in ("delivery", "consumer", "scheduler") for pid in self._bus.pids(role)]
        self._bus.drained_s(JOBS // 10)

    def figure(self, rival: Rival, client: str) -> Figure:
        ours, theirs = _Processor(), _Processor()

        def base() -> float:
            self._broker.flushdb()
            with Team(rival, self._stage.folder, self._server.path, self._count, self._environment) as team:
                return team.rate(SLICE_S, lambda: theirs.begin([*team.pids(), self._server.pid]), theirs.end)

        def pbus() -> float:
            took_s = self._bus.drained_s(JOBS, lambda: ours.begin([*self._of_bus, self._server.pid]))
            ours.end(JOBS)
            return JOBS / took_s

        pairs = self._patience.pairs(base, pbus)
        beside = {"cpu": f"{ours} against {theirs}", rival.name: rival.settings}
        return median_figure(f"INCR by {client}, beside {rival.name}", "jobs/s", pairs, beside=beside)

    def _count(self) -> int:
        return int(self._counter.get("count") or 0)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("function", CLIENTS)
def test_jobs_to_a_python_handler_beside_other_queues(
    stage: Stage, figures: Figures, patience: Patience, function: str
) -> None:
    rivals = [rival for rival in RIVALS if rival.is_installed]
    if not rivals:
        pytest.skip("none of them is installed: pip install -e '.[bench]'")
    server = stage.redis(**STORES["redis"], auto_aof_rewrite_percentage="0")
    rivalry = _Rivalry(stage, patience, server, {"REDIS_SOCKET": server.path, "HANDLER": function})
    client, found = CLIENTS[function], []
    for rival in rivals:
        found.append(rivalry.figure(rival, client))
        figures.add(found[-1])
    best = min(found, key=lambda figure: figure.ratio or 0.0)
    with Bare("bare_handler", [function], CONSUMERS, {"REDIS_SOCKET": server.path}) as bare:
        most = f"two bare processes {bare.rate(JOBS):,.0f} jobs/s"
    figures.add(Figure(
        name=f"INCR by {client}, beside the best", unit="jobs/s", pbus=statistics.median(row.pbus for row in found),
        base=best.base, ratio=best.ratio, low=best.low, high=best.high, goal=GOAL, floor=FLOOR, others=best.others,
        beside={"without any queue": most},
    ))
