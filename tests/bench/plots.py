"""
Pictures of how the cost grows: one SVG a row of curves, drawn from what the bench wrote.

    python -m tests.bench.plots JSON.. --to docs/plots [--check]

What is drawn are the ``curves`` of documents of ``pbus bench --json`` whose id has a dot: what stands before it names
the picture, a curve is a panel of it. Of two lines with the same id and name that of the later file is drawn, so a row
that was measured again needs no whole run.

Rule: the same JSON makes the same bytes. A picture bears the digest of its data, so that a test finds out, without the
library that draws, that a picture is older than the JSON beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TITLES = {
    "growth-connections": "Connections that push at once (200 B, no pipeline)",
    "growth-bodies": "Size of a body (50 connections, no pipeline)",
    "growth-topics": "Topics of a queue: each gets every job",
    "growth-queues": "Queues of a bus, one topic each",
    "growth-backlog": "Jobs that wait",
    "growth-processes": "Processes",
}
"""What a picture is about; a plot that is not listed bears its name."""
MOST_BYTES = 40_000
LOGARITHMIC_PLACES, LOGARITHMIC_VALUES = 10, 15
"""An x axis (y axis) whose largest value is at least so many times its least one is logarithmic."""
PANEL_INCHES = (3.4, 2.75)
"""Three of them fill the page of a repository."""
CAPTION_LETTERS = 17.5
"""Of an inch of the small print."""
STYLES = {
    "SQLite": {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    "Redis": {"color": "#d55e00", "linestyle": (0, (5, 2)), "marker": "s"},
}
"""A line whose name begins so. Blue and vermilion of Okabe and Ito, which most colour-blind people tell apart."""
OTHERS = (
    {"color": "#767676", "linestyle": (0, (1, 1.5)), "marker": "^"},
    {"color": "#767676", "linestyle": (0, (4, 1.5, 1, 1.5)), "marker": "v"},
)
"""What pbus is compared with, in the order of the JSON."""
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "pbus", "font.family": "sans-serif", "font.size": 9.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4",
    "axes.axisbelow": True, "path.simplify": False, "axes.titlesize": 10.0, "axes.titlelocation": "left",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"], "xtick.major.size": 0, "ytick.major.size": 0,
}


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of a panel.

    Attributes:
        points: (x, y) from left to right.
        spread: (least, largest) of the rounds at each of them; empty: not known.
    """

    points: list[tuple[float, float]]
    spread: list[tuple[float, float]]


@dataclass(slots=True)
class Panel:
    """One pair of axes: lines by name."""

    title: str
    x: str
    x_unit: str
    y: str
    lines: dict[str, Line] = field(default_factory=dict)

    @property
    def places(self) -> list[float]:
        """Every x, the least first."""
        return sorted({x for line in self.lines.values() for x, _ in line.points})

    @property
    def values(self) -> list[float]:
        """Every y."""
        return [y for line in self.lines.values() for _, y in line.points]


@dataclass(slots=True)
class Plot:
    """One picture: panels by the ids of their curves."""

    name: str
    caption: str
    panels: dict[str, Panel] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name)

    def digest(self) -> str:
        """Of everything that the picture shows; 16 hexadecimal digits."""
        data = [self.title, self.caption, [asdict(panel) for panel in self.panels.values()]]
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def plots(documents: Sequence[dict[str, Any]]) -> dict[str, Plot]:
    """
    What is to be drawn, by name.

    Raises:
        ValueError: a line has not as many values as there are places.
    """
    found: dict[str, Plot] = {}
    for document in documents:
        caption = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
        for curve in document.get("curves", ()):
            name, dot, _ = curve["id"].partition(".")
            if not dot:
                continue
            plot = found.setdefault(name, Plot(name, caption))
            plot.caption = caption
            x = curve["x"]
            panel = Panel(curve["title"], x["name"], x["unit"], curve["lines"][0]["unit"])
            panel = plot.panels.setdefault(curve["id"], panel)
            panel.lines |= {line["name"]: _line(curve["id"], x["values"], line) for line in curve["lines"]}
    return found


def _line(id: str, places: Sequence[float], line: dict[str, Any]) -> Line:
    try:
        points = [(float(x), float(y)) for x, y in zip(places, line["values"], strict=True)]
        return Line(points, list(zip(line.get("low", ()), line.get("high", ()), strict=True)))
    except ValueError as error:
        raise ValueError(f"{id}: {line['name']}: {error}") from None


def digest_in(svg: str) -> str:
    """The digest that a picture bears; empty: none."""
    found = re.search(r"data ([0-9a-f]{16})\b", svg)
    return found[1] if found else ""


def short(value: float, unit: str = "") -> str:
    """A number for an axis: 0.25, 2,000, 200k, 1M; of *unit* bytes 100 B, 1 KiB, 1 MiB."""
    if unit == "bytes":
        for power, name in ((20, "MiB"), (10, "KiB")):
            if value >= 1 << power:
                return f"{value / (1 << power):g} {name}"
        return f"{value:g} B"
    for least, factor, name in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / factor:.6g}{name}"
    return f"{value:,.6g}"


# -- drawing ----------------------------------------------------------------------------------------------


