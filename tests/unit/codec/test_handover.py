"""Records of connections on their way: what is written is read again, and nothing else is."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.codec import handover
from pbus.codec.handover import HandoverError, Identity, Record, decode, encode

moments = st.floats(allow_nan=False)
numbers = st.integers(-(1 << 63), (1 << 63) - 1)
st.register_type_strategy(float, moments)
st.register_type_strategy(int, numbers)
records = st.from_type(Record)


def simple() -> Record:
    return Record(
        id=1, peer="unix", protocol=2, name=b"", library=None, began_s=0.5,
        identity=Identity(kind="nobody", name="", local=True),
    )


@settings(max_examples=200, deadline=None)
@given(records)
def test_decode_of_encode_is_the_record(record: Record) -> None:
    assert decode(encode(record)) == record


@settings(max_examples=50, deadline=None)
@given(records, st.data())
def test_every_cut_is_a_clear_error(record: Record, data: st.DataObject) -> None:
    whole = encode(record)
    end = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(HandoverError):
        decode(whole[:end])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_clear_error(data: bytes) -> None:
    with pytest.raises(HandoverError):
        decode(data)


@settings(max_examples=200, deadline=None)
@given(records, st.data())
def test_a_flipped_byte_is_a_record_or_a_clear_error(record: Record, data: st.DataObject) -> None:
    whole = bytearray(encode(record))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(whole))
    except HandoverError:
        return
    assert type(found) is Record


def test_another_version_is_told() -> None:
    with pytest.raises(HandoverError, match="version 99"):
        decode(msgpack.packb([99, []]))


def test_a_field_of_another_kind_is_named() -> None:
    (version, fields) = msgpack.unpackb(encode(simple()))
    fields[2] = "three"

    with pytest.raises(HandoverError, match=r"record\.protocol: str"):
        decode(msgpack.packb([version, fields]))


def test_the_fields_of_this_version_are_these() -> None:
    """A field more or less is another version: processes of both speak to each other during an upgrade."""
    shape = {kind.__name__: list(names) for kind, names in handover._FIELDS.items()}

    assert handover.VERSION == 1
    assert shape == {
        "Identity": ["kind", "name", "local", "proofs", "owner"],
        "ClaimState": [
            "id", "queue", "topic", "attempt", "crashes", "redelivered", "traceparent", "content_type", "first_ms",
            "owner", "key", "forgiven", "replay_of", "span", "since_s", "consumer",
        ],
        "Blocked": [
            "kind", "keys", "topics", "count", "many", "deadline_s", "consumer", "keeps", "acked", "prepared",
        ],
        "Sending": ["kind", "claims"],
        "Said": ["kind", "words", "lasts", "text", "size", "limit"],
        "Queued": ["commands", "refused"],
        "Record": [
            "id", "peer", "protocol", "name", "library", "began_s", "identity", "queued", "parent", "said", "unread",
            "started_s", "ended", "unsent", "stuck_s", "sendings", "unsure", "blocked", "claims", "oldest_s",
        ],
    }
