"""What tests of pulls say again and again: push to gift, read gift/credit."""

from __future__ import annotations

from typing import Any

from tests.unit.ingest.door import Client


def read(client: Client, *more: str, start: str = ">", consumer: str = "c") -> Any:
    """The entries of gift/credit; None: nil."""
    reply = client.ask("XREADGROUP", "GROUP", "credit", consumer, *more, "STREAMS", "gift", start)
    return reply if reply is None or isinstance(reply, str) else reply[0][1]


def ids(entries: Any) -> list[str]:
    return [entry[0] for entry in entries or []]


def push(client: Client, *bodies: str) -> None:
    client.ask("LPUSH", "gift", *bodies)
