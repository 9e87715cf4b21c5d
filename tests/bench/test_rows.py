"""The rows of ``pbus bench``, each held against its floors: ``pytest -s tests/bench/test_rows.py -k pushes``."""

from __future__ import annotations

import pytest

from pbus.bench.private import Missing
from pbus.bench.rows import Options, Run, measure, selected
from pbus.bench.stage import Stage
from tests.bench.conftest import Figures
from tests.support.programs import missing


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("row", "store"), selected([], "all"))
def test_row(row: str, store: str, stage: Stage, options: Options, figures: Figures) -> None:
    try:
        for figure in measure(row, Run(store, stage, options)):
            figures.add(figure)
    except Missing as reason:
        missing(str(reason))
