"""
What the program of a client does, prints, and what must be true of it.

A program gets these variables, and nothing else:

    PBUS_HOST PBUS_PORT   the bus
    PBUS_CUT_PORT         the same bus; the reply to the first push of each body that begins with ``CUT:`` gets lost,
                          its connection is closed instead
    PBUS_QUEUE            Q, a queue of its own with a pull topic ``t``. Also there, each with a pull topic ``t``:
                          Q.bulk, Q.cut; Q.safe with password ``pw``, its topic with ``tpw``. Shared by all: ``full``
                          (is at its max_backlog), ``away`` (in a store that freezes when asked to)

It uses the client with its defaults, and the client's own methods where it has them. It prints JSON lines:

    {"step": NAME, "got": {..}}         the result of a step, in the order of STEPS; ``note`` in it goes into the page
    {"step": NAME, "failed": TEXT}      the step ended in a way nobody expected; the program goes on with the next one
    {"ask": WHAT}                       then reads one line, which comes when it is done:
                                        ``freeze``, ``thaw``: the store of ``away``, no other program uses it in between
                                        ``close``: every connection was closed (all programs wait for it)
                                        ``restart``: the bus was stopped and started (all programs wait for it)

An *outcome* is the reply of a push (an integer or an id), or what the client showed instead: ``{"class", "text"}``, the
name of the exception's class as users write it, and its message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Got = Mapping[str, Any]

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

WORDS: Final = (
    "NOAUTH", "WRONGPASS", "NOPERM", "NOQUEUE", "NOTOPIC", "QUEUEFULL", "TOOBIG", "BADVALUE", "BUSYGROUP", "ERR",
    "MAYBESTORED", "UNAVAILABLE",
)
"""First words of the errors that step ``errors`` makes happen."""


def connect(got: Got) -> None:
    """``{"version": of the client, "ping": "PONG", "info": text of CLIENT INFO}``."""
    assert got["ping"] == "PONG"
    assert resp(got) in ("2", "3"), got["info"]
    assert got["version"]


def push(got: Got) -> None:
    """One LPUSH Q.bulk of the 100 PUSHED bodies: ``{"reply"}``."""
    assert got["reply"] >= 100


def push_typed(got: Got) -> None:
    """
    ``{"ids": [a, a], "plain": b}``.

    Twice XADD Q.bulk * body typed dedupe "Q order 4711" delay 1 ttl 60000 key k traceparent TRACEPARENT; once body
    plain.
    """
    first, again = got["ids"]
    assert first == again
    assert number(first) < number(got["plain"])


def pipeline(got: Got) -> None:
    """
    ``{"replies": [101 integers], "refused": [outcome, outcome, outcome] or outcome}``.

    A pipeline of LPUSH Q.bulk "pipe 0".."pipe 99" and LLEN Q.bulk. Then one of LPUSH Q.bulk "good 0", LPUSH nope bad,
    LPUSH Q.bulk "good 1"; a client that shows one exception for all of it prints that.
    """
    assert len(got["replies"]) == 101
    assert all(reply >= 1 for reply in got["replies"])
    refused = got["refused"]
    if isinstance(refused, list):
        assert [isinstance(outcome, int) for outcome in refused] == [True, False, True], refused
        refused = refused[1]
    says(refused, "NOQUEUE")


def transaction(got: Got) -> None:
    """
    ``{"replies": [integer, integer, integer], "discarded": outcome, "refused": outcome}``.

    The client's own transaction of LPUSH Q.bulk "both 0", LPUSH Q.bulk "both 1", LLEN Q.bulk. Then one of LPUSH Q.bulk
    never, LPUSH nope never, where the second push is refused at once: what the client shows, be it that of EXEC or of
    that push. Then one of LPUSH Q.bulk never, LPUSH full never, where all is queued and EXEC is refused.
    """
    first, second, backlog = got["replies"]
    assert second >= 2
    assert first >= 1
    assert backlog >= 2
    text = got["discarded"]["text"]
    assert any(sentence in text for sentence in ("Transaction discarded", _SENTENCES["NOQUEUE"])), text
    says(got["refused"], "QUEUEFULL")


def pool(got: Got) -> None:
    """
    ``{"mixed_up": 0, "pushed": 200}``.

    8 workers share one client (a pool, or one connection): each 25 times ECHO of a text of its own, which must come
    back, and LPUSH Q.bulk "pool WORKER TURN".
    """
    assert got["mixed_up"] == 0
    assert got["pushed"] == 200


def authenticate(got: Got) -> None:
    """
    ``{"user": integer, "password": integer, "topic": "safe 0"}``.

    LPUSH Q.safe "safe 0" as user Q.safe, password pw; LPUSH Q.safe "safe 1" with the password Q.safe:pw alone; RPOP
    Q.safe/t as user Q.safe/t, password tpw.
    """
    assert got["user"] >= 1
    assert got["password"] >= 2
    assert got["topic"] == "safe 0"


def pull(got: Got) -> None:
    """
    ``{"first": [entry, entry, entry], "rest": [entry, entry], "nothing": 0, "waited": 0, "open": 5}``.

    LPUSH Q "pull 0".."pull 3"; XADD Q * body "pull 4" traceparent TRACEPARENT. Then XREADGROUP GROUP t me .. STREAMS
    Q > with COUNT 3 BLOCK 2000; plain; plain (how many entries); BLOCK 50 (how many); and with 0 for > (how many). An
    entry is ``{"id", "body", "attempt", "redelivered", "traceparent"}``, all texts.
    """
    entries = got["first"] + got["rest"]
    assert [len(got["first"]), len(got["rest"])] == [3, 2]
    assert [entry["body"] for entry in entries] == [f"pull {index}" for index in range(5)]
    assert {entry["attempt"] for entry in entries} == {"1"}
    assert {entry["redelivered"] for entry in entries} == {"0"}
    assert entries[4]["traceparent"].startswith(TRACEPARENT[:35])
    assert [number(entry["id"]) for entry in entries] == sorted(number(entry["id"]) for entry in entries)
    assert (got["nothing"], got["waited"]) == (0, 0)
    assert got["open"] == 5


def look(got: Got) -> None:
    """
    ``{"pending": 5, "ids": [5 texts], "consumer": "me", "groups": ["t"], "consumers": ["me"], "last": id, "bodies": [5
    texts], "claimed": 0, "cancelled": 1}``.

    While pull's five are open: XPENDING Q t, its count; XPENDING Q t - + 10, ids and who has the first; names of XINFO
    GROUPS Q; names of XINFO CONSUMERS Q t; XINFO STREAM Q, the id of its last entry; bodies of XRANGE Q - + COUNT 100;
    XAUTOCLAIM Q t me 0 0-0, how many entries. Then XADD Q * body never delay 60000, and XDEL of that.
    """
    assert got["pending"] == 5
    assert len(got["ids"]) == 5
    assert got["consumer"] == "me"
    assert (got["groups"], got["consumers"]) == (["t"], ["me"])
    assert got["last"] == got["ids"][-1]
    assert got["bodies"] == [f"pull {index}" for index in range(5)]
    assert (got["claimed"], got["cancelled"]) == (0, 1)


def ack_elsewhere(got: Got) -> None:
    """``{"acked": 5, "again": 0, "open": 0}``: XACK Q t of pull's ids on another connection, twice; what is open."""
    assert (got["acked"], got["again"], got["open"]) == (5, 0, 0)


