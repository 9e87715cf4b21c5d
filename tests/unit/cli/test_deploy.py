"""The steps of a deploy, and which topics it is about."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import click
import pytest

from pbus.cli.deploy import chosen
from pbus.cli.deploy_flow import Deploy, Stops
from pbus.cli.deploy_hold import elsewhere
from pbus.clock import FakeClock
from pbus.config import schema
from pbus.errors import Exit, NotFound, PbusError, Unavailable

TOPIC = ("gift", "credit")


class Held:
    """A hold whose jobs end one a look."""

    renew_s = 5.0

    def __init__(self, running: int = 0, lost: list[str] | None = None) -> None:
        self.calls: list[str] = []
        self.left = running
        self.lost = lost or []

    def take(self) -> list[tuple[str, str]]:
        self.calls.append("take")
        return [TOPIC]

    def running(self) -> dict[str, int]:
        self.left -= 1
        return {"gift/credit": self.left + 1} if self.left >= 0 else {}

    def renew(self) -> list[str]:
        self.calls.append("renew")
        return self.lost

    def release(self) -> bool:
        self.calls.append("release")
        return True


class Process:
    """Ends with *status* after *polls* looks, or when it is told to (unless it is *deaf*)."""

    def __init__(
        self, status: int, polls: int = 1, deaf: bool = False, look: Callable[[], None] = lambda: None
    ) -> None:
        self.status, self.left, self.deaf, self.look = status, polls, deaf, look
        self.told: list[int] = []

    def poll(self) -> int | None:
        self.look()
        self.left -= 1
        return self.status if self.left < 0 else None

    def send_signal(self, signum: int) -> None:
        self.told.append(signum)
        if not self.deaf:
            self.left = 0

    def kill(self) -> None:
        self.told.append(signal.SIGKILL)

    def wait(self) -> None:
        """It is dead."""


def deploy(
    held: Held, process: Process | None = None, stops: Stops | None = None, **more: Any
) -> tuple[Deploy, list[str]]:
    said: list[str] = []

    def popen(command: list[str]) -> Process:
        held.calls.append(" ".join(command))
        return process or Process(0)

    def mark(status: int, _: float) -> None:
        held.calls.append(f"mark {status}")

    flow = Deploy(held, ["reload", "php"], 60.0, mark, said.append, FakeClock(), stops or Stops(), popen)
    for name, value in more.items():
        setattr(flow, name, value)
    return flow, said


def test_command_runs_when_nothing_runs_and_before_the_topics_are_resumed() -> None:
    held = Held(running=5)
    flow, said = deploy(held)
    assert flow.run() == 0
    assert held.calls == ["take", "reload php", "mark 0", "release"]
    assert said[0] == "paused on all nodes: gift/credit"


@pytest.mark.parametrize(("status", "exit_status"), [(3, 3), (-9, 137)])
def test_failure_of_the_command_is_kept_and_the_topics_are_resumed(status: int, exit_status: int) -> None:
    held = Held()
    flow, _ = deploy(held, Process(status))
    assert flow.run() == exit_status
    assert held.calls[-2:] == [f"mark {exit_status}", "release"]


def test_jobs_that_do_not_end_are_named_and_nothing_is_deployed() -> None:
    held = Held(running=10_000)
    flow, said = deploy(held)
    assert flow.run() == Exit.TEMPORARY
    assert "reload php" not in held.calls
    assert held.calls[-1] == "release"
    assert any("still running after 60 s: gift/credit " in line for line in said)
    assert held.calls.count("renew") >= 10


def test_signal_while_it_waits_resumes_without_the_command() -> None:
    held, stops = Held(running=1000), Stops()
    stops.signum = signal.SIGINT
    flow, _ = deploy(held, stops=stops)
    assert flow.run() == 130
    assert held.calls == ["take", "release"]


@pytest.mark.parametrize("deaf", [False, True])
def test_signal_while_the_command_runs_goes_on_to_it(deaf: bool) -> None:
    held, stops = Held(), Stops()
    process = Process(0, polls=10_000, deaf=deaf, look=lambda: setattr(stops, "signum", signal.SIGTERM))
    flow, _ = deploy(held, process, stops)
    assert flow.run() == 143
    assert process.told == ([signal.SIGTERM, signal.SIGKILL] if deaf else [signal.SIGTERM])
    assert held.calls == ["take", "reload php", "release"]


def test_nothing_is_deployed_when_somebody_resumed_meanwhile() -> None:
    held = Held(running=1000, lost=["gift/credit"])
    flow, _ = deploy(held)
    with pytest.raises(PbusError, match="somebody else resumed or paused gift/credit"):
        flow.run()
    assert held.calls[-1] == "release"
    assert "reload php" not in held.calls


def test_command_that_cannot_be_started_leaves_no_pause() -> None:
    held = Held()

    def popen(_: list[str]) -> None:
        raise PermissionError(13, "Permission denied", "reload")

    flow, _ = deploy(held, popen=popen)
    with pytest.raises(PermissionError):
        flow.run()
    assert held.calls == ["take", "release"]


def test_child_process_hands_back_answers_and_errors() -> None:
    assert elsewhere(lambda: {"gift/credit": 3}) == {"gift/credit": 3}

    def fail() -> None:
        raise Unavailable("storage main: gone")

    with pytest.raises(PbusError, match="storage main: gone") as told:
        elsewhere(fail)
    assert told.value.exit_status == Exit.UNAVAILABLE


# -- which topics ---------------------------------------------------------------------------------------


def settings() -> schema.Settings:
    def called(backend: str) -> schema.Topic:
        return schema.Topic(fastcgi=schema.FastcgiHandler(backend=backend, script="/x.php"))

    return schema.Settings(
        backend={"php": schema.Backend(fastcgi=["127.0.0.1:9000"]), "idle": schema.Backend(fastcgi=["127.0.0.1:9001"])},
        queue={
            "gift": schema.Queue(topic={"credit": called("php"), "pulled": schema.Topic(pull=schema.PullHandler())}),
            "mail": schema.Queue(topic={"send": called("php")}),
        },
    )


@pytest.mark.parametrize(("glob", "backend", "expected"), [
    ("", "", ["gift/credit", "gift/pulled", "mail/send"]),
    ("gift/*", "", ["gift/credit", "gift/pulled"]),
    ("", "php", ["gift/credit", "mail/send"]),
])
def test_topics_are_chosen_by_glob_or_backend(glob: str, backend: str, expected: list[str]) -> None:
    assert ["/".join(name) for name in chosen(settings(), glob, backend)] == expected


@pytest.mark.parametrize(("glob", "backend", "text"), [
    ("none/*", "", "no topic matches 'none/"), ("", "idle", "no topic uses 'idle'"),
    ("", "no", "there is no backend 'no'"),
])
def test_what_means_no_topic_is_refused(glob: str, backend: str, text: str) -> None:
    with pytest.raises(NotFound, match=text):
        chosen(settings(), glob, backend)


def test_glob_and_backend_exclude_each_other() -> None:
    with pytest.raises(click.UsageError):
        chosen(settings(), "gift/*", "php")
