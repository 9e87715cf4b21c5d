"""Failed AUTHs are told once a second: who, from where, how often, and never a password."""

from __future__ import annotations

from typing import Any

import pytest

from pbus.config.schema import Queue, System
from pbus.ingest.access import Directory
from pbus.ingest.failures import COMPARED, NOTED, Failure, Failures, host_of
from tests.unit.ingest.door import Client, Door

DIRECTORY = Directory({"gift": Queue(password="old-gift\nnew-gift"), "mail": Queue()}, {"live": System(password="pw")})


def told(door: Door) -> list[Any]:
    """What the master hears at the next look."""
    door.server._sweep()
    return [row for kind, fields in door.child.told if kind == "door" for row in fields["failed"]]


def test_failures_are_told_by_address_and_identity(door: Door) -> None:
    client = door.client(local=False)
    tries = ("AUTH safe 1", "AUTH safe:2", "HELLO 3 AUTH live 3", "AUTH sefe 4")
    for words in tries:
        client.ask(*words.split())

    assert told(door) == [
        ("192.0.2.1", "safe", "safe", 2), ("192.0.2.1", "live", "live", 1), ("192.0.2.1", "", "sefe", 1),
    ]
    door.child.told.clear()
    assert told(door) == []


def test_right_password_is_no_failure(door: Door, client: Client) -> None:
    client.ask("AUTH", "safe", "pw")

    assert told(door) == []


def test_tries_that_are_not_looked_at_count_too(door: Door) -> None:
    clients = [door.client(local=False) for _ in range(20)]
    for client in clients:
        client.command("AUTH", "safe", "x")
    door.until(lambda: len(door.server.failures._noted) >= 16)

    assert told(door)[0][3] >= 16


@pytest.mark.parametrize("words", [
    ("AUTH", "correct-horse"), ("AUTH", "default", "correct-horse"), ("HELLO", "3", "AUTH", "default", "correct-horse"),
    ("AUTH", "correct:horse"), ("AUTH", "topic-pw", "safe/own"), ("AUTH", "topic-pw"),
])
def test_password_that_was_given_for_a_name_is_not_told(door: Door, words: tuple[str, ...]) -> None:
    door.client().ask(*words)

    assert told(door) == [("unix", "", "", 1)]


@pytest.mark.parametrize(("name", "alone", "shown"), [
    ("gift", True, "gift"), ("gift", False, "gift"), ("gfit", True, "gfit"), ("stranger", False, "stranger"),
    ("stranger", True, ""), ("new-gift", False, ""), ("old-gift", True, ""), ("", True, ""), ("pw", False, ""),
])
def test_name_is_shown_where_it_is_no_password(name: str, alone: bool, shown: str) -> None:
    assert DIRECTORY.showable(name, alone) == shown


def test_what_a_terminal_would_obey_is_not_told(door: Door) -> None:
    door.client().ask("AUTH", "\x1b[31msafe" + "x" * 200, "y")

    ((_, _, tried, _),) = told(door)
    assert tried.startswith("?[31msafexxx")
    assert len(tried) <= 66


def test_work_and_memory_of_a_second_are_bounded() -> None:
    failures = Failures(DIRECTORY)
    for number in range(NOTED + 500):
        failures.note(Failure(f"10.0.{number >> 8}.{number & 255}:1", "gfit", True))
    rows = failures.take()

    assert len(rows) == NOTED
    assert [tried for _, _, tried, _ in rows].count("gfit") == COMPARED
    assert failures.take() == []


@pytest.mark.parametrize(("peer", "host"), [
    ("10.0.0.7:4711", "10.0.0.7"), ("unix", "unix"), ("::1:4711", "::1"), ("::ffff:10.0.0.7:5", "10.0.0.7"),
])
def test_address_is_told_without_its_port(peer: str, host: str) -> None:
    assert host_of(peer) == host
