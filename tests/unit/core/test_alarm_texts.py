"""What is kept about alarms: it comes back as it was, fits, and rubbish is nothing."""

from __future__ import annotations

import pytest

from pbus.core.alarm_texts import ack_of, ack_text, alarms_of, packed, shard_of, silence_of, silence_text
from pbus.core.alarms import Ack, Alarm, Silence


def alarm(number: int) -> Alarm:
    return Alarm(
        kind="backlog", subject=f"gift/t{number}", system="live", limit=3, value=number, worst=number, since_s=1.0,
        fired_s=float(number + 1), at_s=2.0, cause="c" * 200, affected="a" * 200, todo="t" * 200, told="1-firing",
    )


def test_alarms_come_back_as_they_were() -> None:
    alarms = [alarm(number) for number in range(5)]

    assert alarms_of([packed(alarms[:3], 65_536), "rubbish", packed(alarms[3:], 65_536)]) == alarms


def test_too_many_lose_words_first_and_then_the_newest_go() -> None:
    alarms = [alarm(number) for number in range(200)]
    bare, few = (alarms_of([packed(alarms, most)]) for most in (65_536, 10_000))

    assert [one.subject for one in bare] == [one.subject for one in alarms]
    assert {one.cause for one in bare} == {""}
    assert [one.subject for one in few] == [one.subject for one in alarms[: len(few)]]
    assert len(few) > 20


def test_what_people_said_comes_back() -> None:
    ack = Ack("backlog:gift/t", 5.0, "ann", "on it", 6.0)
    silence = Silence("gift/*", 99.0, "backlog", "ann", "deploy")

    assert ack_of(ack_text(ack)) == ack
    assert silence_of(silence_text(silence)) == silence


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1}', '{"glob": "x"}', '{"alarms": 3}', '{"alarms": [1, {}]}'])
def test_rubbish_is_nothing(text: str) -> None:
    assert (ack_of(text), silence_of(text), alarms_of([text])) == (None, None, [])


def test_alarms_are_spread_over_the_documents() -> None:
    assert len({shard_of(alarm(number).id) for number in range(1000)}) == 64
