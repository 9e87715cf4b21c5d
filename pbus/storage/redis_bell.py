"""
The ear of one child for pushes: one connection that subscribes to the bells of its queues.

It is deaf while it is not connected, and says so afterwards (``wait`` answers None); a connection that
is silently dead is found out by a PING that nobody answers. Under gevent ``wait`` blocks its greenlet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import redis

from pbus.clock import Clock
from pbus.storage.keys import bell
from pbus.storage.redis_address import Address
from pbus.storage.redis_calls import jittered
from pbus.storage.redis_link import Deadline, connection

QUIET_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""Between attempts to connect; the growth is twofold."""


class RedisBell:
    """
    Subscribed to the bells of *queues*; made by ``RedisStreamsDriver.bell``.

    Args:
        address: Where the store is.
        timeout_s: Longest wait for it to answer.
        queues: Whose pushes are heard.
        clock: For deadlines and pauses.
        quiet_s: After so long without a message the connection is asked whether it lives.
    """

    def __init__(
        self, address: Address, timeout_s: float, queues: Sequence[str], clock: Clock, quiet_s: float = QUIET_S
    ) -> None:
        self._channels = {bell(queue).encode(): queue for queue in queues}
        self._timeout_s = timeout_s
        self._clock = clock
        self._quiet_s = quiet_s
        self._deadline = Deadline(clock)
        self._connection = connection(address, self._deadline)
        self._heard_s = 0.0
        self._pinged = False
        self._subscribed = False
        self._closed = False
        self._pause_s = FIRST_PAUSE_S

    def wait(self, timeout_s: float) -> frozenset[str] | None:
        """See ``driver.Bell``: names, or nothing after the timeout, or None after a deaf while."""
        until_s = self._clock.monotonic_s() + timeout_s
        while not self._closed:
            left_s = until_s - self._clock.monotonic_s()
            try:
                if not self._subscribed:
                    self._subscribe()
                    return None
                heard = self._listen(max(0.0, left_s))
            except redis.exceptions.RedisError:
                self._hang_up()
                if left_s <= 0:
                    break
                self._clock.sleep(min(jittered(self._pause_s), left_s))
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
                continue
            except BaseException:
                self._hang_up()
                raise
            if heard or self._clock.monotonic_s() >= until_s:
                return heard
        return frozenset()

    def close(self) -> None:
        """Give the connection back; a waiting greenlet returns. Idempotent."""
        self._closed = True
        self._hang_up()

    def _subscribe(self) -> None:
        self._deadline.at_s = self._clock.monotonic_s() + self._timeout_s
        self._connection.connect()
        if self._channels:
            self._send("SUBSCRIBE", *self._channels)
            for _ in self._channels:
                self._connection.read_response()
        self._subscribed, self._pinged = True, False
        self._pause_s = FIRST_PAUSE_S
        self._heard_s = self._clock.monotonic_s()

    def _listen(self, timeout_s: float) -> frozenset[str]:
        """Queues heard of; waits for the first at most *timeout_s*, or until it is time to ask."""
        ask_in_s = self._heard_s + self._quiet_s - self._clock.monotonic_s()
        message = self._read(min(timeout_s, max(0.0, ask_in_s)))
        if message is None:
            self._look_alive()
            return frozenset()
        self._heard_s, self._pinged = self._clock.monotonic_s(), False
        heard: set[str] = set()
        while message is not None and len(heard) < len(self._channels):
            queue = self._queue_of(message)
            if queue is not None:
                heard.add(queue)
            message = self._read(0.0)  # what came in the same piece
        return frozenset(heard)

    def _read(self, timeout_s: float) -> Any:
        """One message, or None when none came in time."""
        self._deadline.at_s = self._clock.monotonic_s() + timeout_s
        try:
            return self._connection.read_response(disconnect_on_error=False)
        except redis.exceptions.TimeoutError:
            return None

    def _look_alive(self) -> None:
        """Send a PING after a quiet time; a second one in a row means that nobody is there."""
        if self._clock.monotonic_s() - self._heard_s < self._quiet_s:
            return
        if self._pinged:
            raise redis.exceptions.ConnectionError("no answer to PING")
        self._send("PING")
        self._heard_s, self._pinged = self._clock.monotonic_s(), True

    def _queue_of(self, message: Any) -> str | None:
        if isinstance(message, list) and message[0] == b"message":
            return self._channels.get(message[1])
        return None

    def _send(self, *words: Any) -> None:
        self._deadline.at_s = self._clock.monotonic_s() + self._timeout_s
        self._connection.send_packed_command(self._connection.pack_command(*words), check_health=False)

    def _hang_up(self) -> None:
        self._subscribed = False
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            self._connection.disconnect()
