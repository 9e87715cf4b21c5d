"""
A role that does nothing, in every way a role can: for tests of the supervisor alone.

``spec.args`` says how: ``gevent`` (patch first), ``fail`` ([text, exit status] instead of ready),
``crash`` (an exception's text instead of ready), ``exit`` (leave at once with that status, without
a word), ``deaf`` (ready, but never drains), ``spin`` (the same, without ever letting another thread
run Python), ``offspring`` (start a program that outlives it), ``hold_s`` (drain takes so long),
``job`` (write that id as the current one), ``fence`` (say so once), ``events`` (publish so many a
tenth of a second), ``numbers`` (answer the numbers frame with this), ``condemn`` (have
the first consumer of that path killed).
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import Any

from pbus.core.names import Owner
from pbus.supervisor.child import Child


def run(child: Child) -> None:
    args = child.spec.args
    if args.get("gevent"):
        from gevent import monkey

        monkey.patch_all()
    child.start()
    _misbehave(child, args)
    if "offspring" in args:
        subprocess.Popen(args["offspring"])
    if "job" in args:
        child.slot.begin(args["job"])
    if "numbers" in args:
        child.on_frame("numbers", lambda frame: child.tell("numbers", id=frame["id"], **args["numbers"]))
    child.problem("idle", args.get("problem", ""))
    child.ready()
    if args.get("fence") and child.owner.n == 1:
        child.tell("fenced")
    if "condemn" in args:
        _condemn(child, args["condemn"])
    if "spin" in args:
        re.match(r"(a+)+$", "a" * 64 + "b")  # one call into C that holds the lock of the interpreter
    _live(child, args)


def _misbehave(child: Child, args: Any) -> None:
    if "exit" in args:
        os._exit(args["exit"])
    if "crash" in args:
        raise RuntimeError(args["crash"])
    if "fail" in args:
        child.fail(*args["fail"])


def _condemn(child: Child, path: str) -> None:
    while not (rows := [row for row in child.scoreboard.living() if row.path == path and row.state == "ready"]):
        time.sleep(0.01)
    owner = Owner(child.owner.node, child.owner.boot, rows[0].slot, rows[0].n)
    child.tell("kill", owner=str(owner))


def _live(child: Child, args: Any) -> None:
    while not child.wait_drain(0.1 if "events" in args else None):
        for number in range(args.get("events", 0)):
            child.publish({"event": "job.done", "queue": "gift", "id": f"1-{number}"})
    while args.get("deaf"):
        time.sleep(1)
    time.sleep(args.get("hold_s", 0))
