"""
Pausing a topic, and saying who did (``storage.pauses``).

Rule: the pause counts, the note is for people.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from typing import TYPE_CHECKING

from pbus.clock import SystemClock
from pbus.errors import StorageError
from pbus.storage import leases
from pbus.storage.pauses import KIND, note

if TYPE_CHECKING:
    from pbus.storage.driver import Driver


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
        known = {one.name: one.version for one in driver.documents(KIND, [path])}
        if paused:
            text = note(f"{person()} on {node}", int(SystemClock().wall_s() * 1000))
            driver.write_document(KIND, path, text, known.get(path, 0))
        elif path in known:
            driver.drop_document(KIND, path, known[path])


def person() -> str:
    """Whoever is at the terminal, behind sudo too."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
