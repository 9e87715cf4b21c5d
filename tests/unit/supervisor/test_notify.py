"""The notification protocol of service managers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.notify import Notifier, forget

NAME = f"pbus-test-{os.getpid()}"


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{NAME}")
        sock.setblocking(False)
        yield sock


def told(manager: socket.socket) -> list[str]:
    """Every message that waits."""
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def watched(clock: FakeClock, **environ: str) -> Notifier:
    return Notifier(clock=clock, environ={"NOTIFY_SOCKET": f"@{NAME}", **environ})


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


def test_abstract_socket_is_reached(manager: socket.socket) -> None:
    Notifier(f"@{NAME}").stopping()
    assert told(manager) == ["STOPPING=1\nSTATUS=stopping"]


def test_reload_is_told_with_its_time_in_one_message(manager: socket.socket) -> None:
    clock = FakeClock()
    notifier = watched(clock)
    notifier.reloading("reloading: 1 topic")
    notifier.ready("running")
    assert told(manager) == [
        f"RELOADING=1\nMONOTONIC_USEC={int(clock.monotonic_s() * 1_000_000)}\nSTATUS=reloading: 1 topic",
        f"READY=1\nMAINPID={os.getpid()}\nSTATUS=running",
    ]


def test_status_cannot_smuggle_in_a_variable(manager: socket.socket) -> None:
    watched(FakeClock()).status("store: first\nREADY=1\r\nsecond")
    assert told(manager) == ["STATUS=store: first READY=1 second"]


def test_time_is_asked_for_in_microseconds(manager: socket.socket) -> None:
    watched(FakeClock()).ask_for_time()
    assert told(manager) == ["EXTEND_TIMEOUT_USEC=20000000"]


def test_watchdog_is_fed_at_half_its_patience(manager: socket.socket) -> None:
    clock = FakeClock()
    notifier = watched(clock, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    fed = []
    for _ in range(31):
        notifier.feed(lambda _: True)
        fed.append(len(told(manager)))
        clock.advance(1.0)
    assert [second for second, messages in enumerate(fed) if messages] == [0, 15, 30]
    assert notifier.next_s == clock.monotonic_s() + 14


def test_watchdog_is_not_fed_while_a_child_gives_no_sign_of_life(manager: socket.socket) -> None:
    clock = FakeClock()
    notifier = watched(clock, WATCHDOG_USEC="30000000")
    notifier.feed(lambda _: False)
    assert told(manager) == []
    assert notifier.next_s == clock.monotonic_s() + 1.5, "late is better than dead: it is asked again soon"
    clock.advance(1.5)
    notifier.feed(lambda _: True)
    assert told(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize("environ", [
    {}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"},
    {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "30000000"},
])
def test_watchdog_of_somebody_else_or_none_is_not_fed(manager: socket.socket, environ: dict[str, str]) -> None:
    notifier = watched(FakeClock(), **environ)
    notifier.feed(lambda _: True)
    assert (told(manager), notifier.next_s) == ([], float("inf"))


def test_children_do_not_inherit_the_manager() -> None:
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    forget(environ)
    assert environ == {"PATH": "/bin"}


def test_manager_that_is_gone_or_does_not_exist_is_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody.sock")).ready("running")
    Notifier("").ready("running")
