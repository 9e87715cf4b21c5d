"""Connections that cannot be made, and turns that do not come; no server is needed for either."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.clock import SystemClock
from pbus.storage.redis_address import parse
from pbus.storage.redis_errors import Lost
from pbus.storage.redis_link import Link


@pytest.mark.parametrize("url", ["redis+unix:///nowhere/redis.sock", "redis://127.0.0.1:1"])
def test_what_cannot_be_reached_was_certainly_not_sent(url: str) -> None:
    link = Link(parse(url), SystemClock())

    with link.session(1.0) as session, pytest.raises(Lost) as raised:
        session.exchange([("PING",)])

    assert not raised.value.sent


@pytest.mark.parametrize("url", ["redis+unix:///nowhere/redis.sock", "redis://127.0.0.1:1"])
def test_deadline_that_is_over_ends_a_call_before_it_begins(url: str) -> None:
    link = Link(parse(url), SystemClock())

    with link.session(1.0) as session:
        session.deadline.at_s = 0.0
        with pytest.raises(Lost, match="in time") as raised:
            session.exchange([("PING",)])

    assert not raised.value.sent


def test_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    link = Link(parse(f"redis+unix://{tmp_path}/{'x' * 120}"), SystemClock())

    with link.session(1.0) as session, pytest.raises(Lost, match="too long"):
        session.exchange([("PING",)])


def test_turn_that_does_not_come_ends_at_the_timeout() -> None:
    link = Link(parse("redis://127.0.0.1:1"), SystemClock(), sessions=1)

    with link.session(1.0), pytest.raises(Lost, match="all connections") as raised, link.session(0.05):
        pass

    assert not raised.value.sent
    with link.session(1.0) as session:  # the turn was given back
        assert session.next_number() == 1


def test_sessions_of_two_processes_have_different_names() -> None:
    links = [Link(parse("redis://127.0.0.1:1"), SystemClock()) for _ in range(2)]

    with links[0].session(1.0) as first, links[1].session(1.0) as second:
        assert first.name != second.name
