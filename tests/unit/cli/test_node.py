"""What ``pbus status`` and ``pbus stop`` say of a master that does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.cli import main as frame
from pbus.errors import Exit
from pbus.supervisor.control import Refused
from tests.support.bus import write_config


@pytest.mark.parametrize(
    ("command", "then"), [("status", "nothing is known of it now"), ("stop", "it has been asked to stop")]
)
def test_master_that_is_silent_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, then: str
) -> None:
    write_config(tmp_path, "[queue.gift.topic.take]\npull = {}\n")

    def call(*_: object, **__: object) -> None:
        raise Refused("the bus does not answer in time", Exit.TEMPORARY)

    monkeypatch.setattr("pbus.supervisor.control.call", call)
    monkeypatch.setattr("pbus.supervisor.lock.holder", lambda run_dir: 4711)

    assert frame.main([command, "-c", str(tmp_path / "conf.d")]) == 75
    said = capsys.readouterr().err
    assert then in said
    assert "'kill -9 4711' ends it at once" in said
