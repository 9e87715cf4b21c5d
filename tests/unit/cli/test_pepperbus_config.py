"""A Pepperbus configuration means the same here, or it is a problem that names its place; nothing runs more often."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from pbus.cli.pepperbus_config import attempts_of, convert, to_toml, toml_value
from pbus.config.load import load
from pbus.config.schema import Settings
from pbus.errors import ConfigError

REDIS = {"type": "redis", "address": "10.0.0.5:6379", "auth": "secret", "max_conn_num": 30}
FPM = {
    "name": "credit", "password": "pw", "retry_times": 3, "max_queue_length": 1000, "run_type": 0, "storage": REDIS,
    "num_of_workers": 5, "script_entry": "/data/consume.php", "cgi_config_key": "local", "is_retry": True,
    "retry_time": 3600,
}
HTTP = {
    "name": "mail", "password": "other", "run_type": 1, "num_of_workers": 10, "script_entry": "http://10.0.0.9:80/jobs",
    "http_config": '{"host":"jobs.example"}', "storage": REDIS,
}
COMMAND = {
    "name": "feed", "run_type": 2, "script": "/srv/worker.php", "entry": "Feed,run", "max_children": 4, "max_task": 500,
    "storage": REDIS, "is_retry": True, "retry_time": 60,
}
CGI = {"local": {"address": "127.0.0.1:9001", "connect_timeout": 200_000_000, "read_timeout": 3_000_000_000,
                 "max_conn_num": 15, "reuse_life": 30_000_000_000}}


def config(**topics: Any) -> dict[str, Any]:
    return {"gift": {"queue_name": "gift", "password": "pw", "topic": topics}}


def settings_of(text: str, tmp_path: Path, storage: str = "") -> Settings:
    """What pbus makes of the converted file."""
    folder = tmp_path / "conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "pepperbus.toml").write_text(to_toml(convert(text, "queue.json"), "queue.json", storage))
    return load(str(folder))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        convert(text, "queue.json")
    return [str(problem) for problem in raised.value.problems]


def test_php_fpm_topic(tmp_path: Path) -> None:
    text = json.dumps({"queue_config": config(credit=FPM), "cgi_config": CGI})

    settings = settings_of(text, tmp_path)

    queue, topic = settings.queue["gift"], settings.queue["gift"].topic["credit"]
    assert (queue.pepper, queue.password, topic.password) == (True, "pw", "")
    assert topic.fastcgi is not None
    assert (topic.fastcgi.backend, topic.fastcgi.script) == ("local", "/data/consume.php")
    assert (topic.concurrency.min, topic.concurrency.max, topic.timeout_s) == (1, 5, 3.0)
    assert (topic.retry.attempts, topic.retry.for_s, topic.on_unknown) == (17, 3600.0, "retry")
    backend = settings.backend["local"]
    assert (backend.fastcgi, backend.max_connections, backend.connect_timeout_s) == (["127.0.0.1:9001"], 15, 0.2)


def test_http_topic(tmp_path: Path) -> None:
    text = json.dumps({"queue_config": config(mail=HTTP), "http_config": {"request_timeout": 2_500_000_000}})

    topic = settings_of(text, tmp_path).queue["gift"].topic["mail"]

    assert topic.http is not None
    assert (topic.http.url, topic.http.contract, topic.http.host) == (
        "http://10.0.0.9:80/jobs", "pepper", "jobs.example"
    )
    assert (topic.concurrency.max, topic.timeout_s, topic.password) == (10, 2.5, "other")


def test_command_topic(tmp_path: Path) -> None:
    script = tmp_path / "worker.php"
    script.write_text("<?php")
    tree = tomllib.loads(to_toml(convert(json.dumps(config(feed=COMMAND)), "x"), "x"))["queue"]["gift"]["topic"]["feed"]

    assert tree["command"] == {
        "argv": ["php", "/srv/worker.php"], "protocol": "pepper", "stop_signal": "INT", "entry": "Feed,run",
        "max_jobs": 500,
    }
    assert tree["concurrency"] == {"min": 1, "max": 4}
    assert tree["timeout"] == "0s"
    assert tree["retry"] == {"attempts": 4, "for": "1m"}


@pytest.mark.parametrize("change", [
    {"is_retry": False}, {"is_retry": False, "retry_time": 86_400}, {"is_retry": True, "retry_time": 0},
    {"is_retry": True}, {},
])
def test_topic_without_retries_runs_a_job_once_and_never_by_itself_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    plain = {key: value for key, value in FPM.items() if key not in ("is_retry", "retry_time")}

    topic = settings_of(json.dumps(config(credit=plain | change)), tmp_path).queue["gift"].topic["credit"]

    assert (topic.retry.attempts, topic.on_unknown) == (1, "hold")


def old_runs(retry_time_s: int) -> int:
    """The loop of the old bus, with its clock: how often a job that always fails is sent to its handler."""
    now, runs, residue, began = 0, 0, 0, False
    while True:
        runs, sent_at = runs + 1, now
        if not began:
            residue = retry_time_s
        began = True
        if residue <= 0:
            return runs
        wait = (runs - 1) * 30
        now = max(now, sent_at + wait)
        residue -= wait


@pytest.mark.parametrize("retry_time", [0, 1, 29, 30, 31, 59, 60, 61, 89, 90, 91, 600, 3600, 86_400, 7 * 86_400])
def test_attempts_are_those_of_the_old_bus(retry_time: int) -> None:
    assert attempts_of(True, retry_time) == old_runs(retry_time)
    assert attempts_of(False, retry_time) == 1


@hypothesis.given(st.integers(0, 400_000))
def test_attempts_never_exceed_those_of_the_old_bus(retry_time: int) -> None:
    assert 1 <= attempts_of(True, retry_time) <= old_runs(retry_time)


@pytest.mark.parametrize("form", ["bare", "parts", "texts", "gokeeper"])
def test_every_way_to_write_it_means_the_same(form: str) -> None:
    parts = {"queue_config": config(credit=FPM, mail=HTTP), "cgi_config": CGI}
    wanted = convert(json.dumps(parts), "x").tree
    text = {
        "bare": json.dumps(parts["queue_config"]),
        "parts": json.dumps(parts, indent=2),
        "texts": json.dumps({name: json.dumps(part) for name, part in parts.items()}),
        "gokeeper": "# a comment\n\n" + "".join(
            f"{name} string = {json.dumps(part)}\n" for name, part in parts.items()
        ) + "task_debug_enable bool = true\n[10.0.0.1:19840]\nqueue_config string = {}\ntags []string = live\n",
    }[form]

    converted = convert(text, "x").tree

    if form == "bare":                                # it has no cgi_config, so no timeout
        del wanted["queue"]["gift"]["topic"]["credit"]["timeout"]
        assert converted["queue"] == wanted["queue"]
    else:
        assert converted == wanted


def test_backend_that_the_file_does_not_have_is_said_and_php_fpms_own(tmp_path: Path) -> None:
    converted = convert(json.dumps(config(credit=FPM)), "x")

    assert converted.tree["backend"] == {"local": {"fastcgi": ["127.0.0.1:9000"]}}
    assert "cgi_config has no 'local': [backend.local] is php-fpm's default, 127.0.0.1:9000" in converted.notes


def test_what_has_no_counterpart_is_a_note(tmp_path: Path) -> None:
    text = json.dumps({
        "queue_config": config(credit=FPM | {"is_retry": False, "num_of_workers": 0}),
        "tags_mapping": {"live": {"gift": []}},
    })

    notes = "\n".join(convert(text, "x").notes)

    for part in ("max_queue_length = 1000", "retry_times was not looked at", "num_of_workers was 0", "tags_mapping"):
        assert part in notes
    assert all(line.startswith("# ") for line in to_toml(convert(text, "x"), "a\nb").splitlines()[:5])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"num_of_workers": "5"}, "gift.topic.credit.num_of_workers: takes a whole number from 0 on, not \"5\""),
        ({"num_of_workers": -1}, "gift.topic.credit.num_of_workers: takes a whole number from 0 on, not -1"),
        ({"num_of_workers": 1.5}, "gift.topic.credit.num_of_workers: takes a whole number from 0 on, not 1.5"),
        ({"retry_time": True}, "gift.topic.credit.retry_time: takes a whole number from 0 on, not true"),
        ({"is_retry": 1}, "gift.topic.credit.is_retry: takes true or false, not 1"),
        ({"is_retry": None}, "gift.topic.credit.is_retry: takes true or false, not null"),
        ({"run_type": 3}, "gift.topic.credit.run_type: 3 is unknown: 0 is php-fpm, 1 HTTP, 2 a command"),
        ({"script_entry": ""}, "gift.topic.credit.script_entry: is missing"),
        ({"script_entry": 7}, "gift.topic.credit.script_entry: takes a text, not 7"),
        ({"storage": {"type": "mysql"}}, "gift.topic.credit.storage.type: 'mysql' is unknown, jobs are read from "
                                         "redis only"),
        ({"storage": "redis"}, "gift.topic.credit.storage: takes an object, not \"redis\""),
        ({"cgi_config_key": "a b"}, "gift.topic.credit.cgi_config_key: 'a b' is no name for a backend here"),
    ],
)
def test_one_bad_value_is_a_problem_that_names_it(change: dict[str, Any], wanted: str) -> None:
    assert problems(json.dumps(config(credit=FPM | change))) == [f"queue.json: queue_config.{wanted}"]


def test_every_problem_is_named_at_once() -> None:
    text = json.dumps({"queue_config": {
        "gift": {"password": 1, "topic": {"credit": FPM | {"run_type": "x"}, "a/b": HTTP}}, "bad name": {"topic": []},
        "more": 7,
    }, "cgi_config": []})

    found = "\n".join(problems(text))

    for part in (
        "queue_config.gift.password: takes a text", "credit.run_type: takes a whole number",
        "topic.a/b: is no name for a topic", "queue_config.bad name: is no name for a queue",
        "queue_config.bad name.topic: takes an object", "queue_config.more: takes an object", "cgi_config: takes an",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "queue.json: is neither a JSON object nor a queue.conf with a line 'queue_config string = ..'"),
        ("[]", "queue.json: is neither a JSON object nor a queue.conf with a line 'queue_config string = ..'"),
        ("{}", "queue.json: queue_config: has no topic"),
        ('{"a": {"topic": {}}}', "queue.json: queue_config: has no topic"),
        ('{"a": 1, "a": 2}', "queue.json: has the key 'a' twice in one object"),
        ('{"a": NaN}', "queue.json: is no JSON: NaN is no number"),
    ],
)
def test_file_that_is_no_configuration(text: str, wanted: str) -> None:
    assert problems(text)[0] == wanted


def test_broken_json_is_shown_where_it_is_broken() -> None:
    (first, *_) = problems('{"gift": {"topic": {"credit": {"run_type": 0,, }}}}')

    assert first.startswith("queue.json: is no JSON: Expecting property name enclosed in double quotes")
    assert "line 1 column 46" in first
    assert "\"run_type\": 0,, }" in first


def test_storage_is_written_when_it_is_asked_for(tmp_path: Path) -> None:
    settings = settings_of(json.dumps(config(mail=HTTP)), tmp_path, "redis://127.0.0.1:6379/1")

    assert settings.storage["main"].url == "redis://127.0.0.1:6379/1"


def test_stored_jobs_are_where_the_topic_says() -> None:
    (credit, feed) = convert(json.dumps(config(credit=FPM, feed=COMMAND | {"is_retry": False})), "x").topics

    assert (credit.queue, credit.topic, credit.address, credit.auth, credit.attempts) == (
        "gift", "credit", "10.0.0.5:6379", "secret", 17
    )
    assert feed.attempts == 1


@hypothesis.given(st.text(st.characters(exclude_categories=("Cs",)), max_size=80))
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text.replace("${", "$${")


_NUMBERS = st.integers(-5, 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8,
)
_FIELDS = (*FPM, *HTTP, *COMMAND)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6), st.sampled_from([FPM, HTTP, COMMAND]),
    st.text(st.sampled_from("ab./ \"'${}é\x7f\n"), max_size=10),
)
def test_any_values_are_converted_or_named(changes: dict[str, Any], base: dict[str, Any], password: str) -> None:
    """Never a traceback, never a file that TOML cannot read."""
    text = json.dumps({"gift": {"password": password, "topic": {"credit": base | changes}}})
    try:
        converted = convert(text, "queue.json")
    except ConfigError:
        return

    topic = tomllib.loads(to_toml(converted, "queue.json"))["queue"]["gift"]["topic"]["credit"]

    assert sum(kind in topic for kind in ("fastcgi", "http", "command")) == 1
    assert topic["retry"]["attempts"] >= 1
    assert topic["retry"]["attempts"] > 1 or topic["on_unknown"] == "hold"
