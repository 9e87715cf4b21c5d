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


# -- filters --------------------------------------------------------------------------------------


MORE = [
    {"ts": "2027-01-15T08:00:03.000Z", "level": "warning", "event": "topic.down", "queue": "gift", "topic": "credit"},
    {"ts": "2027-01-15T08:00:04.000Z", "level": "warning", "event": "topic.down", "queue": "mail", "topic": "smtp"},
    {"ts": "2027-01-15T08:00:05.000Z", "level": "error", "event": "store.queue_failed", "queue": "gift"},
    {"ts": "2027-01-15T08:00:06.000Z", "level": "info", "event": "order.made", "path": "gift/notify"},
    {"ts": "2027-01-15T08:00:07.000Z", "level": "warning", "event": "job.dead", "queue": "mail", "topic": "smtp",
     "job": "17-2", "verdict": "timeout"},
]  # fmt: skip


def add(conf: Path, *lines: dict[str, str]) -> None:
    with (conf.parent / "pbus.log").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize(("args", "events"), [
    (["log", "--topic", "gift/*"], ["job.failed", "topic.down", "store.queue_failed", "order.made"]),
    (["log", "--topic", "mail/smtp"], ["topic.down", "job.dead"]),
    (["log", "--topic", "*/s*"], ["topic.down", "store.queue_failed", "job.dead"]),
    (["log", "--topic", "nobody/*"], []),
    (["log", "--job", "17-2"], ["job.dead"]),
    (["--job", "17-2"], ["job.dead"]),
    (["log", "--topic", "gift/*", "--job", "17-2"], []),
    (["log", "--only", "timeout", "--only", "store.away"], ["store.away", "job.dead"]),
    (["log", "--only", "timeout,store.away"], ["store.away", "job.dead"]),
    (["errors", "--topic", "gift/credit"], ["job.failed", "topic.down", "store.queue_failed"]),
])
def test_filters_keep_what_is_about_the_topic_the_job_and_the_word(
    conf: Path, capsys: pytest.CaptureFixture[str], args: list[str], events: list[str]
) -> None:
    add(conf, *MORE)
    assert [json.loads(line)["event"] for line in tail(conf, capsys, *args, "-o", "json")] == events


def test_last_lines_are_those_that_are_wanted(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(conf, *[{**LINES[0], "event": "child.ready"}] * 50)
    assert [line.split()[3] for line in tail(conf, capsys, "errors")] == ["job.failed", "store.away"]


def test_lines_of_the_text_format_are_filtered_as_well(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf.parent / "pbus.log").write_text(
        "2027-01-15 08:00:00.000 WARNING job.dead gift/credit role=delivery pid=4 job=17-1 verdict=failed "
        'error="a b=c"\n'
        "2027-01-15 08:00:01.000 WARNING job.dead mail/smtp role=delivery pid=4 job=17-2 verdict=timeout\n"
        "2027-01-15 08:00:02.000 INFO    child.ready role=master pid=1 child=scheduler\n"
    )
    (line,) = tail(conf, capsys, "log", "--job", "17-1", "--topic", "gift/*", "--only", "failed", "-o", "json")
    assert json.loads(line) == {
        "v": 1, "ts": "2027-01-15T08:00:00.000Z", "level": "warning", "event": "job.dead", "queue": "gift",
        "topic": "credit", "role": "delivery", "pid": "4", "job": "17-1", "verdict": "failed", "error": "a b=c",
    }
    assert len(tail(conf, capsys, "log", "--only", "child.ready")) == 1


def test_several_topics_are_merged_by_time_and_named(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "b.toml").write_text('[queue.gift.topic.mail]\nhttp = { url = "http://127.0.0.1:1/y" }\n')
    (conf.parent / "topic/gift.mail.log").write_text(
        "2027-01-14T08:00:00.000Z 43 17-1 INFO first\n2027-01-16T08:00:00.000Z 43 17-2 INFO last\n"
    )
    lines = tail(conf, capsys, "gift/*")
    assert [line.split()[0] for line in lines] == ["gift/mail", "gift/credit", "gift/mail"]
    documents = [json.loads(line) for line in tail(conf, capsys, "gift/*", "--job", "17-1", "-o", "json")]
    assert [document["topic"] for document in documents] == ["mail", "credit"]


def test_program_shows_what_it_said(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "b.toml").write_text('[program.cache]\nargv = ["sleep"]\n[program.mute]\nargv = ["sleep"]\nlog = false\n')
    (conf.parent / "program").mkdir()
    (conf.parent / "program/cache.log").write_text("2027-01-15T08:00:00.000Z 42 - INFO ready\n")
    assert tail(conf, capsys, "program:cache")[0].endswith("42 - INFO ready")
    for name, said in (("none", "there are: cache, mute"), ("mute", "log = false")):
        assert main(["tail", "-c", str(conf), f"program:{name}"]) == 5
        assert said in capsys.readouterr().err
    assert main(["tail", "-c", str(conf), "cache"]) == 2
    assert "did you mean program:cache?" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--job", "rubbish"], ["gift/credit", "--topic", "gift/*"]])
def test_filter_that_makes_no_sense_is_said(conf: Path, args: list[str]) -> None:
    assert main(["tail", "--no-follow", "-c", str(conf), *args]) == 2


def test_jobs_of_other_nodes_are_not_promised(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "jobs", "--nodes", "-c", str(conf)]) == 2
    assert "--nodes is for events and errors of the bus" in capsys.readouterr().err
