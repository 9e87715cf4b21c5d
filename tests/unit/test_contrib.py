"""What is shipped for Prometheus and Grafana names metrics, labels and commands that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from pbus.cli.main import pbus
from pbus.telemetry.metrics import BY_NAME, HISTOGRAM

CONTRIB = Path(__file__).parents[2] / "contrib"
GRAFANA = json.loads((CONTRIB / "grafana/pbus.json").read_text("utf-8"))
ALERTS = (CONTRIB / "prometheus/alerts.yml").read_text("utf-8")
OF_PROMETHEUS = {"instance", "cluster", "le"}

SELECTOR = re.compile(r"(pbus_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")


def alerts() -> list[dict[str, str]]:
    """The rules; every value of ours stands on one line."""
    rules: list[dict[str, str]] = []
    for line in ALERTS.splitlines():
        match = re.fullmatch(r" {6}(?:- | {2})(?: {2})?([a-z]+): (.+)", line)
        if match and match[1] == "alert":
            rules.append({})
        if match:
            rules[-1][match[1]] = match[2].strip('"')
    return rules


def panels() -> list[dict[str, Any]]:
    return [panel for panel in GRAFANA["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every query of both."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    shown += [variable["definition"] for variable in GRAFANA["templating"]["list"]]
    shown += [note["expr"] for note in GRAFANA["annotations"]["list"]]
    return shown + [rule["expr"] for rule in alerts()]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_queries_name_metrics_and_labels_that_exist(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    found = SELECTOR.findall(expression)
    assert found
    known: set[str] = set(OF_PROMETHEUS)
    for name, selector in found:
        metric = BY_NAME.get(name) or BY_NAME[re.sub(r"_(bucket|sum|count)$", "", name)]
        assert name == metric.name or metric.kind == HISTOGRAM, f"{name} is no histogram"
        used = set(re.findall(r"([a-z]+)(?:=~|!~|!=|=)\"", selector))
        assert used <= OF_PROMETHEUS | set(metric.labels), name
        known |= set(metric.labels)
    for labels in GROUPED.findall(expression):
        assert {label.strip() for label in labels.split(",")} <= known


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules = alerts()
    assert len(rules) == ALERTS.count("- alert:") > 10
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"] in ("{ severity: warning }", "{ severity: critical }"), rule["alert"]
        assert rule["summary"], rule["alert"]
        assert rule["description"], rule["alert"]


def test_commands_that_alerts_name_exist() -> None:
    named = re.findall(r"'pbus ([a-z ]+?)(?: [A-Z{/-].*?)?'", ALERTS)
    assert len(named) > 8
    for words in named:
        command: click.Command | None = pbus
        for word in words.split():
            assert isinstance(command, click.Group), words
            command = command.get_command(click.Context(command), word)
        assert command is not None, f"pbus {words}"


def test_dashboard_can_be_imported_anywhere() -> None:
    assert [each["name"] for each in GRAFANA["__inputs"]] == ["DS_PROMETHEUS"]
    assert (GRAFANA["uid"], GRAFANA["id"]) == ("pbus-overview", None)
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(GRAFANA))
    assert set(sources) == {"${DS_PROMETHEUS}", "pbus-overview"}
    assert [each["name"] for each in GRAFANA["templating"]["list"]] == ["cluster", "queue", "topic"]
    ids = [panel["id"] for panel in GRAFANA["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in GRAFANA["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
