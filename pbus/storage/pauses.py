"""
Who paused a topic: a note beside the pause, which the store itself knows without a name.

    document "pause", named queue/topic   {by, at_ms}

Rule: the pause counts, the note is for people. A note that is older than the pause is another one's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from pbus.storage.documents import KeepsDocuments

KIND: Final = "pause"
_SKEW_MS: Final = 60_000

Path = tuple[str, str]
"""(queue, topic)."""


def note(by: str, at_ms: int) -> str:
    """For its document."""
    return json.dumps({"by": by, "at_ms": at_ms})


def pausers(driver: KeepsDocuments, paused_ms: Mapping[Path, int]) -> dict[Path, str]:
    """
    Who paused them, ``root on bus-1``; those of whom nobody knows are missing. One call, none without topics.

    Raises:
        StorageError: it cannot be read now.
    """
    names = {"/".join(path): path for path in paused_ms}
    found = {}
    for one in driver.documents(KIND, sorted(names)) if names else ():
        path = names.get(one.name)
        by, at_ms = _read(one.text)
        if path is not None and by and at_ms >= paused_ms[path] - _SKEW_MS:
            found[path] = by
    return found


def _read(text: str) -> tuple[str, int]:
    try:
        told = json.loads(text)
        return str(told["by"]), int(told["at_ms"])
    except (ValueError, KeyError, TypeError):
        return "", 0
