"""
Every metric of ``/metrics``: name, type, unit, labels and meaning. The page in docs/ is written from it:

    python -m pbus.telemetry.metrics > docs/metrics.md

Rule: nothing is exposed that has no row here, and every row is exposed. Labels take their values from the
configuration or from short lists of ours, never from jobs, clients or errors, so the configuration bounds their number.
Source: https://prometheus.io/docs/practices/naming/ (base units, ``_total``, histograms that add up).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
_DECADES: Final = range(-4, 5)

BOUNDS: Final = (*(float(f"{step}e{decade}") for decade in _DECADES for step in _STEPS), 1e5)
"""
Upper bounds (seconds, inclusive) of the classes in which times are counted, ten a decade: a quantile is known to an
eighth. One more class holds what is longer than a day.
"""

SHOWN: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4, 1e5,
)
"""Those of them that the page has: a series each, for every topic."""

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    One row.

    Attributes:
        name: As queries write it; a counter ends in ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        unit: Of its value, for people; ``1`` for a flag.
        labels: Names of its labels.
        help: What it says.
        source: Who knows: ``store`` (all nodes of a storage say the same) or ``node``.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str
    source: str = "node"


STORE: Final = "store"
_TOPIC: Final = ("queue", "topic")

OF_STORES: Final = (
    Metric("pbus_jobs_accepted_total", COUNTER, "jobs", ("queue",), "pushes that were stored", STORE),
    Metric(
        "pbus_jobs_finished_total", COUNTER, "jobs", (*_TOPIC, "result"),
        "deliveries that are over: `done`, `dead`, `cancelled` or `expired`", STORE,
    ),
    Metric(
        "pbus_jobs_redelivered_total", COUNTER, "jobs", _TOPIC,
        "deliveries handed out that somebody may have run before, retries too", STORE,
    ),
    Metric(
        "pbus_jobs_forgotten_total", COUNTER, "jobs", _TOPIC,
        "dead letters that were deleted, or dropped by their bounds", STORE,
    ),
    Metric("pbus_jobs_failed_total", COUNTER, "attempts", _TOPIC, "attempts that failed, each of them", STORE),
    Metric("pbus_queue_backlog", GAUGE, "jobs", ("queue",), "what the slowest topic has not taken", STORE),
    Metric("pbus_queue_backlog_bytes", GAUGE, "bytes", ("queue",), "the bodies of that", STORE),
    Metric("pbus_topic_ready", GAUGE, "jobs", _TOPIC, "deliveries that may run now", STORE),
    Metric("pbus_topic_running", GAUGE, "jobs", _TOPIC, "deliveries that somebody has claimed", STORE),
    Metric("pbus_topic_delayed", GAUGE, "jobs", _TOPIC, "deliveries due later: retries, delayed pushes", STORE),
    Metric("pbus_topic_dead", GAUGE, "jobs", _TOPIC, "dead letters", STORE),
    Metric(
        "pbus_topic_oldest_wait_seconds", GAUGE, "seconds", _TOPIC, "age of the oldest ready delivery; 0 without one",
        STORE,
    ),
    Metric(
        "pbus_alarm_firing", GAUGE, "alarms", (*_TOPIC, "reason"),
        "alarms that fire, acknowledged and silenced ones too; `reason` is the rule (docs/alarms.md), `queue` and "
        "`topic` are empty where it is about no topic; no series while nothing fires", STORE,
    ),
)

OF_TOPICS: Final = (
    Metric("pbus_queue_info", GAUGE, "1", ("queue", "system", "owner"), "always 1: whose a queue is; join on `queue`"),
    Metric(
        "pbus_topic_stopped", GAUGE, "1", (*_TOPIC, "reason"),
        "1: it does not run its jobs as it should; `reason` is its state in `pbus status`, empty while it is 0",
    ),
    Metric("pbus_topic_concurrency", GAUGE, "places", _TOPIC, "jobs that it can run at once now"),
    Metric("pbus_topic_concurrency_wanted", GAUGE, "places", _TOPIC, "what the last scaling plan wants"),
    Metric(
        "pbus_job_wait_seconds", HISTOGRAM, "seconds", _TOPIC,
        "from the push to the begin of the first attempt; a delay that was asked for is in it",
    ),
    Metric("pbus_job_run_seconds", HISTOGRAM, "seconds", _TOPIC, "what attempts took, failed ones too"),
    Metric("pbus_job_body_bytes_total", COUNTER, "bytes", _TOPIC, "bodies of the attempts made"),
    Metric(
        "pbus_job_attempts_total", COUNTER, "attempts", (*_TOPIC, "reason"),
        "attempts that ended: `done`, `failed` (whatever came of it), `busy` (so the handler said), `released` (as it "
        "was)",
    ),
    Metric(
        "pbus_shadow_info", GAUGE, "1", (*_TOPIC, "shadow_of"),
        "always 1: a topic that only shadows another one; alerts of others leave it out by `unless on (queue, topic)`",
    ),
    Metric(
        "pbus_shadow_compared_total", COUNTER, "jobs", (*_TOPIC, "result"),
        "jobs of which a shadow's answer was compared with its topic's by this node: `same`, `differs`",
    ),
)

OF_NODE: Final = (
    Metric("pbus_build_info", GAUGE, "1", ("version", "node"), "always 1: which pbus runs, on which node"),
    Metric("pbus_start_time_seconds", GAUGE, "seconds", (), "when the master began, Unix time"),
    Metric("pbus_degraded", GAUGE, "1", (), "1: `pbus status` says degraded"),
    Metric(
        "pbus_config_reload_success", GAUGE, "1", (),
        "0: the last reload was refused or taken back, what ran before goes on",
    ),
    Metric(
        "pbus_config_reload_timestamp_seconds", GAUGE, "seconds", (), "since when the configuration holds, Unix time"
    ),
    Metric("pbus_problems", GAUGE, "problems", (), "lines under problems in `pbus status`"),
    Metric("pbus_ingest_connections", GAUGE, "connections", (), "open connections of clients"),
    Metric(
        "pbus_ingest_refused_total", COUNTER, "commands", ("reason",), "commands refused, by the error's first word"
    ),
    Metric("pbus_ingest_closed_total", COUNTER, "connections", ("reason",), "connections that were closed, by why"),
    Metric("pbus_ingest_limited_total", COUNTER, "commands", ("reason",), "commands that met a limit, by its name"),
    Metric("pbus_backend_up", GAUGE, "1", ("backend",), "0: no address of it is reached"),
    Metric("pbus_circuit_open", GAUGE, "addresses", ("backend",), "addresses that get no jobs, because they failed"),
    Metric("pbus_backend_running", GAUGE, "calls", ("backend",), "calls under way"),
    Metric("pbus_backend_waiting", GAUGE, "calls", ("backend",), "calls that wait for a place"),
    Metric("pbus_backend_connections", GAUGE, "connections", ("backend",), "open connections, idle ones too"),
    Metric("pbus_backend_calls_total", COUNTER, "calls", ("backend",), "calls made"),
    Metric("pbus_backend_failed_total", COUNTER, "calls", ("backend",), "calls that failed"),
    Metric("pbus_backend_busy_total", COUNTER, "calls", ("backend",), "answers that it is busy"),
    Metric("pbus_storage_up", GAUGE, "1", ("storage",), "0: the scheduler cannot use it"),
    Metric(
        "pbus_storage_latency_seconds", GAUGE, "seconds", ("storage",),
        "what the scheduler's last look at its numbers took",
    ),
    Metric("pbus_storage_failures_total", COUNTER, "calls", ("storage",), "calls of the scheduler that failed"),
    Metric(
        "pbus_storage_age_seconds", GAUGE, "seconds", ("storage",),
        "how old its numbers are: they stay as they were while it is away",
    ),
    Metric(
        "pbus_trace_dropped_total", COUNTER, "records", ("storage",),
        "records of jobs' stories that were left out: `trace.max_bytes`, a rush, a store that is away",
    ),
    Metric("pbus_spans_exported_total", COUNTER, "spans", (), "spans that the receiver of `[otel]` has taken"),
    Metric(
        "pbus_spans_dropped_total", COUNTER, "spans", ("reason",),
        "spans that nobody will see: `refused` (the receiver was away or did not want them), `full` (too many waited), "
        "`broken` (a bug of pbus)",
    ),
    Metric("pbus_processes", GAUGE, "processes", ("role",), "living processes"),
    Metric(
        "pbus_process_restarts_total", COUNTER, "processes", ("role", "reason"),
        "processes that ended unasked: `boot` (could not start), `exit`, `signal`, `memory` (max_rss), `timeout`",
    ),
    Metric("pbus_process_resident_bytes", GAUGE, "bytes", ("role",), "resident memory of its processes"),
    Metric(
        "pbus_process_cpu_seconds_total", COUNTER, "seconds", ("role",), "processor time, of those that are gone too"
    ),
    Metric(
        "pbus_metrics_age_seconds", GAUGE, "seconds", ("role",),
        "how old is what the master and the scheduler have told this page; +Inf: nothing yet",
    ),
)

METRICS: Final = (*OF_STORES, *OF_TOPICS, *OF_NODE)
BY_NAME: Final = {metric.name: metric for metric in METRICS}

INTRODUCTION: Final = """\
# Metrics

