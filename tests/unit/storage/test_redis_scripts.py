"""Scripts and keys of the Redis driver: one method a file, one place for keys."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import pbus.storage
from pbus.core.job import Move, Settlement
from pbus.storage.keys import ENDINGS, QueueKeys
from pbus.storage.redis_scripts import NAMES, Script, Scripts, grouped

FOLDER = Path(pbus.storage.__path__[0])
LUA = sorted((FOLDER / "lua").glob("*.lua"))


def test_every_script_has_a_method_of_its_name() -> None:
    methods = {name for name, _ in inspect.getmembers(Scripts, inspect.isfunction) if not name.startswith("_")}

    assert {path.stem for path in LUA} - {"library"} == methods - {"load"} == set(NAMES)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_script_opens_with_its_keys_and_its_answer_and_spells_no_key(path: Path) -> None:
    text = path.read_text("utf-8")
    head = text[: text.index("\n\n")]

    assert "-- KEYS " in head
    assert "-- returns " in head
    assert ("-- ARGV " in head) == ("ARGV" in text.replace(head, ""))
    assert "pbus:" not in text


def test_keys_are_spelled_in_keys_py_only() -> None:
    spelled = [path.name for path in FOLDER.glob("*.py") if re.search(r"""["']pbus:""", path.read_text("utf-8"))]

    assert spelled == ["keys.py"]


@pytest.mark.parametrize("name", NAMES)
def test_script_knows_its_keys_by_their_endings(name: str) -> None:
    assert "$" not in re.sub(r"'[^'\n]*'", "", Script(name).text)  # but in patterns


def test_script_with_an_ending_that_keys_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENDINGS, "waiting")

    with pytest.raises(KeyError, match="waiting"):
        Script("claim")


def test_keys_of_a_queue_share_its_hash_tag() -> None:
    queue = QueueKeys("gift")
    topic = queue.topic("credit")
    spelled = [getattr(queue, name) for name in QueueKeys.__slots__ if name not in ("_topics", "name")]
    spelled += [getattr(topic, name) for name in topic.__slots__]

    assert all(key.startswith("pbus:{gift}:") for key in spelled)
    assert len(set(spelled)) == len(spelled)
    assert queue.topic("credit") is topic


def test_queues_whose_names_continue_each_other_share_no_key() -> None:
    assert QueueKeys("gift").topic("a.b").dead != QueueKeys("gift.a").topic("b").dead


def test_settlements_are_grouped_by_topic_and_owner_with_their_places() -> None:
    def item(owner: str, topic: str, job_id: str, move: Move = Move.ACK) -> Settlement:
        return Settlement(owner=owner, queue="gift", topic=topic, id=job_id, move=move, counts=True,
                          redelivered=True, delay_s=1.5, key_rest_s=2.0, reason="r", error="e", fingerprint="f")

    first, second = grouped([
        (0, item("a", "credit", "1-0")), (1, item("b", "credit", "2-0")),
        (3, item("a", "credit", "3-0", Move.RETRY)), (4, item("a", "credit", "4-0")),
    ])

    assert (first.topic, first.owner, first.acks, first.ack_places) == ("credit", "a", ["1-0", "4-0"], [0, 4])
    assert (first.others, first.other_places) == (["3-0", "T", 5, 1500, 2000, "r", "f", "e"], [3])
    assert (second.owner, second.acks, second.ack_places) == ("b", ["2-0"], [1])
