"""URLs of a Redis storage."""

from __future__ import annotations

import pytest

from pbus.errors import BootError, Exit
from pbus.storage.redis_address import Address, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1", Address("127.0.0.1", 6379, "", 0, "", "")),
        ("redis://store.example:6380/2", Address("store.example", 6380, "", 2, "", "")),
        ("redis://pbus@[::1]:7000/", Address("::1", 7000, "", 0, "pbus", "")),
        ("redis://pbus:a%2Fb@h", Address("h", 6379, "", 0, "pbus", "a/b")),
        ("redis+unix:///run/redis/redis.sock", Address("", 0, "/run/redis/redis.sock", 0, "", "")),
        ("redis+unix:///run/a%20b.sock?db=3", Address("", 0, "/run/a b.sock", 3, "", "")),
        ("redis+unix://pbus@/run/redis.sock", Address("", 0, "/run/redis.sock", 0, "pbus", "")),
    ],
)
def test_url_names_an_address(url: str, address: Address) -> None:
    assert parse(url) == address


def test_configured_password_wins_over_the_urls() -> None:
    assert parse("redis://u:old@h", "new").password == "new"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://", "names no host"),
        ("redis://h:port", "Port"),
        ("redis://h/two", "'two' is not the number of a database"),
        ("redis://h?db=2", "takes no options"),
        ("redis://h#2", "'#'"),
        ("redis+unix://run/redis.sock", "absolute path"),
        ("redis+unix:///run/redis.sock?base=2", "unknown option 'base'"),
        ("redis+unix:///run/redis.sock?db=-1", "'-1' is not the number"),
        ("rediss://h", "not rediss://"),
    ],
)
def test_wrong_url_stops_the_start_and_says_why(url: str, what: str) -> None:
    with pytest.raises(BootError, match=what) as raised:
        parse(url)

    assert raised.value.exit_status is Exit.CONFIG


def test_password_is_never_shown() -> None:
    address = parse("redis://pbus:s3cret@h:1/2")
    with pytest.raises(BootError) as raised:
        parse("redis://pbus:s3cret@h/two")

    assert "s3cret" not in f"{address} {address!r} {raised.value}"
    assert str(address) == "redis://h:1/2"
    assert str(parse("redis+unix:///run/r.sock?db=2")) == "redis+unix:///run/r.sock?db=2"
