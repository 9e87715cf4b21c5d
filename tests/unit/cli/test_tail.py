"""``pbus tail`` over files that lie there; what is live is tested with a real bus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pbus.cli.main import main
from pbus.cli.tail import is_about

LINES = [
    {"ts": "2027-01-15T08:00:00.000Z", "level": "info", "event": "node.ready", "node": "bus-1"},
    {"ts": "2027-01-15T08:00:01.000Z", "level": "warning", "event": "job.failed", "queue": "gift", "topic": "credit",
     "job": "17-1", "err": "\x1b[31mred"},
    {"ts": "2027-01-15T08:00:02.000Z", "level": "error", "event": "store.away", "err": "refused"},
]  # fmt: skip


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "a.toml").write_text(
        f'[node]\nlog_dir = "{tmp_path}"\n[queue.gift.topic.credit]\nhttp = {{ url = "http://127.0.0.1:1/x" }}\n'
    )
    (tmp_path / "pbus.log").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic/gift.credit.log").write_text("2027-01-15T08:00:00.000Z 42 17-1 ERROR \\x1b[2J said\n")
    return folder


def tail(conf: Path, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    assert main(["tail", "--no-follow", "-c", str(conf), *args]) == 0
    return capsys.readouterr().out.splitlines()


def test_events_are_what_is_not_about_one_job(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tail(conf, capsys)
    assert [line.split()[3] for line in lines] == ["node.ready", "store.away"]


def test_errors_are_warnings_and_worse(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[3] for line in tail(conf, capsys, "errors")] == ["job.failed", "store.away"]


def test_log_is_every_line_and_controls_are_shown(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tail(conf, capsys, "log")
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)


def test_json_is_one_document_a_line(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [json.loads(line) for line in tail(conf, capsys, "log", "-o", "json")]
    assert [document["event"] for document in documents] == ["node.ready", "job.failed", "store.away"]
    assert all(document["v"] == 1 for document in documents)


def test_only_keeps_what_the_word_is_about(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(tail(conf, capsys, "log", "--only", "failed")) == 1
    assert len(tail(conf, capsys, "log", "--only", "store.away")) == 1
    assert len(tail(conf, capsys, "log", "--only", "error")) == 1


def test_since_leaves_out_what_is_older(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = json.dumps({**LINES[0], "ts": "2001-01-01T00:00:00.000Z", "event": "long.ago"}) + "\n"
    path = conf.parent / "pbus.log"
    path.write_text(old + path.read_text().replace("2027", "2999"))
    assert [line.split()[3] for line in tail(conf, capsys, "log", "--since", "1d")] == [
        "node.ready", "job.failed", "store.away",
    ]


def test_topic_shows_what_its_handlers_said(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = tail(conf, capsys, "gift/credit")
    assert line.endswith("42 17-1 ERROR \\x1b[2J said")


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["gift/nobody"], 5), (["nonsense"], 2), (["log", "--since", "soon"], 2), (["-o", "csv"], 2), (["jobs"], 2),
    ],
)
def test_wrong_question_has_its_exit_status(conf: Path, args: list[str], status: int) -> None:
    assert main(["tail", "--no-follow", "-c", str(conf), *args]) == status


def test_log_on_standard_output_is_said(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text('[node]\nlog_dir = "-"\n')
    assert main(["tail", "-c", str(conf)]) == 5
    assert "standard output" in capsys.readouterr().err


def test_failed_is_every_attempt_that_was_not_done() -> None:
    assert is_about({"event": "job.retry", "verdict": "timeout"}, "failed")
    assert is_about({"event": "job.dead", "verdict": "permanent"}, "failed")
    assert is_about({"event": "job.retry", "verdict": "timeout"}, "timeout")
    assert not is_about({"event": "job.done", "verdict": "done"}, "failed")


def test_traceback_of_a_job_is_its_last_line(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = "Traceback (most recent call last):\n  File\nKeyError: 'uid'"
    (conf.parent / "pbus.log").write_text(json.dumps({**LINES[1], "error": error}) + "\n")
    (line,) = tail(conf, capsys, "errors")
    assert line.endswith("error=\"KeyError: 'uid'\"")


def test_names_that_are_nearly_right_are_told_what_is_there(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "-c", str(conf), "gift"]) == 2
    assert main(["tail", "-c", str(conf), "gift/nobody"]) == 5
    said = capsys.readouterr().err
    assert "did you mean gift/credit?" in said
    assert "there are: gift/credit" in said
