"""The stage of the acceptance tests, once for each store."""

from tests.chaos.conftest import scenario  # noqa: F401
