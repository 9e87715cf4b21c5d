"""Replays: stages, the guard, and that what is kept is what was meant."""

from __future__ import annotations

import pytest

from pbus.core.replay import Guard, Replay, guard, stages, trips


def replay(**values: object) -> Replay:
    return Replay("r1", "dead", ["gift/credit"], **({"total": 1000, "guard": "failed<2%,p90<2x"} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "total", "ends"), [
    ("", 1000, [1000]), ("5,1%,10%,100%", 1000, [5, 10, 100, 1000]), ("5", 1000, [5, 1000]), ("5,1%", 20, [5, 20]),
    ("5,1%,10%,100%", 3, [5]), ("50%", 3, [2, 3]), ("5,100%", 0, [5]), ("", 0, [0]),
])
def test_stages_end_where_they_say(text: str, total: int, ends: list[int]) -> None:
    assert stages(text, total) == ends


@pytest.mark.parametrize("text", ["x", "0", "5,,6", "101%", "1.5", "10,5", "-1", "5,10%,1%"])
def test_stages_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="canary: "):
        stages(text, 1000)


def test_guard_is_read() -> None:
    assert guard("failed<2%,p90<2x") == Guard(2.0, 2.0, 0.0)
    assert guard(" p90 < 500ms ") == Guard(0.0, 0.0, 0.5)
    assert guard("") == Guard()


@pytest.mark.parametrize("text", ["failed<2", "failed<0%", "failed>2%", "p90<2%", "p99<2x", "failed<2%,failed<3%", ","])
def test_guard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="guard: "):
        guard(text)


def test_guard_trips_when_too_many_failed() -> None:
    assert trips(replay(done=98, failed=1, replayed=99), None, 0) == ""
    text = trips(replay(done=96, failed=4, replayed=100), None, 0)
    assert text.startswith("guard failed<2%: 4 of 100 failed (4 %); stopped after 100 of 1000")


def test_guard_notices_a_handler_that_begins_to_fail_however_long_it_went_well() -> None:
    one = replay(replayed=100_000, done=99_900)
    for number in range(400):
        one.judge(number % 100 != 0)
    assert trips(one, None, 0) == "", "one in a hundred may fail"
    for number in range(10):
        assert trips(one, None, 0) == "", number
        one.judge(False)
    assert trips(one, None, 0).startswith("guard failed<2%: 11 of the last 200 failed (6 %); stopped after 100000")
    one.judge_anew()
    assert trips(one, None, 0) == ""


def test_guard_waits_for_enough_jobs_unless_the_stage_has_no_more() -> None:
    few = replay(failed=1, replayed=1)
    assert trips(few, None, 0) == ""
    assert trips(replay(failed=1, done=4, replayed=5, canary="5,100%"), None, 0)
    assert trips(replay(failed=1, done=3, replayed=5, canary="5,100%", watched=["x"]), None, 0) == ""


def test_guard_trips_when_jobs_take_longer_than_before() -> None:
    assert trips(replay(p90_s=0.1), 0.19, 100) == ""
    assert "p90 is 0.2 s, it was 0.1 s" in trips(replay(p90_s=0.1), 0.2, 100)
    assert trips(replay(p90_s=0.1), 0.2, 3) == trips(replay(), 9.0, 100) == ""
    assert trips(replay(guard="p90<500ms"), 0.5, 20)


def test_room_is_what_is_left_of_the_stage() -> None:
    one = replay(canary="5,10%", replayed=3)
    rooms = [one.room]
    one.replayed = 5
    rooms.append(one.room)
    one.go_on()
    rooms.append(one.room)

    assert rooms == [2, 0, 95]


def test_a_replay_is_read_as_it_was_written() -> None:
    one = replay(filter="error ~ '超时'", watched=["gift/credit 1-0"])

    assert Replay.read(one.text()) == one
    for text in ("[]", "{}", '{"v":2}', '{"v":1}'):
        with pytest.raises(ValueError, match="it "):
            Replay.read(text)
