"""How long a topic rests where its handler does not take it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rests:
    """
    Seconds.

    Attributes:
        first_s, max_s: Not registered: before the first and at most before later tries, doubling.
        misconfigured_s: After an answer that only a change of configuration can mend.
    """

    first_s: float = 3.0
    max_s: float = 60.0
    misconfigured_s: float = 60.0

    def next_s(self, last_s: float) -> float:
        """The rest after one of *last_s* (0: the first one)."""
        return min(max(self.first_s, last_s * 2), self.max_s)
