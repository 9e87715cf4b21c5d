"""
Where the chance of a test run comes from: one seed, ``PBUS_SEED``, printed by the run and replayable.

    PBUS_SEED=4711 pytest tests/chaos/test_a19_cut_replies.py

Rule: every producer, fault and proxy draws from a generator of its own, made here from the seed and its
name, so that one more draw in one of them moves nobody else. When things happen is still up to the machine.
"""

from __future__ import annotations

import os
import random

VARIABLE = "PBUS_SEED"


def fix() -> int:
    """The seed of this run, drawn if nobody gave one, and left in the environment for the processes of the tests."""
    return int(os.environ.setdefault(VARIABLE, str(random.SystemRandom().randrange(1, 1_000_000))))


def generator(*names: object) -> random.Random:
    """The generator of whoever is called so; the same names draw the same things under the same seed."""
    return random.Random("/".join(map(str, (fix(), *names))))
