"""
New code is noticed: files on disk that are not what this process has loaded.

    disk as loaded --changed--> seen --the same at the next look--> told, once per state of the disk

Rule: whoever is told decides what happens; here it is only looked, by a thread of its own, in one process of a topic
at a time. A deploy that is being copied is waited for: what is told has stood still for a moment.
"""

from __future__ import annotations

import _thread
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Final

from pbus.consumer.descriptors import Poll
from pbus.consumer.origin import is_users
from pbus.supervisor.child import Child

EVERY_S: Final = 2.0
SETTLED_S: Final = 0.5
TOLD_FILES: Final = 20
_ABSENT: Final = (0, 0, 0)

State = tuple[int, int, int]
"""mtime (ns), size, inode."""


class CodeWatch:
    """
    Compares what this process has loaded with the disk. Made right after loading; shared by two threads.

    Args:
        files: Answers the files that are loaded now; asked again, because more may be loaded later.
        links: Paths whose real place matters (a folder that deploys switch).
        changed: Called with the files that differ, at most TOLD_FILES; none: the disk is again as it was loaded.
    """

    def __init__(
        self, files: Callable[[], Iterable[str]], links: Iterable[str], changed: Callable[[list[str]], None]
    ) -> None:
        self._files = files
        self._links = {link: os.path.realpath(link) for link in links if link}
        self._changed = changed
        self._loaded: dict[str, State] = {}
        self._seen: dict[str, object] = {}
        self._told: dict[str, object] = {}
        self._turn: object | None = None  # whose turn it is to look: a thread ends when it is no longer its own
        self.note()

    def listen_to(self, child: Child) -> None:
        """The master says when to look all the time, or wants to know once how old this process' code is."""
        child.on_frame("watch_files", lambda frame: self.follow(bool(frame["on"])))
        child.on_frame("stale_please", lambda _: child.tell("stale", files=self.stale()))

    def stale(self) -> list[str]:
        """Files that are not as they were loaded, at most TOLD_FILES, without telling anybody."""
        return sorted(self._differs())[:TOLD_FILES]

    def note(self) -> None:
        """What has been loaded since the last look is taken for what the disk has now."""
        for path in self._files():
            if path not in self._loaded:
                self._loaded[path] = state_of(path)

    def follow(self, on: bool) -> None:
        """Begin to look every EVERY_S, or end it. Called by the listener."""
        if on and self._turn is None:
            self._turn = object()
            _thread.start_new_thread(self._run, (self._turn,))  # a real one, also where user code has patched modules
        elif not on:
            self._turn = None

    def look(self) -> bool:
        """Compare once, and tell what has settled; False: something changes just now."""
        self.note()
        differs = self._differs()
        if differs == self._told:
            return True
        if differs != self._seen:
            self._seen = differs
            return False
        self._told = differs
        self._forget_bytecode(differs)
        self._changed(sorted(differs)[:TOLD_FILES])
        return True

    def _run(self, turn: object) -> None:
        pause_s = EVERY_S
        while True:
            Poll().poll(pause_s * 1000)
            if self._turn is not turn:
                return
            pause_s = EVERY_S if self.look() else SETTLED_S

    def _differs(self) -> dict[str, object]:
        """Path -> what is there now, of whatever is not as it was loaded."""
        found: dict[str, object] = {}
        for path, loaded in self._loaded.items():
            now = state_of(path)
            if now != loaded:
                found[path] = now
        for link, loaded_from in self._links.items():
            place = os.path.realpath(link)
            if place != loaded_from:
                found[link] = place
        return found

    def _forget_bytecode(self, differs: Iterable[str]) -> None:
        """
        Remove compiled files that Python would take for those of the new source.

        It compares size and whole seconds; an edit within the second of the last one may have both.
        """
        for path in differs:
            before, now = self._loaded.get(path), state_of(path)
            if before is not None and path.endswith(".py") and _as_python_sees(before) == _as_python_sees(now):
                try:
                    os.unlink(importlib.util.cache_from_source(path))
                except OSError:
                    pass  # there is none, or it is not ours to remove


def state_of(path: str) -> State:
    """What tells a file from another one of its name; zeros: there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return _ABSENT
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _as_python_sees(state: State) -> tuple[int, int]:
    return state[0] // 1_000_000_000, state[1]


class LoadedModules:
    """
    Files of the modules that user code consists of: below *root*, without what is installed or Python's or pbus' own.

    Args:
        root: Folder, without symlinks.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "")
        self._known: set[str] = set()
        self._files: set[str] = set()

    def __call__(self) -> set[str]:
        """Every file so far; modules that were looked at before cost nothing."""
        for name, module in list(sys.modules.items()):
            if name not in self._known:
                self._known.add(name)
                path = _file_of(module)
                if path.startswith(self._root) and is_users(path):
                    self._files.add(path)
        return set(self._files)


def _file_of(module: object) -> str:
    """The real path of a module's source; asking a lazy module must not load it."""
    if not isinstance(module, ModuleType):
        return ""
    path = object.__getattribute__(module, "__dict__").get("__file__")
    return os.path.realpath(path) if isinstance(path, str) else ""
