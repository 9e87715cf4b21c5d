"""
What the master tells the page of metrics: the status, without what people read and with sums by role. Pure.

    page --metrics_please--> master --metrics {..}-----------> page
                               +------sample_please--> scheduler --sampled {..}--> master --> page

Rule: nobody waits for anybody, and nobody asks a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pbus.supervisor.handle import Handle
from pbus.supervisor.past import Past, backend_of

PLEASE: Final = "metrics_please"
METRICS: Final = "metrics"
SAMPLE: Final = "sample_please"
SAMPLED: Final = "sampled"

_OPEN: Final = "open"


def exposed(
    status: Mapping[str, Any], children: Iterable[Handle], past: Past, began_s: float, own_cpu_s: float
) -> dict[str, Any]:
    """
    The fields of the frame ``metrics``.

    ``topics``: queue, topic, state, places now, places wanted (None: no plan yet); ``roles``: role -> processes, bytes,
    processor seconds; ``reload``: whether the last one went well, since when the configuration holds;
    ``ended``: role, why, how many; ``backends``: name -> addresses, open ones, in_use, waiting,
    connections, calls_total, failed_total, busy_total; ``door``: connections, refused, closed, limited.

    Args:
        status: As ``status.build`` makes it.
        children, past: The living and the dead.
        began_s: When the master began, Unix time.
        own_cpu_s: Processor time of the master.
    """
    door, reload = status["door"], status["reload"]
    return {
        "state": status["state"], "problems": len(status["problems"]), "began_s": began_s,
        "topics": [
            [row["queue"], row["topic"], row["state"], row["concurrency"]["now"], row["scaling"].get("wanted")]
            for row in status["topics"]
        ],
        "reload": [reload["state"] in ("none", "done"), reload["since_s"] or began_s],
        "roles": _roles(status, children, past, own_cpu_s),
        "ended": [[role, why, count] for (role, why), count in sorted(past.ended.items())],
        "backends": _backends(status["backends"], past.calls(children)),
        "door": {name: door.get(name, 0 if name == "connections" else {}) for name in (
            "connections", "refused", "closed", "limited",
        )},
    }


def _roles(
    status: Mapping[str, Any], children: Iterable[Handle], past: Past, own_cpu_s: float
) -> dict[str, list[float]]:
    roles: dict[str, list[float]] = {role: [0, 0, cpu_s] for role, cpu_s in past.cpu_s.items()}
    for process in status["processes"]:
        row = roles.setdefault(process["role"], [0, 0, 0.0])
        row[0] += 1
        row[1] += process["rss_bytes"]
    roles["master"][2] += own_cpu_s
    for child in children:
        roles[child.spec.role][2] += child.sample.cpu_s
    return roles


def _backends(rows: Iterable[Mapping[str, Any]], calls: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    backends: dict[str, dict[str, int]] = {}
    for row in rows:
        known = backends.setdefault(
            backend_of(row), {"addresses": 0, "open": 0, "in_use": 0, "waiting": 0, "connections": 0}
        )
        known["addresses"] += 1
        known["open"] += row["state"] == _OPEN
        known["waiting"] = max(known["waiting"], int(row["waiting"]))     # of the backend, told with each address
        known["in_use"] += int(row["in_use"])
        known["connections"] += int(row["connections"])
    return {name: {**known, **calls.get(name, {})} for name, known in backends.items()}
