"""Handlers of jobs whose stories are read."""

from __future__ import annotations

import json
from typing import Any


def handle(job: Any) -> None:
    """Fails when the body says so."""
    if json.loads(job.body).get("fail"):
        raise RuntimeError("no credit for this one")
