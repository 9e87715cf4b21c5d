"""Deploys: who is told that other code runs behind topics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pbus.supervisor.deploys import Deploys


class _Child:
    def __init__(self, role: str) -> None:
        self.spec = SimpleNamespace(role=role)
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def tell(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))


@pytest.mark.parametrize("status", [0, 1])
def test_who_calls_the_code_and_who_decides_alarms_are_told(status: int) -> None:
    children = [_Child(role) for role in ("ingest", "delivery", "scheduler", "consumer", "dashboard")]
    answers: list[dict[str, Any]] = []
    caller = SimpleNamespace(answer=lambda **fields: answers.append(fields))
    frame = {"by": "ann on n1", "topics": ["gift/credit"], "command": "true", "status": status, "took_s": 0.5}
    Deploys(cast("Any", children)).told(cast("Any", caller), frame)

    told = [child.spec.role for child in children if child.heard]
    assert told == ["delivery", "scheduler"]
    assert children[2].heard == [("deployed", {"topics": ["gift/credit"]})]
    assert answers == [{}]
