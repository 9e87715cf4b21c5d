"""Whatever a JSON body has at a path, its mark is that of the value, or the body is parsed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core.index import AT_ONCE_S, NONE, PARSED_BYTES, SHARE, Effort, column, mark, matches, value_at

SCALARS = st.one_of(st.integers(), st.booleans(), st.none(), st.text(max_size=12))
NAMES = st.sampled_from(["uid", "id", "uid2", "order", "ui\\d", "\"uid\""])
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)), max_leaves=8)
BODIES = st.dictionaries(NAMES, VALUES, max_size=5)


@given(body=BODIES, spaces=st.booleans(), ascii_only=st.booleans())
def test_mark_finds_every_value_that_parsing_finds(body: object, spaces: bool, ascii_only: bool) -> None:
    separators = (" , ", " : ") if spaces else (",", ":")
    raw = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    for path in ("$.uid", "$.order.id"):
        wanted = value_at(raw, path)
        if wanted is not None:
            assert column(path)([raw]) == [mark(wanted.encode("utf-8", "surrogatepass"))]


@pytest.mark.parametrize(("body", "value"), [
    (b'{"uid":88123}', "88123"),
    (b'{"uid" : "88123"}', "88123"),
    (b'{"note":"uid","uid":5}', "5"),
    (b'{"room":{"uid":1},"uid":2}', "2"),
    (b'{"uid":{"uid":1}}', None),
    (b'{"u\\u0069d":7}', "7"),
    (b'{"uid":"h\\u00e9"}', "h\u00e9"),
    ('{"uid":"h\u00e9"}'.encode(), "h\u00e9"),
    (b'{"uid":true}', "true"),
    (b'{"uid":[1]}', None),
    (b'{"uid":""}', ""),
    (b'["uid"]', None),
    (b"not json", None),
    (b"", None),
    (b"\xff\xfe", None),
    (b"[" * 10_000, None),
])
def test_mark_is_that_of_the_value(body: bytes, value: str | None) -> None:
    assert value_at(body, "$.uid") == value
    assert column("$.uid")([body]) == [NONE if value is None else mark(value.encode())]


def test_mark_of_a_long_body_comes_from_its_text_alone() -> None:
    padding = b'"note":"' + b"x" * PARSED_BYTES + b'",'

    assert column("$.uid")([b"{" + padding + b'"uid":5}']) == [mark(b"5")]
    assert column("$.uid")([b"{" + padding + b'"uid":"a\\n"}']) == [NONE]


def test_mark_is_never_none_for_a_value() -> None:
    assert mark(b"") != NONE, "the checksum of nothing is 0"


def test_match_compares_text_and_numbers() -> None:
    assert matches(b'{"uid":88123}', "$.uid", "88123")
    assert matches(b'{"uid":"88123"}', "$.uid", "88123")
    assert matches(b'{"uid":1e3}', "$.uid", "1000")
    assert not matches(b'{"uid":88124}', "$.uid", "88123")
    assert not matches(b'{"room":{"uid":88123}}', "$.uid", "88123")
    assert matches(b'{"room":{"uid":88123}}', "$.room.uid", "88123")


@pytest.mark.parametrize("path", ["", "uid", "$", "$.", "$..uid", "$.a[0]", "$.a.*", "$.uid ", "$" + ".a" * 9])
def test_path_that_cannot_be_indexed_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        column(path)


def test_effort_is_bounded_over_any_time() -> None:
    effort, spent_s, now_s = Effort(5.0), 0.0, 5.0
    while now_s < 15.0:
        if effort.allows(now_s):
            effort.spend(0.001)
            spent_s += 0.001
        now_s += 0.001
    assert 10 * SHARE < spent_s < 10 * SHARE + AT_ONCE_S + 0.002
    assert not effort.allows(now_s - 60.0), "a clock that goes back gives nothing"
    for second in range(60):
        assert effort.allows(now_s + 60.0 + second)
        effort.spend(SHARE * 0.9)
