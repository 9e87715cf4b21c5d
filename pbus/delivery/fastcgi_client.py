"""
Calls of one topic to a php-fpm script: the request of each job, and what its answer means.

Rule: parameters come from the configuration, never from job data (the job's id and its trace
context, both checked, are the exceptions). What is the same for every job is encoded once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from pbus.clock import Clock
from pbus.codec import fastcgi, headers, pepper
from pbus.config import schema
from pbus.core.job import Delivery
from pbus.core.outcome import Outcome, Verdict
from pbus.core.retry import RetryPolicy
from pbus.delivery import answers
from pbus.delivery.exchange import Exchange
from pbus.errors import HandlerRejected

SCRIPT_CACHE_S: Final = 1.0

_VARYING: Final = (b"REQUEST_URI", b"HTTP_TRACEPARENT", b"CONTENT_LENGTH")
_REDELIVERED: Final = fastcgi.name_value(b"HTTP_X_PBUS_REDELIVERED", b"1")

_KEPT_BYTES: Final = 4096
"""Of an answer that is compared with the next one."""

_PROTOCOL: Final = {
    fastcgi.OVERLOADED: (Verdict.BUSY, "FCGI_OVERLOADED: the application takes no more requests"),
    fastcgi.CANT_MPX_CONN: (Verdict.BUSY, "FCGI_CANT_MPX_CONN: the application takes one request a connection"),
    fastcgi.UNKNOWN_ROLE: (Verdict.MISCONFIGURED, "FCGI_UNKNOWN_ROLE: the application is no responder"),
}


class FastcgiClient:
    """
    What a call lane needs to know about a FastCGI topic.

    Args:
        queue, topic: Whose jobs.
        handler: Its ``fastcgi`` table.
        retry: Its retry policy (the contract tells handlers about it).
        max_post_bytes: Largest body of a request.
        address: The backend, for people.
        clock: The clock to use.
    """

    pings: Final = True

    def __init__(
        self, queue: str, topic: str, handler: schema.FastcgiHandler, *, retry: RetryPolicy, max_post_bytes: int,
        address: str, clock: Clock,
    ) -> None:
        self._handler = handler
        self._max_post_bytes = max_post_bytes
        self._address = address
        self._clock = clock
        self._uri = f"/pbus/{queue}/{topic}/"
        self._form = pepper.Form(queue, topic, retry)
        self._script = ""
        self._script_until_s = 0.0
        self._requests = fastcgi.Requests(b"", ())
        self._last_block = b""
        self._done: bytes | None = None  # what the last one wrote that was done, and what it says
        self._done_answer: tuple[str, Mapping[str, str], bytes] = "", {}, b""
        self._last_fields: Mapping[str, str] = {}
        self.target = ""
        self.endpoint = " ".join([handler.script, *(f"{name}={value}" for name, value in handler.params.items())])

    def encode(self, delivery: Delivery) -> tuple[bytes, int]:
        """
        The request of one job, and the size of its form.

        Raises:
            HandlerRejected: the form is larger than the backend's ``max_post``.
        """
        form, traceparent = self._form.call(delivery, self._clock.wall_s() if delivery.first_ms else 0.0)
        if len(form) > self._max_post_bytes:
            raise HandlerRejected(answers.too_large(len(form), self._max_post_bytes))
        more = _REDELIVERED if delivery.redelivered else b""
        if delivery.replay_of:
            more += fastcgi.name_value(b"HTTP_X_PBUS_REPLAY_OF", delivery.replay_of.encode())
        return self._request(form, self._uri + delivery.id, traceparent, more), len(form)

    def new_reader(self) -> fastcgi.ReplyReader:
        """What reads one answer."""
        return fastcgi.ReplyReader()

    def encode_ping(self) -> tuple[bytes, int]:
        """The request that asks whether the handler takes this topic, and the size of its form."""
        trace = pepper.trace_id("", f"{self._uri}{self._clock.wall_s()}")
        form = self._form.ping(trace)
        return self._request(form, self._uri + "ping", f"00-{trace}-{trace[:16]}-00"), len(form)

    def _request(self, form: bytes, uri: str, traceparent: str, more: bytes = b"") -> bytes:
        if self._clock.monotonic_s() >= self._script_until_s:
            self._resolve()
        return self._requests.request((uri.encode(), traceparent.encode(), b"%d" % len(form)), form, more)

    def _resolve(self) -> None:
        """
        Look where the script's path leads now.

        php-fpm caches real paths: below a switched symlink it would run the old code for minutes.
        """
        self._script_until_s = self._clock.monotonic_s() + SCRIPT_CACHE_S
        script = self._handler.script
        if os.path.exists(script):
            script = os.path.realpath(script)
        if script == self._script:
            return
        self._script = script
        self.target = f"{self._address} {script}"
        parameters = {
            "SCRIPT_FILENAME": script,
            "SCRIPT_NAME": "/" + os.path.basename(script),
            "DOCUMENT_ROOT": os.path.dirname(script),
            "QUERY_STRING": "",
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": pepper.CONTENT_TYPE,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": "pbus",
            "REMOTE_ADDR": "127.0.0.1",
            **self._handler.params,
        }
        self._requests = fastcgi.Requests(fastcgi.begin() + fastcgi.params(parameters), _VARYING)

    def read(self, call: Exchange[fastcgi.ReplyReader], sent_bytes: int, run_s: float) -> Outcome:
        """What a whole answer means."""
        reader = call.reader
        error = ""
        try:
            block, body = fastcgi.cgi_answer(reader.stdout)
            fields = self._parsed(block)
        except ValueError as problem:
            fields, body = {}, bytes(reader.stdout[: fastcgi.EXCERPT_BYTES])
            error = f"not acknowledged: polluted headers: {problem}"
        answer = answers.Answer(
            headers=fields, body=body, status=_status(fields), stderr=bytes(reader.stderr), sent_bytes=sent_bytes,
            run_s=run_s, target=self.target, resent=call.resent,
        )
        if reader.protocol_status != fastcgi.REQUEST_COMPLETE:
            verdict, text = _PROTOCOL.get(
                reader.protocol_status, (Verdict.FAILED, f"FastCGI protocol status {reader.protocol_status}")
            )
            return answer.outcome(verdict, text)
        if error:
            return answer.outcome(Verdict.FAILED, error)
        return answers.pepper(answer, self._clock.wall_s())

    def done_at_once(self, data: bytes, sent_bytes: int, run_s: float) -> Outcome | None:
        """
        The outcome, if *data* is a whole answer that says done; None: nobody knows yet.

        A script says done in the same words again and again: they are read once.
        """
        found = fastcgi.at_once(data)
        if found is None or found[1] != fastcgi.REQUEST_COMPLETE:
            return None
        if found[0] != self._done:
            return self._read_done(found[0], sent_bytes, run_s)
        status, fields, body = self._done_answer
        return Outcome(
            verdict=Verdict.DONE, run_s=run_s, status=status, headers=fields, output=body, target=self.target
        )

    def _read_done(self, stdout: bytes, sent_bytes: int, run_s: float) -> Outcome | None:
        try:
            block, body = fastcgi.cgi_answer(stdout)
            fields = self._parsed(block)
        except ValueError:
            return None
        answer = answers.Answer(headers=fields, body=body, sent_bytes=sent_bytes, run_s=run_s, target=self.target)
        if not answers.is_done(answer):
            return None
        if len(stdout) <= _KEPT_BYTES and not answers.may_be_oversize(body):
            self._done, self._done_answer = stdout, (fields["code"], fields, body)
        return answer.outcome(Verdict.DONE, status=fields["code"])

    def _parsed(self, block: bytes) -> Mapping[str, str]:
        """A script answers with the same headers again and again: the last block is remembered."""
        if block != self._last_block:
            self._last_fields, self._last_block = headers.fields(block), block
        return self._last_fields


def _status(fields: Mapping[str, str]) -> int:
    """The number in the CGI header ``Status``; 0 without one."""
    number = fields.get("status", "0")[:3]
    return int(number) if number.isascii() and number.isdigit() else 0
