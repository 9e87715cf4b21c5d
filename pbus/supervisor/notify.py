"""
systemd's notification protocol (sd_notify(3)): one datagram of ``KEY=value`` lines.

Rule: whoever does not run us under systemd feels nothing, and a notification never fails a start.
"""

from __future__ import annotations

import os
import socket


class Notifier:
    """Tells the service manager how we are. One owner: the master."""

    def __init__(self, address: str | None = None) -> None:
        """*address*: ``$NOTIFY_SOCKET``; a leading ``@`` is an abstract socket; empty: nobody listens."""
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._last = ""

    def ready(self, status: str) -> None:
        """Start is over."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def stopping(self) -> None:
        """Stop has begun."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent when it changed."""
        if text != self._last:
            self._last = text
            self._send(f"STATUS={text}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(text.encode(), address)
        except OSError:
            pass  # the manager is gone or does not read; it is its loss
