"""Locks, sockets, descriptors, titles: what a master holds, what its children get of it."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pbus.codec import frames
from pbus.errors import Exit, NotRunning
from pbus.supervisor import listeners
from pbus.supervisor.control import Refused, call, stream
from tests.support.bus import BusFactory, free_port
from tests.support.idle_bus import ROOT, IdleFactory, role
from tests.support.machine import cpu_s
from tests.support.waiting import until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def descriptors(pid: int) -> list[str]:
    """What *pid* has open, as the kernel names it."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


# -- locks ----------------------------------------------------------------------------------------


def test_second_start_in_one_folder_is_refused_with_the_pid_of_the_first(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    second = subprocess.run(
        [sys.executable, "-m", "tests.support.idle_bus", str(bus.folder / "plan.json")], cwd=ROOT, capture_output=True,
        text=True, timeout=20,
    )
    assert second.returncode == Exit.TEMPORARY
    assert f"already running as pid {bus.pid}" in second.stdout
    assert bus.status()["state"] == "running"


def test_stale_pid_file_with_the_pid_of_another_program_is_no_obstacle(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(), start=False)
    bus.run_dir.mkdir(parents=True)
    (bus.run_dir / "pbus.pid").write_text(f"{os.getpid()}\n")
    bus.start()
    assert (bus.run_dir / "pbus.pid").read_text() == f"{bus.pid}\n"


def test_start_after_a_killed_bus_needs_no_cleaning(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(holds_claims=True), role("scheduler", hears=["boots"]))
    bus.signal(signal.SIGKILL)
    bus.ended()
    bus.start()
    assert bus.status()["state"] == "running"


# -- sockets --------------------------------------------------------------------------------------


def test_port_that_becomes_free_in_time_is_taken(idle_bus: IdleFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bus = idle_bus(
            role(keeps=["ingest.0"]), doors={"ingest.0": f"127.0.0.1:{taken.getsockname()[1]}"}, start=False
        )
        bus.launch()
        bus.wait(("starting",))
    bus.wait(("running",))


def test_stop_works_while_a_port_is_awaited(idle_bus: IdleFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bus = idle_bus(role(), doors={"ingest.0": f"127.0.0.1:{taken.getsockname()[1]}"}, start=False)
        bus.launch()
        bus.wait(("starting",))
        bus.signal(signal.SIGTERM)
        assert bus.ended(3) == 0


def test_dead_bus_does_not_keep_its_port(idle_bus: IdleFactory) -> None:
    """A consumer that outlives everybody else must not hold the door that producers connect to."""
    port = free_port()
    bus = idle_bus(
        role("ingest", keeps=["ingest.*"]),
        role("consumer", path="gift/credit", own_group=True, holds_claims=True, args={"hold_s": 2}),
        doors={"ingest.0": f"127.0.0.1:{port}"}, grace_s=5.0,
    )
    [ingest], [consumer] = bus.pids("ingest"), bus.pids("consumer")
    bus.signal(signal.SIGKILL)
    bus.ended()
    until(lambda: not psutil.pid_exists(ingest), 3, "the ingest child is gone")
    assert psutil.pid_exists(consumer)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_child_keeps_only_what_its_role_names(idle_bus: IdleFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        os.set_inheritable(outside.fileno(), True)
        bus = idle_bus(
            role("ingest", keeps=["ingest.*"]), role("delivery", count=2, keeps=["delivery.{index}"]),
            role("consumer", path="gift/credit", own_group=True, holds_claims=True), role("scheduler"),
            doors={
                "ingest.0": f"127.0.0.1:{free_port()}", "ingest.1": f"127.0.0.1:{free_port()}",
                "delivery.0": f"unix:{_run_dir(idle_bus)}/d0.sock", "delivery.1": f"unix:{_run_dir(idle_bus)}/d1.sock",
            },
        )
        sockets = {row["role"]: _sockets(row["pid"]) for row in bus.status()["processes"]}
        locks = {row["role"]: _locks(row["pid"]) for row in bus.status()["processes"]}
    # One control socket each; the doors on top.
    assert sockets == {"master": sockets["master"], "ingest": 3, "delivery": 2, "consumer": 1, "scheduler": 1}
    assert locks["consumer"] == ["boot"]
    assert locks["scheduler"] == []
    assert sorted(locks["master"]) == ["boot", "pid"]


def _run_dir(factory: IdleFactory) -> str:
    """Where the bus named "bus" of this test will live."""
    probe = factory(name="bus", start=False)
    probe.run_dir.mkdir(parents=True, exist_ok=True)
    return str(probe.run_dir)


def _sockets(pid: int) -> int:
    return len([name for name in descriptors(pid) if name.startswith("socket:")])


def _locks(pid: int) -> list[str]:
    kinds = {"pbus.pid": "pid", ".lock": "boot"}
    return [kind for name in descriptors(pid) for end, kind in kinds.items() if name.endswith(end)]


def test_listeners_work_below_a_folder_longer_than_a_socket_name_may_be(idle_bus: IdleFactory) -> None:
    deep = "/".join(["a-folder-with-a-rather-long-name"] * 6)
    bus = idle_bus(role(), name=deep)
    assert len(str(bus.run_dir)) > 150
    assert bus.status()["state"] == "running"
    assert oct(stat.S_IMODE((bus.run_dir / "control.sock").stat().st_mode)) == "0o600"


def test_unix_listener_replaces_the_file_of_a_dead_bus_but_not_of_a_living_one(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    first = listeners.bind_unix(path, 0o600)
    with pytest.raises(OSError, match="somebody listens"):
        listeners.bind_unix(path, 0o600)
    first.close()
    second = listeners.bind_unix(path, 0o600)
    second.close()
    Path(path).unlink()
    Path(path).write_text("a file of somebody")
    with pytest.raises(OSError, match="no socket"):
        listeners.bind_unix(path, 0o600)
    assert Path(path).read_text() == "a file of somebody"


def test_doors_get_all_descriptors_there_are_and_user_code_what_it_was_given(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("ingest"), role("consumer", path="gift/credit", own_group=True))
    [ingest], [consumer] = bus.pids("ingest"), bus.pids("consumer")
    given, most = resource.prlimit(bus.pid, resource.RLIMIT_NOFILE)
    assert resource.prlimit(ingest, resource.RLIMIT_NOFILE) == (most, most)
    assert resource.prlimit(consumer, resource.RLIMIT_NOFILE) == (given, most)


# -- who may -------------------------------------------------------------------------------------


@AS_ROOT
def test_children_run_as_the_configured_user_and_log_to_the_same_file(idle_bus: IdleFactory) -> None:
    nobody = pwd.getpwnam("nobody")
    bus = idle_bus(role("delivery", args={"crash": "as nobody"}), role("ingest"), user="nobody", start=False)
    _open_up(bus.folder)
    bus.start(("degraded",))
    [ingest] = bus.pids("ingest")
    assert psutil.Process(ingest).uids().real == nobody.pw_uid
    assert os.getgid() not in psutil.Process(ingest).gids()
    assert psutil.Process(bus.pid).uids().real == 0
    until(lambda: bus.events("child.crashed"), 5, "a child that is not root writes to the log")
    bus.signal(signal.SIGKILL)  # its death must reach children that changed their user
    bus.ended()
    until(lambda: not psutil.pid_exists(ingest), 5, "the orphan is gone")


@AS_ROOT
def test_status_socket_is_for_its_group_and_only_for_reading(idle_bus: IdleFactory) -> None:
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    bus = idle_bus(role(), status_group=group, start=False)
    _open_up(bus.folder)
    bus.start()
    assert stat.S_IMODE(bus.run_dir.stat().st_mode) == 0o710
    assert _as_nobody(f"call({str(bus.run_dir)!r}, 'status', 5.0, reads=True)") == "ok"
    assert _as_nobody(f"call({str(bus.run_dir)!r}, 'stop', 5.0)") == "77"
    assert _as_nobody(f"call({str(bus.run_dir)!r}, 'stop', 5.0, reads=True)") == "77"
    assert bus.status()["state"] == "running"


@AS_ROOT
def test_stranger_is_told_that_he_has_no_permission(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role(), start=False)
    _open_up(bus.folder)
    bus.start()
    assert _as_nobody(f"call({str(bus.run_dir)!r}, 'status', 5.0, reads=True)") == "77"


def _open_up(folder: Path) -> None:
    """Let others pass through pytest's own folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in [folder, *folder.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o055)


def _as_nobody(expression: str) -> str:
    """``ok`` or the exit status that *expression* ends with, in a process of nobody's."""
    code = (
        "import os\nfrom pbus.supervisor.control import call\nfrom pbus.errors import PbusError\nimport pwd\n"
        "nobody = pwd.getpwnam('nobody'); os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)\n"
        f"try:\n    {expression}\n    print('ok')\nexcept PbusError as error:\n    print(int(error.exit_status))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert run.stderr == ""
    return run.stdout.strip()


# -- callers --------------------------------------------------------------------------------------


def test_nobody_answers_where_no_bus_is(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        call(str(tmp_path), "status", 1.0)


def test_unknown_request_is_refused_and_the_connection_lives(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    with pytest.raises(Refused, match="does not know the request 'dance'"):
        call(str(bus.run_dir), "dance", 2.0)
    assert bus.status()["state"] == "running"


def test_garbage_and_announced_giants_are_hung_up_on(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    for bomb in (b"\xff" * 64, b"\x00\x10\x00\x00" + b"x" * 200_000, frames.encode("x")[:-1] + b"\xc1"):
        with listeners.connect_unix(str(bus.run_dir / "control.sock"), 3.0) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(bomb)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert bus.status()["state"] == "running"


def test_follower_gets_events_from_the_moment_it_is_answered(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("delivery", count=2, hears=["watch"], args={"events": 3, "gevent": True}))
    frames_ = stream(str(bus.run_dir), "watch", 5.0, queues=["gift"])
    assert next(frames_)["kind"] == "ok"
    event = next(frames_)
    assert event["kind"] == "event"
    assert event["event"]["queue"] == "gift"
    frames_.close()  # type: ignore[attr-defined]


def test_caller_that_never_reads_is_dropped_and_costs_no_memory(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("delivery", hears=["watch"], args={"events": 3000, "gevent": True}))
    before = psutil.Process(bus.pid).memory_info().rss
    with (
        listeners.connect_unix(str(bus.run_dir / "control.sock"), 3.0) as silent,
        listeners.connect_unix(str(bus.run_dir / "control.sock"), 3.0) as asking,
    ):
        silent.sendall(frames.encode("watch"))
        asking.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while True:
                asking.send(frames.encode("status") * 100)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert bus.status()["state"] == "running"
        grown = psutil.Process(bus.pid).memory_info().rss - before
    print(f"the master grew by {grown / 1e6:.1f} MB")
    assert grown < 40e6


def test_readers_do_not_take_the_place_of_who_may_stop_the_bus(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    readers = [listeners.connect_unix(str(bus.run_dir / "status.sock"), 3.0) for _ in range(140)]
    assert readers[-1].recv(1) == b"", "one more reader is hung up on"
    assert call(str(bus.run_dir), "ping", 5.0)["pid"] == bus.pid
    for reader in readers:
        reader.close()


def test_followers_that_make_no_sense_do_not_end_the_master(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("delivery", hears=["watch"], args={"gevent": True}))
    with contextlib.ExitStack() as callers:
        for _ in range(2):
            caller = callers.enter_context(listeners.connect_unix(str(bus.run_dir / "status.sock"), 3.0))
            caller.sendall(frames.encode("watch", queues=[1, "gift"]))
            assert frames.FrameReader().feed(caller.recv(65536))[0]["exit_status"] == Exit.USAGE
    assert bus.status()["state"] == "running"


def test_master_outlives_a_lack_of_descriptors_and_a_tidied_up_run_dir(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role())
    highest = max(map(int, os.listdir(f"/proc/{bus.pid}/fd")))
    kept = resource.prlimit(bus.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(bus.pid, resource.RLIMIT_NOFILE, (highest + 1, kept[1]))
    shutil.rmtree(bus.run_dir / "boot")
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 1.5, 5, "its duties of a second came round")  # psutil, boots, logs
    resource.prlimit(bus.pid, resource.RLIMIT_NOFILE, kept)
    assert bus.status()["state"] == "running"


def test_stopping_bus_refuses_who_comes_while_it_waits_for_its_jobs(idle_bus: IdleFactory) -> None:
    port = free_port()
    bus = idle_bus(
        role("ingest", keeps=["ingest.*"]), role("delivery", args={"deaf": True}, drain_stage=1),
        doors={"ingest.0": f"127.0.0.1:{port}"}, grace_s=6.0,
    )
    socket.create_connection(("127.0.0.1", port), 2.0).close()
    bus.signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 2.0).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, 3, "nobody is let in any more")
    assert bus.process is not None
    assert bus.process.poll() is None, "it still waits for its work"


# -- what it is ------------------------------------------------------------------------------------


def test_titles_name_every_process(idle_bus: IdleFactory) -> None:
    bus = idle_bus(
        role("ingest", title="ingest {index}", count=2), role("consumer", title="consumer gift/credit {index}")
    )
    titles = {" ".join(psutil.Process(pid).cmdline()).strip() for pid in bus.processes()}
    assert titles == {"pbus: master idle", "pbus: ingest 0", "pbus: ingest 1", "pbus: consumer gift/credit 0"}


def test_consumers_lead_their_own_process_group_and_others_do_not(idle_bus: IdleFactory) -> None:
    bus = idle_bus(role("ingest"), role("consumer", path="gift/credit", own_group=True))
    [ingest], [consumer] = bus.pids("ingest"), bus.pids("consumer")
    assert os.getpgid(consumer) == consumer
    assert os.getpgid(ingest) == os.getpgid(bus.pid)


def test_running_master_has_loaded_no_storage_and_no_gevent(bus_factory: BusFactory) -> None:
    bus = bus_factory({
        "storage": {"main": {"url": "sqlite:a.db"}, "second": {"url": "redis://127.0.0.1:1/0"}},
        "queue": {"gift": {"topic": {"credit": {"pull": {}}}}},
    }, states=("running", "degraded"))
    packages = call(bus.settings.node.run_dir, "ping", 5.0)["packages"]
    assert not {"gevent", "redis", "hiredis", "apsw", "sqlite3"} & set(packages)
    assert "psutil" in packages
    libraries = Path(f"/proc/{bus.status()['processes'][0]['pid']}/maps").read_text()
    assert "gevent" not in libraries
    assert "apsw" not in libraries


@pytest.mark.alone
def test_idle_master_with_twenty_children_uses_next_to_no_processor(idle_bus: IdleFactory) -> None:
    consumers = role("consumer", path="g/c", count=16, own_group=True)
    bus = idle_bus(role("ingest", count=4, args={"gevent": True}), consumers)
    until(lambda: len(bus.processes()) == 21, 10, "all run")
    time.sleep(1)
    before_s, began_s = cpu_s([bus.pid]), time.monotonic()
    time.sleep(4)
    share = (cpu_s([bus.pid]) - before_s) / (time.monotonic() - began_s)
    print(f"idle master with 20 children: {share * 100:.2f} % of a core")
    assert share < 0.004


# -- the commands ---------------------------------------------------------------------------------


PULL = {"queue": {"gift": {"topic": {"credit": {"pull": {}}}}}}


def test_daemon_returns_when_the_bus_is_ready_and_stop_ends_it(bus_factory: BusFactory) -> None:
    bus = bus_factory(PULL, start=False)
    try:
        started = bus.cli("start", "--daemon")
        assert started.returncode == 0, started.stderr + bus.tail()
        assert f"listens on 127.0.0.1:{bus.port}" in started.stderr
        assert bus.cli("status").returncode == 0
        answer = json.loads(bus.cli("status", "-o", "json").stdout)
        assert answer["v"] == 1
        assert set(answer) == {
            "v", "state", "node", "generation", "problems", "processes", "topics", "door", "alarms", "alarms_total",
        }
        assert {row["role"] for row in answer["processes"]} == {"master", "ingest", "delivery", "scheduler"}
        assert set(answer["processes"][0]) == {"role", "pid", "state", "rss_bytes", "uptime_s", "restarts", "running"}
        again = bus.cli("start", "--daemon")
        assert again.returncode == Exit.TEMPORARY
        assert "already running as pid" in again.stderr
    finally:
        stopped = bus.cli("stop")
    assert stopped.returncode == 0
    assert bus.processes() == []
    assert bus.cli("stop").returncode == Exit.NOT_RUNNING
    assert bus.cli("status").returncode == Exit.NOT_RUNNING


def test_failed_daemon_start_shows_its_reason_and_status(bus_factory: BusFactory) -> None:
    bus = bus_factory({**PULL, "node": {"run_dir": "/proc/nowhere"}}, start=False)
    started = bus.cli("start", "--daemon")
    assert started.returncode in (Exit.CONFIG, Exit.NO_PERMISSION)
    assert "/proc/nowhere" in started.stderr


def test_restart_with_an_invalid_configuration_leaves_the_old_one_running(bus_factory: BusFactory) -> None:
    bus = bus_factory(PULL)
    [master] = bus.pids("master")
    config = bus.conf / "pbus.toml"
    good = config.read_text()
    config.write_text(good + "\n[nod]\nname = 1\n")
    refused = bus.cli("restart")
    assert refused.returncode == Exit.CONFIG
    assert "nod" in refused.stderr
    assert bus.pids("master") == [master]
    config.write_text(good)
    try:
        restarted = bus.cli("restart")
        assert restarted.returncode == 0, restarted.stderr
        assert bus.pids("master") != [master]
    finally:
        bus.cli("stop", "--fast")
