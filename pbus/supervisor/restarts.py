"""
Requests to load code again: of topics (``pbus topic restart``) and of programs (``pbus program restart``).

    -> {"kind": "restart", "role", "glob"}       <- {"kind": "ok", "rows": [{"path", "how", "code"}]}
    -> {"kind": "restarted", "role", "rows": [[path, code]]}
                                                 <- {"kind": "ok", "rows": [{"path", "state", "reason"}]}

Rule: asking is one thing, how it went another: nothing here waits. ``how`` is ``restarting`` (a roll-out has begun),
``started`` (it had been given up, or nothing of it runs: it is born now), ``idle`` (none is wanted now; the next one
has the new code) or ``nothing`` (no process of ours runs it). ``state`` is ``working``, ``done`` or ``failed``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from pbus.errors import Exit
from pbus.supervisor import rollout as rules
from pbus.supervisor.children import CONSUMER, PROGRAM, Children
from pbus.supervisor.control import Caller
from pbus.supervisor.reconcile import Key
from pbus.supervisor.workforce import Workforce


class Restarts:
    """Both requests. One owner: the master."""

    def __init__(self, children: Children, workforce: Workforce, topics: Callable[[], Sequence[str]]) -> None:
        """*topics*: paths of all topics of the configuration."""
        self._children = children
        self._workforce = workforce
        self._topics = topics

    @property
    def _names(self) -> dict[str, list[str]]:
        return {
            CONSUMER: list(self._topics()),
            PROGRAM: [path for role, path in self._children.specs if role == PROGRAM],
        }

    def begin(self, caller: Caller, frame: dict[str, Any]) -> None:
        """A caller asks for it."""
        role, glob = str(frame["role"]), str(frame["glob"])
        known_names = self._names[role]
        names = [name for name in known_names if fnmatch.fnmatchcase(name, glob)]
        if self._children.stopping:
            caller.refuse("the bus is stopping", Exit.TEMPORARY)
        elif not names:
            noun = "topic" if role == CONSUMER else "program"
            known = ", ".join(known_names) or "none"
            caller.refuse(f"there is no {noun} {glob!r}; there are: {known}", Exit.NOT_FOUND)
        else:
            caller.answer(rows=[self._begin((role, name)) for name in names])

    def ask(self, caller: Caller, frame: dict[str, Any]) -> None:
        """A caller asks how it went."""
        role = str(frame["role"])
        known = set(self._names[role])
        caller.answer(rows=[self._state((role, str(path))) for path, _ in frame["rows"] if path in known])

    def _begin(self, key: Key) -> dict[str, Any]:
        if key not in self._children.specs:
            return {"path": key[1], "how": "nothing", "code": 0}
        how = self._workforce.rollouts.begin(key)
        return {"path": key[1], "how": how, "code": self._workforce.rollouts.of(key).code}

    def _state(self, key: Key) -> dict[str, Any]:
        state, reason = "done", ""
        if key in self._children.specs:
            rollout = self._workforce.rollouts.of(key)
            history = self._children.histories.get(key)
            if rollout.stage == rules.FAILED:
                state, reason = "failed", rollout.reason
            elif history is not None and history.fatal:
                state, reason = "failed", history.fatal
            elif rollout.is_under_way or (self._workforce.scaling.wanted(key) and not self._children.thrives(key)):
                state = "working"
        return {"path": key[1], "state": state, "reason": reason}
