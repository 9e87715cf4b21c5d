"""
Every client does every step with its defaults, and docs/clients.md says what came out.

All programs run once, side by side, before the first test: see ``foreign/steps.py`` for what they do.
"""

from __future__ import annotations

import os

import pytest

from tests.conformance.clients.foreign import page
from tests.conformance.clients.foreign.clients import CLIENTS
from tests.conformance.clients.foreign.runs import Ran, run_all
from tests.conformance.clients.foreign.steps import STEPS, bulk

pytestmark = pytest.mark.timeout(240)

EVERY_CLIENT = pytest.mark.parametrize("client", [client.name for client in CLIENTS])
EVERY_STEP = pytest.mark.parametrize(
    ("client", "step"), [(client.name, step) for client in CLIENTS for step in STEPS if step in client.steps]
)


@pytest.fixture(scope="module")
def rans(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """What the programs of the chosen tests did, by client."""
    chosen = {
        item.callspec.params.get("client") for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    }
    rans = run_all([client for client in CLIENTS if client.name in chosen], tmp_path_factory.mktemp("foreign") / "bus")
    if os.environ.get("PBUS_WRITE_PAGES"):
        found: dict[str, dict[str, str]] = {}
        for name, ran in rans.items():
            for table, row in (page.rows(ran) if ran.missing is None else {}).items():
                found.setdefault(table, {})[name] = row
        for path in page.PAGES:
            page.write(path, found)
    return rans


@EVERY_STEP
def test_client_does_the_step(rans: dict[str, Ran], client: str, step: str) -> None:
    STEPS[step](rans[client].step(step))


@EVERY_CLIENT
def test_bodies_are_stored_byte_for_byte(rans: dict[str, Ran], client: str) -> None:
    rans[client].is_there()

    assert rans[client].stored["bulk"] == bulk(rans[client].client.steps)


@EVERY_CLIENT
def test_push_that_lost_its_reply_is_one_job_with_a_dedupe_key(rans: dict[str, Ran], client: str) -> None:
    ran = rans[client]
    ran.is_there()
    if "unanswered" in ran.client.steps:
        assert page.copies(ran, "dedupe") == 1
        assert page.copies(ran, "plain") in (1, 2)


@EVERY_CLIENT
def test_page_says_what_was_seen(rans: dict[str, Ran], client: str) -> None:
    rans[client].is_there()
    for table, row in page.rows(rans[client]).items():
        for path in page.PAGES:
            written = page.find(path, table, client)
            assert page.comparable(written) == page.comparable(row), f"{path.name}: PBUS_WRITE_PAGES=1 writes it"
