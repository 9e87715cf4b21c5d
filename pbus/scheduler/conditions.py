"""
What the master says that does not run on this node, and what other nodes have put into the store about theirs.

    frames ``machine`` --> ours --document "condition" NAME, when it has changed--> store --> who decides

Rule: a node that ends in good order takes its document with it; one whose boot is no longer alive is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.clock import Clock, SystemClock
from pbus.storage.documents import TEXT_BYTES
from pbus.storage.driver import Driver

KIND: Final = "condition"

Stopped = Mapping[str, tuple[str, str]]
"""``queue/topic`` -> state and reason."""


@dataclass(frozen=True, slots=True)
class Condition:
    """
    Of one node: topics that do not run, backends that are left alone and why, consumers that there are.

    *callers*: of these backends, some of the topics that call them.
    """

    node: str
    boot: str
    stopped: Stopped = field(default_factory=dict)
    circuits: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    callers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_text(self) -> str:
        """For a document; *places* change all the time and stay here."""
        text = json.dumps({
            "v": 1, "boot": self.boot, "stopped": self.stopped, "circuits": self.circuits, "callers": self.callers,
        })
        if len(text) < TEXT_BYTES:
            return text
        fatal = [path for path, (state, _) in self.stopped.items() if state == "fatal"][:300]
        short = dict.fromkeys(fatal, ("fatal", ""))
        return json.dumps({"v": 1, "boot": self.boot, "stopped": short, "circuits": {}})


class Conditions:
    """Of this node. One owner: the scheduler; hears frames of the master."""

    def __init__(self, node: str, boot: str, clock: Clock | None = None) -> None:
        self.own = Condition(node, boot)
        self._clock = clock or SystemClock()
        self._codes: dict[str, int] | None = None
        self.deployed_s: dict[str, float] = {}
        """``queue/topic`` -> when its code changed, Unix time; only what happened since this process began."""

    def hear(self, frame: Mapping[str, Any]) -> None:
        """A frame ``machine``."""
        codes = {path: int(code) for path, code in frame.get("codes", {}).items()}
        before = codes if self._codes is None else self._codes
        for path, code in codes.items():
            if code > before.get(path, 0):
                self.deployed_s[path] = self._clock.wall_s()
        self._codes = codes
        self.own = Condition(
            self.own.node, self.own.boot,
            {path: (str(each[0]), str(each[1])) for path, each in frame.get("stopped", {}).items()},
            {name: str(why) for name, why in frame.get("circuits", {}).items()},
            {path: int(row["places"]) for path, row in frame["topics"].items() if "places" in row},
            {name: [str(path) for path in paths] for name, paths in frame.get("callers", {}).items()},
        )

    def hear_of_deploy(self, frame: Mapping[str, Any]) -> None:
        """A frame ``deployed``: ``pbus deploy`` has put other code behind these topics."""
        for path in frame["topics"]:
            self.deployed_s[str(path)] = self._clock.wall_s()


class Shared:
    """The conditions of all nodes of a store. One owner: the duty of that store."""

    def __init__(self, driver: Driver, conditions: Conditions) -> None:
        self._driver = driver
        self._conditions = conditions
        self._version = 0
        self._told = ""

    def tell(self) -> None:
        """Put ours into the store, if it has changed. Raises StorageError."""
        text = self._conditions.own.to_text()
        if text == self._told:
            return
        node = self._conditions.own.node
        if not self._version:
            found = self._driver.documents(KIND, [node])
            self._version = found[0].version if found else 0
        self._version = self._driver.write_document(KIND, node, text, self._version)
        self._told = text if self._version else ""

    def others(self) -> list[Condition]:
        """Of the other nodes, as they told last."""
        own = self._conditions.own.node
        read = [_read(one.name, one.text) for one in self._driver.documents(KIND) if one.name != own]
        return [one for one in read if one is not None]

    def forget(self, nodes: Iterable[str]) -> None:
        """They are not coming back."""
        for one in self._driver.documents(KIND, list(nodes)):
            self._driver.drop_document(KIND, one.name, one.version)

    def leave(self) -> None:
        """This node ends in good order."""
        if self._version:
            self._driver.drop_document(KIND, self._conditions.own.node, self._version)

    def interrupted(self) -> None:
        """The store may have forgotten what we told."""
        self._version, self._told = 0, ""


def _read(node: str, text: str) -> Condition | None:
    try:
        said = json.loads(text)
        return Condition(
            node, said["boot"], {path: (each[0], each[1]) for path, each in said["stopped"].items()}, said["circuits"],
            callers={name: list(paths) for name, paths in said.get("callers", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
