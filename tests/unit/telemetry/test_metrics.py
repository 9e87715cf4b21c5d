"""The table of metrics is the page in docs, and keeps to the rules of names."""

from __future__ import annotations

import re
from pathlib import Path

from pbus.telemetry.metrics import COUNTER, METRICS, reference

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
LABELS = {"queue", "topic", "node", "role", "backend", "storage", "result", "reason"}


def test_page_in_docs_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m pbus.telemetry.metrics > docs/metrics.md"


def test_names_and_labels_keep_to_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"pbus_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER), metric.name
        assert metric.unit not in ("seconds", "bytes") or f"_{metric.unit}" in metric.name, metric.name
        assert metric.name.endswith("_info") or set(metric.labels) <= LABELS, metric.name
