"""
Which jobs a shadow topic sees: a share of them, decided by the id alone.

Every store, child and node must come to the same answer, so the rule is arithmetic that a Lua double, an SQLite
integer and Python all do exactly: ids are mixed and cubed modulo a prime of which 3 does not divide the predecessor,
so cubing permutes the residues and a share of them is that share of ids, whatever the pace of the producers.
"""

from __future__ import annotations

from typing import Final

PRIME: Final = 999_983
"""Every intermediate is below PRIME * PRIME, which a double holds."""
OF_MS: Final = 650_011
OF_SEQUENCE: Final = 271_829


def residues(share: float) -> int:
    """How many of PRIME residues are in a sample of *share* (0..1); 1 at least, so that a shadow sees something."""
    return min(PRIME, max(1, round(share * PRIME)))


def residue(ms: int, sequence: int) -> int:
    """The residue of the job with that id, 0..PRIME - 1."""
    mixed = (ms % PRIME * OF_MS + sequence % PRIME * OF_SEQUENCE) % PRIME
    return mixed * mixed % PRIME * mixed % PRIME


def in_sample(job_id: str, sample: int) -> bool:
    """Whether a topic with that *sample* (``residues``; 0: it is no shadow, and sees all) gets the job."""
    if not 0 < sample < PRIME:
        return True
    ms, _, sequence = job_id.partition("-")
    return residue(int(ms), int(sequence)) < sample
