"""The SQLite driver under gevent, in a process of its own (patching cannot be undone)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pbus.storage.sqlite_lock import Turnstile

ROOT = Path(__file__).parents[3]


def test_storage_thread_waits_and_the_hub_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "pbus.db"
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.storage.sqlite_gevent_program", str(path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "hold\n", program.communicate()[1]
        turnstile = Turnstile(path, 5.0, fresh=False)
        with turnstile.turn():
            print("held", file=program.stdin, flush=True)
            assert program.stdout.readline() == "free\n"
        turnstile.close()
        out, err = program.communicate("go\n", timeout=20)
    assert program.returncode == 0, err
    findings = json.loads(out)

    assert findings["first_wait"] is None
    assert findings["rung"] == ["gift"]
    assert findings["closed"] == []
    assert findings["held"] == "Unavailable"
    assert findings["held_s"] > 1.9  # and told while the turn was still ours
    assert findings["turns"] > 15
    assert findings["after"] == "checked"
    assert findings["thread_has_hub"] is False
