"""
What the pushes of a producer ask for: shares of them that carry options or orders to their handler.

    RedisPy(.., mix={"dedupe": 0.5, "again": 0.1, "failing": 0.05})

Everything is drawn from the producer's own generator, so a seed makes the same pushes again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

DELAY_MS = 3000
TTL_MS = 1500
SLOW_MS = 300
KEYS = 20
DOOMED = 4
"""A doomed job fails so often: more than its topic allows, less than that and once revived."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One push: its ledger key, words for the handler, and the options of XADD."""

    key: str
    orders: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The options as XADD takes them, and the ledger keeps them."""
        return [word for pair in self.options.items() for word in pair]


def draw(chance: random.Random, shares: Mapping[str, float], key: str, orders: str = "") -> Wish:
    """
    The push called *key*.

    Args:
        shares: 0..1 each: ``delay``, ``ttl``, ``key``, ``dedupe``; ``slow``, ``failing`` (once), ``doomed``.
        orders: Words that every push has.
    """
    drawn = {name: chance.random() < share for name, share in sorted(shares.items())}
    options = {
        "delay": str(chance.randrange(1, DELAY_MS)), "ttl": str(chance.randrange(TTL_MS // 5, TTL_MS)),
        "key": f"{key.partition('.')[0]}-{chance.randrange(KEYS)}", "dedupe": f"once-{key}",
    }
    words = {"slow": f"sleep={chance.randrange(SLOW_MS)}", "failing": "fail=1", "doomed": f"fail={DOOMED}"}
    told = " ".join(filter(None, [orders, *(word for name, word in words.items() if drawn.get(name))]))
    return Wish(key, told, {name: value for name, value in options.items() if drawn.get(name)})
