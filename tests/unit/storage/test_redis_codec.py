"""What the Redis driver writes, as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.job import Push, PushOptions
from pbus.core.plain import Plain
from pbus.storage import redis_codec
from pbus.storage.driver import Appended, DeadLetter, Entry, Want

WANT = Want("n/b/1.1", "gift", "credit", 9)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=256)


@given(st.lists(st.builds(Push, st.just("gift"), st.binary(max_size=300), texts, texts), max_size=6))
def test_envelopes_open_as_they_were_packed(pushes: list[Push]) -> None:
    packed = redis_codec.packed(pushes)

    assert [redis_codec.open_envelope(one) for one in packed.envelopes] == [
        (push.body, push.traceparent, push.content_type) for push in pushes
    ]
    assert (packed.rows, packed.with_options) == ([], False)
    assert packed.size == sum(len(push.body) for push in pushes)


def test_envelopes_carry_the_bytes_before_them() -> None:
    packed = redis_codec.packed([Push("gift", b"abc"), Push("gift", b"", "t"), Push("gift", b"de")])

    assert packed.envelopes == [b"0:0:0:abc", b"3:1:0:t", b"3:0:0:de"]


def test_groups_are_stretches_of_their_queues() -> None:
    pushes = [
        Push("gift", b""), Push("order", b"", whole=4), Push("gift", b"", span=2), Push("gift", b"", span=0),
        Push("order", b""), Push("gift", b""), Push("gift", b"", whole=2), Push("gift", b""),
        Push("order", b"", whole=1),
    ]

    assert redis_codec.groups(pushes) == [3, 2, 0, 1, 1, 1, 3, 2, 1, 2, 1, 1, 4, 6, 1, 2, 2, 3]


def test_what_is_no_plain_push_has_a_row() -> None:
    packed = redis_codec.packed([
        Push("gift", b"a"), Push("gift", b"b", span=2), Push("gift", b"c", span=0),
        Push("gift", b"d", options=PushOptions(5, "d", 7, "k", only="credit", dedupe_s=9.0)),
    ])

    assert packed.rows == [1, 2, 0, 0, "", "", "", 0, 3, 1, 5, 7, "k", "d", "credit", 9_000]
    assert packed.with_options


def test_options_are_read_from_a_packed_body() -> None:
    assert redis_codec.open_packed(b"o10:5:70:k:e y0:0:0:a") == (70, "k:e y", b"0:0:0:a")
    assert redis_codec.open_packed(b"0:0:0:a") == (0, "", b"0:0:0:a")


def test_bytes_of_somebody_else_are_no_envelope() -> None:
    with pytest.raises(ValueError, match="unpack"):
        redis_codec.open_envelope(b"hello")


def test_deliveries_put_what_was_back_first() -> None:
    back = [b"5-0", b"s2:1:1:77:1:0::k:2", b"o7:0:0:k:20:0:0:a"]
    fresh = [b"6-0", b"0:2:1:tpcb", b"6-1", b"1:0:0:c"]

    first, second, third = redis_codec.deliveries(WANT, back, fresh)

    assert (first.id, first.attempt, first.crashes, first.redelivered, first.first_ms) == ("5-0", 3, 1, True, 77)
    assert (first.body, first.key, first.forgiven) == (b"a", "k:2", 1)
    assert (second.id, second.body, second.traceparent, second.content_type) == ("6-0", b"b", "tp", "c")
    assert (third.attempt, third.crashes, third.redelivered, third.first_ms) == (1, 0, False, 0)
    assert {one.owner for one in (first, second, third)} == {WANT.owner}


def test_answer_to_an_append_is_one_entry_a_push() -> None:
    assert redis_codec.appended(b"7 1700000000000 3 2 12 4", 2) == [
        Appended("1700000000000-3", 12, 4), Appended("1700000000000-4", 12, 4),
    ]


def test_answer_to_an_append_names_what_was_not_stored() -> None:
    answers = redis_codec.appended(b"7 1700000000000 3 2 12 4 1:J 2:=5-0 3:B", 5)

    assert answers == [
        Appended("1700000000000-3", 12, 4),
        Appended("", 12, 4, refused="jobs"),
        Appended("5-0", 12, 4, duplicate=True),
        Appended("", 12, 4, refused="bytes"),
        Appended("1700000000000-4", 12, 4),
    ]


def test_ids_order_by_number_not_by_letter() -> None:
    assert sorted(["9-10", "10-0", "9-9"], key=redis_codec.id_order) == ["9-9", "9-10", "10-0"]


def test_dead_letter_keeps_colons_and_bytes_that_are_no_text() -> None:
    letter = redis_codec.dead_letter(
        "gift", "credit", b"1-0", 5, b"16:6:4:3:1:0:0:2:0::k:yfailedbeef12:30: bad \xff"
    )

    assert letter == DeadLetter("gift", "credit", "1-0", 5, 3, 1, "failed", "12:30: bad \ufffd", "beef")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([b"b", b"0:0:0:body"], Entry("5-1", b"body")),
        ([b"o", b"0:0:k:1", b"b", b"7:2:4:00textbody"], Entry("5-1", b"body", "00", "k:1")),
        ([b"foreign", b"nonsense"], Entry("5-1", b"nonsense")),
        ([b"o", b"nonsense", b"b", b"0:0:0:body"], Entry("5-1", b"0:0:0:body")),
    ],
)
def test_entry_of_the_log(fields: list[bytes], wanted: Entry) -> None:
    assert redis_codec.entry(b"5-1", fields) == wanted


def test_pushes_without_objects_are_packed_like_the_same_pushes() -> None:
    plain = Plain("gift", [b"a", b"", b"bcd", b"e"])

    assert redis_codec.packed(plain) == redis_codec.packed(list(plain))
