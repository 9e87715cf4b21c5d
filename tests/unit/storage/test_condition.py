"""What doctor is told of a store without opening it: kinds, network disks, a Redis that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.storage.condition import Condition, condition, network_of
from pbus.storage.open import StoreTarget


def of(url: str) -> Condition:
    return condition(StoreTarget(name="main", url=url, password="secret", call_timeout_s=0.2, node="n"))


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
nas:/a\\040b /mnt/local/a\\040b cifs rw 0 0
/dev/sdb1 /mnt/local xfs rw 0 0
nas:/all /mnt nfs4 rw 0 0
"""


@pytest.mark.parametrize(("path", "kind"), [
    ("/var/pbus.db", ""), ("/mnt/pbus.db", "nfs4"), ("/mntother/pbus.db", ""), ("/mnt/local/x/pbus.db", ""),
    ("/mnt/local/a b/pbus.db", "cifs"),
])
def test_disk_of_another_machine_is_told(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)

    assert network_of(path, str(tmp_path / "mounts")) == kind


def test_no_list_of_mounts_is_no_problem(tmp_path: Path) -> None:
    assert network_of("/var/pbus.db", str(tmp_path / "none")) == ""


def test_sqlite_file_is_neither_made_nor_opened(tmp_path: Path) -> None:
    path = tmp_path / "pbus.db"
    assert of(f"sqlite:{path}") == Condition(kind="sqlite", place=str(path), is_made=False)

    path.write_text("not a database")
    assert of(f"sqlite:{path}") == Condition(kind="sqlite", place=str(path))
    assert path.read_text() == "not a database"


def test_file_that_is_hidden_from_us_is_made(tmp_path: Path) -> None:
    assert of(f"sqlite:{tmp_path}/{'long' * 100}").is_made
    (tmp_path / "file").touch()
    assert not of(f"sqlite:{tmp_path}/file/pbus.db").is_made


def test_redis_that_is_not_there_is_away(tmp_path: Path) -> None:
    found = of(f"redis+unix://{tmp_path}/none.sock")

    assert found.kind == "redis"
    assert "No such file" in found.away
    assert "secret" not in str(found)


def test_wrong_url_is_away_too() -> None:
    assert of("redis://").away == "the url of a Redis storage is wrong: it names no host"


def test_driver_that_was_installed_is_named_only() -> None:
    assert of("memory:x") == Condition(kind="memory", place="memory")
