"""Samples that are kept for simulations: bounded, never in the way, and read again as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.core.autoscale_record import FOLDER, moments
from pbus.core.autoscale_terms import Capacity, Decision, Limit, NodeSample, Plan, TopicSample
from pbus.scheduler import recorder
from pbus.scheduler.recorder import AGAIN_S, Recorder

PATH = "gift/credit"
BUSY = TopicSample(arrivals_per_s=12.5, done_per_s=12.0, ready=3, service_s=0.02, places=2)
DECISION = Decision(
    wanted=4, was=3, surplus=0, need=3.2, limited_by=Limit.NONE, reason="", arrivals_per_s=12.5, service_s=0.02,
    capacity=Capacity(now_per_s=None, max_per_s=None, limited_by=""),
)


def sample(at_s: float, seen: TopicSample = BUSY) -> NodeSample:
    return NodeSample(at_s=at_s, wall_s=1_800_000_000.0 + at_s, topics={PATH: seen})


def keep(kept: Recorder, at_s: float, seen: TopicSample = BUSY) -> None:
    kept.write(sample(at_s, seen), Plan({PATH: DECISION}))


def files(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).iterdir())


def test_what_was_kept_is_read_as_it_was(tmp_path: Path) -> None:
    kept = Recorder(str(tmp_path), FakeClock(), structlog.get_logger())
    keep(kept, 1.0)
    keep(kept, 2.0, TopicSample())
    kept.close()
    (file,) = files(tmp_path)
    (moment,) = moments(file.read_text().splitlines())
    assert moment.topics == {PATH: (BUSY, 4)}
    assert moment.wall_s == 1_800_000_001.0


def test_a_quiet_bus_writes_nothing(tmp_path: Path) -> None:
    kept = Recorder(str(tmp_path), FakeClock(), structlog.get_logger())
    keep(kept, 1.0, TopicSample(places=1))
    assert not (tmp_path / FOLDER).exists()


def test_files_are_bounded_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "FILE_BYTES", 300)
    clock = FakeClock()
    kept = Recorder(str(tmp_path), clock, structlog.get_logger())
    for second in range(200):
        keep(kept, float(second))
        clock.sleep(1.0)
    kept.close()
    assert len(files(tmp_path)) == recorder.FILES
    lines = [line for file in files(tmp_path) for line in file.read_text().splitlines()]
    assert [moment.wall_s for moment in moments(lines)][-1] == 1_800_000_199.0


def test_a_folder_that_cannot_be_written_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    kept = Recorder(str(tmp_path), FakeClock(), structlog.get_logger())
    keep(kept, 1.0)
    (tmp_path / FOLDER).unlink()
    keep(kept, 2.0)
    assert not (tmp_path / FOLDER).exists(), "not tried at once"
    keep(kept, 1.0 + AGAIN_S)
    kept.close()
    assert len(files(tmp_path)) == 1


def test_half_a_line_is_passed_over_and_a_later_version_refused(tmp_path: Path) -> None:
    kept = Recorder(str(tmp_path), FakeClock(), structlog.get_logger())
    keep(kept, 1.0)
    kept.close()
    text = files(tmp_path)[0].read_text()
    assert len(list(moments([text, text[: len(text) // 2], "[]", ""]))) == 1
    with pytest.raises(ValueError, match="samples of version 2"):
        list(moments([text.replace('"v":1', '"v":2')]))
