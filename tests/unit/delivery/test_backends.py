"""Shares and circuits: pure parts of the pools."""

from __future__ import annotations

import pytest

from pbus.config import schema
from pbus.delivery.backends import Circuit, http_address, share_of


@pytest.mark.parametrize(
    ("total", "processes", "shares"),
    [(48, 1, [48]), (5, 2, [3, 2]), (1, 3, [1, 0, 0]), (9, 4, [3, 2, 2, 2]), (0, 2, [0, 0])],
)
def test_shares_add_up_to_the_limit_of_the_node(total, processes, shares):
    assert [share_of(total, processes, index) for index in range(processes)] == shares


def circuit() -> Circuit:
    return Circuit(schema.Circuit(failures=3, window_s=2.0, probe_first_s=0.5, probe_max_s=2.0))


def test_circuit_opens_at_the_failures_within_the_window():
    it = circuit()
    assert [it.failed(now_s) for now_s in (0.0, 1.0, 2.0)] == [False, False, True]
    assert it.is_open


def test_circuit_stays_closed_when_failures_are_rare():
    it = circuit()
    assert not any(it.failed(now_s) for now_s in (0.0, 1.1, 2.2, 3.3, 4.4))
    assert not it.is_open


def test_circuit_tells_once_that_it_opened():
    it = circuit()
    assert [it.failed(0.0) for _ in range(5)] == [False, False, True, False, False]


def test_circuit_probes_after_half_a_second_then_one_then_two():
    it = circuit()
    for _ in range(3):
        it.failed(0.0)
    waits = [it.probe_in_s]
    for _ in range(4):
        it.probe_failed()
        waits.append(it.probe_in_s)
    assert waits == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_circuit_forgets_when_it_closes():
    it = circuit()
    for _ in range(3):
        it.failed(0.0)
    it.close()
    assert not it.is_open
    assert not it.failed(0.1)
    assert [it.failed(0.2), it.failed(0.3)] == [False, True]
    assert it.probe_in_s == 0.5


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a", "a:80"), ("http://a:81/b?c", "a:81"), ("http://[::1]:8080/x", "[::1]:8080"),
        ("http://[::1]", "[::1]:80"), ("http://user:pw@host/x", "host:80"),
    ],
)
def test_http_address(url, address):
    assert http_address(url) == address