def nack(got: Got) -> None:
    """
    ``{"retried": 1, "attempt": "2", "dead": 1, "counted": "1"}``.

    LPUSH Q nack; XREADGROUP; PBUS.NACK Q t ID DELAY 0 REASON "not today"; XREADGROUP BLOCK 5000: its attempt; PBUS.NACK
    Q t ID DEAD; the field ``dead`` of HGETALL Q/t.
    """
    assert (got["retried"], got["attempt"], got["dead"], got["counted"]) == (1, "2", 1, "1")


def blocking_pop(got: Got) -> None:
    """
    ``{"got": ["Q/t", "wake"], "nothing": true}``.

    BRPOP Q/t 5 while another connection does LPUSH Q wake a little later; then BRPOP Q/t with the shortest time the
    client knows (0.05 or 1 s) comes back empty-handed.
    """
    key, body = got["got"]
    assert key.endswith("/t")
    assert body == "wake"
    assert got["nothing"] is True


def errors(got: Got) -> None:
    """
    ``{WORD: outcome for each of WORDS, "after": "PONG"}``, ``after`` on the connection of the refused pushes.

    NOAUTH: LPUSH Q.safe x. WRONGPASS: LPUSH as user Q.safe, password no. NOPERM: XREADGROUP GROUP t me STREAMS Q.safe >
    as user Q.safe. NOQUEUE: LPUSH nope x. NOTOPIC: XREADGROUP GROUP nope me STREAMS Q >. QUEUEFULL: LPUSH full x.
    TOOBIG: LPUSH Q of 1048577 bytes. BADVALUE: XADD Q * body x delay -1. BUSYGROUP: XGROUP CREATE Q t $. ERR: the
    command NOSUCH. MAYBESTORED, UNAVAILABLE: ask for freeze, LPUSH away x, LPUSH away x, ask for thaw.
    """
    for word in WORDS:
        says(got[word], word)
    assert got["after"] == "PONG"


