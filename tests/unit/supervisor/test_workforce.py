"""What the master tells of its children for alarms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pbus.supervisor.workforce import circuits_of

UNIX, TCP = "unix:/run/php.sock", "tcp:127.0.0.1:9000"


def _child(rows: dict[tuple[str, str], dict[str, Any]], *, stays: bool = True) -> Any:
    return cast("Any", SimpleNamespace(stays=stays, backends=rows))


def test_circuits_are_of_those_who_stay_and_of_what_shadows_do_not_call_alone() -> None:
    left = {"state": "open", "reason": "refused", "topics": ["gift/credit"]}
    draining = _child({("old", UNIX): left}, stays=False)
    one = _child({("php", UNIX): left, ("", TCP): {**left, "reason": ""}, ("fine", TCP): {**left, "state": "closed"}})
    two = _child({("php", UNIX): {**left, "topics": ["gift/mail"]}, ("shadow", TCP): {**left, "shadows": True}})

    circuits, callers = circuits_of([draining, one, two])
    assert circuits == {"php": f"{UNIX}: refused", TCP: f"{TCP}: open"}
    assert callers == {"php": ["gift/credit", "gift/mail"], TCP: ["gift/credit"]}
