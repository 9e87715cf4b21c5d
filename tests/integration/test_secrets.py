"""What passwords of the configuration must not get into: the environment of handlers and of what they start."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.support.bus import BusFactory
from tests.support.waiting import until

HANDLER = """
import os
import subprocess

def look(job):
    with open(job.text + ".new", "w") as file:
        file.write(repr(dict(os.environ)))
        file.write(open("/proc/self/environ").read())
        file.write(subprocess.run(["env"], capture_output=True, text=True, check=True).stdout)
    os.rename(job.text + ".new", job.text)
"""


def test_password_from_the_environment_does_not_reach_handlers(
    bus_factory: BusFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFE_PW", "planted-secret")   # the fixture reads the configuration, too
    monkeypatch.setenv("OTHER", "something-else")
    (tmp_path / "looking.py").write_text(HANDLER)
    bus = bus_factory(
        {"queue": {
            "safe": {"password": "${SAFE_PW}", "topic": {"own": {"pull": {}}}},
            "gift": {"topic": {"look": {"python": {"call": "looking:look", "path": str(tmp_path)}}}},
        }},
    )
    seen = tmp_path / "seen"
    redis.Redis(port=bus.port).lpush("gift", str(seen))
    until(seen.exists, 10, "the handler has looked")
    assert "something-else" in seen.read_text()
    assert "planted-secret" not in seen.read_text()
