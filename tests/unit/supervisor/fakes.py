"""Handles and callers that write down what they are told."""

from __future__ import annotations

import socket
from typing import Any

from pbus.codec import frames
from pbus.supervisor.channel import Channel
from pbus.supervisor.control import Caller
from pbus.supervisor.handle import Handle
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard


class Wire:
    """One end of a socket pair that a Channel has the other end of."""

    def __init__(self, send_bytes: int = 1 << 20) -> None:
        ours, self._peer = socket.socketpair()
        self._peer.setblocking(False)
        self._reader = frames.FrameReader()
        self.channel = Channel(ours, send_bytes=send_bytes, receive_bytes=1 << 20)

    def told(self) -> list[dict[str, Any]]:
        """Frames that arrived since the last call."""
        data = b""
        while True:
            try:
                chunk = self._peer.recv(1 << 20)
            except BlockingIOError:
                if not self.channel.waiting_bytes:
                    return self._reader.feed(data)
                self.channel.flush()
            else:
                data += chunk

    def close(self) -> None:
        self.channel.release()
        self._peer.close()


def handle(board: Scoreboard, wire: Wire, n: int = 1, role: str = "delivery", **fields: Any) -> Handle:
    """A child that is ready, whose control socket is *wire*."""
    slot = board.take()
    assert slot is not None
    slot.update(n=n, role=role, state="ready", pid=1000 + n)
    spec = RoleSpec(role=role, module="x", hears=("watch", "numbers"), path=fields.pop("path", ""))
    return Handle(
        spec=spec, index=0, n=n, boot="b", generation=1, slot=slot, pid=1000 + n, channel=wire.channel, born_s=0.0,
        ready_s=1.0, **fields,
    )


def caller(wire: Wire) -> Caller:
    """Somebody at the control socket."""
    return Caller(wire.channel, may_change=True)
