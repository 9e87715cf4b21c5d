"""
Who may do what: every identity against every kind of command, as one table.

A cell is the first word of the error, or ``ok``. ``gift`` is open, ``safe`` and its topic ``own`` have passwords,
``live`` is the system of ``safe``. Rule: strangers hear NOAUTH before anything else, so they learn no name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import pytest

from pbus.config.schema import PullHandler, Queue, System, Topic
from pbus.ingest.access import Directory
from pbus.ingest.commands import ROWS
from tests.unit.ingest.door import Client, Door

COMMANDS: Final = {
    "push own queue": ("LPUSH", "safe", "a"),
    "push, typed": ("XADD", "safe", "*", "body", "a"),
    "push an open queue": ("LPUSH", "gift", "a"),
    "push nowhere": ("LPUSH", "nope", "a"),
    "look at the queue": ("LLEN", "safe"),
    "look at its topic": ("LLEN", "safe/own"),
    "look at another topic": ("LLEN", "safe/credit"),
    "look nowhere": ("LLEN", "nope"),
    "pull": ("RPOP", "safe/own"),
    "pull, blocking": ("BRPOP", "safe/own", "0.01"),
    "pull another topic": ("RPOP", "safe/credit"),
    "pull nowhere": ("RPOP", "nope/t"),
    "ping": ("PING",),
}
IDENTITIES: Final = ("stranger", "nobody here", "queue", "topic", "system", "other queue")
TABLE: Final = {
    #                        stranger  nobody here  queue      topic     system    other queue
    "push own queue":        ("NOAUTH", "NOAUTH",  "ok",      "NOPERM", "ok",      "NOPERM"),
    "push, typed":           ("NOAUTH", "NOAUTH",  "ok",      "NOPERM", "ok",      "NOPERM"),
    "push an open queue":    ("NOAUTH", "ok",      "NOPERM",  "NOPERM", "NOPERM",  "NOPERM"),
    "push nowhere":          ("NOAUTH", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE"),
    "look at the queue":     ("NOAUTH", "NOAUTH",  "ok",      "NOPERM", "ok",      "NOPERM"),
    "look at its topic":     ("NOAUTH", "NOAUTH",  "ok",      "ok",     "ok",      "NOPERM"),
    "look at another topic": ("NOAUTH", "NOAUTH",  "ok",      "NOPERM", "ok",      "NOPERM"),
    "look nowhere":          ("NOAUTH", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE"),
    "pull":                  ("NOAUTH", "NOAUTH",  "NOPERM",  "ok",     "NOPERM",  "NOPERM"),
    "pull, blocking":        ("NOAUTH", "NOAUTH",  "NOPERM",  "ok",     "NOPERM",  "NOPERM"),
    "pull another topic":    ("NOAUTH", "NOAUTH",  "NOPERM",  "NOPERM", "NOPERM",  "NOPERM"),
    "pull nowhere":          ("NOAUTH", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE"),
    "ping":                  ("ok",     "ok",      "ok",      "ok",     "ok",      "ok"),
}  # fmt: skip
QUEUES: Final = {
    "gift": Queue(topic={"credit": Topic(pull=PullHandler())}),
    "safe": Queue(
        topic={"credit": Topic(pull=PullHandler()), "own": Topic(pull=PullHandler(), password="topic-pw")},
        password="pw", system="live",
    ),
    "other": Queue(topic={"t": Topic(pull=PullHandler())}, password="other-pw"),
}
WORDS: Final = {
    "queue": ("safe", "pw"), "topic": ("safe/own", "topic-pw"), "system": ("live", "live-pw"),
    "other queue": ("other", "other-pw"),
}


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door(queues=QUEUES)
    yield door
    door.close()


def identified(door: Door, identity: str) -> Client:
    """All but one come from elsewhere: what is open to this machine is open to each identity on it."""
    client = door.client(local=identity == "nobody here")
    if identity in WORDS:
        assert client.ask("AUTH", *WORDS[identity]) == "OK"
    return client


def word_of(reply: object) -> str:
    text = str(reply)
    return text.partition(" ")[0] if text.partition(" ")[0].isupper() and text != "PONG" else "ok"


@pytest.mark.parametrize("what", list(TABLE))
@pytest.mark.parametrize("identity", IDENTITIES)
def test_identity_may_do_what_the_table_says(door: Door, identity: str, what: str) -> None:
    client = identified(door, identity)

    assert word_of(client.ask(*COMMANDS[what])) == TABLE[what][IDENTITIES.index(identity)]


def test_stranger_learns_no_name_from_any_command(door: Door) -> None:
    """Whatever the command and whatever it names: the same answer for what is there and for what is not."""
    def answers(name: str) -> list[str]:
        stranger = door.client(local=False)
        said = []
        for row in ROWS:
            if not row.anonymous:
                words = [name] * (abs(row.arity) - 1)
                said.append(str(stranger.ask(row.name, *words)).replace(name, "NAME"))
        return said

    there, not_there = answers("safe"), answers("nope")
    assert there == not_there
    assert len(there) > 10
    assert {text.partition(" ")[0] for text in there} == {"NOAUTH"}


def test_wrong_password_sounds_the_same_for_every_name(door: Door) -> None:
    names = ("safe", "safe/own", "live", "nope", "gift")
    said = {door.client(local=False).ask("AUTH", name, "wrong") for name in names}

    assert len(said) == 1


def test_every_name_is_compared_with_as_many_passwords() -> None:
    """Constant time: two comparisons of digests, whatever the name and however many passwords it has."""
    queues = {"one": Queue(password="a"), "two": Queue(password="a\nb"), "open": Queue()}
    directory = Directory(queues, {"live": System(password="x"), "bare": System()})
    for name in ("one", "two", "open", "live", "bare", "nobody"):
        assert _comparisons(directory, name) == 2, name


def _comparisons(directory: Directory, name: str) -> int:
    """How many digests are compared when *name* tries a wrong password."""
    called: list[str] = []
    sys.setprofile(lambda _, event, what: called.append(getattr(what, "__name__", "") if event == "c_call" else ""))
    try:
        directory.authenticate(name, b"wrong", True)
    finally:
        sys.setprofile(None)
    return called.count("compare_digest")


def test_system_without_a_password_is_nobody() -> None:
    directory = Directory({"gift": Queue(system="bare")}, {"bare": System()})

    assert directory.authenticate("bare", b"", True) is None
    assert directory.authenticate("nobody", b"", True) is None
    assert directory.authenticate("gift", b"", True) is not None
