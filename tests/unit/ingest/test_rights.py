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
    "push own queue": "LPUSH safe a",
    "push, typed": "XADD safe * body a",
    "push, the other typed": "PBUS.ADD safe a",
    "push, published": "PUBLISH safe a",
    "push an open queue": "LPUSH gift a",
    "look at an open queue": "LLEN gift",
    "pull an open topic": "RPOP gift/credit",
    "push nowhere": "LPUSH nope a",
    "look at the queue": "LLEN safe",
    "look at its numbers": "HGETALL safe",
    "look at its jobs": "XRANGE safe - +",
    "look at its topic": "LLEN safe/own",
    "look at its jobs, back": "XREVRANGE safe + -",
    "look at the stream": "XINFO STREAM safe",
    "look at its consumers": "XINFO CONSUMERS safe own",
    "look at open claims": "XPENDING safe own",
    "look at another topic": "LLEN safe/credit",
    "look nowhere": "LLEN nope",
    "cancel": "XDEL safe 1-1",
    "cancel of a topic": "LREM safe/own 0 1-1",
    "cancel nowhere": "XDEL nope 1-1",
    "pull": "RPOP safe/own",
    "pull, blocking": "BRPOP safe/own 0.01",
    "pull, claimed": "XREADGROUP GROUP own c STREAMS safe >",
    "acknowledge": "XACK safe own 1-1",
    "refuse a job": "PBUS.NACK safe own 1-1",
    "make a group": "XGROUP CREATE safe own $",
    "claim what is idle": "XAUTOCLAIM safe own c 0 0",
    "claim by id": "XCLAIM safe own c 0 1-1",
    "settle without a token": "PBUS.SETTLE done",
    "name a parent": "PBUS.PARENT 1000-1",
    "pull another topic": "RPOP safe/credit",
    "acknowledge another topic": "XACK safe credit 1-1",
    "pull nowhere": "RPOP nope/t",
    "look at no topic": "LLEN safe/nope",
    "look at consumers of no topic": "XINFO CONSUMERS safe nope",
    "pull no topic": "XREADGROUP GROUP nope c STREAMS safe >",
    "acknowledge no topic": "XACK safe nope 1-1",
    "ping": "PING",
}
IDENTITIES: Final = ("stranger", "nobody here", "queue", "topic", "system", "other queue")
_OPEN: Final = ("NOAUTH", "ok", "NOPERM", "NOPERM", "NOPERM", "NOPERM")
_PUSH: Final = ("NOAUTH", "NOAUTH", "ok", "NOPERM", "ok", "NOPERM")
_TOPIC_LOOK: Final = ("NOAUTH", "NOAUTH", "ok", "ok", "ok", "NOPERM")
_PULL: Final = ("NOAUTH", "NOAUTH", "NOPERM", "ok", "NOPERM", "NOPERM")
_NO_TOPIC: Final = ("NOAUTH", "NOAUTH", "NOTOPIC", "NOTOPIC", "NOTOPIC", "NOPERM")
_NOT_THERE: Final = ("NOAUTH", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE", "NOQUEUE")
TABLE: Final = {
    #                             stranger nobody here   queue      topic     system   other queue
    "push own queue":            ("NOAUTH", "NOAUTH",   "ok",     "NOPERM",   "ok",     "NOPERM"),
    "push, typed":               _PUSH,
    "push, the other typed":     _PUSH,
    "push, published":           _PUSH,
    "push an open queue":        _OPEN,
    "look at an open queue":     _OPEN,
    "pull an open topic":        _OPEN,
    "push nowhere":              _NOT_THERE,
    "look at the queue":         ("NOAUTH", "NOAUTH",   "ok",     "NOPERM",   "ok",     "NOPERM"),
    "look at its numbers":       _PUSH,
    "look at its jobs":          _PUSH,
    "look at its jobs, back":    _PUSH,
    "look at the stream":        _PUSH,
    "look at its consumers":     _TOPIC_LOOK,
    "look at its topic":         ("NOAUTH", "NOAUTH",   "ok",     "ok",       "ok",     "NOPERM"),
    "look at open claims":       _TOPIC_LOOK,
    "look at another topic":     ("NOAUTH", "NOAUTH",   "ok",     "NOPERM",   "ok",     "NOPERM"),
    "look nowhere":              _NOT_THERE,
    "cancel":                    ("NOAUTH", "NOAUTH",   "ok",     "NOPERM",   "ok",     "NOPERM"),
    "cancel of a topic":         _PUSH,
    "cancel nowhere":            _NOT_THERE,
    "pull":                      ("NOAUTH", "NOAUTH",   "NOPERM", "ok",       "NOPERM", "NOPERM"),
    "pull, blocking":            _PULL,
    "pull, claimed":             _PULL,
    "acknowledge":               _PULL,
    "refuse a job":              _PULL,
    "make a group":              ("NOAUTH", "NOAUTH",   *("BUSYGROUP",) * 3,              "NOPERM"),
    "claim what is idle":        _TOPIC_LOOK,
    "claim by id":               _TOPIC_LOOK,
    "settle without a token":    ("NOAUTH", *("NOPERM",) * 5),
    "name a parent":             ("NOAUTH", *("ok",) * 5),
    "pull another topic":        ("NOAUTH", "NOAUTH",   "NOPERM", "NOPERM",   "NOPERM", "NOPERM"),
    "acknowledge another topic": ("NOAUTH", "NOAUTH",   "NOPERM", "NOPERM",   "NOPERM", "NOPERM"),
    "pull nowhere":              _NOT_THERE,
    "look at no topic":          _NO_TOPIC,
    "look at consumers of no topic": _NO_TOPIC,
    "pull no topic":             _NO_TOPIC,
    "acknowledge no topic":      _NO_TOPIC,
    "ping":                      ("ok",) * 6,
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
    word = reply.partition(" ")[0] if isinstance(reply, str) else ""
    return word if word.isupper() and word not in ("PONG", "OK") else "ok"


@pytest.mark.parametrize("what", list(TABLE))
@pytest.mark.parametrize("identity", IDENTITIES)
def test_identity_may_do_what_the_table_says(door: Door, identity: str, what: str) -> None:
    client = identified(door, identity)

    assert word_of(client.ask(*COMMANDS[what].split())) == TABLE[what][IDENTITIES.index(identity)]


def test_table_has_every_command_that_touches_jobs() -> None:
    there = {row.act for row in ROWS if row.name in {words.split()[0].lower() for words in COMMANDS.values()}}
    missing = [row.name for row in ROWS if row.doc.group in ("push", "pull", "look", "cancel") and row.act not in there]

    assert missing == []
    assert set(COMMANDS) == set(TABLE)


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


def test_topic_hears_of_itself_alone_which_topics_there_are(door: Door) -> None:
    reply = identified(door, "topic").ask("RPOP", "safe/nope")

    assert reply == "NOTOPIC 'safe/nope' is no topic (topics of safe that can be pulled: safe/own): nothing taken"


def test_wrong_password_sounds_the_same_for_every_name(door: Door) -> None:
    names = ("safe", "safe/own", "live", "nope", "gift")
    said = {door.client(local=False).ask("AUTH", name, "wrong") for name in names}

    assert len(said) == 1


def test_every_name_is_compared_with_as_many_passwords() -> None:
    """Constant time: two comparisons of digests, whatever the name and however many passwords it has."""
    queues = {"one": Queue(password="a"), "two": Queue(password="a\nb"), "open": Queue()}
    directory = Directory(queues, {"live": System(password="x"), "bare": System()})
    for name in ("one", "two", "open", "live", "bare", "nobody"):
        for password in (b"wrong", b"a", b"b", b""):
            assert _comparisons(directory, name, password) == 2, (name, password)


def _comparisons(directory: Directory, name: str, password: bytes) -> int:
    """How many digests are compared when *name* tries *password*."""
    called: list[str] = []
    sys.setprofile(lambda _, event, what: called.append(getattr(what, "__name__", "") if event == "c_call" else ""))
    try:
        directory.authenticate(name, password, True)
    finally:
        sys.setprofile(None)
    return called.count("compare_digest")


def test_system_without_a_password_is_nobody() -> None:
    directory = Directory({"gift": Queue(system="bare")}, {"bare": System()})

    assert directory.authenticate("bare", b"", True) is None
    assert directory.authenticate("nobody", b"", True) is None
    assert directory.authenticate("gift", b"", True) is not None
