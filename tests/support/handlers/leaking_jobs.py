"""
A Python handler that leaks and leaves programs behind, and keeps the ledger all the same.

Each job keeps 5 MiB for ever; each fifth one starts a daemon that holds our standard output for a long time.
"""

from __future__ import annotations

import subprocess
from typing import Any

LEAK_BYTES = 5 << 20
DAEMON = ["sleep", "306.06"]
"""A command line that nobody else has."""
_KEPT: list[bytes] = []


def leak(job: Any) -> None:
    """Grow, now and then leave a daemon of a session of its own, and write the run down."""
    _KEPT.append(b"x" * LEAK_BYTES)
    if len(_KEPT) % 5 == 0:
        subprocess.Popen(DAEMON, start_new_session=True)
    from ledger_jobs import record  # beside this file on the path of a consumer, in a package for the tests

    record(job)
