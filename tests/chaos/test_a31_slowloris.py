"""
A31: 1,000 clients that begin a command and never end it, a byte now and then, beside honest ones.

Each is told so and closed when the time of a command is over; the honest ones hardly notice: their rate beside the
slow ones, in alternation with their rate alone.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import statistics
import time

import pytest

from tests.support.bus import BusFactory
from tests.support.honest import Honest
from tests.support.nightly import figure
from tests.support.stopwatch import Stopwatch

SLOW = 1000
COMMAND_S = figure(1.0, nightly=10.0)
SWEEP_S = 1.0
"""How often the bus looks for those whose time is over."""
SLACK_S = 1.0
LOOPS, MOST_LOOPS = 3, 7
"""Slices are short, and the machine may be busy with something else: when in doubt, more of them."""
CALM_S = figure(1.0, nightly=5.0)
SHARE = 0.8
DRIP_S = 0.25
LATE = f"-ERR the command was not complete after {COMMAND_S:g} s: not stored\r\n".encode()
BEGINNINGS = (
    (b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n$500\r\n", b"x"),  # a body in drips
    (b"*10000\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n", b"$1\r\nx\r\n"),  # one body after another
    (b"PING", b"x"),  # a line that never ends
    (b"*3\r\n$5\r\nLPUSH\r\n$4\r\ngift\r\n$2000000\r\n", b"x"),  # a body that is refused already
)


class Slow:
    """SLOW clients; when each began and how it ended. A context manager."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._drips: dict[socket.socket, bytes] = {}
        self.began_s: dict[socket.socket, float] = {}
        self.lasted_s: list[float] = []
        self.heard: list[bytes] = []
        for _, (beginning, drip) in zip(range(SLOW), itertools.cycle(BEGINNINGS)):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            self._selector.register(sock, selectors.EVENT_READ)
            self.began_s[sock], self._drips[sock] = time.monotonic(), drip
            sock.sendall(beginning)

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.began_s:
            sock.close()
        self._selector.close()

    def until_closed(self) -> None:
        """A byte of each now and then, until the bus has closed them all."""
        drip_s = time.monotonic()
        give_up_s = drip_s + COMMAND_S + 20
        while self._drips:
            assert time.monotonic() < give_up_s, f"{len(self._drips)} were not closed"
            if time.monotonic() >= drip_s:
                drip_s = time.monotonic() + DRIP_S
                for sock, drip in self._drips.items():
                    with contextlib.suppress(ConnectionError):  # it was closed just now
                        sock.sendall(drip)
            for key, _ in self._selector.select(drip_s - time.monotonic()):
                assert isinstance(key.fileobj, socket.socket)
                self._hear(key.fileobj)

    def _hear(self, sock: socket.socket) -> None:
        """What it is told, to the end."""
        said = b""
        with contextlib.suppress(ConnectionResetError):  # a drip met the closed socket; what was said came before
            while part := sock.recv(4096):
                said += part
        self.lasted_s.append(time.monotonic() - self.began_s[sock])
        self.heard.append(said)
        self._selector.unregister(sock)
        del self._drips[sock]


@pytest.mark.timeout(300)
def test_slow_clients_are_closed_in_time_and_cost_the_honest_ones_little(bus_factory: BusFactory) -> None:
    bus = bus_factory(
        f'[ingest]\nlimits = {{ command_time = "{COMMAND_S * 1000:g}ms" }}\n'
        "[queue.gift]\nmax_backlog = 100000000\n[queue.gift.topic.credit]\npull = {}\n"
    )
    calm, beside, lasted_s = [], [], []
    with Honest(bus.port, "gift") as honest, Stopwatch() as watch:
        calm.append(_rate(honest))
        pairs: list[float] = []
        while len(pairs) < LOOPS or (statistics.median(pairs) < SHARE and len(pairs) < MOST_LOOPS):
            with Slow(bus.port) as slow:
                begun_s, before = time.monotonic(), honest.pushed()
                slow.until_closed()
                beside.append((honest.pushed() - before) / (time.monotonic() - begun_s))
            assert set(slow.heard) == {LATE}
            lasted_s += slow.lasted_s
            calm.append(_rate(honest))
            pairs.append(beside[-1] / statistics.mean(calm[-2:]))
        print(
            f"{len(lasted_s)} slow clients, closed after {min(lasted_s):.2f} to {max(lasted_s):.2f} s; honest ones: "
            f"{[round(rate) for rate in calm]} pushes/s, beside them {[round(rate) for rate in beside]}: "
            f"{statistics.median(pairs):.0%}"
        )
    assert {event["reason"] for event in bus.events("client.slow")} == {"did not complete its command"}
    assert min(lasted_s) >= COMMAND_S
    assert max(lasted_s) <= COMMAND_S + SWEEP_S + SLACK_S + watch.paused_s
    assert statistics.median(pairs) >= SHARE


def _rate(honest: Honest) -> float:
    begun_s, before = time.monotonic(), honest.pushed()
    time.sleep(CALM_S)
    return (honest.pushed() - before) / (time.monotonic() - begun_s)
