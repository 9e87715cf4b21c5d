"""
A ``pbus deploy`` has put other code behind topics: the events have it, who calls that code begins gently, and
alarms that fire soon after it name it.
"""

from __future__ import annotations

from typing import Any, Final

from pbus.supervisor.children import Children
from pbus.supervisor.control import Caller
from pbus.telemetry import log as logs

_TOLD: Final = ("delivery", "scheduler")
_COMMAND_CHARACTERS: Final = 300


class Deploys:
    """One owner: the master."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._log = logs.get()

    def told(self, caller: Caller, frame: dict[str, Any]) -> None:
        """The request ``deployed {by, topics, command, status, took_s}``; answered when everybody has been told."""
        topics = [str(path) for path in frame["topics"]]
        status, took_s = int(frame["status"]), round(float(frame["took_s"]), 3)
        say = self._log.warning if status else self._log.info
        say(
            "deploy.done", by=str(frame["by"]), topics=topics, command=str(frame["command"])[:_COMMAND_CHARACTERS],
            status=status, took_s=took_s,
        )
        for child in self._children:
            if child.spec.role in _TOLD:
                child.tell("deployed", topics=topics)
        caller.answer()
