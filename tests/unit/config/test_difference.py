"""What differs between two configurations, as people read it; and what a running bus cannot take over."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.config.difference import changes, touched
from pbus.config.standing import keep_standing
from tests.unit.config.files import PYTHON_TOPIC, load


def lines(tmp_path: Path, before: str, after: str) -> list[str]:
    old, new = load(tmp_path, before), load(tmp_path, after)
    return [str(change).replace(f"{tmp_path}/conf.d/", "") for change in changes(old, new)]


def test_files_that_say_the_same_differ_in_nothing(tmp_path: Path) -> None:
    assert lines(tmp_path, PYTHON_TOPIC, f"\n# a word\n{PYTHON_TOPIC}") == []


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("", 'timeout = "5s"', ["~ a.toml: queue.gift.topic.credit.timeout: 1m -> 5s"]),
    ('timeout = "5s"', "", ["~ a.toml: queue.gift.topic.credit.timeout: 5s -> 1m"]),
    ("", "concurrency = 3", [
        "~ a.toml: queue.gift.topic.credit.concurrency.min: 1 -> 3",
        "~ a.toml: queue.gift.topic.credit.concurrency.max: 1 -> 3",
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


def test_a_table_of_which_nothing_is_said_is_told_to_be_there(tmp_path: Path) -> None:
    pulled = "[queue.gift.topic.rank]\npull = {}\n"
    assert lines(tmp_path, PYTHON_TOPIC, PYTHON_TOPIC + pulled) == ["+ a.toml: queue.gift.topic.rank.pull: {}"]


def test_a_password_that_changed_is_told_and_not_shown(tmp_path: Path) -> None:
    alpha, beta = (f'[queue.gift]\npassword = "{word}-secret"\n{PYTHON_TOPIC}' for word in ("alpha", "beta"))
    told = lines(tmp_path, alpha, beta)
    assert told == ["~ a.toml: queue.gift.password: *** -> ***"]


def test_parameters_are_told_one_by_one_and_credentials_are_masked(tmp_path: Path) -> None:
    topic = '[queue.gift.topic.credit]\nhttp = {{ url = "http://a:1/", headers = {{ {} }} }}\n'
    told = lines(tmp_path, topic.format('a = "1", token = "x", gone = "2"'), topic.format('a = "3", token = "y"'))
    assert told == [
        "~ a.toml: queue.gift.topic.credit.http.headers.a: 1 -> 3",
        "~ a.toml: queue.gift.topic.credit.http.headers.token: *** -> ***",
        "- a.toml: queue.gift.topic.credit.http.headers.gone: 2",
    ]


def test_another_kind_of_handler_is_one_that_goes_and_one_that_comes(tmp_path: Path) -> None:
    other = '[queue.gift.topic.credit]\nhttp = { url = "http://a:1/" }\n'
    assert lines(tmp_path, PYTHON_TOPIC, other) == [
        "+ a.toml: queue.gift.topic.credit.http.url: http://a:1/",
        "- a.toml: queue.gift.topic.credit.python.call: gift.jobs:credit",
    ]


def test_topics_that_differ_are_known_with_those_whose_queue_does(tmp_path: Path) -> None:
    rank = '[queue.gift.topic.rank]\npython = { call = "a:b" }\n'
    old = load(tmp_path, PYTHON_TOPIC + rank)
    assert touched(old, load(tmp_path, PYTHON_TOPIC + rank)) == ()
    assert touched(old, load(tmp_path, PYTHON_TOPIC + rank + "batch = 1\ntimeout = \"2s\"")) == ("gift/rank",)
    assert touched(old, load(tmp_path, PYTHON_TOPIC)) == ("gift/rank",)
    more = load(tmp_path, PYTHON_TOPIC + rank + "[queue.gift]\nimportance = 1")
    assert touched(old, more) == ("gift/credit", "gift/rank")


def test_what_only_a_restart_changes_stays_and_is_named(tmp_path: Path) -> None:
    running = load(tmp_path, '[node]\ndata_dir = "one"\ngrace = "5s"\n' + PYTHON_TOPIC).settings
    wanted = load(tmp_path, '[node]\ndata_dir = "two"\ngrace = "9s"\n' + PYTHON_TOPIC).settings

    kept, waiting = keep_standing(wanted, running)

    assert waiting == ("node.data_dir",)
    assert (kept.node.data_dir, kept.node.grace_s) == (running.node.data_dir, 9.0)
    assert kept.storage["main"].url == running.storage["main"].url


def test_a_queue_stays_in_its_storage_even_if_the_files_have_it_no_more(tmp_path: Path) -> None:
    there = '[storage.main]\nurl = "sqlite:a.db"\n'
    here = there + '[storage.other]\nurl = "sqlite:b.db"\n[queue.gift]\nstorage = "other"\n'
    running = load(tmp_path, here + PYTHON_TOPIC).settings

    kept, waiting = keep_standing(load(tmp_path, there + PYTHON_TOPIC).settings, running)

    assert waiting == ("queue.gift.storage", "storage.other")
    assert kept.queue["gift"].storage == "other"
    assert kept.storage["other"] == running.storage["other"]


def test_new_storages_and_queues_are_taken_as_they_are(tmp_path: Path) -> None:
    running = load(tmp_path, PYTHON_TOPIC).settings
    more = '[storage.main]\nurl = "sqlite:pbus.db"\n[storage.new]\nurl = "sqlite:new.db"\n'
    mail = '[queue.mail]\nstorage = "new"\n[queue.mail.topic.send]\npython = { call = "a:b" }'
    wanted = load(tmp_path, PYTHON_TOPIC + more + mail).settings
    kept, waiting = keep_standing(wanted, running)
    assert waiting == ()
    assert kept == wanted
