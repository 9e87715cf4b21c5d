"""
A file a day: yesterday's logs get their day as a suffix, the oldest are removed.

Rule: a file belongs to the day of its first line, so a bus that was stopped over midnight rotates
when it comes back. Renaming is all that happens here; writers are told to reopen afterwards, and
notice by themselves within a second if nobody tells them.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from typing import Final

from pbus.telemetry.sink import STDOUT
from pbus.telemetry.topic_log import FOLDERS

_DAY: Final = re.compile(rb"\d{4}-\d{2}-\d{2}")
_ROTATED: Final = re.compile(r".+\.log\.(\d{4}-\d{2}-\d{2})(\.\d+)?\Z")


def rotate(log_dir: str, days: int, today: datetime.date) -> list[str]:
    """
    Put yesterday's logs aside and remove what is older than *days*.

    Args:
        log_dir: As configured; nothing happens for ``-``.
        days: How many days before *today* are kept.
        today: The day in UTC, as the lines' times are.

    Returns:
        Paths that were renamed; not empty means that writers should reopen. What cannot be renamed
        or removed stays as it is and is tried again at the next call.
    """
    if log_dir == STDOUT:
        return []
    renamed = []
    for path in sorted(_files(log_dir)):
        rotated = _ROTATED.match(path)
        day = _as_day(rotated[1]) if rotated is not None else None
        if day is not None and (today - day).days > days:
            _remove(path)
        elif path.endswith(".log") and _put_aside(path, today):
            renamed.append(path)
    return renamed


def _files(log_dir: str) -> Iterator[str]:
    for folder in (log_dir, *(os.path.join(log_dir, name) for name in FOLDERS)):
        try:
            with os.scandir(folder) as entries:
                yield from [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:
            continue  # not there yet


def _put_aside(path: str, today: datetime.date) -> bool:
    """Whether *path* began before *today* and was renamed to carry its day."""
    try:
        day = _first_day(path)
        if day is None or day >= today:
            return False
        target = f"{path}.{day.isoformat()}"
        number = 0
        while os.path.exists(target):
            number += 1
            target = f"{path}.{day.isoformat()}.{number}"
        os.rename(path, target)
    except OSError:
        return False
    return True


def _first_day(path: str) -> datetime.date | None:
    """Day of the first line; of the last change where the first line has no time; None when empty."""
    with open(path, "rb") as file:
        start = file.read(64)
        changed_s = os.fstat(file.fileno()).st_mtime
    if not start:
        return None
    found = _DAY.search(start)
    day = _as_day(found[0].decode()) if found is not None else None
    return day or datetime.datetime.fromtimestamp(changed_s, datetime.UTC).date()


def _as_day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None  # looks like a day and is none


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # tried again tomorrow
