"""
Processes that user code forks: they may do what they like, but not live on in our code.

A handler that forks and lets the child return would make it a second consumer with the same claims, connection and
name: two processes would answer for one job.

Rule: whoever comes out of user code and is not the process that went in ends there. The original learns of it by a
byte of memory that both share, because the child may hold copies of locks that nobody will ever release.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, NoReturn

RETURNED: Final = "a process that the handler forked came back from it and was ended: end it with os._exit()"


class Forks:
    """
    Knows which process is the consumer.

    Attributes:
        is_consumer: This process is the one that was born as a consumer (no call of getpid: it is asked for each job).
    """

    def __init__(self) -> None:
        self.is_consumer = True
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.is_consumer = False

    def end(self, exit_status: int | None) -> NoReturn:
        """
        End this process, which is not the consumer.

        Args:
            exit_status: What user code gave to ``sys.exit``: it meant to end here. None: it just came back.
        """
        if exit_status is None:
            self._shared[0] = 1
        os._exit(1 if exit_status is None else exit_status)

    def take_returned(self) -> bool:
        """Whether one has come back since this was asked last."""
        if not self._shared[0]:
            return False
        self._shared[0] = 0
        return True
