"""
A role that does nothing, in every way a role can: for tests of the supervisor alone.

``spec.args`` says how: ``gevent`` (patch first), ``fail`` ([text, exit status] instead of ready),
``crash`` (an exception's text instead of ready), ``exit`` (leave at once with that status, without
a word), ``deaf`` (ready, but never drains), ``spin`` (the same, without ever letting another thread
run Python), ``offspring`` (start a program that outlives it), ``hold_s`` (drain takes so long),
``job`` (write that id as the current one), ``fence`` (say so once), ``events`` (publish so many a
tenth of a second), ``numbers`` (answer the numbers frame with this), ``condemn`` (have
the first consumer of that path killed), ``sayings`` (a file: each line that is appended to it is a frame for the
master, ``[kind, {fields}]``; a third element is the index of who is to say it), ``heard`` (a file that gets the
frames of the kinds in ``listens``, a line each), ``daemon`` (leave a process of another session behind), ``eat``
(so many MiB), ``jobs`` (finish so many), ``code`` (a file: what is in it says how this life goes, in the words
above).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from pbus.core.names import Owner
from pbus.supervisor.child import Child


def run(child: Child) -> None:
    args = child.spec.args
    if args.get("gevent"):
        from gevent import monkey

        monkey.patch_all()
    child.start()
    if "code" in args:
        args = {**args, **json.loads(Path(args["code"]).read_text())}
    _misbehave(child, args)
    _prepare(child, args)
    kept = bytearray(os.urandom(1 << 20) * args.get("eat", 0))
    said = os.path.getsize(args["sayings"]) if os.path.exists(args.get("sayings", "")) else 0
    child.ready()
    if "sayings" in args:
        threading.Thread(target=_say, args=(child, Path(args["sayings"]), said), daemon=True).start()
    _begin(child, args)
    _live(child, args)
    del kept


def _prepare(child: Child, args: Any) -> None:
    if "offspring" in args:
        subprocess.Popen(args["offspring"])
    if "job" in args:
        child.slot.begin(args["job"])
    if "numbers" in args:
        child.on_frame("numbers", lambda frame: child.tell("numbers", id=frame["id"], **args["numbers"]))
    child.problem("idle", args.get("problem", ""))
    for kind in args.get("listens", ()):
        child.on_frame(kind, lambda frame: _note(child, args["heard"], frame))


def _begin(child: Child, args: Any) -> None:
    for number in range(args.get("jobs", 0)):
        child.slot.begin(f"9-{number}")
        child.slot.end(ok=True)
    if "daemon" in args:
        _leave_a_daemon(Path(args["daemon"]))
    if args.get("fence") and child.owner.n == 1:
        child.tell("fenced")
    if "condemn" in args:
        _condemn(child, args["condemn"])
    if "spin" in args:
        re.match(r"(a+)+$", "a" * 64 + "b")  # one call into C that holds the lock of the interpreter


def _say(child: Child, path: Path, said: int) -> None:
    """Say to the master what the file has; what stood there before this life (*said* bytes) is not for it."""
    while True:
        text = path.read_bytes()[said:] if path.exists() else b""
        for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
            said += len(line)
            kind, fields, *whom = json.loads(line)
            if not whom or whom[0] == child.index:
                child.tell(kind, **fields)
        time.sleep(0.02)


def _note(child: Child, path: str, frame: dict[str, Any]) -> None:
    line = json.dumps({"index": child.index, "n": child.owner.n, **frame}) + "\n"
    with open(path, "a") as file:
        file.write(line)


def _leave_a_daemon(note: Path) -> None:
    """The classic way: fork, a session of its own, fork again. Its pid is appended to *note*."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    with note.open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.execvp("sleep", ["sleep", "600"])


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
