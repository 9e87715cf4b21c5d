"""Shares of children, names of addresses, and which of them is near."""

from __future__ import annotations

import pytest

from pbus.delivery.address import is_local, share_of
from pbus.delivery.backends import http_address


@pytest.mark.parametrize(
    ("total", "processes", "shares"),
    [(48, 1, [48]), (5, 2, [3, 2]), (1, 3, [1, 0, 0]), (9, 4, [3, 2, 2, 2]), (0, 2, [0, 0])],
)
def test_shares_add_up_to_the_limit_of_the_node(total, processes, shares):
    assert [share_of(total, processes, index) for index in range(processes)] == shares


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a", "a:80"), ("http://a:81/b?c", "a:81"), ("http://[::1]:8080/x", "[::1]:8080"),
        ("http://[::1]", "[::1]:80"), ("http://user:pw@host/x", "host:80"),
    ],
)
def test_http_address(url, address):
    assert http_address(url) == address


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("unix:/run/php.sock", True), ("127.0.0.1:9000", True), ("127.8.8.8:9000", True), ("[::1]:9000", True),
        ("localhost:9000", True), ("10.0.0.1:9000", False), ("db.local:9000", False), ("[fe80::1]:9000", False),
    ],
)
def test_unix_sockets_and_the_loopback_are_local(name, local):
    assert is_local(name) is local
