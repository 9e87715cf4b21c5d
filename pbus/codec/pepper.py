"""
The Pepperbus contract: how unchanged producers and handlers write and read jobs; no I/O.

    to a handler    a form: type, IS_PEPPER_BUS_REQUEST, outTraceId, queue, topic, jobs (JSON array)
    from a handler  headers Code, Error-Code, Consume-Topics; the body is the message
    to a producer   {"jobs": ["id", ..], "inTraceId": "..", "error": ""}

Rule: spelling and order of names are the old ones, to the letter; JSON is not ASCII-escaped.
Source: docs/handlers.md, section Pepperbus.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pbus.core.job import Delivery
from pbus.core.retry import RetryPolicy
from pbus.core.traceparent import PATTERN
from pbus.core.traceparent import trace_id as trace_id  # handlers and clients know it by this room

CONTENT_TYPE: Final = "application/x-www-form-urlencoded"

_TOPIC_LIST: Final = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(?:\s*,\s*[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)*\s*,?\Z")


def _form_byte(byte: int) -> bytes:
    char = bytes((byte,))
    if char.isalnum() or char in b"*-._":
        return char
    return b"+" if char == b" " else b"%%%02X" % byte


# WHATWG URL standard, application/x-www-form-urlencoded percent-encode set. A table and one join
# take half the time of urllib's quote_plus.
_FORM: Final = tuple(_form_byte(byte) for byte in range(256))


def form_value(data: bytes) -> bytes:
    """*data* as a value of a form."""
    return b"".join([_FORM[byte] for byte in data])


def traceparent_of(delivery: Delivery) -> str:
    """The W3C trace context for a call: of the attempt, of the producer, or made of the job's id (not sampled)."""
    if delivery.span:
        return delivery.span
    if PATTERN.match(delivery.traceparent):
        return delivery.traceparent
    return f"00-{trace_id('', delivery.id)}-{attempt_trace_id(delivery)[:16]}-00"


def attempt_trace_id(delivery: Delivery) -> str:
    """``outTraceId``: names this attempt of this topic, 32 hex digits."""
    seed = f"{delivery.queue}/{delivery.topic}/{delivery.id}/{delivery.attempt}"
    return hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()


def job_object(delivery: Delivery, retry: RetryPolicy, now_s: float) -> dict[str, Any]:
    """
    One job as handlers and RPOP see it.

    Args:
        delivery: The claimed delivery.
        retry: The topic's policy, for the fields about retries.
        now_s: Unix seconds, for ``RetryResidueTime``.

    Returns:
        The nine keys in their old order and spelling; a body that is not UTF-8 is base64 and adds
        ``"encoding": "base64"``. Times are whole seconds; ``BeginRetry`` is unix time, 0 before
        the first attempt ended; ``RetryTime`` 0 means without bound.
    """
    content, encoding = _content(delivery.body)
    job: dict[str, Any] = {
        "id": delivery.id,
        "inTraceId": trace_id(delivery.traceparent, delivery.id),
        "content": content,
        "retrying": delivery.attempt > 1,
        "RetryTimes": delivery.attempt,
        "RetryTime": int(retry.for_s),
        "IsRetry": retry.attempts > 1,
        "BeginRetry": delivery.first_ms // 1000,
        "RetryResidueTime": _residue_s(delivery, retry, now_s),
    }
    if encoding:
        job["encoding"] = encoding
    return job


def _residue_s(delivery: Delivery, retry: RetryPolicy, now_s: float) -> int:
    """Whole seconds in which new attempts may still begin."""
    begin_s = delivery.first_ms // 1000
    return max(0, int(retry.for_s) - int(now_s - begin_s)) if begin_s else int(retry.for_s)


def _content(body: bytes) -> tuple[str, str]:
    try:
        return body.decode("utf-8"), ""
    except UnicodeDecodeError:
        return base64.b64encode(body).decode("ascii"), "base64"


_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumps(value: object) -> bytes:
    """Compact JSON, UTF-8, not ASCII-escaped."""
    return _JSON.encode(value).encode("utf-8")


def _template() -> bytes:
    """The encoded ``jobs`` field of one job, with ``%b`` where its values go."""
    names = ("content", "retrying", "RetryTimes", "RetryTime", "IsRetry", "BeginRetry", "RetryResidueTime")
    values = ",".join(f'"{name}":\0' for name in names)
    encoded = form_value(f'[{{"id":"\0","inTraceId":"\0",{values}}}]'.encode())
    return encoded.replace(b"%", b"%%").replace(b"%%00", b"%b")


_JOB: Final = _template()
_BOOL: Final = (b"false", b"true")


class Form:
    """
    The handler call of one topic: what never changes of it is encoded once.

    Args:
        queue, topic: Whose jobs.
        retry: The topic's policy.
    """

    def __init__(self, queue: str, topic: str, retry: RetryPolicy) -> None:
        self._retry = retry
        self._names = b"&queue=" + form_value(queue.encode()) + b"&topic=" + form_value(topic.encode()) + b"&jobs="

    def data(self, delivery: Delivery, now_s: float) -> bytes:
        """
        The body of the call that hands over one job: ``job_object``, as JSON, as a form.

        The fields around the content are filled into a template: a third of the time.
        """
        return self._fields(b"data", attempt_trace_id(delivery)) + self._jobs(delivery, now_s)

    def _jobs(self, delivery: Delivery, now_s: float) -> bytes:
        retry = self._retry
        try:
            content = _JSON.encode(delivery.body.decode("utf-8"))
        except UnicodeDecodeError:
            return form_value(dumps([job_object(delivery, retry, now_s)]))
        return _JOB % (
            delivery.id.encode(),
            trace_id(delivery.traceparent, delivery.id).encode(),
            form_value(content.encode("utf-8")),
            _BOOL[delivery.attempt > 1],
            b"%d" % delivery.attempt,
            b"%d" % int(retry.for_s),
            _BOOL[retry.attempts > 1],
            b"%d" % (delivery.first_ms // 1000),
            b"%d" % _residue_s(delivery, retry, now_s),
        )

    def ping(self, trace: str) -> bytes:
        """The body of the call that asks whether the handler takes this topic."""
        return self._fields(b"ping", trace) + form_value(b"[]")

    def _fields(self, kind: bytes, trace: str) -> bytes:
        return b"type=%b&IS_PEPPER_BUS_REQUEST=true&outTraceId=%b%b" % (kind, trace.encode(), self._names)


def consume_topics(headers: Mapping[str, str], body: bytes) -> frozenset[str] | None:
    """
    The topics an answered ping lists, as ``queue/topic``.

    Returns:
        From ``Consume-Topics`` or else from the body; None: the answer carries no list.
    """
    text = headers.get("consume-topics")
    if text is None:
        text = body[:65_536].decode("utf-8", "replace").strip()
        if _TOPIC_LIST.match(text) is None:
            return None
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def pushed_json(ids: Sequence[str] | None, trace: str, error: str = "") -> bytes:
    """The answer to a push: the ids, or None and why not."""
    return dumps({"jobs": None if ids is None else list(ids), "inTraceId": trace, "error": error})


def popped_json(jobs: Iterable[Mapping[str, Any]]) -> bytes:
    """The answer to RPOP: ``{"jobs": [{job}]}``, each made by ``job_object``."""
    return dumps({"jobs": list(jobs)})
