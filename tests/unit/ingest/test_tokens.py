"""Tokens: who bears one may do what its kind may, as long as its process lives; nobody else gets in by trying."""

from __future__ import annotations

import gevent
import hypothesis
import pytest
import structlog.testing
from hypothesis import strategies as st

from pbus.core import tokens
from pbus.core.names import Owner
from tests.unit.ingest.door import KEY, Client, Door, encode

GONE = (
    "WRONGPASS invalid username-password pair or user is disabled: nothing is stored; the token counts for one "
    "process of this machine, and that one is gone"
)


@pytest.mark.parametrize(
    "words",
    [
        ("AUTH", "{}"), ("AUTH", "gift:{}"), ("AUTH", "gift/credit:{}"), ("AUTH", "nobody", "{}"),
        ("AUTH", "default", "{}"), ("AUTH", "default", "gift/credit:{}"), ("HELLO", "2", "AUTH", "default", "{}"),
        ("HELLO", "3", "AUTH", "safe", "{}"),
    ],
)
@pytest.mark.parametrize("kind", tokens.KINDS)
def test_token_is_a_password_of_any_name(door: Door, client: Client, kind: str, words: tuple[str, ...]) -> None:
    token, _ = door.token(kind)

    answer = client.ask(*[word.format(token) for word in words])

    assert answer == "OK" or words[0] == "HELLO"
    assert "user=gift/credit" in client.ask("CLIENT", "INFO")


def test_push_token_pushes_to_every_queue(door: Door, client: Client) -> None:
    token, _ = door.token(tokens.PUSH, "gift/mail")
    client.ask("AUTH", "token", token)

    assert client.ask("LPUSH", "safe", "a") == 1
    assert client.ask("PBUS.ADD", "gift", "b").startswith("1000-")
    assert client.ask("LPUSH", "mail", "c") == 1


def test_push_token_takes_nothing(door: Door, client: Client) -> None:
    token, _ = door.token(tokens.PUSH, "safe/credit")
    client.ask("AUTH", token)

    assert client.ask("RPOP", "safe/credit") == "NOPERM safe/credit may not take from safe/credit: nothing taken"


def test_pepper_token_pushes_to_no_queue_that_is_guarded(door: Door, client: Client) -> None:
    token, _ = door.token(tokens.PEPPER, "safe/credit")
    client.ask("AUTH", token)

    assert client.ask("LPUSH", "safe", "a") == "NOPERM the token of safe/credit may not push to safe: not stored"


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_token_of_a_process_that_is_gone_is_refused(door: Door, client: Client, kind: str) -> None:
    token, slot = door.token(kind)
    door.child.scoreboard.bury(slot, 0)

    assert client.ask("AUTH", token) == GONE
    assert client.ask("AUTH", "gift", token) == GONE
    assert client.ask("HELLO", "3", "AUTH", "gift", token) == GONE


def test_token_of_a_slot_that_somebody_else_lives_in_is_refused(door: Door, client: Client) -> None:
    token, slot = door.token(tokens.PUSH)
    slot.update(n=8)

    assert client.ask("AUTH", token) == GONE


@pytest.mark.parametrize("owner", [Owner("node", "before", 1, 7), Owner("elsewhere", "boot", 1, 7)])
def test_token_of_another_boot_or_node_is_refused(door: Door, client: Client, owner: Owner) -> None:
    door.process(n=7)

    assert client.ask("AUTH", tokens.make(KEY, tokens.PUSH, owner, "gift/credit")) == GONE


def test_token_from_another_machine_is_refused(door: Door) -> None:
    token, _ = door.token(tokens.PUSH)

    assert door.client(local=False).ask("AUTH", token) == GONE


def test_token_from_this_machine_counts_by_an_address_that_others_see(door: Door) -> None:
    token, _ = door.token(tokens.PUSH)

    assert door.tcp_client(local=False).ask("AUTH", token) == "OK"


def test_token_ends_with_its_process_in_the_middle_of_a_connection(door: Door, client: Client) -> None:
    token, slot = door.token(tokens.PUSH)
    client.ask("AUTH", token)
    assert client.ask("LPUSH", "safe", "a") == 1
    assert client.ask("LPUSH", "safe", "b") == 2                  # by the short way

    door.child.scoreboard.bury(slot, -9)

    assert client.ask("LPUSH", "safe", "c") == "WRONGPASS the process of this token is gone: not stored"
    assert client.ask("LLEN", "safe") == "WRONGPASS the process of this token is gone: nothing is done"
    assert client.ask("PING") == "PONG"
    assert client.ask("AUTH", "safe", "pw") == "OK"
    assert client.ask("LPUSH", "safe", "c") == 3


def test_honest_token_waits_for_nobody_who_guesses(door: Door) -> None:
    token, _ = door.token(tokens.PUSH)
    guesser = door.client()
    for number in range(30):
        guesser.command("AUTH", f"{token[:-1]}{number}")
    door.until(lambda: len(door.server.guesses._known) > 0)

    with gevent.Timeout(1):
        assert door.client().ask("AUTH", token) == "OK"


def test_forged_tokens_are_slowed_down_like_passwords(door: Door, client: Client) -> None:
    token, _ = door.token(tokens.PUSH)
    forged = token[:-1] + ("0" if token[-1] != "0" else "1")

    client.send(encode("AUTH", forged) * 20)

    answers = [client.read() for _ in range(11)]
    assert all(answer.startswith("WRONGPASS invalid username-password pair") for answer in answers[:10])
    assert client.silent(0.3), "the tenth wrong one makes the next ones wait"


def test_ingest_child_without_a_key_takes_no_token(door: Door, client: Client) -> None:
    door.server.tokens._key = b""
    owner, _ = door.process()

    assert client.ask("AUTH", tokens.make(b"", tokens.PUSH, owner, "gift/credit")).startswith("WRONGPASS")


@pytest.mark.parametrize(
    "words",
    [
        ("{}",), ("LPUSH", "{}", "x"), ("RPOP", "{}"), ("RPOP", "{}/credit"), ("LLEN", "{}"), ("CLIENT", "{}"),
        ("HELLO", "3", "{}"), ("AUTH", "{}", "x"), ("XADD", "gift", "{}", "body", "x"),
        ("PBUS.ADD", "gift", "x", "{}", "y"), ("PBUS.ADD", "gift", "x", "delay", "{}"), ("COMMAND", "{}"),
    ],
)
def test_no_answer_and_no_line_of_the_log_shows_a_token(door: Door, words: tuple[str, ...]) -> None:
    token, _ = door.token(tokens.PEPPER)
    with structlog.testing.capture_logs() as lines:
        client = door.client()
        door.server.log = structlog.get_logger()
        answer = str(client.ask(*[word.format(token) for word in words]))

    mac = token.rpartition(":")[2]
    for text in (answer, str(lines)):
        assert mac[:12] not in text
        assert token not in text


_DOORS: list[Door] = []


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.sampled_from(tokens.KINDS), st.integers(0, 200), st.characters(codec="utf-8"))
def test_changed_token_opens_nothing(kind: str, place: int, character: str) -> None:
    """A token is a whole: whatever is changed in it, it is none, for the reader and for the server."""
    if not _DOORS:
        _DOORS.append(Door())
    reader, child = _DOORS[0].server.tokens, _DOORS[0].child
    token = tokens.make(KEY, kind, Owner("node", "boot", 1, 7), "gift/credit")
    place %= len(token)
    changed = token[:place] + character + token[place + 1:]

    known = reader.read(b"", changed.encode())

    assert (known is not None) is (changed == token)
    assert child.token_key == KEY
