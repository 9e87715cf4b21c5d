"""The status as people read it."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from pbus.cli.grid import duration, number, size
from pbus.cli.output import Output
from pbus.cli.status_view import alarm_lines, document, lines


def process(role: str, pid: int, index: int = 0, path: str = "", **fields: Any) -> dict[str, Any]:
    row = {
        "role": role, "pid": pid, "state": "ready", "rss_bytes": 32 << 20, "uptime_s": 4000.0, "restarts": 0,
        "running": 0, "index": index, "path": path,
    }
    return {**row, **fields}


def topic(name: str, **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "queue": "gift", "topic": name, "state": "running", "ready": 0, "running": 0, "delayed": 0, "dead": 0,
        "oldest_wait_s": 0.0, "done_total": 0, "failed_total": 0, "concurrency": {"now": 1, "min": 1, "max": 1},
        "capacity": {"now_per_s": None, "max_per_s": None, "limited_by": None}, "consumers": [], "reason": "",
    }
    return {**row, **fields}


def answer(**fields: Any) -> dict[str, Any]:
    base = {
        "state": "running", "node": "bus-1", "generation": 1, "problems": [],
        "processes": [process("master", 1, state="running"), process("ingest", 2)], "topics": [topic("credit")],
        "door": {"connections": 0},
    }
    return {**base, **fields}


escaped = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(told: dict[str, Any]) -> str:
    return "\n".join(lines(told, Output(stdout=io.StringIO())))


def test_everything_that_matters_is_on_one_screen() -> None:
    assert shown(answer(problems=["storage main: away"])) == (
        "bus-1  running  1 h 6 min  generation 1  pid 1\n"
        "  ! storage main: away\n"
        "\n"
        "PROCESS   PID  STATE           UP       RSS  RUNNING  RESTARTS\n"
        "master      1  running  1 h 6 min  32.0 MiB        0         0\n"
        "ingest 0    2  ready    1 h 6 min  32.0 MiB        0         0\n"
        "\n"
        "TOPIC        STATE    READY  RUNNING  DELAYED  DEAD  OLDEST  DONE  FAILED   SLOTS\n"
        "gift/credit  running      0        0        0     0       -     0       0  1 of 1"
    )


def test_many_children_of_one_role_are_one_line() -> None:
    consumers = [process("consumer", 10 + index, index, "gift/credit", running=1) for index in range(6)]
    text = shown(answer(processes=[process("master", 1), *consumers]))
    [line] = [line for line in text.split("\n") if line.startswith("consumer")]
    assert " ".join(line.split()) == "consumer gift/credit 0..5 (6) ready 1 h 6 min 192.0 MiB 6 0"


def test_unknown_numbers_are_dashes() -> None:
    names = ("ready", "running", "delayed", "dead", "oldest_wait_s", "done_total", "failed_total")
    text = shown(answer(topics=[topic("credit", **dict.fromkeys(names))]))
    assert text.split("\n")[-1].split() == ["gift/credit", "running", *"-------", "1", "of", "1"]


def test_topic_that_is_pulled_has_no_slots() -> None:
    text = shown(answer(topics=[topic("archive", concurrency={"now": 0, "min": 0, "max": 0})]))
    assert text.split("\n")[-1].split()[-1] == "-"


def test_reason_of_a_topic_stands_above_and_cannot_move_the_cursor() -> None:
    text = shown(answer(topics=[topic("web", state="down", reason="refused \x1b[2J")]))
    assert text.split("\n")[1] == "  ! gift/web down: refused \\x1b[2J"
    assert text.endswith("1 of 1")


def test_reason_of_a_topic_that_is_a_problem_already_is_shown_once() -> None:
    text = shown(answer(problems=["gift/web down: refused"], topics=[topic("web", state="down", reason="refused")]))
    assert [line for line in text.split("\n") if "!" in line] == ["  ! gift/web down: refused"]


@pytest.mark.parametrize(("state", "problem"), [
    ("rollout-failed", "gift/credit rollout-failed: exit status 1 (changed: jobs.py); the old processes go on"),
    ("fatal", "consumer gift/credit: ended 10 times: exit status 1; given up"),
])
def test_reason_of_a_topic_that_a_problem_says_better_is_not_shown_again(state: str, problem: str) -> None:
    told = answer(problems=[problem], topics=[topic("credit", state=state, reason="exit status 1")])
    assert [line for line in shown(told).split("\n") if "!" in line] == [f"  ! {problem}"]


def test_what_a_topic_can_do_is_a_column_once_it_is_known() -> None:
    able = {"now_per_s": 100.0, "max_per_s": 2600.4, "limited_by": "backend live-php 48/48"}
    heads, first, second = shown(answer(topics=[topic("credit", capacity=able), topic("mail")])).split("\n")[-3:]
    assert heads.endswith("SLOTS  CAN DO")
    assert first.endswith("1 of 1  2600/s")
    assert second.endswith("1 of 1       -")


def test_a_narrow_terminal_does_without_the_columns_that_matter_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [topic("notify-followers", state="rollout-failed"), topic("credit")]
    text = [escaped.sub("", line) for line in lines(answer(topics=rows), Output(stdout=Terminal()))]
    assert all(len(line) <= 80 for line in text)
    assert "DONE" not in text[-3]
    assert "READY" in text[-3]
    assert "SLOTS" in text[-3]


def test_a_problem_that_several_processes_tell_is_shown_once_at_its_longest() -> None:
    text = shown(answer(problems=["main is away: refused", "main is away", "main is away: refused"]))
    assert [line for line in text.split("\n") if "!" in line] == ["  ! main is away: refused"]


def fired(name: str, since_s: float, **fields: Any) -> dict[str, Any]:
    row = {"id": f"backlog:{name}", "state": "firing", "by": "", "kind": "backlog", "subject": name, "system": "live",
           "text": f"{name}: 7 jobs wait, the limit is 3 jobs", "since_s": since_s}
    return {**row, **fields}


def test_what_fires_stands_below_the_problems_with_who_has_it_in_hand() -> None:
    rows = [fired("gift/credit", 900.0), fired("gift/x\x1b[2J", 0.0, state="acked", by="ann")]

    assert [text for text, _ in alarm_lines(answer(alarms=rows, alarms_total=3), 1000.0)] == [
        "  alarm, 1 min: gift/credit: 7 jobs wait, the limit is 3 jobs",
        "  alarm, 16 min: gift/x\\x1b[2J: 7 jobs wait, the limit is 3 jobs (acked by ann)",
        "  .. and 1 more alarm: 'pbus alarm ls'",
    ]
    assert any("more alarm" in line for line in lines(answer(alarms=rows, alarms_total=9), Output(stdout=Terminal())))
    told = shown(answer(problems=["p"], alarms=rows)).split("\n")
    assert (told[1], told[2].partition(", ")[0]) == ("  ! p", "  alarm")


def test_json_is_exactly_what_is_promised() -> None:
    out = io.StringIO()
    document(answer(), Output("json", stdout=out))
    told = json.loads(out.getvalue())
    assert list(told) == [
        "v", "state", "node", "generation", "problems", "processes", "topics", "door", "alarms", "alarms_total",
    ]
    assert list(told["processes"][0]) == ["role", "pid", "state", "rss_bytes", "uptime_s", "restarts", "running"]
    assert "reason" not in told["topics"][0]
    assert told["topics"][0]["capacity"] == {"now_per_s": None, "max_per_s": None, "limited_by": None}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (10_240, "10.2k"), (1_234_567, "1.2M"), (3e9, "3.0G")]
)
def test_numbers(count: float, text: str) -> None:
    assert number(count) == text
