"""
Whose code a file is: Python's own, installed, pbus', or the user's.
"""

from __future__ import annotations

import os
import sysconfig
from typing import Final

_INSTALLED: Final = tuple(f"{os.sep}{part}{os.sep}" for part in ("site-packages", "dist-packages"))
_OURS: Final = os.path.dirname(os.path.dirname(__file__))
_NOT_THEIRS: Final = tuple(
    os.path.join(os.path.realpath(place), "")
    for place in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), _OURS)
)


def is_users(path: str) -> bool:
    """Whether the file *path* (without symlinks) is neither Python's own, nor installed, nor of pbus."""
    return not path.startswith(_NOT_THEIRS) and not any(part in path for part in _INSTALLED)
