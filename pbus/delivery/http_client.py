"""
Calls of one topic to an HTTP endpoint: the request of each job, and what its answer means.

Rule: redirects are not followed, no proxy is asked, nothing compressed is accepted (so nothing can
unpack to more than it was). What producers say (content type, trace context) becomes a header only
after it was checked.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from pbus.clock import Clock
from pbus.codec import http1, pepper
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.names import job_id_ms
from pbus.core.outcome import Outcome
from pbus.core.retry import RetryPolicy
from pbus.delivery import answers
from pbus.delivery.exchange import Exchange
from pbus.errors import HandlerRejected

_KEPT: Final = "/%:@!$&'()*+,;=~-._?"
_CONTENT_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[\x20-\x7e]{1,200}\Z")


class HttpClient:
    """
    What a call lane needs to know about an HTTP topic.

    Args:
        queue, topic: Whose jobs.
        handler: Its ``http`` table.
        retry: Its retry policy (the contract ``pepper`` tells handlers about it).
        max_post_bytes: Largest body of a request.
        clock: The clock to use.
    """

    def __init__(
        self, queue: str, topic: str, handler: schema.HttpHandler, *, retry: RetryPolicy, max_post_bytes: int,
        clock: Clock,
    ) -> None:
        self.target = _without_user(handler.url)
        self.pings = handler.contract == "pepper"
        self._queue = queue
        self._topic = topic
        self._by_header = handler.done_when == "header"
        self._max_post_bytes = max_post_bytes
        self._clock = clock
        self._form = pepper.Form(queue, topic, retry)
        self._constant = self._head(handler)
        self.endpoint = f"{self.target} {hashlib.blake2b(self._constant, digest_size=8).hexdigest()}"

    def _head(self, handler: schema.HttpHandler) -> bytes:
        """Request line and the headers that never change; configured ones come last but replace ours."""
        parts = urlsplit(handler.url)
        path = quote(parts.path or "/", _KEPT) + (f"?{quote(parts.query, _KEPT)}" if parts.query else "")
        host = handler.host or parts.netloc.rpartition("@")[2]
        headers = {"Host": host, "User-Agent": "pbus", "Accept-Encoding": "identity"}
        if self.pings:
            headers["IS-PEPPER-BUS-REQUEST"] = "true"
        own = {name.lower() for name in handler.headers}
        kept = {name: value for name, value in headers.items() if name.lower() not in own}
        return f"POST {path} HTTP/1.1\r\n".encode("ascii") + http1.field_lines({**kept, **handler.headers})

    def encode(self, delivery: Delivery) -> tuple[bytes, int]:
        """
        The request of one job, and the size of its body.

        Raises:
            HandlerRejected: the body is larger than the backend's ``max_post``.
        """
        if self.pings:
            body = self._form.data(delivery, self._clock.wall_s())
            fields = {"Content-Type": pepper.CONTENT_TYPE, "traceparent": pepper.traceparent_of(delivery)}
            if delivery.redelivered:
                fields["X-Pbus-Redelivered"] = "1"
        else:
            body = delivery.body
            fields = self._plain_fields(delivery)
        if delivery.replay_of:
            fields["X-Pbus-Replay-Of"] = delivery.replay_of
        if len(body) > self._max_post_bytes:
            raise HandlerRejected(answers.too_large(len(body), self._max_post_bytes))
        return self._request(fields, body), len(body)

    def _plain_fields(self, delivery: Delivery) -> dict[str, str]:
        """The ``plain`` contract, with CloudEvents 1.0 in binary mode beside it."""
        stored = datetime.fromtimestamp(job_id_ms(delivery.id) / 1000.0, UTC)
        content_type = delivery.content_type
        if _CONTENT_TYPE.match(content_type) is None:
            content_type = "application/octet-stream"
        return {
            "Content-Type": content_type,
            "X-Pbus-Job-Id": delivery.id,
            "X-Pbus-Queue": self._queue,
            "X-Pbus-Topic": self._topic,
            "X-Pbus-Attempt": str(delivery.attempt),
            "X-Pbus-Redelivered": "1" if delivery.redelivered else "0",
            "traceparent": pepper.traceparent_of(delivery),
            "ce-specversion": "1.0",
            "ce-id": delivery.id,
            "ce-source": f"/pbus/{self._queue}",
            "ce-type": "pbus.job",
            "ce-subject": self._topic,
            "ce-time": stored.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def new_reader(self) -> http1.ResponseReader:
        """What reads one answer."""
        return http1.ResponseReader()

    def encode_ping(self) -> tuple[bytes, int]:
        """The request that asks whether the handler takes this topic, and the size of its body."""
        trace = pepper.trace_id("", f"{self.target}{self._clock.wall_s()}")
        body = self._form.ping(trace)
        fields = {"Content-Type": pepper.CONTENT_TYPE, "traceparent": f"00-{trace}-{trace[:16]}-00"}
        return self._request(fields, body), len(body)

    def _request(self, fields: dict[str, str], body: bytes) -> bytes:
        lines = http1.field_lines({**fields, "Content-Length": str(len(body))})
        return b"".join((self._constant, lines, b"\r\n", body))

    def done_at_once(self, _data: bytes, _sent_bytes: int, _run_s: float) -> Outcome | None:
        """See ``caller.Client``: an answer is always taken to pieces."""
        return None

    def read(self, call: Exchange[http1.ResponseReader], sent_bytes: int, run_s: float) -> Outcome:
        """What a whole answer means."""
        reader = call.reader
        answer = answers.Answer(
            headers=reader.fields, body=bytes(reader.body), status=reader.status, sent_bytes=sent_bytes, run_s=run_s,
            target=self.target, resent=call.resent,
        )
        if self.pings:
            return answers.pepper(answer, self._clock.wall_s())
        return answers.plain(answer, self._clock.wall_s(), by_header=self._by_header)


def _without_user(url: str) -> str:
    """The URL as people may see it: what stands before an @ may be a password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
