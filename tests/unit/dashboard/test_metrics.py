"""The page of metrics: what is known is there, under the names of the table, in both formats."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from pbus.dashboard.facts import Facts
from pbus.dashboard.metrics import Known, page
from pbus.telemetry.metrics import COUNTER, METRICS
from tests.unit.dashboard.known import known, master, scheduler

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def samples(made_of: Known) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    _, text = page(made_of, "")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain(text.decode()) for sample in family.samples
    }


def value(made_of: Known, name: str, **labels: str) -> float | None:
    return samples(made_of).get((name, frozenset(labels.items())))


TOPIC = {"queue": "gift", "topic": "credit"}


@pytest.mark.parametrize(("name", "labels", "expected"), [
    ("pbus_jobs_accepted_total", {"queue": "gift"}, 120),
    ("pbus_jobs_finished_total", {**TOPIC, "result": "done"}, 100),
    ("pbus_jobs_finished_total", {**TOPIC, "result": "dead"}, 5),
    ("pbus_jobs_finished_total", {**TOPIC, "result": "cancelled"}, 2),
    ("pbus_jobs_finished_total", {**TOPIC, "result": "expired"}, 3),
    ("pbus_topic_oldest_wait_seconds", TOPIC, 4.5),
    ("pbus_topic_ready", TOPIC, 10),
    ("pbus_queue_info", {"queue": "gift", "system": "live", "owner": "gifts@shop"}, 1),
    ("pbus_topic_stopped", {**TOPIC, "reason": ""}, 0),
    ("pbus_topic_concurrency_wanted", TOPIC, 4),
    ("pbus_job_wait_seconds_bucket", {**TOPIC, "le": "0.2"}, 0),
    ("pbus_job_wait_seconds_bucket", {**TOPIC, "le": "0.5"}, 1),
    ("pbus_job_wait_seconds_count", TOPIC, 1),
    ("pbus_job_run_seconds_bucket", {**TOPIC, "le": "0.02"}, 1),
    ("pbus_job_run_seconds_bucket", {**TOPIC, "le": "5.0"}, 2),
    ("pbus_job_run_seconds_bucket", {**TOPIC, "le": "+Inf"}, 2),
    ("pbus_job_run_seconds_sum", TOPIC, 3.02),
    ("pbus_job_attempts_total", {**TOPIC, "reason": "done"}, 1),
    ("pbus_degraded", {}, 1),
    ("pbus_ingest_refused_total", {"reason": "NOAUTH"}, 3),
    ("pbus_backend_up", {"backend": "php"}, 1),
    ("pbus_circuit_open", {"backend": "php"}, 1),
    ("pbus_backend_calls_total", {"backend": "php"}, 60),
    ("pbus_storage_up", {"storage": "main"}, 1),
    ("pbus_alarm_firing", {**TOPIC, "reason": "backlog"}, 1),
    ("pbus_alarm_firing", {"queue": "", "topic": "", "reason": "node"}, 2),
    ("pbus_trace_dropped_total", {"storage": "main"}, 12),
    ("pbus_shadow_info", {"queue": "gift", "topic": "credit", "shadow_of": "push"}, 1),
    ("pbus_shadow_compared_total", {"queue": "gift", "topic": "credit", "result": "same"}, 5),
    ("pbus_shadow_compared_total", {"queue": "gift", "topic": "credit", "result": "differs"}, 2),
    ("pbus_spans_exported_total", {}, 21),
    ("pbus_spans_dropped_total", {"reason": "full"}, 3),
    ("pbus_process_restarts_total", {"role": "delivery", "reason": "signal"}, 2),
    ("pbus_process_resident_bytes", {"role": "master"}, 40_000_000),
    ("pbus_metrics_age_seconds", {"role": "scheduler"}, 0.2),
])  # fmt: skip
def test_what_is_known_is_on_the_page(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(known(), name, **labels) == pytest.approx(expected)


def test_a_topic_that_a_person_paused_is_stopped_although_its_lane_could_run() -> None:
    made_of = known(facts=Facts(master(), scheduler(paused_ms=5), {}))
    assert value(made_of, "pbus_topic_stopped", **TOPIC, reason="paused") == 1


def test_topics_that_are_not_configured_are_left_out() -> None:
    assert not [labels for _, labels in samples(known()) if ("topic", "gone") in labels]


def test_page_before_anybody_has_said_anything_tells_that() -> None:
    made_of = known(facts=Facts(ages_s={"master": math.inf, "scheduler": math.inf}), totals={})
    assert value(made_of, "pbus_metrics_age_seconds", role="master") == math.inf
    assert value(made_of, "pbus_topic_ready", **TOPIC) is None


def test_every_row_of_the_table_has_a_sample_and_every_sample_a_row() -> None:
    names = {name for name, _ in samples(known())}
    for metric in METRICS:
        assert metric.name in names or f"{metric.name}_bucket" in names, metric.name
    families = {family.name for family in plain(page(known(), "")[1].decode())}
    assert families == {
        metric.name.removesuffix("_total") if metric.kind == COUNTER else metric.name for metric in METRICS
    }


def test_a_topic_costs_as_many_series_as_the_page_in_docs_says() -> None:
    of_topic = [labels for _, labels in samples(known()) if ("topic", "credit") in labels]
    of_queue = [labels for _, labels in samples(known()) if "topic" not in dict(labels) and ("queue", "gift") in labels]
    assert (len(of_topic), len(of_queue)) == (64 + 1 + 3, 4)    # one alarm fires, and it is a shadow


def test_both_formats_say_the_same() -> None:
    content_type, text = page(known(), OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    newer = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in open_metrics(text.decode()) for sample in family.samples
    }
    assert newer == samples(known())
    assert page(known(), "text/html")[0].startswith("text/plain")


def test_others_are_answered_between_two_families() -> None:
    pauses: list[None] = []
    page(known(), OPEN_METRICS, lambda: pauses.append(None))
    assert len(pauses) == len(METRICS)
