"""A handler that patches the modules of its process, as code written for gevent does."""

from __future__ import annotations

from typing import Any

from gevent import monkey

monkey.patch_all()

from consumer_jobs import act  # noqa: E402 - after patching, as it has to be


def run(job: Any) -> None:
    """Obey, in patched modules."""
    act(job)
