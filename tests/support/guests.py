"""
Raw clients that are in the middle of something while their connection passes to another process.

Rule: a guest never connects again: what it gets, it gets on the connection it came with.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import hiredis


class Guest:
    """One connection that says exactly what it is told to."""

    def __init__(self, port: int, *said: bytes, receive_bytes: int = 0) -> None:
        """*receive_bytes*: the kernel keeps about so much for it that it has not read; 0: the usual."""
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(15)
        self.socket.connect(("127.0.0.1", port))
        self._reader = hiredis.Reader()
        for line in said:
            self.socket.sendall(line)

    def say(self, data: bytes) -> Guest:
        self.socket.sendall(data)
        return self

    def ask(self, *words: str | bytes | int) -> Any:
        """The reply to one command."""
        self.say(command(*words))
        return self.hear()

    def hear(self) -> Any:
        """The next reply."""
        while True:
            reply = self._reader.gets()
            if reply is not False:
                return str(reply) if isinstance(reply, hiredis.HiredisError) else reply
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the bus has closed it")
            self._reader.feed(data)

    def close(self) -> None:
        self.socket.close()


class Stream(threading.Thread):
    """
    Pipelines of pushes, one after the other, all the time.

    Attributes:
        sent: Bodies that were answered.
        wrong: Answers that were no numbers, or why it ended early.
        longest_s: The longest round trip.
    """

    def __init__(self, port: int, queue: str, name: str, depth: int) -> None:
        super().__init__(daemon=True)
        self._guest = Guest(port)
        self._queue = queue
        self._name = name
        self._depth = depth
        self._ending = threading.Event()
        self.sent: list[str] = []
        self.wrong: list[str] = []
        self.longest_s = 0.0
        self.start()

    def run(self) -> None:
        number = 0
        try:
            while not self._ending.is_set():
                bodies = [f"{self._name}-{number + one}" for one in range(self._depth)]
                number += self._depth
                began = time.monotonic()
                self._guest.say(b"".join([command("LPUSH", self._queue, body) for body in bodies]))
                replies = [self._guest.hear() for _ in bodies]
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.wrong += [str(reply) for reply in replies if not isinstance(reply, int)]
                self.sent += bodies
                time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 - the test has to hear of it
            self.wrong.append(repr(error))

    def finish(self) -> None:
        self._ending.set()
        self.join(15)
        self._guest.close()


def command(*words: str | bytes | int) -> bytes:
    """A command as clients send it."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
