"""Python handlers of the curves."""

from __future__ import annotations

import time
from typing import Any, Final

NAP_S: Final = 0.005


def nap(job: Any) -> None:  # noqa: ARG001 - a handler is given its job
    """Sleep for NAP_S: what waits for somebody else."""
    time.sleep(NAP_S)  # noqa: TID251 - a handler has no Clock
