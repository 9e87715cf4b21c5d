"""The structured log: fields, levels, and that it never raises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.config.schema import Log
from pbus.telemetry import log


@pytest.fixture(autouse=True)
def own_configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pbus.log").read_text().splitlines()]


def test_line_has_the_fields_in_their_order(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path), clock=FakeClock(), node="bus-1", role="delivery")
    log.get(queue="gift").bind(topic="credit").warning("job.failed", reason="timeout", attempt=2, job="1-1", err="late")
    (line,) = written(tmp_path)
    assert list(line) == [
        "ts", "level", "event", "node", "role", "pid", "queue", "topic", "job", "attempt", "err", "reason",
    ]
    assert line["ts"] == "2027-01-15T08:00:00.000Z"
    assert line["level"] == "warning"
    assert line["pid"] == os.getpid()


def test_level_below_the_configured_one_writes_nothing(tmp_path: Path) -> None:
    log.configure(Log(level="warning"), str(tmp_path))
    logger = log.get()
    logger.debug("a.b")
    logger.info("a.b")
    logger.error("a.c")
    assert [line["event"] for line in written(tmp_path)] == ["a.c"]


def test_secrets_are_hidden_in_every_field(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path), secrets=["queue-password"])
    log.get(hint="queue-password").info("a.b", password="x", err="AUTH gift queue-password")
    text = (tmp_path / "pbus.log").read_text()
    assert "queue-password" not in text
    assert written(tmp_path)[0]["password"] == "***"


def test_exception_is_told_with_its_traceback(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path))
    try:
        raise ValueError("no\nsuch thing")
    except ValueError as error:
        log.get().exception("role.failed")
        log.get().warning("role.failed", exc_info=error)
    first, second = written(tmp_path)
    assert first["level"] == "error"
    assert first["err"] == second["err"] == "ValueError: no\nsuch thing"
    assert "Traceback" in first["traceback"]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("will not be shown")


def test_field_that_cannot_be_shown_costs_the_line_its_fields_not_the_caller_its_life(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path))
    log.get().info("a.b", what=Hostile())
    assert written(tmp_path)[0]["event"] == "log.unwritable"


def test_text_format_is_for_people(tmp_path: Path) -> None:
    log.configure(Log(format="text"), str(tmp_path), clock=FakeClock(), role="master")
    log.get().info("child.exited", status=1)
    line = (tmp_path / "pbus.log").read_text()
    assert line == f"2027-01-15 08:00:00.000 INFO    child.exited role=master pid={os.getpid()} status=1\n"


def test_reopen_continues_in_the_file_of_that_name(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path))
    log.get().info("a.b")
    (tmp_path / "pbus.log").rename(tmp_path / "pbus.log.old")
    log.reopen()
    log.get().info("a.c")
    assert [line["event"] for line in written(tmp_path)] == ["a.c"]


def test_reopen_before_configuring_does_nothing() -> None:
    log.reopen()


def test_forked_child_writes_to_the_file_even_when_its_descriptors_were_closed(tmp_path: Path) -> None:
    log.configure(Log(), str(tmp_path))
    log.get().info("from.parent")
    pid = os.fork()
    if pid == 0:
        os.closerange(3, 256)
        victim = os.open(tmp_path / "victim", os.O_RDWR | os.O_CREAT)  # gets the log's old number
        log.get().info("from.child")
        os._exit(os.fstat(victim).st_size)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert [line["event"] for line in written(tmp_path)] == ["from.parent", "from.child"]
