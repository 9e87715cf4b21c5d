"""Trying a plan: every problem is told, what is ours already is none, and nothing is left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pbus.config.values import Address
from pbus.errors import ConfigError
from pbus.supervisor.dry import try_out
from pbus.supervisor.plan import Plan
from pbus.supervisor.roles import RoleSpec


def plan(*roles: RoleSpec, **doors: Address) -> Plan:
    return Plan(node="n", run_dir="r", data_dir="d", log_dir="l", grace_s=1.0, roles=roles, doors=doors)


def problems(before: Plan, after: Plan, **folders: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        try_out(before, after, {key: str(path) for key, path in folders.items()})
    return [str(problem) for problem in caught.value.problems]


def test_everything_that_cannot_be_had_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        wrong = RoleSpec(role="consumer", path="gift/credit", module="pbus.no_such", user="no-such-user")
        told = problems(plan(), plan(wrong, web=address), storage=tmp_path / "file" / "below")
    assert [text.partition(":")[0] for text in told[1:]] == ["gift/credit", "ingest.listen", "storage"]
    assert "pbus.no_such" in told[0]
    assert "is in use" in told[2]
    assert "is no folder" in told[3]


def test_an_address_that_is_ours_already_may_be_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        address = Address(host="127.0.0.1", port=ours.getsockname()[1])
        try_out(plan(old=address), plan(new=address), {})


def test_a_door_that_was_tried_leaves_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "door.sock")
    try_out(plan(), plan(new=Address(path=path)), {"storage": str(tmp_path / "to" / "be" / "made")})
    assert os.listdir(tmp_path) == []