<!-- Written by `python -m pbus.telemetry.metrics > docs/metrics.md`; change pbus/telemetry/metrics.py instead. -->

`GET /metrics` on `[dashboard] listen` answers what Prometheus reads (text, or OpenMetrics where it is asked for). It is
made from memory: no store is asked, and a store that is away changes nothing but `pbus_storage_up`. From loopback and
from a unix socket it needs no token; from elsewhere the answer is 403. A reverse proxy on the same machine is loopback,
too: have it leave `/metrics` out.

```yaml
scrape_configs:
  - job_name: pbus
    static_configs:
      - targets: ["127.0.0.1:19840"]
        labels: { cluster: shop }        # what the dashboards call your pbus; optional
```

Ready to use: `contrib/grafana/pbus.json` (import it, choose the data source) and `contrib/prometheus/alerts.yml`.

- **Counters of a node** begin at 0 with its master, and go on when a child is replaced. They are counted without
  locks and a killed child loses what it had in hand: they are for charts, the store's are the account.
- **Numbers of the store** say the same on every node of a storage: take `max by (queue, topic)`, never the sum. They
  are at most 5 s old (`pbus_storage_age_seconds`), 1 s where something happens.
- **Histograms** add up over nodes: `histogram_quantile(0.9, sum by (queue, topic, le) (rate(..[5m])))`. A topic has
  one as soon as this node has run a job of it. Where a delivery child ends 256 attempts of a topic within a second, the
  times of each fourth stand for four; counts and the sum of run times are of all.
- **Labels** are names of the configuration and short lists of ours, never a job, a client or an error: a topic costs at
  most 64 series, one for each rule that fires and 3 as a shadow, a queue 4, a backend 8. Topics that the configuration
  does not have are left out.
"""

_SECTIONS: Final = (
    ("Of the store", "Totals since the topic was created; they survive restarts.", OF_STORES),
    ("Of topics on this node", "What this node does for them.", OF_TOPICS),
    ("Of this node", "Its door, backends, storages and processes.", OF_NODE),
)


def reference() -> str:
    """The page."""
    return "\n".join([INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for title, words, metrics in _SECTIONS:
        yield f"## {title}\n\n{words}\n\n| metric | type | unit | labels | says |\n|---|---|---|---|---|"
        for metric in metrics:
            labels = " ".join(f"`{label}`" for label in metric.labels)
            yield f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(reference())
