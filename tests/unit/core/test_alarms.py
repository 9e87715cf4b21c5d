"""Alarms: when they fire, when they are over, who hears of it and how often."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from pbus.core.alarms import (
    ESCALATED, FIRING, KEEP_S, KINDS, MOST, NOBODY, OVER, Ack, Alarm, Because, Board, Policy, Reading, Silence, read,
    shown,
)

POLICY = Policy(group_wait_s=1.0, escalate_after_s=60.0, escalate_to=("boss",), oncall={"live": ("team",)},
                default=("all",))


def wait(value: float | None, subject: str = "gift/credit", kind: str = "oldest_wait", limit: float = 60.0,
         system: str = "live") -> Reading:
    return Reading(kind=kind, subject=subject, value=value, limit=limit, system=system)


def because(reading: Reading) -> Because:
    return Because(cause="it is paused", affected="everybody", todo="resume it")


def firing(board: Board) -> list[str]:
    return [alarm.id for alarm in board.alarms.values() if not alarm.over_s]


def told(board: Board, now_s: float) -> list[tuple[str, dict[str, list[str]]]]:
    """What is told now: status, and by notifier the subjects."""
    found = []
    for batch in board.due(now_s):
        found.append((batch.status, {
            name: [alarm.subject for alarm in alarms] for name, alarms in batch.by_notifier(POLICY).items()
        }))
        board.told(batch, f"m{now_s:g}", now_s)
    return found


def at(board: Board, now_s: float, *readings: Reading) -> list[tuple[str, dict[str, list[str]]]]:
    board.look(readings, now_s, because)
    return told(board, now_s)


@pytest.mark.parametrize(("kind", "values", "fires_at"), [
    ("oldest_wait", [59.9, 60.0], 1), ("oldest_wait", [None, None], None), ("backlog", [61, 61], 0),
    ("gone_in", [math.inf] * 20, 15), ("gone_in", [math.inf] * 10 + [1.0] + [math.inf] * 16, 26),
    ("failed_percent", [60.0], 0), ("circuit", [60, 60, 60], 2),
])
def test_rule_fires_when_it_was_bad_for_long_enough(
    kind: str, values: list[float | None], fires_at: int | None
) -> None:
    board = Board(POLICY)
    seen = []
    for second, value in enumerate(values):
        board.look([wait(value, kind=kind)], second, because)
        seen.append(bool(firing(board)))

    assert (seen.index(True) if True in seen else None) == fires_at


def test_alarm_is_over_only_when_it_was_clearly_good_for_a_while() -> None:
    board = Board(POLICY)
    at(board, 0, wait(100))
    for second, value in enumerate([59, 49, 47, 47, 47, 48, 47, 47, 47, 47, 47], 1):
        board.look([wait(value)], second, because)
        assert firing(board)
    board.look([wait(47)], 12, because)

    assert not firing(board)
    assert board.alarms["oldest_wait:gift/credit"].worst == 100


@pytest.mark.parametrize(("kind", "after_s"), [("oldest_wait", 2), ("failed_percent", 6)])
def test_when_it_is_over_is_a_matter_of_the_policy_and_slow_kinds_take_three_times_as_long(
    kind: str, after_s: int
) -> None:
    board = Board(Policy(clear=0.5, clear_s=2.0))
    board.look([wait(100, kind=kind)], 0, because)
    for second in range(1, 10):
        board.look([wait(30, kind=kind)], second, because)             # half of the limit: not good
    assert firing(board)
    seen = []
    for second in range(10, 20):
        board.look([wait(29, kind=kind)], second, because)
        seen.append(bool(firing(board)))

    assert seen.index(False) == after_s


def test_what_nobody_could_read_changes_nothing_and_what_is_not_asked_for_is_over() -> None:
    board = Board(POLICY)
    board.look([wait(100), wait(100, "gift/mail")], 0, because)
    for second in range(1, 8):
        board.look([wait(None)], second, because)

    assert firing(board) == ["oldest_wait:gift/credit"]


def test_alarm_is_told_once_and_its_end_once() -> None:
    board = Board(POLICY)
    assert at(board, 0, wait(100)) == []
    assert at(board, 1, wait(100)) == [(FIRING, {"team": ["gift/credit"]})]
    assert [at(board, second, wait(100)) for second in range(2, 10)] == [[]] * 8
    ends = [at(board, second, wait(0)) for second in range(10, 30)]
    assert [one for one in ends if one] == [[(OVER, {"team": ["gift/credit"]})]]
    assert board.due(16 + KEEP_S) == []
    assert board.alarms == {}


def test_thousand_that_come_together_are_told_in_one_message() -> None:
    board = Board(POLICY)
    names = [f"q{number}/t" for number in range(1000)]
    assert at(board, 0, *(wait(100, name) for name in names[:400]), *(wait(0, name) for name in names[400:])) == []

    assert at(board, 1, *(wait(100, name) for name in names)) == [(FIRING, {"team": names})]


def test_more_than_there_may_be_are_not_told() -> None:
    board = Board(POLICY)
    board.look([wait(100, f"q{number}/t") for number in range(MOST + 10)], 0, because)

    assert len(board.alarms) == MOST


def test_systems_hear_of_their_own_and_nobodys_goes_to_all() -> None:
    board = Board(POLICY)
    readings = [wait(100), wait(100, "order/mail", system="shop"), wait(100, "n2", kind="node", system="")]
    at(board, 0, *readings)

    assert at(board, 1, *readings) == [(FIRING, {"team": ["gift/credit"], "all": ["order/mail", "n2"]})]


def test_where_nobody_is_to_be_told_it_is_only_listed() -> None:
    board = Board(Policy())
    at(board, 0, wait(100))
    (batch,) = board.due(1)
    board.told(batch, "m1", 1.0)

    assert batch.by_notifier(Policy()) == {}
    assert board.alarms["oldest_wait:gift/credit"].told == NOBODY
    assert board.due(2) == []


def test_unacknowledged_is_told_further_up_once_and_those_hear_the_end() -> None:
    board = Board(POLICY)
    for second in range(61):
        at(board, second, wait(100))
    assert at(board, 61, wait(100)) == [(ESCALATED, {"boss": ["gift/credit"]})]
    ends = [at(board, second, wait(100 if second < 70 else 0)) for second in range(62, 90)]

    assert [one for one in ends if one] == [[(OVER, {"team": ["gift/credit"], "boss": ["gift/credit"]})]]


def test_acknowledged_is_not_told_further_up_until_it_fires_anew() -> None:
    board = Board(POLICY)
    at(board, 0, wait(100))
    at(board, 1, wait(100))
    board.acks = {"oldest_wait:gift/credit": Ack("oldest_wait:gift/credit", 0, "ann")}
    assert [at(board, second, wait(100)) for second in (60, 120)] == [[], []]
    assert not told(board, 129)
    for second in range(130, 140):
        at(board, second, wait(0))
    at(board, 200, wait(100))
    at(board, 201, wait(100))

    assert at(board, 261, wait(100)) == [(ESCALATED, {"boss": ["gift/credit"]})]


@pytest.mark.parametrize(("silence", "is_told"), [
    (Silence("gift/*", 100), False), (Silence("order/*", 100), True), (Silence("gift/*", 1), True),
    (Silence("*", 100, kind="backlog"), True), (Silence("*", 100, kind="oldest_wait"), False),
    (Silence("oldest_wait:gift/credit", 100), False),
])
def test_silence_covers_what_it_names(silence: Silence, is_told: bool) -> None:
    board = Board(POLICY)
    board.silences = [silence]
    at(board, 0, wait(100))

    assert bool(at(board, 1, wait(100))) is is_told
    assert firing(board)


def test_silenced_is_told_when_the_silence_ends_and_never_if_it_is_over_by_then() -> None:
    board = Board(POLICY)
    board.silences = [Silence("*", 50)]
    for second in range(50):
        assert at(board, second, wait(100), wait(100 if second < 9 else 0, "gift/mail")) == []

    assert at(board, 50, wait(100), wait(0, "gift/mail")) == [(FIRING, {"team": ["gift/credit"]})]


def test_board_of_what_was_kept_goes_on_where_the_last_one_stopped() -> None:
    board = Board(POLICY)
    at(board, 0, wait(math.inf, kind="gone_in"))
    for second in range(1, 17):
        at(board, second, wait(math.inf, kind="gone_in"))
    kept = [read(json.loads(json.dumps(alarm.fields(), allow_nan=False))) for alarm in board.alarms.values()]
    again = Board(POLICY, [alarm for alarm in kept if alarm])

    assert again.alarms == board.alarms
    assert again.told_by("m16", FIRING).alarms == tuple(again.alarms.values())
    assert again.told_by("m16", OVER).alarms == ()
    assert at(again, 18, wait(math.inf, kind="gone_in")) == []


def test_what_another_version_kept_is_no_alarm() -> None:
    assert read({"kind": "nobody's", "subject": "x"}) is None
    assert read({"kind": "backlog"}) is None


def test_value_of_one_that_goes_on_is_kept_now_and_then() -> None:
    board = Board(POLICY)
    writes = 0
    for second in range(90):
        at(board, second, wait(100 + second))
        writes += bool(board.changed)
        board.changed.clear()

    assert writes <= 6


def test_alarm_says_what_how_much_and_what_to_do() -> None:
    alarm = Alarm(kind="oldest_wait", subject="gift/credit", system="live", limit=60, value=80, worst=200, since_s=0,
                  fired_s=0, at_s=0)

    assert alarm.text == "gift/credit: the oldest job waits for 80 s, the limit is 60 s"
    assert alarm.next == "'pbus topic why gift/credit'"
    assert replace(alarm, over_s=9.0).text == "gift/credit: the oldest job waits for 3 min, the limit is 60 s"
    never = replace(alarm, kind="gone_in", value=math.inf, limit=600)
    assert never.text == "gift/credit: at this rate its backlog is gone never, the limit is within 10 min"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_its_words(kind: object) -> None:
    assert isinstance(kind, type(KINDS["node"]))
    words = {"subject": "S", "topic": "S", "value": shown(12, kind), "limit": shown(20, kind)}

    assert "S" in kind.text.format(**words)
    assert "'pbus " in kind.todo.format(**words)
