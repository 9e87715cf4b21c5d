"""What is drawn, and whether the documentation's pictures are those of the JSON beside them; nothing is drawn here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench.plots import MOST_BYTES, SETTINGS, Line, digest_in, plots, short

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs/plots"
PICTURES = sorted(FOLDER.glob("*.svg"))


def document(machine: str = "one", **curve: Any) -> dict[str, Any]:
    line = {"name": "SQLite", "unit": "pushes/s", "values": [10.0, 20.0], "low": [9.0, 19.0], "high": [11.0, 21.0]}
    x = {"name": "connections", "unit": "", "values": [1, 5]}
    whole = {"id": "growth-x.rate", "title": "Pushes", "x": x, "lines": [line], **curve}
    return {"v": 1, "machine": {"processor": machine}, "figures": [], "curves": [whole]}


def test_a_curve_is_a_panel_of_the_picture_before_its_dot() -> None:
    (plot,) = plots([document()]).values()
    assert (plot.name, plot.caption) == ("growth-x", "processor one")
    panel = plot.panels["growth-x.rate"]
    assert (panel.title, panel.x, panel.y) == ("Pushes", "connections", "pushes/s")
    assert panel.lines == {"SQLite": Line([(1.0, 10.0), (5.0, 20.0)], [(9.0, 11.0), (19.0, 21.0)])}


def test_curves_of_other_rows_are_left_alone() -> None:
    assert plots([document(id="backlog")]) == {}


def test_stores_come_together_and_a_later_line_replaces_an_earlier_one() -> None:
    x = {"name": "connections", "unit": "", "values": [1]}
    redis = {"name": "Redis", "unit": "pushes/s", "values": [7.0]}
    again = {"name": "SQLite", "unit": "pushes/s", "values": [8.0]}
    (plot,) = plots([document(), document("two", x=x, lines=[redis, again])]).values()
    lines = plot.panels["growth-x.rate"].lines
    assert lines == {"SQLite": Line([(1.0, 8.0)], []), "Redis": Line([(1.0, 7.0)], [])}
    assert plot.caption == "processor two"


def test_a_line_without_a_value_for_each_place_is_refused() -> None:
    line = {"name": "SQLite", "unit": "pushes/s", "values": [1.0]}
    with pytest.raises(ValueError, match=r"growth-x\.rate: SQLite"):
        plots([document(lines=[line])])


def test_the_digest_tells_values_captions_and_spreads_apart() -> None:
    line = {"name": "SQLite", "unit": "pushes/s", "values": [10.0, 20.0]}
    found = [document(), document("two"), document(lines=[line])]
    digests = {next(iter(plots([each]).values())).digest() for each in found}
    assert len(digests) == 3
    assert next(iter(plots([document()]).values())).digest() in digests


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "", "0.25"), (0.0, "", "0"), (2000.0, "", "2,000"), (12_500.0, "", "12.5k"), (1e6, "", "1M"),
        (100.0, "bytes", "100 B"), (1024.0, "bytes", "1 KiB"), (1048576.0, "bytes", "1 MiB"),
    ],
)
def test_numbers_on_axes_are_short(value: float, unit: str, text: str) -> None:
    assert short(value, unit) == text


def test_there_is_a_picture_of_each_plot_and_no_other_one() -> None:
    drawn = plots([json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))])
    assert {path.stem: digest_in(path.read_text("utf-8")) for path in PICTURES} == {
        name: plot.digest() for name, plot in drawn.items()
    }, "draw them again: python -m tests.bench.plots docs/plots/*.json --to docs/plots"


def white_behind(root: ElementTree.Element) -> bool:
    """Whether the first thing that is drawn covers all of the picture, in white."""
    svg = "{http://www.w3.org/2000/svg}"
    _, _, width, height = root.attrib["viewBox"].split()
    first = root.find(f"./{svg}g//{svg}path")
    assert first is not None
    style = first.get("style") or str(root.find(f".//{svg}style").text).partition(f".{first.get('class')}{{")[2]
    corners = set(re.findall(r"[ML] (\S+) (\S+)", first.attrib["d"]))
    return corners == {("0", "0"), (width, "0"), ("0", height), (width, height)} and style.startswith("fill: #ffffff")


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_readable_everywhere(path: Path) -> None:
    svg = path.read_text("utf-8")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(svg) <= MOST_BYTES
    assert "SQLite" in {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}, "text is text"
    assert "@font-face" not in svg
    assert "date" not in svg.lower()
    assert white_behind(root)
    assert f"](plots/{path.name})" in (ROOT / "docs/performance.md").read_text("utf-8")


def test_what_is_random_in_a_picture_is_not() -> None:
    assert SETTINGS["svg.hashsalt"]
    assert SETTINGS["svg.fonttype"] == "none"
