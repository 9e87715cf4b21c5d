"""What differs between two configurations, as people read it; and what a running bus cannot take over."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from pbus.config.difference import changes, pack
from pbus.config.standing import keep_standing
from tests.unit.config.files import PYTHON_TOPIC, load


def lines(tmp_path: Path, before: str, after: str) -> list[str]:
    old = pack(load(tmp_path, before))
    return [str(change).replace(f"{tmp_path}/conf.d/", "") for change in changes(old, pack(load(tmp_path, after), old))]


def test_files_that_say_the_same_differ_in_nothing(tmp_path: Path) -> None:
    assert lines(tmp_path, PYTHON_TOPIC, f"\n# a word\n{PYTHON_TOPIC}") == []


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("", 'timeout = "5s"', ["~ a.toml: queue.gift.topic.credit.timeout: 1m -> 5s"]),
    ('timeout = "5s"', "", ["~ a.toml: queue.gift.topic.credit.timeout: 5s -> 1m"]),
    ("", "concurrency = 3", [
        "~ a.toml: queue.gift.topic.credit.concurrency.max: 1 -> 3",
        "~ a.toml: queue.gift.topic.credit.concurrency.min: 1 -> 3",
    ]),
])
def test_a_key_with_another_value_is_one_line(
    tmp_path: Path, before: str, after: str, expected: list[str]
) -> None:
    assert lines(tmp_path, PYTHON_TOPIC + before, PYTHON_TOPIC + after) == expected


def test_what_is_new_and_what_is_gone_is_told_as_the_file_says_it(tmp_path: Path) -> None:
    more = '[queue.gift.topic.rank]\npython = { call = "gift.jobs:rank" }\n'
    assert lines(tmp_path, PYTHON_TOPIC, PYTHON_TOPIC + more) == [
        "+ a.toml: queue.gift.topic.rank.python.call: gift.jobs:rank"
    ]
    assert lines(tmp_path, PYTHON_TOPIC + more, PYTHON_TOPIC) == [
        "- a.toml: queue.gift.topic.rank.python.call: gift.jobs:rank"
    ]


def test_a_password_that_changed_is_told_and_not_shown(tmp_path: Path) -> None:
    alpha, beta = (f'[queue.gift]\npassword = "{word}-secret"\n{PYTHON_TOPIC}' for word in ("alpha", "beta"))
    told = lines(tmp_path, alpha, beta)
    assert told == ["~ a.toml: queue.gift.password: *** -> ***"]
    assert b"alpha" not in zlib.decompress(pack(load(tmp_path, alpha))[16:])


def test_what_only_a_restart_changes_stays_and_is_named(tmp_path: Path) -> None:
    running = load(tmp_path, '[node]\ndata_dir = "one"\ngrace = "5s"\n' + PYTHON_TOPIC).settings
    wanted = load(tmp_path, '[node]\ndata_dir = "two"\ngrace = "9s"\n' + PYTHON_TOPIC).settings

    kept, waiting = keep_standing(wanted, running)

    assert waiting == ("node.data_dir",)
    assert (kept.node.data_dir, kept.node.grace_s) == (running.node.data_dir, 9.0)
    assert kept.storage["main"].url == running.storage["main"].url


def test_a_queue_stays_in_its_storage_even_if_the_files_have_it_no_more(tmp_path: Path) -> None:
    here = '[storage.main]\nurl = "sqlite:a.db"\n[storage.other]\nurl = "sqlite:b.db"\n[queue.gift]\nstorage = "other"\n'
    there = '[storage.main]\nurl = "sqlite:a.db"\n'
    running = load(tmp_path, here + PYTHON_TOPIC).settings

    kept, waiting = keep_standing(load(tmp_path, there + PYTHON_TOPIC).settings, running)

    assert waiting == ("queue.gift.storage", "storage.other")
    assert kept.queue["gift"].storage == "other"
    assert kept.storage["other"] == running.storage["other"]


def test_new_storages_and_queues_are_taken_as_they_are(tmp_path: Path) -> None:
    running = load(tmp_path, PYTHON_TOPIC).settings
    more = '[storage.main]\nurl = "sqlite:pbus.db"\n[storage.new]\nurl = "sqlite:new.db"\n[queue.mail]\nstorage = "new"\n'
    wanted = load(tmp_path, PYTHON_TOPIC + more + '[queue.mail.topic.send]\npython = { call = "a:b" }').settings
    kept, waiting = keep_standing(wanted, running)
    assert waiting == ()
    assert kept == wanted
