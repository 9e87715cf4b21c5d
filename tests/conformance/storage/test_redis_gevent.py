"""The Redis driver under gevent, in a process of its own (patching cannot be undone)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.redis_server import running

ROOT = Path(__file__).parents[3]


def test_driver_yields_to_the_hub_and_mixes_up_no_replies(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.conformance.storage.gevent_program", server.url, str(server.pid)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=40,
        )
    assert ended.returncode == 0, ended.stderr
    findings = json.loads(ended.stdout.splitlines()[-1])

    assert findings["first_wait"] is None
    assert findings["rung"] == ["gift"]
    assert findings["closed"] == []
    assert findings["answers"] == ["1", "{}"]
    assert findings["frozen"] in ([], ["Unavailable"])
    assert findings["frozen_s"] < 2 * findings["timeout_s"], "forty callers wait beside each other"
    assert findings["turns"] > 30
    assert findings["gave_up"]
    assert set(findings["after"]) == {"{}"}
