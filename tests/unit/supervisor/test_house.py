"""Folders, doors and earlier boots, with time moved by hand."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.config.values import Address
from pbus.errors import BootError, Exit
from pbus.supervisor.house import House
from pbus.supervisor.lock import BootLocks
from pbus.supervisor.plan import Plan


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def house(folder: Path, clock: FakeClock, **doors: Address) -> House:
    plan = Plan(
        node="n", run_dir=str(folder / "run"), data_dir=str(folder / "data"), log_dir=str(folder / "log"),
        grace_s=30.0, roles=(), doors=doors,
    )
    return House(plan, clock)


def test_run_dir_is_for_us_alone_even_if_it_was_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(0o755)
    home = house(tmp_path, FakeClock())
    home.move_in()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert (tmp_path / "log" / "topic").is_dir()
    assert home.open()
    home.move_out()


@pytest.mark.parametrize("existing", [True, False])
def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, existing: bool) -> None:
    if existing:
        (tmp_path / "run").mkdir(0o500)
    tmp_path.chmod(0o500)
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            if os.geteuid() == 0:  # who may write everywhere
                os.setuid(65534)
            house(tmp_path, FakeClock()).move_in()
        except BootError as error:
            status = error.exit_status
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.NO_PERMISSION
    tmp_path.chmod(0o700)


def test_folder_in_an_impossible_place_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(BootError, match=r"node.run_dir: cannot make the folder .*run: File exists") as refused:
        house(tmp_path, FakeClock()).move_in()
    assert refused.value.exit_status == Exit.NO_PERMISSION


def test_taken_port_is_tried_for_ten_seconds(tmp_path: Path, taken: socket.socket) -> None:
    clock = FakeClock()
    home = house(tmp_path, clock, door=Address(host="127.0.0.1", port=taken.getsockname()[1]))
    home.move_in()
    assert not home.open()
    assert "is in use" in home.waits_for
    clock.advance(9.9)
    assert not home.open()
    clock.advance(0.2)
    with pytest.raises(BootError, match=r"is in use by .*stop that program") as refused:
        home.open()
    assert refused.value.exit_status == Exit.TEMPORARY
    home.move_out()


def test_children_of_an_earlier_life_are_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    locks = BootLocks(str(tmp_path / "run"))
    boot, descriptor = locks.begin()
    clock = FakeClock()
    home = house(tmp_path, clock)
    home.move_in()
    assert not home.open()
    assert "earlier life" in home.waits_for
    clock.advance(34.9)
    assert not home.open()
    clock.advance(0.2)
    assert home.open()
    assert home.waits_for == ""
    assert (home.over, home.living) == ([], [boot])
    os.close(descriptor)
    assert home.look_at_boots()
    assert (home.over, home.living) == ([boot], [])
    assert not home.look_at_boots()
    home.forget_boots([boot])
    assert not (tmp_path / "run" / "boot" / f"{boot}.lock").exists()
    home.move_out()


def test_boot_that_is_forgotten_must_be_over(tmp_path: Path) -> None:
    home = house(tmp_path, FakeClock())
    home.move_in()
    assert home.open()
    home.forget_boots([home.boot])
    assert (tmp_path / "run" / "boot" / f"{home.boot}.lock").exists()
    home.move_out()


def test_folder_of_boots_that_somebody_removed_is_made_again_for_the_next(tmp_path: Path) -> None:
    home = house(tmp_path, FakeClock())
    home.move_in()
    assert home.open()
    shutil.rmtree(tmp_path / "run" / "boot")
    assert not home.look_at_boots(), "a bus that runs goes on"
    home.begin_boot()
    assert (tmp_path / "run" / "boot" / f"{home.boot}.lock").exists()
    home.move_out()


def test_pid_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(0o700)
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run" / "pbus.pid").symlink_to(tmp_path / "precious")
    with pytest.raises(BootError):
        house(tmp_path, FakeClock()).move_in()
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_log_that_is_a_link_gives_nobody_another_file(tmp_path: Path) -> None:
    home = house(tmp_path, FakeClock())
    home.uid = 65534
    (tmp_path / "log").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "log" / "pbus.log").symlink_to(tmp_path / "precious")
    home.give_logs_away()
    assert (tmp_path / "precious").stat().st_uid == 0
