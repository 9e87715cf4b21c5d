"""Sockets that a service manager passes: which door each is, and which are refused."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pbus.clock import FakeClock
from pbus.config.values import Address
from pbus.errors import BootError, Exit
from pbus.supervisor.activation import Activation
from pbus.supervisor.house import House
from pbus.supervisor.plan import Plan

SOME = 32
"""More descriptors than any test opens."""

Pass = Callable[..., Activation]


@pytest.fixture
def first() -> int:
    """Where the descriptors of the manager begin: it says 3, which is somebody else's in a test."""
    return max(map(int, os.listdir("/proc/self/fd"))) + SOME


@pytest.fixture
def passed(first: int) -> Iterator[Pass]:
    descriptors = []

    def make(*sockets: socket.socket, names: str = "", pid: int = 0) -> Activation:
        for place, sock in enumerate(sockets):
            os.dup2(sock.fileno(), first + place)
            descriptors.append(first + place)
        environ = {
            "LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names, "A": "b",
        }
        made = Activation(environ, first)
        assert environ == {"A": "b"}
        return made

    yield make
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass  # its socket was closed


def tcp(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0))


def address(sock: socket.socket, host: str = "127.0.0.1") -> Address:
    return Address(host=host, port=sock.getsockname()[1])


def test_sockets_are_matched_by_address(passed: Pass, tmp_path: Path) -> None:
    path = str(tmp_path / "in.sock")
    with tcp() as first, tcp() as web, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        wanted = {
            "ingest.0": Address(path=path), "ingest.1": address(first, "localhost"), "dashboard": address(web),
            "delivery.0": Address(path=str(tmp_path / "delivery.0.sock")),
        }
        activation = passed(web, first, unix, names="dashboard:ingest")
        found = activation.doors(wanted)
        assert {door: sock.getsockname() for door, sock in found.items()} == {
            "dashboard": web.getsockname(), "ingest.1": first.getsockname(), "ingest.0": path,
        }
        assert all(not sock.get_inheritable() and not sock.getblocking() for sock in found.values())
        assert activation.doors(wanted) == {}, "handed out once"
        assert (activation.owns(path), activation.owns(str(tmp_path / "delivery.0.sock"))) == (True, False)
        for sock in found.values():
            sock.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_socket_for_both_families_is_either_wildcard(passed: Pass, host: str) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        found = passed(both).doors({"ingest.0": address(both, host)})
        found["ingest.0"].close()


def test_socket_that_nobody_would_accept_on_is_refused(passed: Pass) -> None:
    with tcp() as sock:
        where = address(sock)
        with pytest.raises(BootError) as refusal:
            passed(sock, names="ingest").doors({"ingest.0": Address(host="127.0.0.1", port=1), "dashboard": where})
    assert refusal.value.exit_status == Exit.CONFIG
    assert str(refusal.value) == (
        f"ingest.listen: the service manager passed a socket on {where}, configured is 127.0.0.1:1: make them the same"
    )


def test_connection_of_accept_yes_is_refused(passed: Pass) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(BootError, match="Accept=no") as refusal:
        passed(ours).doors({"ingest.0": Address(path="/run/x")})
    assert refusal.value.exit_status == Exit.CONFIG


def test_descriptor_that_is_no_socket_is_refused(tmp_path: Path, first: int) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with pytest.raises(BootError, match="which is no socket: Bad file descriptor"):
        Activation(dict(environ), first).doors({})
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), first)
        activation = Activation(environ, first)
        with pytest.raises(BootError, match="which is no socket"):
            activation.doors({"ingest.0": Address(path="/run/x")})
        os.close(first)


def test_sockets_of_another_process_are_not_touched(passed: Pass) -> None:
    with tcp() as sock:
        assert passed(sock, pid=1).doors({"ingest.0": address(sock)}) == {}


def test_house_never_removes_the_file_of_the_manager(passed: Pass, tmp_path: Path) -> None:
    outer, inner = Address(path=str(tmp_path / "in.sock")), Address(path=str(tmp_path / "delivery.0.sock"))
    plan = Plan(
        node="n", run_dir=str(tmp_path / "run"), data_dir=str(tmp_path / "data"), log_dir=str(tmp_path / "log"),
        grace_s=30.0, roles=(), doors={"ingest.0": outer, "delivery.0": inner},
    )
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(outer.path)
        unix.listen()
        home = House(plan, FakeClock(), passed(unix))
        home.move_in()
        assert home.open()
        assert sorted(home.doors) == ["delivery.0", "ingest.0"]
        home.bind_beside(dataclasses.replace(plan, doors={"delivery.0": inner}))
        home.close_old()
        assert (sorted(home.doors), os.path.exists(outer.path)) == (["delivery.0"], True), "a reload without it"
        home.move_out()
    assert [os.path.exists(outer.path), os.path.exists(inner.path)] == [True, False]
