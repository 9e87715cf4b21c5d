"""
``stop_signal`` of a Python handler: told to user code that asked for it, in the middle of its job.

Rule: only to a handler that user code has installed, and only while a job runs; everybody else is stopped by getting
nothing more. What it raises ends that job like any other exception.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pbus.config.values import signal_number


class StopSignal:
    """
    Made before user code is loaded.

    Args:
        name: As configured: ``TERM``, ``SIGUSR1`` ..
        runs: Answers whether a job runs now.
    """

    def __init__(self, name: str, runs: Callable[[], object]) -> None:
        self._signum = signal_number(name)
        self._before = signal.getsignal(self._signum)
        self._runs = runs

    def give(self) -> None:
        """Called by the listener when this process is to finish."""
        wanted = signal.getsignal(self._signum)
        if callable(wanted) and wanted is not self._before and self._runs():
            os.kill(os.getpid(), self._signum)
