"""Options and the table of the measurements: ``pytest -s tests/bench [--figures FILE] [--quiet-wait SECONDS]``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.bench.figures import Figure, document
from pbus.bench.machine import describe
from pbus.bench.report import about, cells
from pbus.bench.rows import Options
from pbus.bench.slices import ROUNDS, Patience
from pbus.bench.stage import Stage
from pbus.cli.output import table_lines


class Figures:
    """Every figure of a run. One owner: the session."""

    def __init__(self) -> None:
        self.rows: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Keep it, say it, and hold it against its floor."""
        self.rows.append(figure)
        _, ((*text,),) = cells([figure])
        print("\n" + "  ".join(filter(None, text)), flush=True)
        figure.check()

    def table(self) -> str:
        """All rows, aligned."""
        heads, rows = cells(self.rows)
        keys = [head.lower() for head in heads]
        return "\n".join(table_lines(keys, [dict(zip(keys, row, strict=True)) for row in rows], None))


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
    machine = describe(Path(tempfile.gettempdir()))
    terminalreporter.section("figures")
    terminalreporter.write_line(about(machine))
    terminalreporter.write_line(figures.table())
    path = config.getoption("--figures")
    if path is not None:
        path.write_text(json.dumps(document(figures.rows, [], machine, ""), indent=1) + "\n")


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where figures go."""
    return request.config.stash[_FIGURES]


@pytest.fixture
def options(request: pytest.FixtureRequest) -> Options:
    """As the command line has them."""
    return Options(rounds=request.config.getoption("--rounds"), quiet_s=request.config.getoption("--quiet-wait"))


@pytest.fixture
def patience(options: Options) -> Patience:
    """How slices are taken."""
    return Patience(quiet_s=options.quiet_s, rounds=options.rounds, tries=2 * options.rounds)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Private servers and buses."""
    with Stage() as stage:
        yield stage
