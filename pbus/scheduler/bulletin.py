"""
This node's events for the others: what its pbus.log says of the bus, not of single jobs, goes into the shared ring.

Rule: lossy. A store that does not take it is asked again with what comes then; nothing waits, nothing is read twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pbus.errors import StorageError
from pbus.storage.bulletin import LINE_BYTES, Bulletin
from pbus.telemetry.lines import ORDER, cut
from pbus.telemetry.log_reader import LogReader, log_entry

EVERY_S: Final = 1.0
MOST: Final = 50
"""Lines of a turn; what is left out is counted in the next one that is told."""
_BLOCKS: Final = 8
_TEXT: Final = 300
_SHORT_TEXT: Final = 80
_SAID: Final = ("handler.output", "program.output")


class Teller:
    """The duty of one process of the node. *reader* stands where it begins to tell."""

    name = "bulletin"

    def __init__(self, bulletin: Bulletin, reader: LogReader, node: str) -> None:
        self._bulletin = bulletin
        self._reader = reader
        self._node = node
        self._omitted = 0

    def turn(self) -> float:
        try:
            chosen = self._chosen()
            self._omitted += max(0, len(chosen) - MOST)
            chosen = chosen[:MOST]
            if chosen and self._omitted:
                chosen[-1]["omitted_events"], self._omitted = self._omitted, 0
            self._bulletin.tell(self._node, [short(fields) for fields in chosen])
        except (OSError, StorageError):
            pass                                  # other duties find out, and say so
        return EVERY_S

    def interrupted(self) -> None:
        """Nothing was concluded."""

    def _chosen(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(_BLOCKS):
            lines = self._reader.fresh()
            if lines is None:
                break
            entries = [log_entry(line).fields for line in lines]
            found += [dict(fields) for fields in entries if is_event(fields)]
        return found


def is_event(fields: Mapping[str, Any]) -> bool:
    """About the bus: not about one job, not what somebody's code said, nothing for developers of the bus."""
    about_all = bool(fields.get("event")) and "job" not in fields
    return about_all and fields.get("level") != "debug" and fields.get("event") not in _SAID


def short(fields: Mapping[str, Any]) -> str:
    """*fields* as JSON of at most LINE_BYTES."""
    for keys, limit in ((fields, _TEXT), (fields, _SHORT_TEXT), (ORDER, _SHORT_TEXT)):
        known = {key: value for key, value in fields.items() if key in keys}
        said = {key: cut(value, limit) if isinstance(value, str) else value for key, value in known.items()}
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"), default=str)
        if len(text.encode("utf-8", "replace")) <= LINE_BYTES:
            return text.encode("utf-8", "replace").decode()
    return json.dumps({"ts": str(fields.get("ts"))[:40], "event": str(fields.get("event"))[:80]})
