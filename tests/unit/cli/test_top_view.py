"""The picture of ``pbus top``: what stands where, what keys do, how fast things are."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pbus.cli.output import Output
from pbus.cli.top_view import PROCESSES, SORTS, TOPICS, Frame, Pace, Rate, Screen, frame, press

AT_MS = 1_800_000_000_000
START = Screen()


def topic(name: str, **changes: Any) -> dict[str, Any]:
    queue, _, topic = name.partition("/")
    return {
        "queue": queue, "topic": topic, "state": "running", "ready": 0, "running": 0, "delayed": 0, "dead": 0,
        "oldest_wait_s": 0.0, "done_total": 0, "failed_total": 0, "concurrency": {"now": 1, "min": 1, "max": 4},
        "reason": "", **changes,
    }


def process(role: str, pid: int, **changes: Any) -> dict[str, Any]:
    return {
        "role": role, "pid": pid, "state": "ready", "rss_bytes": 1 << 20, "uptime_s": 60.0, "restarts": 0, "running": 0,
        "index": 0, "path": "", **changes,
    }


def answer(*topics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "state": "running", "node": "bus-1", "generation": 1, "problems": [], "door": {"connections": 3},
        "processes": [
            process("master", 10), process("delivery", 11, rss_bytes=3 << 20),
            process("consumer", 12, path="gift/credit", job="17-1", job_s=12.5, running=1, rss_bytes=2 << 20),
        ],
        "topics": list(topics) or [topic("gift/credit")], **changes,
    }


def show(
    screen: Screen = START, said: dict[str, Any] | None = None, pace: Pace | None = None,
    room: tuple[int, int] = (120, 24), trouble: str = "",
) -> Frame:
    return frame(screen, said or answer(), pace or Pace(), AT_MS, room, Output("table", io.StringIO()), trouble)


def table(picture: Frame, head: str) -> list[list[str]]:
    """Rows of the table whose first heading is that."""
    lines = picture.lines
    begin = next(place for place, line in enumerate(lines) if line.startswith(head))
    return [line.split() for line in lines[begin + 1 : -1] if line]


def test_picture_says_who_what_and_which_keys() -> None:
    lines = show(said=answer(topic("gift/credit", ready=4, dead=2), problems=["main is away"])).lines

    assert lines[0].startswith("bus-1  running  1 min  pid 10  ")
    assert lines[0].endswith("of 08:00:00 UTC")
    assert lines[1] == (
        "1 topic: 4 ready, 0 running, 0 delayed, 2 dead   in -  done -  failed -   3 processes, 6.0 MiB   3 connections"
    )
    assert lines[2] == "  ! main is away"
    assert lines[-1].startswith(" q quit  p pause  s sort: topic  t processes  ")
    assert lines[-1].endswith("1-1 of 1 ")


@pytest.mark.parametrize("room", [(120, 24), (80, 24), (40, 10), (20, 5), (10, 3), (200, 60)])
@pytest.mark.parametrize("view", [TOPICS, PROCESSES])
def test_picture_fills_any_terminal_and_no_more(view: str, room: tuple[int, int]) -> None:
    topics = [topic(f"queue-{number}/a-rather-long-name", ready=number) for number in range(40)]
    picture = show(Screen(view=view), answer(*topics, problems=["x" * 300] * 3), room=room)

    assert len(picture.lines) == room[1]
    if room[0] >= 80:
        assert max(map(len, picture.lines)) <= room[0]


def test_many_problems_are_counted() -> None:
    lines = show(said=answer(problems=[f"problem {number}" for number in range(9)])).lines

    assert lines[2:6] == ["  ! problem 0", "  ! problem 1", "  ! 7 more: 'pbus status' shows all", ""]


def test_bus_that_does_not_answer_is_said_beside_what_was() -> None:
    lines = show(trouble="not running: nobody answers").lines

    assert lines[0].startswith("bus-1  does not answer  ")
    assert lines[2] == "  ! not running: nobody answers"
    assert any(line.startswith("gift/credit") for line in lines)


def test_what_a_problem_or_a_name_holds_is_not_obeyed() -> None:
    lines = show(said=answer(topic("gift/\x1b[2J"), problems=["\x1b[2J"], node="\x1b]0;x")).lines

    assert "\x1b" not in "".join(lines)


def test_process_view_shows_which_job_for_how_long() -> None:
    rows = table(show(Screen(view=PROCESSES)), "PROCESS")

    assert rows[0][:2] == ["master", "10"]
    assert rows[2][:4] == ["consumer", "gift/credit", "0", "12"]
    assert rows[2][-3:] == ["12", "s", "17-1"]


# -- order and scrolling --------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "order"), [
    ("topic", ["a/x", "b/x", "c/x"]), ("ready", ["b/x", "a/x", "c/x"]), ("oldest", ["c/x", "a/x", "b/x"]),
    ("dead", ["a/x", "c/x", "b/x"]), ("in/s", ["b/x", "c/x", "a/x"]), ("done/s", ["c/x", "b/x", "a/x"]),
    ("failed/s", ["a/x", "b/x", "c/x"]),
])
def test_rows_stand_in_the_order_that_is_chosen(column: str, order: list[str]) -> None:
    rows = [topic("c/x", ready=1, oldest_wait_s=9.0, dead=2), topic("b/x", ready=5), topic("a/x", ready=1, dead=3)]
    pace = Pace()
    pace.see(0.0, answer(*rows))
    grown = {"a/x": (0, 10), "b/x": (20, 5), "c/x": (30, 0)}
    rows = [
        {**row, "ready": row["ready"] + (60 if row["queue"] == "b" else 0), "done_total": grown[f"{row['queue']}/x"][0],
         "failed_total": grown[f"{row['queue']}/x"][1]}
        for row in rows
    ]
    pace.see(5.0, answer(*rows))
    picture = show(Screen(sorts=(list(SORTS[TOPICS]).index(column), 0)), answer(*rows), pace)

    assert [row[0] for row in table(picture, "TOPIC")] == order
    assert f"{column.upper()} ▾" in "\n".join(picture.lines)
    assert f"s sort: {column}" in picture.lines[-1]


def test_scrolling_ends_at_the_last_row() -> None:
    said = answer(*[topic(f"q{number:02}/x") for number in range(40)])
    picture = show(Screen(first=1000), said, room=(80, 20))

    assert picture.screen.first == 40 - picture.page
    assert table(picture, "TOPIC")[-1][0] == "q39/x"
    assert picture.lines[-1].endswith("-40 of 40 ")


@pytest.mark.parametrize(("keys", "screen"), [
    ("p", Screen(frozen=True)), ("pp", Screen()), (" ", Screen(frozen=True)), ("t", Screen(view=PROCESSES)),
    ("\tt", Screen()), ("s", Screen(sorts=(1, 0))), ("S", Screen(sorts=(len(SORTS[TOPICS]) - 1, 0))),
    ("ts", Screen(view=PROCESSES, sorts=(0, 1))), ("jj", Screen(first=2)), ("jkk", Screen()), ("jjjg", Screen()),
    ("jt", Screen(view=PROCESSES)), ("xé\x1b", Screen()),
])
def test_keys_change_what_is_chosen(keys: str, screen: Screen) -> None:
    now: Screen | None = Screen()
    for key in keys:
        assert now is not None
        now = press(now, key, 10)

    assert now == screen


@pytest.mark.parametrize(("key", "first"), [
    ("\x1b[B", 21), ("\x1bOB", 21), ("\x1b[A", 19), ("\x1b[6~", 30), ("\x1b[5~", 10), ("\x1b[H", 0),
])
def test_arrows_and_pages_scroll(key: str, first: int) -> None:
    assert press(Screen(first=20), key, 10) == Screen(first=first)


def test_q_leaves() -> None:
    assert press(Screen(), "q", 10) is None


# -- rates ----------------------------------------------------------------------------------------


def test_rates_are_those_of_the_window() -> None:
    pace = Pace()
    for second in range(20):
        said = answer(topic("gift/credit", ready=second, done_total=10 * second, failed_total=second // 10 * 5))
        pace.see(float(second), said)

    assert pace.rate("gift/credit") == Rate(11.0, 10.0, 0.0)
    assert pace.rate("gift/other") == Rate()


def test_rate_of_what_was_not_read_or_shrank_is_not_made_up() -> None:
    pace = Pace()
    assert pace.rate("gift/credit") == Rate()
    pace.see(0.0, answer(topic("gift/credit", ready=50)))
    assert pace.rate("gift/credit") == Rate()
    pace.see(1.0, answer(topic("gift/credit", ready=None, done_total=None)))
    assert pace.rate("gift/credit") == Rate()
    pace.see(2.0, answer(topic("gift/credit", ready=10)))
    assert pace.rate("gift/credit") == Rate(0.0, 0.0, 0.0), "purged jobs are nobody's rate"


def test_numbers_that_nobody_has_read_are_dashes() -> None:
    counts = dict.fromkeys(("ready", "running", "delayed", "dead", "done_total", "failed_total", "oldest_wait_s"))
    (row,) = table(show(said=answer(topic("gift/credit", **counts))), "TOPIC")

    assert row[2:12] == ["-"] * 10


def test_long_names_leave_room_for_their_numbers() -> None:
    name = "gift-" + "x" * 50
    topics = [topic(f"{name}/{name}{number}", ready=7 + number) for number in range(2)]
    lines = show(said=answer(*topics), room=(80, 24)).lines
    rows = table(show(said=answer(*topics), room=(80, 24)), "TOPIC")

    assert all(len(line) <= 80 for line in lines)
    assert [(row[0][:5], row[0][-2:], row[1], row[2]) for row in rows] == [
        ("gift-", "x0", "running", "7"), ("gift-", "x1", "running", "8"),
    ]
    assert name in show(said=answer(*topics), room=(250, 24)).lines[-20]


@pytest.mark.parametrize(("columns", "head"), [
    (60, "bus-1  running  1 min  pid 10                of 08:00:00 UTC"), (40, "bus-1  running  1 min  pid 10"),
    (20, "bus-1  running"),
])
def test_narrow_terminal_is_told_what_matters(columns: int, head: str) -> None:
    assert show(room=(columns, 10)).lines[0] == head


def test_what_fires_stands_below_the_problems() -> None:
    rows = [{"id": "x", "state": "firing", "by": "", "text": f"q/t{number}: 7 jobs wait", "since_s": AT_MS / 1000 - 70}
            for number in range(3)]
    lines = show(said=answer(problems=["main is away"], alarms=rows, alarms_total=3)).lines

    assert lines[2:6] == [
        "  ! main is away", "  alarm, 1 min: q/t0: 7 jobs wait", "  alarm, 1 min: q/t1: 7 jobs wait",
        "  .. and 1 more alarm: 'pbus alarm ls'",
    ]
