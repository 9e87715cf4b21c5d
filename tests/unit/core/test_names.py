"""Names, paths, owners and job ids: what is accepted, and that text and value are one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.core import names
from pbus.core.names import Owner, is_name, job_id_ms, split_topic_path, topic_path

good_names = st.from_regex(names.NAME, fullmatch=True)
counts = st.integers(0, 1 << 40)


@pytest.mark.parametrize("name", ["a", "_", "0", "gift", "gift.v2", "a-b_c.D9", "a" * 64])
def test_names_that_are_fine(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "-", ".a", "-a", "a" * 65, "a b", "a/b", "a:b", "a\n", "a\x00", "ä", "礼物", "a{b}", "../a", "a*"]
)
def test_names_that_could_be_a_key_pattern_a_path_or_a_label(name: str) -> None:
    assert not is_name(name)


@given(good_names, good_names)
def test_topic_path_is_split_again(queue: str, topic: str) -> None:
    assert split_topic_path(topic_path(queue, topic)) == (queue, topic)


@given(st.text())
def test_split_topic_path_answers_two_names_or_refuses(path: str) -> None:
    try:
        queue, topic = split_topic_path(path)
    except ValueError:
        return
    assert is_name(queue)
    assert is_name(topic)
    assert path == f"{queue}/{topic}"


@pytest.mark.parametrize("path", ["gift", "gift/", "/credit", "a/b/c", "", "/", "gift/credit\n"])
def test_split_topic_path_names_what_it_refuses(path: str) -> None:
    with pytest.raises(ValueError, match="QUEUE/TOPIC"):
        split_topic_path(path)


@given(st.integers(0, 10**14 - 1), st.integers(0, 10**20 - 1))
def test_job_id_carries_its_time(ms: int, sequence: int) -> None:
    assert job_id_ms(f"{ms}-{sequence}") == ms


@pytest.mark.parametrize(
    "text",
    ["", "-", "1-", "-1", "1", "1-2-3", "1 -2", "a-b", "1-2\n", "+1-2", "1.5-2", "9" * 15 + "-0", "0-" + "9" * 21,
     "١-٢"],
)
def test_job_id_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        job_id_ms(text)


@given(good_names, good_names, counts, counts)
def test_owner_is_read_as_it_was_written(node: str, boot: str, slot: int, n: int) -> None:
    owner = Owner(node, boot, slot, n)

    assert Owner.parse(str(owner)) == owner


owners = st.builds(Owner, good_names, good_names, counts, counts)


@given(owners, owners)
def test_different_owners_are_written_differently(one: Owner, other: Owner) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("text", ["", "n1", "n1/b1", "n1/b1/1", "n1/b1/1.2.3", "n1/b1/x.1", "n1/b1/1.2/3", "n1/b1/1.y"])
def test_owner_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is int's or unpacking's own
        Owner.parse(text)
