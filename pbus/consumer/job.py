"""
The job as a Python handler sees it.

Rule: this is public. Names here are promises to users' code; nothing of pbus' inside shows through.
"""

from __future__ import annotations

import json
import logging
from typing import Any


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
        traceparent: W3C trace context of the push, or empty.
        content_type: What the producer said the body is, or empty.
        log: A ``logging.Logger`` that writes to the topic's log, tagged with the job.
    """

    __slots__ = ("attempt", "body", "content_type", "id", "log", "queue", "redelivered", "topic", "traceparent")

    def __init__(
        self, *, id: str, queue: str, topic: str, attempt: int, redelivered: bool, body: bytes,
        traceparent: str, content_type: str, log: logging.Logger,
    ) -> None:
        self.id = id
        self.queue = queue
        self.topic = topic
        self.attempt = attempt
        self.redelivered = redelivered
        self.body = body
        self.traceparent = traceparent
        self.content_type = content_type
        self.log = log

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

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.queue}/{self.topic}, attempt {self.attempt}, {len(self.body)} bytes>"
