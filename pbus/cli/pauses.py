"""
Who paused a topic: a note beside the pause, which the store itself knows without a name.

Rule: the pause counts, the note is for people. A note that is older than the pause is another one's.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from typing import TYPE_CHECKING, Final

from pbus.clock import SystemClock
from pbus.errors import StorageError
from pbus.storage import leases

if TYPE_CHECKING:
    from pbus.storage.driver import Driver

KIND: Final = "pause"
_SKEW_MS: Final = 60_000


def set_paused(driver: Driver, queue: str, topic: str, paused: bool, node: str, *, leased: bool = False) -> None:
    """
    Pause a topic, or resume it; who did it is noted where that can be written.

    A deploy's hold on it is over with that, unless it is the deploy that does it (*leased*).
    """
    path = f"{queue}/{topic}"
    if paused and not leased:
        leases.forget(driver, path)
    was = driver.numbers([queue]).get((queue, topic))
    driver.pause(queue, topic, paused)
    if not paused:
        leases.forget(driver, path)              # not before: if we die in between, the lease ends the pause
    if paused and was is not None and was.paused_ms:
        return
    with contextlib.suppress(StorageError):
        known = {note.name: note.version for note in driver.documents(KIND, [path])}
        if paused:
            text = json.dumps({"by": f"{person()} on {node}", "at_ms": int(SystemClock().wall_s() * 1000)})
            driver.write_document(KIND, path, text, known.get(path, 0))
        elif path in known:
            driver.drop_document(KIND, path, known[path])


def paused_by(driver: Driver, queue: str, topic: str, paused_ms: int) -> str:
    """Who paused it at *paused_ms*, ``root on bus-1``; empty: nobody knows."""
    path = f"{queue}/{topic}"
    with contextlib.suppress(StorageError, ValueError, KeyError, TypeError):
        for note in driver.documents(KIND, [path]):
            told = json.loads(note.text)
            if note.name == path and int(told["at_ms"]) >= paused_ms - _SKEW_MS:
                return str(told["by"])
    return ""


def person() -> str:
    """Whoever is at the terminal, behind sudo too."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
