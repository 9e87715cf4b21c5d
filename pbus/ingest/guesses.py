"""
Wrong passwords slow down the next try: per address and identity.

After a handful of failures an address may try one password a second for that identity, right or
wrong: whoever lets the right one through at once tells the guesser which one it is. Per identity, so
that a program with an old password holds up nobody but those who bear its name.

Rule: bounded memory, and nobody waits for long: what would, is refused unlooked at.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from pbus.clock import Clock

FREE: Final = 10
"""Failures that cost nothing; one is forgotten each EVERY_S."""
EVERY_S: Final = 1.0
LONGEST_S: Final = 3.0
"""Who would wait longer than this is refused."""
_KNOWN: Final = 10_000


@dataclass(slots=True)
class _Guesser:
    failures: float
    at_s: float
    free_s: float = 0.0
    """When the next try may be made."""


class Guesses:
    """Failed tries of this child's clients. One owner: the server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], _Guesser] = {}

    def wait_s(self, peer: str, identity: str) -> float:
        """
        How long to wait before a try of *identity* from *peer* is looked at; the place is taken.

        Above LONGEST_S it is not to be looked at, and no place is taken.
        """
        guesser = self._known.get((_network(peer), identity))
        if guesser is None:
            return 0.0
        now_s = self._clock.monotonic_s()
        self._forget_some(guesser, now_s)
        if guesser.failures <= FREE - 1:
            return 0.0
        wait_s = max(0.0, guesser.free_s - now_s)
        if wait_s <= LONGEST_S:
            guesser.free_s = now_s + wait_s + EVERY_S
        return wait_s

    def failed(self, peer: str, identity: str) -> None:
        """A try was wrong."""
        now_s = self._clock.monotonic_s()
        key = (_network(peer), identity)
        guesser = self._known.pop(key, None) or _Guesser(0.0, now_s)
        self._forget_some(guesser, now_s)
        guesser.failures = min(FREE + 1.0, guesser.failures + 1)
        self._known[key] = guesser                    # the latest last
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]

    @staticmethod
    def _forget_some(guesser: _Guesser, now_s: float) -> None:
        guesser.failures = max(0.0, guesser.failures - (now_s - guesser.at_s) / EVERY_S)
        guesser.at_s = now_s


def _network(peer: str) -> str:
    """The address without its port; of IPv6 the network that one customer gets (64 bits)."""
    host = peer.rpartition(":")[0] or peer
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address.packed[:8].hex())
    return str(address)
