"""systemd's notification protocol."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pbus.supervisor.notify import Notifier


def test_ready_stopping_and_status_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("notify.sock")
        notifier = Notifier("notify.sock")
        notifier.ready("running")
        notifier.status("fine")
        notifier.status("fine")
        notifier.stopping()
        told = [manager.recv(4096).decode() for _ in range(3)]
    assert told == [f"READY=1\nMAINPID={os.getpid()}\nSTATUS=running", "STATUS=fine", "STOPPING=1\nSTATUS=stopping"]


def test_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0pbus-test-{os.getpid()}")
        Notifier(f"@pbus-test-{os.getpid()}").stopping()
        assert manager.recv(4096).startswith(b"STOPPING=1")


def test_manager_that_is_gone_or_does_not_exist_is_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody.sock")).ready("running")
    Notifier("").ready("running")
