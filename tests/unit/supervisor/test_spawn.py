"""What a child keeps and who it may become."""

from __future__ import annotations

import json
import os

import pytest

from pbus.errors import BootError, Exit
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.spawn import close_all_but, identity, kept

DOORS = ["ingest.0", "ingest.1", "dashboard", "delivery.0", "delivery.1"]


@pytest.mark.parametrize(
    ("keeps", "index", "expected"),
    [
        (("ingest.*",), 0, ["ingest.0", "ingest.1"]),
        (("delivery.{index}",), 1, ["delivery.1"]),
        (("dashboard",), 0, ["dashboard"]),
        ((), 0, []),
        (("delivery",), 0, []),
    ],
)
def test_role_keeps_the_listeners_it_names(keeps: tuple[str, ...], index: int, expected: list[str]) -> None:
    assert kept(RoleSpec(role="x", module="x", keeps=keeps), index, DOORS) == expected


@pytest.mark.parametrize("keep", [[0, 1, 2], [1, 2], [2, 7, 9], [0]])
def test_every_other_descriptor_is_closed(keep: list[int]) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for descriptor in (7, 8, 9, 300):
            os.dup2(0, descriptor)
        os.dup2(write, 10)
        close_all_but([*keep, 10])
        left = [number for number in range(400) if _is_open(number) and number != 10]
        os.write(10, json.dumps(left).encode())
        os._exit(0)
    os.close(write)
    left = json.loads(os.read(read, 4096))
    os.close(read)
    os.waitpid(pid, 0)
    assert left == keep


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_unknown_user_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(BootError, match="no-such-user") as refused:
        identity("no-such-user", "")
    assert refused.value.exit_status == Exit.CONFIG
    assert identity("", "") == (-1, -1)
