"""
The notification protocol of service managers (sd_notify(3)): one datagram of ``KEY=value`` lines.

    READY=1      the start, or a reload, is over          RELOADING=1   a reload has begun
    STOPPING=1   a stop has begun                         WATCHDOG=1    everybody is alive

Rule: whoever does not run us under systemd feels nothing, and a notification never fails a start. A manager that
hears nothing in time acts by itself (it kills), so what may take long asks for time while it takes it, and the
watchdog is fed only while every child gives its sign of life.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final

from pbus.clock import Clock, SystemClock

MORE_S: Final = 20.0
"""What is asked for at a time while a start, a reload or a stop takes long; asked again each second."""

OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables that are meant for the master alone."""


class Notifier:
    """Tells the service manager how we are. One owner: the master."""

    def __init__(
        self, address: str | None = None, clock: Clock | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        """*address*: ``$NOTIFY_SOCKET``; a leading ``@`` is an abstract socket; empty: nobody listens."""
        self._address = environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._clock = clock if clock is not None else SystemClock()
        self._last = ""
        self._every_s = _half_of(environ) if self._address else 0.0
        self._feed_at = 0.0

    def ready(self, status: str) -> None:
        """The start is over, or a reload that ``reloading`` has told: done, refused or taken back."""
        self._last = status
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_one_line(status)}")

    def reloading(self, status: str) -> None:
        """
        A reload has begun; ``ready`` ends it.

        Both lines have to be in one datagram: ``Type=notify-reload`` takes the time to know which HUP is meant.
        """
        self._last = status
        now_us = int(self._clock.monotonic_s() * 1_000_000)
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        """A stop has begun."""
        self._last = "stopping"
        self._send("STOPPING=1\nSTATUS=stopping")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent when it changed."""
        if text != self._last:
            self._last = text
            self._send(f"STATUS={_one_line(text)}")

    def ask_for_time(self) -> None:
        """A start, a reload or a stop goes on: do not call it over for another ``MORE_S``."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(MORE_S * 1_000_000)}")

    @property
    def next_s(self) -> float:
        """When (monotonic) the watchdog wants to be fed; infinity where there is none."""
        return self._feed_at if self._every_s else float("inf")

    def feed(self, are_alive: Callable[[float], bool]) -> None:
        """
        Feed the watchdog when it is time.

        Args:
            are_alive: Whether everybody gave a sign of life within so many seconds; asked only when it is time.

        Who is not alive is looked at again soon: a sign of life that comes late still counts, if it comes before the
        manager's patience is over.
        """
        now = self._clock.monotonic_s()
        if not self._every_s or now < self._feed_at:
            return
        alive = are_alive(self._every_s)
        self._feed_at = now + (self._every_s if alive else self._every_s / 10)
        if alive:
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(text.encode(errors="replace"), address)
        except OSError:
            pass  # the manager is gone or does not read; it is its loss


def forget(environ: MutableMapping[str, str] = os.environ) -> None:
    """In a child: programs that it starts must not take the master's manager for their own."""
    for name in OURS:
        environ.pop(name, None)


def _half_of(environ: Mapping[str, str]) -> float:
    """How often to feed the watchdog, seconds: at half of its patience; 0: there is none, or it is not for us."""
    patience, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not patience.isdigit() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(patience) / 2_000_000


def _one_line(text: str) -> str:
    """A line break would begin another variable."""
    return " ".join(text.split())
