"""
``/metrics``: what is known becomes the families of ``telemetry.metrics``.

    facts, histograms, configuration --> Page (a collector) --prometheus_client--> text

Rule: pure; every row of the table is there exactly once, with a value or without any. Topics and queues are those of
the configuration, so their number is bounded by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pbus import __version__
from pbus.dashboard.facts import Facts
from pbus.supervisor.histograms import Totals
from pbus.telemetry.metrics import BOUNDS, COUNTER, HISTOGRAM, METRICS, SHOWN, Metric

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Path: TypeAlias = tuple[str, str]

_END: Final = b"# EOF\n"
_ENDS: Final = tuple(BOUNDS.index(bound) + 1 for bound in SHOWN)
_LE: Final = (*map(floatToGoString, SHOWN), "+Inf")
_RESULTS: Final = {
    "done": "done_total", "dead": "dead_total", "cancelled": "cancelled_total", "expired": "expired_total",
}
_OF_NUMBERS: Final = {
    "pbus_jobs_redelivered_total": "redelivered_total", "pbus_jobs_forgotten_total": "forgotten_total",
    "pbus_jobs_failed_total": "failed_total", "pbus_topic_ready": "ready", "pbus_topic_running": "running",
    "pbus_topic_delayed": "delayed", "pbus_topic_dead": "dead", "pbus_topic_oldest_wait_seconds": "oldest_wait_s",
}
_OF_QUEUES: Final = {
    "pbus_jobs_accepted_total": "pushed_total", "pbus_queue_backlog": "backlog",
    "pbus_queue_backlog_bytes": "backlog_bytes",
}
_OF_BACKENDS: Final = {
    "pbus_circuit_open": "open", "pbus_backend_running": "in_use", "pbus_backend_waiting": "waiting",
    "pbus_backend_connections": "connections", "pbus_backend_calls_total": "calls_total",
    "pbus_backend_failed_total": "failed_total", "pbus_backend_busy_total": "busy_total",
}
_OF_STORAGES: Final = {
    "pbus_storage_latency_seconds": "latency_s", "pbus_storage_failures_total": "failures",
    "pbus_storage_age_seconds": "age_s",
}
_OF_ROLES: Final = ("pbus_processes", "pbus_process_resident_bytes", "pbus_process_cpu_seconds_total")
_OF_RELOAD: Final = ("pbus_config_reload_success", "pbus_config_reload_timestamp_seconds")
_OF_DOOR: Final = {
    "pbus_ingest_refused_total": "refused", "pbus_ingest_closed_total": "closed",
    "pbus_ingest_limited_total": "limited",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """
    Everything a page is made of.

    Attributes:
        node: Its name.
        queues: Queue -> (system, owner of the system), of the configuration.
        topics: (queue, topic) of the configuration.
        facts: What the master and the scheduler said.
        totals: What the children counted.
        shadows: (queue, topic) -> the topic that it shadows, of those that do.
    """

    node: str
    queues: Mapping[str, tuple[str, str]]
    topics: Iterable[Path]
    facts: Facts = field(default_factory=Facts)
    totals: Mapping[Path, Totals] = field(default_factory=dict)
    shadows: Mapping[Path, str] = field(default_factory=dict)


def page(known: Known, accept: str, pause: Callable[[], object] = bool) -> tuple[str, bytes]:
    """
    Content type and bytes, in the format that *accept* (a header) asks for.

    *pause* is called between two families: with a thousand topics a page takes 0.4 s, and others want to be answered.
    """
    encode, content_type = choose_encoder(accept)
    parts = []
    for family in Page(known).collect():
        parts.append(encode(_Single(family)).removesuffix(_END))
        pause()
    return content_type, b"".join(parts) + (_END if "openmetrics" in content_type else b"")


class _Single(Collector):
    """One family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        yield self._family


