"""Secrets and bodies do not get into a log."""

from __future__ import annotations

import pytest

from pbus.config.schema import Queue, Settings, Storage, System
from pbus.telemetry.redact import Redactor, secrets_of


@pytest.mark.parametrize(
    "key", ["password", "db_passwd", "db_pass", "Authorization", "auth", "token", "api_key", "set-cookie", "pass"]
)
def test_secret_is_hidden_by_the_name_of_its_key(key: str) -> None:
    assert Redactor().value(key, "hunter2") == "***"


@pytest.mark.parametrize("key", ["author", "passed", "compass", "job", "err"])
def test_ordinary_key_is_left_alone(key: str) -> None:
    assert Redactor().value(key, "hunter2") == "hunter2"


def test_known_secret_is_hidden_inside_any_text() -> None:
    redactor = Redactor(["s3cr3t-pass"])
    assert redactor.value("err", "AUTH gift s3cr3t-pass failed") == "AUTH gift *** failed"
    assert redactor.value("data", {"a": ["x s3cr3t-pass"]}) == {"a": ["x ***"]}


def test_short_secret_is_hidden_as_a_whole_word_only() -> None:
    assert Redactor(["on"]).text("connection on port") == "connection *** port"


def test_longest_secret_wins() -> None:
    assert Redactor(["password", "password-long"]).text("is password-long") == "is ***"


def test_userinfo_of_an_address_is_hidden() -> None:
    assert Redactor().text("redis://default:pw@10.0.0.1:6379/0 is away") == "redis://***@10.0.0.1:6379/0 is away"


def test_bytes_and_bodies_never_get_through() -> None:
    redactor = Redactor()
    assert redactor.value("err", b"job data") == "<8 bytes>"
    assert redactor.value("body", "job data") == "<8 hidden>"
    assert redactor.value("deep", {"payload": "job data"}) == {"payload": "<8 hidden>"}


def test_object_of_any_kind_is_shown_as_text() -> None:
    assert Redactor().value("err", ValueError("no")) == "no"


def test_recursion_ends() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    assert "<deep>" in str(Redactor().value("x", loop))


def test_secrets_of_finds_every_field_marked_secret() -> None:
    settings = Settings(
        storage={"main": Storage(url="redis://x", password="store-pw")},
        queue={"gift": Queue(password="queue-pw"), "free": Queue()},
        system={"live": System(password="system-pw")},
    )
    assert secrets_of(settings) == ["queue-pw", "store-pw", "system-pw"]
