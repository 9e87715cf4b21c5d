"""
pbus: a job bus. Producers push with any Redis client; handlers of every kind run the jobs.

What a Python handler may raise to say more than "it failed" is here, and what ``job.push`` raises, so that
``import pbus`` in user code costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Dead", "MaybeStored", "PushError", "PushRefused", "Retry", "__version__"]


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


class PushError(Exception):
    """
    ``job.push`` did not store a job, or cannot say whether it did. Left alone it fails the attempt, which is repeated.

    Attributes:
        code: First word of the bus' answer (``NOQUEUE``, ``QUEUEFULL`` ..); empty when there was none.
    """

    def __init__(self, text: str, code: str = "") -> None:
        self.code = code
        super().__init__(text)


class PushRefused(PushError):
    """
    The job is certainly not stored.

    Attributes:
        temporary: The same push may work later: the queue or the store is full or away, or the bus was not reached (it
            may be stopping). A handler that lets this out is repeated a second later, and no attempt is counted.
    """

    def __init__(self, text: str, code: str = "", *, temporary: bool = False) -> None:
        self.temporary = temporary
        super().__init__(text, code)


class MaybeStored(PushError):
    """Nobody can say whether the job is stored; pushing it again is safe with a ``dedupe`` key only."""