def draw(plot: Plot) -> str:
    """The picture as SVG: text as text, no date, white behind it."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = 3 if len(plot.panels) % 3 == 0 or len(plot.panels) > 4 else min(2, len(plot.panels))
    rows = math.ceil(len(plot.panels) / columns)
    with matplotlib.rc_context(SETTINGS):
        width = PANEL_INCHES[0] * columns
        caption = textwrap.wrap(plot.caption, int(width * CAPTION_LETTERS))
        foot = 0.16 + 0.14 * len(caption)
        size = (width, PANEL_INCHES[1] * rows + 0.45 + foot)
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        inside = (0, foot / size[1], 0.995, 1 - (0.38 + foot) / size[1])
        figure.get_layout_engine().set(rect=inside, wspace=0.06, hspace=0.08)
        figure.text(0.01, 1 - 0.08 / size[1], plot.title, fontsize=11.5, fontweight="bold", va="top")
        figure.text(0.01, 0.06 / size[1], "\n".join(caption), fontsize=7.5, color="#555555", va="bottom")
        styles = _styles(plot)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, panel in zip(grid, plot.panels.values(), strict=False):
            _draw_panel(axes, panel, styles)
        for axes in list(grid)[len(plot.panels):]:
            axes.set_axis_off()
        _legend(figure, size, styles)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator")) | {
            "Title": plot.title, "Description": f"data {plot.digest()}",
        })
    return _smaller(written.getvalue())


def _styles(plot: Plot) -> dict[str, dict[str, Any]]:
    """How each line of the picture is drawn, the stores first."""
    names = list(dict.fromkeys(name for panel in plot.panels.values() for name in panel.lines))
    others = iter(OTHERS)
    styles = {name: STYLES[name.split()[0]] if name.split()[0] in STYLES else next(others) for name in names}
    rank = [*STYLES.values(), *OTHERS]
    return dict(sorted(styles.items(), key=lambda pair: rank.index(pair[1])))


def _draw_panel(axes: Any, panel: Panel, styles: dict[str, dict[str, Any]]) -> None:
    for name, line in sorted(panel.lines.items(), key=lambda pair: list(styles).index(pair[0])):
        x, y = zip(*line.points, strict=True)
        style = styles[name]
        if line.spread:
            axes.vlines(x, *zip(*line.spread, strict=True), color=style["color"], linewidth=1, alpha=0.4)
        axes.plot(x, y, linewidth=1.5, markersize=4.5, **style)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    places = panel.places
    if places[-1] / places[0] >= LOGARITHMIC_PLACES:
        axes.set_xscale("log")
    axes.set_xticks(places, [short(place, panel.x_unit) for place in places])
    _scale(axes, panel)


def _scale(axes: Any, panel: Panel) -> None:
    """The y axis: from nothing, or logarithmic between powers of ten."""
    values = panel.values
    if min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_VALUES:
        axes.set_yscale("log")
        low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
        axes.set_ylim(low, high)
    else:
        highest = max((high for line in panel.lines.values() for _, high in line.spread), default=0.0)
        axes.set_ylim(0, max(values) * min(1.6, max(1.15, 1.05 * highest / max(values))))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: short(value))


def _legend(figure: Any, size: tuple[float, float], styles: dict[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[Line2D([], [], label=name, linewidth=1.5, markersize=4.5, **style) for name, style in styles.items()],
        loc="upper right", bbox_to_anchor=(0.995, 1 - 0.02 / size[1]), ncols=len(styles), frameon=False,
        borderaxespad=0, handlelength=3.2,
    )


def _smaller(svg: str) -> str:
    """
    A third of the size that the library writes, the same picture.

    Without comments, indentation, names of groups and turns by nothing; coordinates to a hundredth of a point; styles
    that repeat are classes.
    """
    for pattern, instead in (
        (r"<!--.*?-->", ""), (r'<g id="[^"]*">', "<g>"), (r' transform="rotate\(-0 [^"]*"', ""),
        (r"(-?\d+\.\d\d)\d+", r"\1"), (r"\s*\n\s*", "\n"),
    ):
        svg = re.sub(pattern, instead, svg, flags=re.DOTALL)
    repeated = [style for style, count in Counter(re.findall(r' style="([^"]*)"', svg)).items() if count > 1]
    rules = "".join(f".s{number}{{{style}}}\n" for number, style in enumerate(repeated))
    for number, style in enumerate(repeated):
        svg = svg.replace(f' style="{style}"', f' class="s{number}"')
    return svg.replace("</style>", f"\n{rules}</style>", 1)


# -- command ----------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a picture is not as it would be")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    others = 0
    for name, plot in plots([json.loads(path.read_text()) for path in options.json]).items():
        svg, path = draw(plot), options.to / f"{name}.svg"
        if len(svg) > MOST_BYTES:
            print(f"{path}: {len(svg)} bytes, at most {MOST_BYTES} are wanted", file=sys.stderr)
            others += 1
        if not options.check:
            path.write_text(svg)
            print(f"{path}: {len(svg)} bytes")
        elif not path.exists() or path.read_text() != svg:
            print(f"{path} is not what the JSON makes", file=sys.stderr)
            others += 1
    return int(others > 0)


if __name__ == "__main__":
    sys.exit(main())
