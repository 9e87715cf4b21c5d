"""MULTI .. EXEC: pushes of a transaction are one write, the rest is done after it, and EXEC answers for all."""

from __future__ import annotations

import pytest

from tests.unit.ingest.door import Client, Door, encode

QUEUED = "QUEUED"


def multi(client: Client, *commands: tuple[str, ...]) -> object:
    """The reply to EXEC; each of *commands* must be queued."""
    assert client.ask("MULTI") == "OK"
    for words in commands:
        assert client.ask(*words) == QUEUED, words
    return client.ask("EXEC")


def test_pushes_of_a_transaction_are_one_append_and_one_group(door: Door, client: Client) -> None:
    replies = multi(client, ("LPUSH", "gift", "a", "b"), ("LPUSH", "mail", "c"), ("PUBLISH", "gift", "d"))

    assert replies == [3, 1, 2]
    (append,) = door.driver.appends
    assert [(push.queue, push.body, push.whole) for push in append] == [
        ("gift", b"a", 4), ("gift", b"b", 0), ("mail", b"c", 0), ("gift", b"d", 0),
    ]


def test_nothing_is_stored_before_exec_nor_after_discard(door: Door, client: Client) -> None:
    client.ask("MULTI")
    assert client.ask("LPUSH", "gift", "a") == QUEUED
    assert client.ask("DISCARD") == "OK"
    assert client.ask("EXEC") == "ERR EXEC without MULTI"

    assert client.ask("LPUSH", "gift", "b") == 1
    assert [[push.body for push in append] for append in door.driver.appends] == [[b"b"]]
