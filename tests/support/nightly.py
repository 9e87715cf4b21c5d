"""
The two sizes of an acceptance test: what CI has time for, and the full figure of a nightly run.

    OUTAGE_S = figure(8.0, nightly=30.0)

``PBUS_NIGHTLY=1`` (``tox -e nightly``) chooses the second one; the test itself is the same.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T", int, float)

NIGHTLY = os.environ.get("PBUS_NIGHTLY", "") not in ("", "0")
ROUNDS = int(os.environ.get("PBUS_ROUNDS", "1"))
"""How often each test is run, one after the other: a test that passes once may have been lucky."""


def figure(usual: T, *, nightly: T) -> T:
    """*nightly* in a nightly run, else *usual*."""
    return nightly if NIGHTLY else usual