_SENTENCES: Final = {
    "NOAUTH": "PASSWORD first: not stored", "WRONGPASS": "invalid username-password pair",
    "NOPERM": "may not take from", "NOQUEUE": "there is no queue 'nope': not stored",
    "NOTOPIC": "is no topic", "QUEUEFULL": "full holds 1 of 1 jobs",
    "TOOBIG": "takes at most 1048576 bytes", "BADVALUE": "delay takes whole milliseconds",
    "BUSYGROUP": "already exists", "ERR": "unknown command 'NOSUCH'", "MAYBESTORED": "maybe stored",
    "UNAVAILABLE": "is away",
}
"""What each of them says, which no other one does."""


def unanswered(got: Got) -> None:
    """
    ``{"plain": outcome, "dedupe": outcome}`` with PBUS_CUT_PORT for the port.

    LPUSH Q.cut "CUT:Q:plain"; XADD Q.cut * body "CUT:Q:dedupe" dedupe "Q cut".
    """
    assert set(got) >= {"plain", "dedupe"}


def reconnect(got: Got) -> None:
    """
    ``{"closed": [outcome ..], "restarted": [outcome ..]}``.

    LPUSH Q.cut before; ask for close; LPUSH Q.cut back, every 100 ms, until it is stored: the outcomes. Then ask for
    restart, and the same.
    """
    for outcomes in (got["closed"], got["restarted"]):
        assert isinstance(outcomes[-1], int), outcomes
        assert len(outcomes) <= 30, outcomes


STEPS: Final[Mapping[str, Callable[[Got], None]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        connect, push, push_typed, pipeline, transaction, pool, authenticate, pull, look, ack_elsewhere, nack,
        blocking_pop, errors, unanswered, reconnect,
    )
}
"""By name, in their order. The docstring says what the program does, the body what must be true."""

PUSHED: Final = [*(f"push {index}".encode() for index in range(97)), b"", "花椒 ñ".encode(), b"\x00\xff\r\n"]
"""Bodies of step ``push``, which arrive byte for byte."""


def bulk(steps: frozenset[str]) -> list[bytes]:
    """What must be in Q.bulk after these steps, sorted."""
    bodies = {
        "push": PUSHED,
        "push-typed": [b"typed", b"plain"],
        "pipeline": [*(f"pipe {index}".encode() for index in range(100)), b"good 0", b"good 1"],
        "transaction": [b"both 0", b"both 1"],
        "pool": [f"pool {worker} {turn}".encode() for worker in range(8) for turn in range(25)],
    }
    return sorted(body for step, some in bodies.items() if step in steps for body in some)


def number(job_id: str) -> tuple[int, int]:
    """An id as something that can be compared."""
    ms, _, sequence = job_id.partition("-")
    return int(ms), int(sequence)


def resp(got: Got) -> str:
    """The protocol version that CLIENT INFO told: ``2`` or ``3``."""
    fields = dict(field.partition("=")[::2] for field in got["info"].split())
    return fields.get("resp", "")


_SILENT: Final = (("WRONGPASS", "ErrorKind::AuthenticationFailed"), ("QUEUEFULL", "ErrorKind::UnexpectedReturnType"))
"""What redis-rs keeps to itself: what was said to a wrong password, and why EXEC was refused."""


def says(outcome: Any, word: str) -> None:
    """An error with the text of that word; the word itself is not shown by every client."""
    assert isinstance(outcome, Mapping), f"{word}: no error, {outcome!r}"
    assert outcome["class"], word
    assert (word, outcome["class"]) in _SILENT or _SENTENCES[word] in outcome["text"], outcome
