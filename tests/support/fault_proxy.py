"""
A TCP proxy that breaks on demand: what networks do to a store, without a network.

    refuse       nobody listens                  cut_replies   executed, not answered, closed: the next ones
    disconnect   open connections are closed     cut_share     the same for a share of all replies
    blackhole    nothing passes, either way      cut_after     a reply ends in the middle, closed
    mute         requests pass, replies do not   delay, drip   replies come late, or a byte at a time
    half_open    open connections are forgotten by the server's side, and nobody tells the client

It knows no protocol: a piece of bytes from the server means that something was executed. Faults apply to
connections that are open and to new ones (``half_open`` and ``disconnect``: to open ones); ``heal`` ends
them all.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.support import seeds

_PIECE = 65536


@dataclass(slots=True, eq=False)
class _Pair:
    """One connection: both sides of the proxy, and whether what it carries vanishes."""

    client: socket.socket
    server: socket.socket
    forgotten: bool = False

    def close(self) -> None:
        """End both; the threads that read them close them."""
        for side in (self.client, self.server):
            _end(side)


def _end(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


class FaultProxy:
    """
    Forwards a loopback port to *target*; use it as a context.

    Args:
        target: Path of a unix socket, or (host, port).
        name: Its generator for the share of replies that are cut (``seeds``); one a proxy of a test.
        port: Where it listens; 0: any that is free.
    """

    def __init__(self, target: str | tuple[str, int], *, name: str = "proxy", port: int = 0) -> None:
        self._target = target
        self._random: random.Random = seeds.generator("fault proxy", name)
        self._lock = threading.Lock()
        self._open: set[_Pair] = set()
        self._threads: list[threading.Thread] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut_next = 0
        self._cut_share = 0.0
        self._cut_after_bytes: int | None = None
        self._delay_s = 0.0
        self._drip_s = 0.0
        self._muted = False
        self._closed = False
        self.cuts = 0
        """Replies that were executed and never delivered."""
        self.connections = 0
        """Connections accepted so far."""
        self.replies = 0
        """Pieces of replies that came from the server."""
        self.port = port
        self._listener = self._listen()

    @property
    def url(self) -> str:
        """How pbus reaches a Redis behind it."""
        return f"redis://127.0.0.1:{self.port}"

    # --- faults -----------------------------------------------------------------------------------

    def cut_replies(self, count: int = 1) -> None:
        """The next *count* replies are executed by the server, dropped, and their connection closed."""
        self._cut_next = count

    def cut_share(self, share: float) -> None:
        """So many of all replies (0..1) end like that, by the seed."""
        self._cut_share = share

    def cut_after(self, count: int) -> None:
        """The next reply ends after *count* bytes, and its connection is closed."""
        self._cut_after_bytes = count

    def delay(self, seconds: float) -> None:
        """Every reply comes so much later."""
        self._delay_s = seconds

    def drip(self, seconds: float) -> None:
        """Replies come one byte at a time, so far apart."""
        self._drip_s = seconds

    def blackhole(self) -> None:
        """Connections stay open and are accepted; not one byte passes in any direction."""
        self._flowing.clear()

    def mute(self) -> None:
        """Requests pass and are executed; their replies vanish, and connections stay open."""
        self._muted = True

    def refuse(self) -> None:
        """Connections are refused, those that are open are closed."""
        self._stop_listening()
        self.disconnect()

    def half_open(self) -> None:
        """Open connections are closed towards the server, stay open for the client, and carry nothing ever again."""
        with self._lock:
            for pair in self._open:
                pair.forgotten = True
                _end(pair.server)

    def disconnect(self) -> None:
        """Close every open connection now."""
        with self._lock:
            for pair in self._open:
                pair.close()

    def heal(self) -> None:
        """
        End all faults.

        What a black hole has swallowed is delivered, as a network does that was cut off for a while. What
        was muted or forgotten is gone.
        """
        self._cut_next, self._cut_share, self._cut_after_bytes = 0, 0.0, None
        self._delay_s = self._drip_s = 0.0
        self._muted = False
        self._flowing.set()
        if self._listener.fileno() < 0:
            self._listener = self._listen()

    # --- life -------------------------------------------------------------------------------------

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._flowing.set()
        self._drip_s = self._delay_s = 0.0
        self._stop_listening()
        self.disconnect()
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._start(self._accept, listener)
        return listener

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves it to the thread that accepts
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            for side in (client, server):
                if side.family != socket.AF_UNIX:
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._open.add(pair)
            self._start(self._pump, pair, client, server, self._forward)
            self._start(self._pump, pair, server, client, self._reply)

    def _connect(self) -> socket.socket:
        if isinstance(self._target, str):
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                server.close()
                raise
            return server
        return socket.create_connection(self._target, 5)

    def _pump(
        self, pair: _Pair, source: socket.socket, sink: socket.socket, deliver: Callable[..., bool]
    ) -> None:
        try:
            while data := source.recv(_PIECE):
                self._flowing.wait()
                if not pair.forgotten and not deliver(sink, data):
                    break
        except OSError:
            pass  # one of the two ends is gone, which ends the other
        finally:
            if not (pair.forgotten and source is pair.server):  # the client is not told
                pair.close()
                with self._lock:
                    self._open.discard(pair)
            source.close()

    def _forward(self, server: socket.socket, data: bytes) -> bool:
        server.sendall(data)
        return True

    def _reply(self, client: socket.socket, data: bytes) -> bool:
        """Deliver bytes of the server; False: the connection ends here."""
        self.replies += 1
        if self._muted:
            return True
        if self._cuts():
            return False
        if self._delay_s:
            time.sleep(self._delay_s)
        if self._cut_after_bytes is not None:
            client.sendall(data[: self._cut_after_bytes])
            self._cut_after_bytes = None
            self.cuts += 1
            return False
        while self._drip_s and data:
            client.sendall(data[:1])
            data = data[1:]
            time.sleep(self._drip_s)
        client.sendall(data)
        return True

    def _cuts(self) -> bool:
        with self._lock:
            cut = self._cut_next > 0 or self._random.random() < self._cut_share
            self._cut_next = max(0, self._cut_next - 1)
            self.cuts += cut
            return cut
