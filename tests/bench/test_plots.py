"""The pictures themselves: ``tox -e bench`` has the library that draws them."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.bench.plots import MOST_BYTES, digest_in, draw, plots

LINES = {"SQLite": 1.0, "Redis": 2.0, "bare LPUSH": 40.0}


def test_a_picture_is_valid_small_and_the_same_each_time() -> None:
    places = {"name": "connections", "unit": "", "values": [1, 5, 50]}
    curves = [
        {"id": f"growth-x.{number}", "title": f"Panel {number}", "x": places, "lines": [
            {"name": name, "unit": "pushes/s", "values": [factor, 2 * factor, 3 * factor], "low": [factor] * 3,
             "high": [3 * factor] * 3}
            for name, factor in LINES.items()
        ]}
        for number in range(6)
    ]  # fmt: skip
    document = {"machine": {"processor": "one"}, "curves": curves}
    (plot,) = plots([document]).values()
    svg = draw(plot)
    assert svg == draw(plot)
    assert len(svg) <= MOST_BYTES
    assert digest_in(svg) == plot.digest()
    texts = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {*LINES, "connections", "pushes/s", "Panel 5", "processor one", "50"} <= texts
    assert 'style="fill: #ffffff"' in svg or "{fill: #ffffff}" in svg