class Page(Collector):
    """The families of one page."""

    def __init__(self, known: Known) -> None:
        self._families: dict[str, Family] = {metric.name: _family(metric) for metric in METRICS}
        self._known = known
        self._topics = frozenset(known.topics)

    def collect(self) -> Iterator[Family]:
        """Every family."""
        self._of_node()
        self._of_topics()
        self._of_stores()
        self._of_storages()
        yield from self._families.values()

    def _set(self, name: str, value: float, *labels: str) -> None:
        family = self._families[name]
        assert not isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, value)

    # -- what the master said ---------------------------------------------------------------------

    def _of_node(self) -> None:
        known, master = self._known, self._known.facts.master
        self._set("pbus_build_info", 1, __version__, known.node)
        for queue, (system, owner) in known.queues.items():
            self._set("pbus_queue_info", 1, queue, system, owner)
        for (queue, topic), shadow_of in known.shadows.items():
            self._set("pbus_shadow_info", 1, queue, topic, shadow_of)
        for role, age_s in known.facts.ages_s.items():
            self._set("pbus_metrics_age_seconds", age_s, role)
        if master:
            self._set("pbus_start_time_seconds", master["began_s"])
            self._set("pbus_degraded", master["state"] == "degraded")
            self._set("pbus_problems", master["problems"])
            for name, value in zip(_OF_RELOAD, master["reload"], strict=True):
                self._set(name, value)
            self._of_door(master["door"])
            for storage, count in master.get("dropped", {}).items():
                self._set("pbus_trace_dropped_total", count, storage)
            self._of_spans(master.get("spans", {}))
            self._of_shadows(master.get("compared", {}))
            self._of_backends(master["backends"])
            self._of_processes(master)

    def _of_shadows(self, compared: Mapping[str, Sequence[int]]) -> None:
        for path, counts in compared.items():
            queue, _, topic = path.partition("/")
            for result, count in zip(("same", "differs"), counts, strict=True):
                self._set("pbus_shadow_compared_total", count, queue, topic, result)

    def _of_spans(self, spans: Mapping[str, int]) -> None:
        for word, count in spans.items():
            if word == "exported":
                self._set("pbus_spans_exported_total", count)
            else:
                self._set("pbus_spans_dropped_total", count, word)

    def _of_door(self, door: Mapping[str, Any]) -> None:
        self._set("pbus_ingest_connections", door["connections"])
        for name, kind in _OF_DOOR.items():
            for reason, count in door[kind].items():
                self._set(name, count, reason)

    def _of_backends(self, backends: Mapping[str, Mapping[str, int]]) -> None:
        for backend, row in backends.items():
            self._set("pbus_backend_up", row["open"] < row["addresses"], backend)
            for name, field_ in _OF_BACKENDS.items():
                self._set(name, row.get(field_, 0), backend)

    def _of_processes(self, master: Mapping[str, Any]) -> None:
        for role, values in master["roles"].items():
            for name, value in zip(_OF_ROLES, values, strict=True):
                self._set(name, value, role)
        for role, reason, count in master["ended"]:
            self._set("pbus_process_restarts_total", count, role, reason)

    # -- topics -----------------------------------------------------------------------------------

    def _of_topics(self) -> None:
        paused = {
            (queue, topic) for queue, topic, numbers in self._known.facts.scheduler.get("topics", ())
            if numbers["paused_ms"]
        }
        for queue, topic, said, now, wanted in self._known.facts.master.get("topics", ()):
            if (queue, topic) not in self._topics:
                continue
            is_paused = (queue, topic) in paused and said in ("running", "braked")     # as pbus status has it
            reason = "paused" if is_paused else "" if said == "running" else said
            self._set("pbus_topic_stopped", bool(reason), queue, topic, reason)
            self._set("pbus_topic_concurrency", now, queue, topic)
            if wanted is not None:
                self._set("pbus_topic_concurrency_wanted", wanted, queue, topic)
        for path, totals in self._known.totals.items():
            self._of_totals(path, totals)

    def _of_totals(self, path: Path, totals: Totals) -> None:
        self._histogram("pbus_job_wait_seconds", path, totals.wait, totals.wait_s)
        self._histogram("pbus_job_run_seconds", path, totals.run, totals.run_s)
        self._set("pbus_job_body_bytes_total", totals.bytes, *path)
        for reason in ("done", "failed", "busy", "released"):
            self._set("pbus_job_attempts_total", getattr(totals, reason), *path, reason)

    def _histogram(self, name: str, path: Path, classes: tuple[int, ...], sum_s: float) -> None:
        family = self._families[name]
        assert isinstance(family, HistogramMetricFamily)
        counts = [sum(classes[:end]) for end in _ENDS]
        family.add_metric(path, list(zip(_LE, [*counts, sum(classes)], strict=True)), sum_s)

    # -- what the scheduler said ------------------------------------------------------------------

    def _of_stores(self) -> None:
        scheduler = self._known.facts.scheduler
        for queue, topic, numbers in scheduler.get("topics", ()):
            if (queue, topic) in self._topics:
                for name, field_ in _OF_NUMBERS.items():
                    self._set(name, numbers[field_], queue, topic)
                for result, field_ in _RESULTS.items():
                    self._set("pbus_jobs_finished_total", numbers[field_], queue, topic, result)
        self._of_alarms(scheduler.get("alarms", ()))
        for queue, numbers in scheduler.get("queues", {}).items():
            if queue in self._known.queues:
                for name, field_ in _OF_QUEUES.items():
                    self._set(name, numbers[field_], queue)

    def _of_alarms(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        for reason, queue, topic, count in rows:
            if not topic or (queue, topic) in self._topics:
                self._set("pbus_alarm_firing", count, queue, topic, reason)

    def _of_storages(self) -> None:
        for storage, row in self._known.facts.scheduler.get("storages", {}).items():
            self._set("pbus_storage_up", row["is_up"], storage)
            for name, field_ in _OF_STORAGES.items():
                self._set(name, row[field_], storage)


def _family(metric: Metric) -> Family:
    make = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}.get(metric.kind, GaugeMetricFamily)
    family: Family = make(metric.name, metric.help.replace("`", ""), labels=metric.labels)
    return family
