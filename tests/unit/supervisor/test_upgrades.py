"""An upgrade that cannot be: what was touched is as it was, and everybody is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbus.clock import SystemClock
from pbus.supervisor import upgrades
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.notify import Notifier
from pbus.supervisor.rehearsal import Failed
from pbus.supervisor.signals import Signals
from pbus.supervisor.upgrades import Rehearsal, Upgrades, rehearse, taken


class Caller:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def answer(self, **fields: Any) -> None:
        self.told.append(fields["version"])

    def refuse(self, text: str, exit_status: int) -> None:
        self.told.append((text, exit_status))


def fields(descriptor: int) -> dict[str, Any]:
    return {
        "boot": "b", "boot_fd": descriptor, "pid_fd": descriptor, "generation": 1, "born_s": 0.0, "born": 1,
        "files": 0, "token_key": b"k", "scoreboard": descriptor, "histograms": descriptor,
    }


def made(command: list[str], descriptor: int) -> Upgrades:
    reloads: Any = SimpleNamespace(is_free=True)
    return Upgrades(
        command, dict, lambda: fields(descriptor), reloads, Switchboard(), Notifier(""), Signals(), SystemClock()
    )


def test_an_exec_that_fails_leaves_everything_as_it_was() -> None:
    left, right = socket.socketpair()
    with left, right:
        mine, caller = made(["/nonexistent/python"], left.fileno()), Caller()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        mine.asked(caller, {})  # type: ignore[arg-type]
        mine._is_asked = False
        mine._rehearsed(Rehearsal("2", b""))
        mine.settle()
        assert caller.told[0] == "2"
        text, status = caller.told[1]
        assert (status, "could not be executed" in text, "/nonexistent/python" in text) == (1, True, True)
        assert not os.get_inheritable(left.fileno())
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        assert len(mine.problems()) == 1
        assert (mine.is_under_way, mine.next_s) == (False, float("inf"))


def test_who_asks_a_bus_that_stops_is_told_so() -> None:
    mine, early, late = made([], 0), Caller(), Caller()
    mine.asked(early, {})  # type: ignore[arg-type]
    mine.stop()
    mine.asked(late, {})  # type: ignore[arg-type]
    assert early.told == late.told == [("the bus is stopping", 75)]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise SystemExit('no such thing')", "does not start: no such thing"),
        ("print('hello')", r"does not start: it said nothing \(exit status 0\)"),
        ("import time; time.sleep(60)", "did not answer within 0.2 s"),
    ],
)
def test_new_code_that_does_not_answer_is_none(program: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "PATIENCE_S", 0.2 if "sleep" in program else 20.0)
    with pytest.raises(Failed, match=says) as found:
        rehearse([sys.executable, "-S", "-c", program], b"{}")
    assert found.value.exit_status == 1


def test_new_code_that_does_not_stop_talking_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "MOST_BYTES", 100_000)
    with pytest.raises(Failed, match="File too large"):
        rehearse([sys.executable, "-S", "-c", "while True: print('x' * 1000)"], b"{}")


def test_signals_that_are_held_come_later_and_those_that_were_carried_first() -> None:
    signals = Signals()
    before = signal.signal(signal.SIGUSR2, signals._note)
    try:
        mask, seen = signals.hold()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (signals.take(), seen) == ([], [])
        signals.let(mask, ["SIGTERM"])
        assert signals.take() == [signal.SIGTERM, signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
        signals.close()


def test_new_code_whose_interpreter_is_gone_is_none(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="could not be started"):
        rehearse([str(tmp_path / "python")], b"{}")


def test_what_was_carried_is_closed_to_programs_that_are_started_later() -> None:
    left, right = socket.socketpair()
    with left, right:
        os.set_inheritable(left.fileno(), True)
        state = upgrades.State(code="1", upgrades=1, **fields(left.fileno()))
        memory = upgrades._memory(upgrades.upgrade.encode(state))
        assert os.get_inheritable(memory)
        assert taken(memory) == state
        assert not os.get_inheritable(left.fileno())
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(memory)
