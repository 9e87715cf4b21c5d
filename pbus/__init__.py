"""
pbus: a job bus. Producers push with any Redis client; handlers of every kind run the jobs.

What a Python handler may raise to say more than "it failed" is here, so that ``import pbus`` in
user code costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Dead", "Retry", "__version__"]


class Retry(Exception):
    """
    Raise it in a handler: this attempt did not work, make another one.

    It counts as an attempt; the topic's ``retry`` bounds hold.

    Args:
        after_s: Seconds to wait; None: what the topic's retry policy says.
        reason: Text for people, kept with the job.
    """

    def __init__(self, after_s: float | None = None, reason: str = "") -> None:
        self.after_s = after_s
        self.reason = reason
        super().__init__(reason)


class Dead(Exception):
    """
    Raise it in a handler: this job can never work, put it to the dead letters at once.

    Args:
        reason: Text for people, kept with the job.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)
