"""What ``pbus topic show`` tells of a shadow: how many of its answers are other ones, by what, and some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pbus.cli.grid import Cell, plain
from pbus.config.values import written_percent
from pbus.core.shadow import KIND, tally_of

if TYPE_CHECKING:
    from pbus.config.schema import Settings
    from pbus.storage.driver import Driver

_BY: Final = ("outcome", "code", "body")


def compared(driver: Driver, settings: Settings, name: tuple[str, str]) -> dict[str, Any]:
    """The figures of a shadow, for programs; zeros where nothing was compared so far. Raises StorageError."""
    topic = settings.queue[name[0]].topic[name[1]]
    found = driver.documents(KIND, ["/".join(name)])
    tally = tally_of(found[0].text if found else "")
    return {
        "of": topic.shadow_of, "sample": topic.sample, "ignore": topic.shadow.ignore, "compared": tally.compared,
        "differ": tally.differ, "skipped": tally.skipped, "by": {what: tally.by.get(what, 0) for what in _BY},
        "run_ratio_p50": tally.ratio(0.5), "run_ratio_p90": tally.ratio(0.9),
        "examples": [example.to_json() for example in reversed(tally.examples)],
    }


def forget(driver: Driver, name: tuple[str, str]) -> None:
    """The figures of a topic that is removed."""
    for document in driver.documents(KIND, ["/".join(name)]):
        driver.drop_document(KIND, document.name, document.version)


def shadow_lines(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    """The same for people; nothing of a topic that is no shadow."""
    shadow = row.get("shadow")
    if not shadow:
        return []
    queue, of = row["queue"], shadow["of"]
    lines = [
        ("shadow of", plain(f"{queue}/{of}, sees {written_percent(shadow['sample'])} of its jobs")),
        ("differ", (f"{shadow['differ']:,} of {shadow['compared']:,}{_by(shadow)}", "red" if shadow["differ"] else "")),
        ("skipped", plain(f"{shadow['skipped']:,} answers without the other one" if shadow["skipped"] else "")),
        ("run time", plain(_times(shadow, of))),
    ]
    for example in shadow["examples"]:
        said = "; ".join(" ".join(filter(None, (one["what"], f"{one['path']}:".lstrip(":"), one["text"])))
                         for one in example["differs"])
        lines.append(("job", plain(f"{example['id']}  {said}")))
    return lines


def _by(shadow: Mapping[str, Any]) -> str:
    parts = [f"{what} {count:,}" for what, count in shadow["by"].items() if count]
    return f" (in {', '.join(parts)})" if parts else ""


def _times(shadow: Mapping[str, Any], of: str) -> str:
    if shadow["run_ratio_p50"] is None:
        return ""
    return f"p50 {shadow['run_ratio_p50']:.2g} x, p90 {shadow['run_ratio_p90']:.2g} x that of {of}"
