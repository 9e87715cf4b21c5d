"""Handlers of jobs whose stories are read."""

from __future__ import annotations

import json
import time
from typing import Any


def handle(job: Any) -> None:
    """Pushes a child, and fails, when the body says so."""
    wish = json.loads(job.body)
    if wish.get("child"):
        job.push("gift", b"{}")
    if wish.get("stand") and job.attempt == 1:
        time.sleep(60.0)
    if wish.get("fail"):
        raise RuntimeError("no credit for this one")
