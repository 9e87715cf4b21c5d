"""A child from inside, with and without gevent: the test is its master."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pbus.clock import SystemClock
from pbus.codec import frames
from pbus.core.names import Owner
from pbus.supervisor.child import Child
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard
from pbus.telemetry import log as logs
from tests.support.waiting import until

Role = Callable[[Child], None]


class Master:
    """Forks one child that runs *role* and speaks frames with it."""

    def __init__(self, role: Role, gevent: bool, **spec: Any) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        self.reader = frames.FrameReader()
        self.heard: list[dict[str, Any]] = []
        self.board = Scoreboard(4)
        slot = self.board.take()
        assert slot is not None
        self.slot = slot
        slot.update(state="boot", n=1)
        self.pid = os.fork()
        if self.pid == 0:
            self.sock.close()
            _be_child(role, gevent, RoleSpec(role="test", module="x", **spec), self.board, theirs.detach())
        slot.update(pid=self.pid)
        theirs.close()

    def tell(self, kind: str, /, **fields: Any) -> None:
        self.sock.sendall(frames.encode(kind, **fields))

    def hear(self) -> dict[str, Any]:
        """The next frame."""
        while not self.heard:
            data = self.sock.recv(1 << 16)
            assert data, "the child has gone"
            self.heard += self.reader.feed(data)
        return self.heard.pop(0)

    def ended(self) -> int:
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        self.sock.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()


def _be_child(role: Role, gevent: bool, spec: RoleSpec, board: Scoreboard, control_fd: int) -> None:
    status = 1
    try:
        child = Child(
            spec=spec, index=0, owner=Owner("n", "b", 0, 1), slot=board.slot(0), scoreboard=board, listener_fds={},
            control_fd=control_fd, master_pid=os.getppid(), log=logs.get(), clock=SystemClock(), run_dir="/tmp",
            grace_s=1.0,
        )
        if gevent:
            from gevent import monkey

            monkey.patch_all(ssl=False)  # other tests may have loaded it; patching it then is a warning
        child.start()
        role(child)
        child.last_words()
        status = 0
    finally:
        if status:
            traceback.print_exc(file=sys.__stderr__)
        os._exit(status)


@pytest.fixture(params=[False, True], ids=["plain", "gevent"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Master]]:
    masters: list[Master] = []

    def make(role: Role, **spec: Any) -> Master:
        masters.append(Master(role, request.param, **spec))
        return masters[-1]

    yield make
    for master in masters:
        master.close()


Run = Callable[..., Master]


def _wait(child: Child) -> None:
    child.ready()
    assert child.wait_drain(10)
    assert child.draining
    child.tell("drained")


def test_ready_drain_and_exit(run: Run) -> None:
    master = run(_wait)
    assert master.hear()["kind"] == "ready"
    assert master.slot.read().state == "ready"
    master.tell("drain")
    assert master.hear()["kind"] == "drained"
    assert master.ended() == 0
    assert master.slot.read().state == "draining"


def test_term_is_a_drain(run: Run) -> None:
    master = run(_wait)
    master.hear()
    os.kill(master.pid, signal.SIGTERM)
    assert master.hear()["kind"] == "drained"


def test_end_of_the_control_socket_is_a_drain(run: Run) -> None:
    master = run(_wait)
    master.hear()
    master.sock.close()
    assert master.ended() == 0


def test_orphan_that_does_not_leave_is_gone_soon_after_the_grace(run: Run) -> None:
    def stay(child: Child) -> None:
        child.ready()
        while True:
            child.clock.sleep(0.1)

    master = run(stay)
    master.hear()
    last = master.board.take()
    assert last is not None
    last.update(state="ready", stage=2)  # somebody else cleans up, so the grace is all there is
    master.sock.close()
    assert master.ended() == -signal.SIGKILL


def test_acts_of_a_drain_all_run_in_order_and_late_ones_at_once(run: Run) -> None:
    def act(child: Child) -> None:
        child.on_drain(lambda: child.tell("first"))
        child.on_drain(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        child.on_drain(lambda: child.tell("second"))
        child.ready()
        child.wait_drain(10)
        child.clock.sleep(0.05)
        child.on_drain(lambda: child.tell("late"))

    master = run(act)
    master.hear()
    master.tell("drain")
    assert [master.hear()["kind"] for _ in range(3)] == ["first", "second", "late"]


def test_frame_that_comes_before_anybody_wants_it_is_kept(run: Run) -> None:
    def act(child: Child) -> None:
        child.ready()
        child.wait_drain(10)
        child.on_frame("boots", lambda frame: child.tell("got", boots=frame["over"]))

    master = run(act)
    master.hear()
    master.tell("boots", over=["a"], living=[])
    master.tell("unknown")
    master.tell("drain")
    assert master.hear()["boots"] == ["a"]


def test_events_are_published_only_while_somebody_follows_their_queue(run: Run) -> None:
    def act(child: Child) -> None:
        child.publish({"queue": "gift", "id": "unseen"})
        child.on_frame("go", lambda _: child.publish({"queue": "gift", "id": "1"}))
        child.on_frame("go", lambda _: child.publish({"queue": "mail", "id": "1"}))
        child.ready()
        child.wait_drain(10)
        assert not child.watched

    master = run(act)
    assert master.hear()["kind"] == "ready"
    master.tell("watch", id=1, queues=["mail"])
    assert master.hear() == {"kind": "watching", "id": 1}
    master.tell("go")
    assert master.hear()["event"] == {"queue": "mail", "id": "1"}
    master.tell("watch", id=2, queues=["*"])
    master.tell("go")
    assert [master.hear().get("event", {}).get("queue") for _ in range(3)] == [None, "gift", "mail"]
    master.tell("watch", id=3, queues=[])
    assert master.hear() == {"kind": "watching", "id": 3}
    master.tell("drain")
    assert master.ended() == 0


def test_master_that_does_not_read_costs_a_child_no_memory_and_no_time(run: Run) -> None:
    def act(child: Child) -> None:
        while not child.watched:
            child.clock.sleep(0.01)
        for number in range(20_000):
            child.publish({"queue": "gift", "id": str(number), "output": "x" * 500})
        child.tell("important", dropped=child.dropped)
        child.slot.count(0, by=child.dropped)
        child.wait_drain(10)

    master = run(act)
    master.tell("watch", id=1, queues=["*"])
    dropped = until(lambda: master.slot.read().counters[0], 10, "all is published")
    assert dropped > 10_000
    events = 0
    while (frame := master.hear())["kind"] != "important":
        events += frame["kind"] == "event"
    assert events + frame["dropped"] == 20_000
    master.tell("drain")
    assert master.ended() == 0


def test_problem_is_told_when_it_changes(run: Run) -> None:
    def act(child: Child) -> None:
        for text in ("", "away", "away", "refused", "", ""):
            child.problem("storage", text)
        child.tell("end")

    master = run(act)
    assert [master.hear().get("text") for _ in range(4)] == ["away", "refused", "", None]


def test_failed_boot_tells_why_before_it_exits(run: Run) -> None:
    master = run(lambda child: child.fail("no database", 77))
    assert master.hear() == {"kind": "fail", "text": "no database", "exit_status": 77}
    assert master.ended() == 77


@pytest.mark.parametrize("gevent", [False, True])
def test_what_the_master_has_said_before_a_signal_is_heard_before_it(gevent: bool) -> None:
    def role(child: Child) -> None:
        heard: list[str] = []
        child.on_frame("overdue", lambda _: heard.append("overdue"))
        child.on_drain(lambda: heard.append("drain"))
        child.tell("ready")
        child.wait_drain(10)
        child.tell("heard", order=heard)

    for _ in range(20):
        master = Master(role, gevent)
        try:
            assert master.hear()["kind"] == "ready"
            os.kill(master.pid, signal.SIGSTOP)  # both wait for it
            master.tell("overdue")
            os.kill(master.pid, signal.SIGTERM)
            os.kill(master.pid, signal.SIGCONT)
            assert master.hear()["order"] == ["overdue", "drain"]
        finally:
            master.close()
