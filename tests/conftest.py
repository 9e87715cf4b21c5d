"""
What holds for every test: markers follow the folder, every test has a deadline, none leaves a
process behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import leftovers, nightly, seeds
from tests.support.bus import bus_factory  # noqa: F401 - a fixture for every test that wants a real bus
from tests.support.waiting import until

_ROOT = Path(__file__).parent

hypothesis.settings.register_profile("pbus", deadline=None)  # the machine may be busy; timeouts are per test
hypothesis.settings.load_profile("pbus")

TIMEOUT_S = {"unit": 20, "conformance": 60, "integration": 90, "chaos": 120, "bench": 600, "soak": 0}
"""Deadline of one test by folder; a ``timeout`` marker of its own wins. A soak takes as long as it was told."""

ALONE = ("chaos", "bench", "soak")
"""Folders of tests that have no other test beside them; elsewhere the mark ``alone`` says so."""

NIGHTLY_FACTOR = 5
"""Full figures take longer."""

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process of each bus would compile all of pbus again

os.environ.pop("PBUS_CONFIG", None)  # the configuration of whoever runs the tests is none of theirs

_GRACE_S = 3.0
"""How long what a test has stopped may take to be gone."""


def pytest_report_header() -> list[str]:
    return [f"seed: {seeds.VARIABLE}={seeds.fix()}" + (", full figures" if nightly.NIGHTLY else "")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if nightly.ROUNDS > 1:
        metafunc.fixturenames.append("round_number")
        metafunc.parametrize("round_number", range(nightly.ROUNDS))


def _folder(path: Path) -> str:
    """First folder below tests/, which is the test's kind."""
    return path.relative_to(_ROOT).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = _folder(item.path)
        if kind not in TIMEOUT_S:
            raise pytest.UsageError(f"{item.path}: tests live in one of {', '.join(TIMEOUT_S)}")
        item.add_marker(getattr(pytest.mark, kind))
        if kind in ALONE:
            item.add_marker(pytest.mark.alone)
        elif kind == "unit" and item.get_closest_marker("alone"):
            raise pytest.UsageError(f"{item.nodeid}: unit tests measure nothing (tests/support/lanes.py counts on it)")
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S[kind] * (NIGHTLY_FACTOR if nightly.NIGHTLY else 1)))


@pytest.fixture(autouse=True)
def no_process_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test whose processes outlive it; being autouse, it looks after all other fixtures are gone."""
    folder: Path | None = None
    if "tmp_path" in request.fixturenames and _folder(request.path) != "unit":
        folder = request.getfixturevalue("tmp_path")
    before = leftovers.descendants()
    yield

    def remaining() -> leftovers.Living:
        now = leftovers.descendants()
        if folder is not None:
            now |= leftovers.holders(folder)
        return {pid: born for pid, born in now.items() if before.get(pid) != born}

    try:
        until(lambda: not remaining(), _GRACE_S, "every process of the test is gone")
    except AssertionError:
        found = remaining()
        text = leftovers.describe(found)
        leftovers.end(found)
        if found:
            pytest.fail(f"processes left behind:\n{text}", pytrace=False)
