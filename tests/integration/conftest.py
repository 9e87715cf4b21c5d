"""Fixtures of the integration tests; ``bus_factory``, the whole bus, is in tests/conftest.py."""

from __future__ import annotations

from tests.support.idle_bus import idle_bus  # noqa: F401 - found by name
from tests.support.shop import shop  # noqa: F401 - found by name
