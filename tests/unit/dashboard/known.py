"""Everything that a page of metrics may be made of, as the master, the scheduler and the children would say it."""

from __future__ import annotations

import dataclasses
from typing import Any

from pbus.dashboard.facts import Facts
from pbus.dashboard.metrics import Known
from pbus.storage.driver import QueueNumbers, TopicNumbers
from pbus.supervisor.histograms import Histograms

PATH = ("gift", "credit")
BORN_S = 1_800_000_000.0


def master(**fields: Any) -> dict[str, Any]:
    """The frame ``metrics``."""
    return {
        "state": "degraded", "problems": 2, "began_s": 1_800_000_000,
        "topics": [["gift", "credit", "running", 3, 4], ["gift", "gone", "orphaned", 0, None]],
        "roles": {"master": [1, 40_000_000, 2.5], "delivery": [2, 90_000_000, 7.25]},
        "ended": [["delivery", "signal", 2]],
        "reload": [False, 1_800_000_100],
        "backends": {"php": {
            "addresses": 2, "open": 1, "in_use": 3, "waiting": 4, "connections": 5, "calls_total": 60,
            "failed_total": 7, "busy_total": 8,
        }},
        "door": {"connections": 9, "refused": {"NOAUTH": 3}, "closed": {"command_time": 1}, "limited": {"bulk": 2}},
        "dropped": {"main": 12}, "spans": {"exported": 21, "full": 3},
        "compared": {"gift/credit": [5, 2]},
        **fields,
    }


def scheduler(paused_ms: int = 0, is_up: bool = True) -> dict[str, Any]:
    """The frame ``sampled``."""
    numbers = TopicNumbers(
        ready=10, running=3, delayed=2, dead=1, oldest_wait_s=4.5, done_total=100, failed_total=7, dead_total=5,
        redelivered_total=6, cancelled_total=2, expired_total=3, forgotten_total=4, paused_ms=paused_ms,
    )
    return {
        "topics": [[*PATH, dataclasses.asdict(numbers)], ["gift", "gone", dataclasses.asdict(numbers)]],
        "queues": {"gift": dataclasses.asdict(QueueNumbers(backlog=11, backlog_bytes=2_000, kept=1, pushed_total=120))},
        "alarms": [["backlog", *PATH, 1], ["node", "", "", 2], ["backlog", "gift", "gone", 1]],
        "storages": {"main": {"is_up": is_up, "failures": 3, "latency_s": 0.002, "age_s": 1.5}},
    }


def known(**fields: Any) -> Known:
    """All of it."""
    board = Histograms([PATH], 1)
    board.row(0, *PATH).attempts([("1800000000000-1", 0.02, BORN_S + 0.5, 7), ("", 3.0, BORN_S, 0)], 1)
    facts = Facts(master(), scheduler(), {"master": 0.1, "scheduler": 0.2})
    values = {
        "node": "a1", "queues": {"gift": ("live", "gifts@shop")}, "topics": [PATH], "facts": facts,
        "totals": board.read(), "shadows": {PATH: "push"}, **fields,
    }
    return Known(**values)
