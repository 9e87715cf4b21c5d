"""
Samples as they are kept: a line of JSON a second, for ``pbus autoscale simulate``.

    {"v": 1, "t": unix s, "s": interval, "topics": {"gift/credit": [arrivals_per_s, .., wanted], ..}}

Topics where nothing happened are left out, and so is a second in which nothing happened at all.

Rule: pure; what one version wrote a later one reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pbus.core.autoscale_simulation import Load, recorded
from pbus.core.autoscale_terms import NodeSample, Plan, TopicSample

FOLDER: Final = "samples"
"""Where they are kept, in the data directory."""
SUFFIX: Final = ".jsonl"
VERSION: Final = 1
_FIELDS: Final = (
    "arrivals_per_s", "done_per_s", "ready", "running", "oldest_wait_s", "service_s", "service_p95_s", "places",
    "starting", "busy_per_s", "retry_after_s", "cores", "rss_bytes", "is_open",
)


@dataclass(frozen=True, slots=True)
class Moment:
    """
    One recorded second.

    Attributes:
        wall_s: Unix time of its end.
        interval_s: What its rates are measured over.
        topics: ``queue/topic`` -> (sample, places that were decided then).
    """

    wall_s: float
    interval_s: float
    topics: Mapping[str, tuple[TopicSample, int]]


def line_of(sample: NodeSample, plan: Plan) -> str:
    """The line to keep, without its end; empty: nothing happened."""
    topics = {
        path: [*(_short(getattr(seen, name)) for name in _FIELDS), plan.topics[path].wanted]
        for path, seen in sample.topics.items() if path in plan.topics and not seen.is_quiet
    }
    if not topics:
        return ""
    document = {"v": VERSION, "t": round(sample.wall_s, 3), "s": round(sample.interval_s, 3), "topics": topics}
    return json.dumps(document, separators=(",", ":"))


def _short(number: Any) -> Any:
    return float(f"{number:.6g}") if isinstance(number, float) else number


def moments(lines: Iterable[str]) -> Iterator[Moment]:
    """
    What was recorded, in the order of *lines*; a line that is no whole sample (the bus was killed) is passed over.

    Raises:
        ValueError: a later version wrote that.
    """
    for line in lines:
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if not isinstance(document, dict) or "topics" not in document:
            continue
        if document.get("v") != VERSION:
            raise ValueError(f"samples of version {document.get('v')!r}, this is version {VERSION}")
        yield Moment(float(document["t"]), float(document["s"]), {
            path: (TopicSample(**dict(zip(_FIELDS, row, strict=False))), int(row[len(_FIELDS)]))
            for path, row in document["topics"].items()
        })


def loads_of(recording: Sequence[Moment], path: str) -> list[Load]:
    """The work of one topic over all of *recording*; in seconds that it is not in, nothing came."""
    loads: list[Load] = []
    service_s, until_s = 0.0, recording[0].wall_s - recording[0].interval_s if recording else 0.0
    known = next((each.service_s for moment in recording if (each := _seen(moment, path)) and each.service_s), 0.0)
    for moment in recording:
        gap_s = moment.wall_s - moment.interval_s - until_s
        if gap_s > 0.5 * moment.interval_s:
            loads.append(Load(for_s=gap_s, per_s=0.0, service_s=service_s))
        until_s = moment.wall_s
        sample = _seen(moment, path) or TopicSample()
        service_s = sample.service_s or service_s or known
        loads += recorded([replace(sample, service_s=service_s or None)], moment.interval_s)
    return loads


def _seen(moment: Moment, path: str) -> TopicSample | None:
    return moment.topics[path][0] if path in moment.topics else None
