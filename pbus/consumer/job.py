"""
The job as a Python handler sees it.

Rule: this is public. Names here are promises to users' code; nothing of pbus' inside shows through.
"""

from __future__ import annotations

import json
import logging
import math
import os
from typing import Any, Final, Protocol

from pbus.core.traceparent import child_of, is_sampled

SPAN_BYTES: Final = 8


class Pusher(Protocol):
    """What of push.PushClient is used here."""

    def add(self, queue: str, body: bytes, options: list[str | bytes | int]) -> str:
        """Push one job; its id."""


class Job:
    """
    What a handler is called with.

    Attributes:
        id: Job id, opaque; the same for every attempt and every topic.
        queue: Its queue.
        topic: The topic whose handler this is.
        attempt: Number of this attempt, from 1.
        redelivered: Somebody may have run (part of) this job before.
        body: The bytes as pushed.
        traceparent: W3C trace context of the push, or empty; where spans are exported, of the span of this attempt.
        content_type: What the producer said the body is, or empty.
        replay_of: Id of the job that this one is run again for, by ``pbus replay``; empty: it is no replay.
        log: A ``logging.Logger`` that writes to the topic's log, tagged with the job.
    """

    __slots__ = (
        "_pusher", "_spans", "attempt", "body", "content_type", "id", "log", "queue", "redelivered", "replay_of",
        "topic", "traceparent",
    )

    def __init__(
        self, *, id: str, queue: str, topic: str, attempt: int, redelivered: bool, body: bytes,
        traceparent: str, content_type: str, log: logging.Logger, pusher: Pusher | None = None, replay_of: str = "",
        spans: bool = False,
    ) -> None:
        self.id = id
        self.queue = queue
        self.topic = topic
        self.attempt = attempt
        self.redelivered = redelivered
        self.body = body
        self.traceparent = traceparent
        self.content_type = content_type
        self.replay_of = replay_of
        self.log = log
        self._pusher = pusher
        self._spans = spans

    @property
    def text(self) -> str:
        """
        The body as UTF-8.

        Raises:
            UnicodeDecodeError: it is something else.
        """
        return self.body.decode()

    def json(self) -> Any:
        """
        The body as JSON.

        Raises:
            ValueError: it is something else.
        """
        return json.loads(self.body)

    def push(
        self, queue: str, body: bytes | str | dict[str, Any] | list[Any], *, delay_s: float = 0.0, dedupe: str = "",
        ttl_s: float | None = None, key: str = "",
    ) -> str:
        """
        Push a job, as a child of this one in its trace. When it returns the job is stored.

        May be called from threads of the handler and from processes that it forks.

        Args:
            queue: To which queue.
            body: Bytes; text, sent as UTF-8; a dict or a list, sent as JSON.
            delay_s: It is ready only after so many seconds.
            dedupe: A push with the same key within the queue's ``dedupe_window`` stores nothing; the id of the first
                is returned. This makes a repeated attempt safe.
            ttl_s: It expires when it has not begun after so many seconds; 0: never; None: as the queue says.
            key: Jobs of one key do not overlap and keep their order.

        Returns:
            The id of the job.

        Raises:
            pbus.PushRefused: it is not stored.
            pbus.MaybeStored: nobody knows whether it is stored.
            TypeError, ValueError: a body or an option that cannot be sent.
        """
        if self._pusher is None:
            raise RuntimeError("job.push works on a bus only")
        options: list[str | bytes | int] = []
        if delay_s:
            options += ["DELAY", _milliseconds(delay_s, "delay_s")]
        if ttl_s is not None:
            options += ["TTL", _milliseconds(ttl_s, "ttl_s")]
        for name, value in (("DEDUPE", dedupe), ("KEY", key)):
            if value:
                options += [name, value]
        options += ["TRACEPARENT", self._context()]
        return self._pusher.add(queue, _bytes_of(body), options)

    def _context(self) -> str:
        """Of what it pushes: a child of the span of this attempt where there is one."""
        if self._spans and is_sampled(self.traceparent):
            return self.traceparent
        return child_of(self.traceparent, self.id, os.urandom(SPAN_BYTES))

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.queue}/{self.topic}, attempt {self.attempt}, {len(self.body)} bytes>"


def _bytes_of(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, dict | list):
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"a body is bytes, text, a dict or a list, not {type(body).__name__}")


def _milliseconds(seconds: Any, name: str) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds, not {type(seconds).__name__}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is a number of seconds from 0 on, not {seconds}")
    return math.ceil(seconds * 1000)
