"""A handler that gives up when it hears TERM, and answers as if all were well."""

from __future__ import annotations

import signal
import threading
from typing import Any

_TOLD = threading.Event()


def setup() -> None:
    """Listen for TERM."""
    signal.signal(signal.SIGTERM, lambda *_: _TOLD.set())


def act(job: Any) -> None:
    """Wait for it."""
    _TOLD.wait(60)
    print("gave up")
