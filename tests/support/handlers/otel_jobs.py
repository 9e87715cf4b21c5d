"""A handler that pushes what it was told as its trace."""

from __future__ import annotations

from typing import Any


def handle(job: Any) -> None:
    job.push("told", job.traceparent)
