"""Messages: bounded, with everything a person needs, in the shapes that receivers take."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from pbus.core.alarms import ESCALATED, FIRING, OVER, Alarm
from pbus.core.notices import (
    GIVE_UP_S, LISTED, SHAPES, Message, body, composed, ended, read, refusal, trial, tried, url,
)
from pbus.storage.documents import TEXT_BYTES

AT = 1_800_000_000.0


def alarm(subject: str = "gift/credit", **fields: Any) -> Alarm:
    return Alarm(**{
        "kind": "oldest_wait", "subject": subject, "system": "live", "limit": 60.0, "value": 80.0, "worst": 80.0,
        "since_s": AT - 90, "fired_s": AT - 80, "at_s": AT, "cause": "gift/credit is paused, 5 jobs wait",
        "affected": "system live (Live, live-team), 5 jobs wait", "todo": "'pbus topic resume gift/credit'", **fields,
    })


def test_message_of_one_alarm_says_what_since_why_who_and_what_to_do() -> None:
    message = composed("m1", "team", FIRING, [alarm()], AT)

    assert message.title == "ALARM gift/credit: the oldest job waits for 80 s, the limit is 60 s"
    assert message.text.splitlines() == [
        "gift/credit: the oldest job waits for 80 s, the limit is 60 s",
        "  since 2027-01-15 07:58:30 UTC, 90 s",
        "  cause: gift/credit is paused, 5 jobs wait",
        "  affects: system live (Live, live-team), 5 jobs wait",
        "  next: 'pbus topic resume gift/credit'",
        "  'pbus alarm ack oldest_wait:gift/credit' says that you have it in hand",
    ]


def test_message_that_it_is_over_says_how_long_it_lasted() -> None:
    message = composed("m1", "team", OVER, [alarm(over_s=AT)], AT + 5)

    assert message.text.splitlines()[1:] == ["  since 2027-01-15 07:58:30 UTC, over after 90 s"]


def test_message_of_a_thousand_alarms_is_one_that_a_document_holds() -> None:
    long = "ü" * 64
    message = composed("m1", "team", FIRING, [
        alarm(f"{long}/{long}{number}", cause="c" * 200, affected="a" * 200, todo="t" * 200, value=math.inf,
              kind="gone_in")
        for number in range(1000)
    ], AT, "bus-1")

    assert message.title == "ALARM 1000: 1000 gone_in"
    assert message.text.endswith(".. and 985 more: 'pbus alarm ls' on bus-1")
    assert message.count == 1000
    assert 10 < len(message.alarms) <= LISTED
    assert len(message.to_text().encode()) < TEXT_BYTES
    assert read(message.to_text()) == message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x"}', '{"alarms": 1}'])
def test_what_is_no_message_is_none(text: str) -> None:
    assert read(text) is None


def test_tries_come_at_growing_distances_until_they_are_given_up() -> None:
    message, now_s, waits = composed("m1", "team", FIRING, [alarm()], AT), AT, list[float]()
    while message.is_open:
        message = ended(tried(message, now_s, 60.0), now_s, "refused")
        waits.append(message.next_s - now_s)
        now_s = message.next_s

    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(waits) == 300.0
    assert message.gave_up
    assert now_s - AT >= GIVE_UP_S


def test_try_that_nobody_ends_is_made_again_after_its_lease() -> None:
    message = tried(composed("m1", "team", FIRING, [alarm()], AT), AT, 60.0)

    assert (message.is_open, message.next_s, message.tries) == (True, AT + 60, 1)
    assert not ended(message, AT + 1, "").is_open


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("message", [
    composed("m1", "t", FIRING, [alarm(f"q{number}/t", cause="<b> *x* & `y`" * 20) for number in range(30)], AT),
    composed("m1", "t", ESCALATED, [alarm()], AT), trial("m1", "t", AT, "ann"),
], ids=["many", "escalated", "test"])
def test_shape_is_json_with_the_title_once_and_within_bounds(shape: str, message: Message) -> None:
    sent = json.dumps(body(shape, message, AT), ensure_ascii=False)

    assert len(sent.encode()) < (6_000 if shape != "json" else TEXT_BYTES)
    assert len(body("wecom", message, AT)["markdown"]["content"].encode()) <= 4_096
    assert sent.count(message.title.replace("_", "\\\\_") if shape in ("dingtalk", "wecom") else message.title) >= 1


def test_shapes_are_as_their_services_document_them() -> None:
    message = trial("m1", "team", AT, "ann")
    text = "TEST of notifier team: sent by ann at 2027-01-15 08:00:00 UTC. Nothing is wrong."

    assert body("slack", message, AT) == {"text": text}
    assert body("feishu", message, AT) == {"msg_type": "text", "content": {"text": text}}
    assert body("wecom", message, AT) == {"msgtype": "markdown", "markdown": {"content": text}}
    assert body("dingtalk", message, AT) == {
        "msgtype": "markdown", "markdown": {"title": "TEST of notifier team", "text": text},
    }
    assert body("json", message, AT) == {
        "v": 1, "id": "m1", "status": "test", "title": "TEST of notifier team", "text": text, "count": 0, "alarms": [],
        "made_s": AT,
    }


def test_signed_messages_carry_time_and_signature() -> None:
    assert url("dingtalk", "https://x/?access_token=1", AT, "SEC").startswith(
        "https://x/?access_token=1&timestamp=1800000000000&sign="
    )
    assert url("dingtalk", "https://x/", AT) == url("slack", "https://x/", AT, "SEC") == "https://x/"
    signed = body("feishu", trial("m", "t", AT, ""), AT, "SEC")
    assert (signed["timestamp"], len(signed["sign"])) == ("1800000000", 44)


@pytest.mark.parametrize(("shape", "answer", "why"), [
    ("json", b"whatever", ""), ("slack", b"ok", ""), ("dingtalk", b'{"errcode":0,"errmsg":"ok"}', ""),
    ("dingtalk", b'{"errcode":310000,"errmsg":"keywords not in content"}', "errcode 310000: keywords not in content"),
    ("wecom", b'{"errcode":93000,"errmsg":"invalid webhook url"}', "invalid webhook url"),
    ("feishu", b'{"code":19021,"msg":"sign match fail"}', "code 19021: sign match fail"), ("feishu", b'{"code":0}', ""),
    ("wecom", b"<html>", "'<html>'"), ("feishu", b"[]", "'[]'"),
])
def test_receiver_that_refuses_within_a_good_answer_is_found_out(shape: str, answer: bytes, why: str) -> None:
    found = refusal(shape, answer)

    assert (why in found) if why else (found == "")


def test_message_that_was_taken_has_no_error() -> None:
    message = ended(replace(trial("m", "t", AT, ""), error="x", tries=2), AT + 9, "")

    assert (message.sent_s, message.error, message.is_open) == (AT + 9, "", False)
