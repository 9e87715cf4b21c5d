"""Options and the table of the measurements: ``pytest -s tests/bench [--figures FILE] [--quiet-wait SECONDS]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.figures import Figures, machine
from tests.bench.slices import ROUNDS, Patience
from tests.bench.stage import Stage
from tests.support.bus import BusFactory

_FIGURES = pytest.StashKey[Figures]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="write the figures to this file, as JSON")
    parser.addoption("--quiet-wait", type=float, default=0.0, help="seconds to wait for a quiet machine before a slice")
    parser.addoption("--rounds", type=int, default=ROUNDS, help="pairs of slices that count")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if not figures.rows:
        return
    terminalreporter.section("figures")
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in machine().items()))
    terminalreporter.write_line(figures.table())
    path = config.getoption("--figures")
    if path is not None:
        figures.write(path)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where figures go."""
    return request.config.stash[_FIGURES]


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> Patience:
    """How slices are taken."""
    rounds = request.config.getoption("--rounds")
    return Patience(quiet_s=request.config.getoption("--quiet-wait"), rounds=rounds, tries=2 * rounds)


@pytest.fixture
def stage(tmp_path: Path, bus_factory: BusFactory) -> Iterator[Stage]:
    """Private servers, a bus, and its store."""
    with Stage(tmp_path, bus_factory) as stage:
        yield stage
