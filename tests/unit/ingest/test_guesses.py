"""Wrong passwords: a handful is free, then one a second; by address and by identity."""

from __future__ import annotations

import gevent

from pbus.clock import FakeClock
from pbus.ingest.guesses import FREE, LONGEST_S, Guesses
from tests.unit.ingest.door import Client, Door

HERE = "192.0.2.1:4000"


def spent(clock: FakeClock) -> Guesses:
    guesses = Guesses(clock)
    for _ in range(FREE):
        assert guesses.wait_s(HERE, "gift") == 0.0
        guesses.failed(HERE, "gift")
    return guesses


def test_tries_are_a_second_apart_after_a_handful_of_failures() -> None:
    guesses = spent(FakeClock())

    assert [guesses.wait_s(HERE, "gift") for _ in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert guesses.wait_s(HERE, "gift") > LONGEST_S, "who would wait longer takes no place"


def test_other_ports_of_an_address_are_the_same_guesser_other_addresses_are_not() -> None:
    guesses = spent(FakeClock())
    guesses.wait_s(HERE, "gift")

    assert guesses.wait_s("192.0.2.1:4001", "gift") == 1.0
    assert guesses.wait_s("192.0.2.2:4000", "gift") == 0.0
    assert guesses.wait_s(HERE, "mail") == 0.0


def test_network_of_an_ipv6_customer_is_one_guesser() -> None:
    guesses = Guesses(FakeClock())
    for host in range(FREE + 1):
        guesses.wait_s(f"2001:db8::{host:x}:9", "gift")
        guesses.failed(f"2001:db8::{host:x}:9", "gift")

    assert guesses.wait_s("2001:db8::ffff:9", "gift") >= 0.0
    assert guesses.wait_s("2001:db8::ffff:9", "gift") > 0.0
    assert guesses.wait_s("2001:db8:0:1::1:9", "gift") == 0.0


def test_failures_are_forgotten_one_a_second() -> None:
    clock = FakeClock()
    guesses = spent(clock)
    clock.advance(FREE)

    assert [guesses.wait_s(HERE, "gift") for _ in range(3)] == [0.0] * 3


def test_memory_is_bounded() -> None:
    guesses = Guesses(FakeClock())
    for host in range(12_000):
        guesses.failed(f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}:1", "gift")

    assert len(guesses._known) == 10_000


# -- as clients meet it ---------------------------------------------------------------------------


def _guess(client: Client, password: str) -> str:
    return str(client.ask("AUTH", "safe", password))


def test_brute_force_is_slowed_whether_right_or_wrong(door: Door, client: Client) -> None:
    for number in range(FREE):
        assert _guess(client, str(number)).startswith("WRONGPASS")
    assert _guess(client, "wrong").startswith("WRONGPASS")

    others = [door.client() for _ in range(8)]
    for other in others:
        other.command("AUTH", "safe", "pw")
    refused = [other for other in others if _said(other).startswith("NOAUTH too many wrong passwords")]

    assert len(refused) == 5, "three may wait for their turn"
    waiting = next(other for other in others if other not in refused)
    assert waiting.silent(0.05), "the right one waits as long as a wrong one"
    assert waiting.read() == "OK"


def test_hello_with_a_password_is_slowed_too(door: Door, client: Client) -> None:
    for _ in range(FREE + 5):
        client.command("HELLO", "3", "SETNAME", "x", "AUTH", "safe", "wrong")
    for _ in range(FREE + 1):
        assert client.read().startswith("WRONGPASS")
    assert client.silent(0.05)


def test_guesses_at_one_identity_hold_up_no_other(door: Door, client: Client) -> None:
    for _ in range(FREE + 1):
        _guess(client, "wrong")

    assert client.ask("AUTH", "live", "live-pw") == "OK"


def _said(client: Client) -> str:
    try:
        return str(client.read(0.02))
    except gevent.Timeout:
        return ""
