"""
From a whole answer to an Outcome: the contracts ``pepper`` and ``plain``.

Rule: done is only what says so. The texts are for people: they name what to look at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pbus.codec import headers
from pbus.core.outcome import Outcome, Verdict, of_http_status, of_pepper_code

RETRY_AFTER_MAX_S: Final = 3600.0
EXCERPT_CHARS: Final = 300

_OVERSIZE: Final = re.compile(rb"POST Content-Length of (\d+) bytes exceeds the limit of (\d+) bytes")
_HEADERS_SENT: Final = re.compile(rb"[Hh]eaders already sent(?: by)?(?: \(output started at ([^)]*)\))?")
_PHP_ERROR: Final = re.compile(rb"(?:Fatal|Parse) error(?:</b>)?: +([^\n]*)")
_NO_SCRIPT: Final = (b"File not found.", b"No input file specified.")


@dataclass(slots=True, kw_only=True)
class Answer:
    """
    A whole answer, whichever way it came.

    Attributes:
        headers: Lower-case names.
        body: Excerpt.
        status: HTTP status, or the CGI header ``Status``; 0: none.
        stderr: What FastCGI carried beside it.
        sent_bytes: Size of the encoded body of the request.
        run_s: Seconds from the request to here.
        target: Where it ran.
        resent: The request went out twice.
    """

    headers: Mapping[str, str]
    body: bytes
    status: int = 0
    stderr: bytes = b""
    sent_bytes: int = 0
    run_s: float = 0.0
    target: str = ""
    resent: bool = False

    def outcome(self, verdict: Verdict, error: str = "", *, status: str = "", delay_s: float | None = None) -> Outcome:
        """The outcome with everything the answer carried."""
        return Outcome(
            verdict=verdict, error=error, delay_s=delay_s, run_s=self.run_s, status=status, headers=self.headers,
            output=self.body, stderr=self.stderr, target=self.target, resent=self.resent,
        )


def is_done(answer: Answer) -> bool:
    """What ``pepper`` answers would be DONE."""
    code = answer.headers.get("code")
    return code is not None and of_pepper_code(code) is Verdict.DONE and not _oversize(answer)


def may_be_oversize(body: bytes) -> bool:
    """It may say that its request was too large: what that means depends on the request."""
    return _OVERSIZE.search(body) is not None


def pepper(answer: Answer, wall_s: float) -> Outcome:
    """
    What a handler of the Pepperbus contract answered: the header ``Code`` alone counts.

    Args:
        answer: The answer.
        wall_s: Now, unix seconds, for a ``Retry-After`` that is a date.
    """
    oversize = _oversize(answer)
    if oversize:
        return answer.outcome(Verdict.PERMANENT, oversize, status=answer.headers.get("code", ""))
    code = answer.headers.get("code")
    if code is None:
        verdict, error = _without_code(answer)
        return answer.outcome(verdict, error, status=str(answer.status or ""))
    verdict = of_pepper_code(code)
    if verdict is Verdict.DONE:
        return answer.outcome(verdict, status=code)
    text = _sentence(f"Code: {code}", answer)
    delay_s = _delay_s(answer, wall_s) if verdict is Verdict.BUSY else None
    return answer.outcome(verdict, text, status=code, delay_s=delay_s)


def plain(answer: Answer, wall_s: float, *, by_header: bool) -> Outcome:
    """
    What an HTTP endpoint answered: its status counts (RFC 9110 section 15).

    Args:
        answer: The answer.
        wall_s: Now, unix seconds, for a ``Retry-After`` that is a date.
        by_header: 2xx is done only with ``X-Pbus-Ack: 1``.
    """
    verdict = of_http_status(answer.status)
    status = str(answer.status)
    if verdict is Verdict.DONE:
        if not by_header or answer.headers.get("x-pbus-ack") == "1":
            return answer.outcome(verdict, status=status)
        return answer.outcome(
            Verdict.FAILED, _sentence(f"HTTP {status} without X-Pbus-Ack: 1: not acknowledged", answer), status=status
        )
    text = _sentence(f"HTTP {status}", answer)
    if verdict is Verdict.MISCONFIGURED:
        text = f"HTTP {status} to {answer.headers.get('location', 'nowhere')}: redirects are not followed"
    delay_s = _delay_s(answer, wall_s) if verdict is Verdict.BUSY else None
    return answer.outcome(verdict, text, status=status, delay_s=delay_s)


def too_large(size: int, max_post: int) -> str:
    """Why a request of *size* bytes is not sent to a backend that takes *max_post*."""
    return f"the encoded request has {size} bytes, max_post of the backend is {max_post}: never sent"


def _oversize(answer: Answer) -> str:
    """
    php dropped the whole form, and a handler that saw nothing may well have said 200.

    Only php's own message about *this* request counts: its figure must be ours.
    """
    for text in (answer.stderr, answer.body):
        match = _OVERSIZE.search(text) if text else None
        if match is not None and int(match[1]) == answer.sent_bytes:
            return (
                f"the request of {answer.sent_bytes} bytes is above php's post_max_size of {int(match[2])}: "
                "the handler got no fields; raise post_max_size, and set max_post of the backend to it"
            )
    return ""


def _without_code(answer: Answer) -> tuple[Verdict, str]:
    """php-fpm's own answers about the script, or a handler that did not acknowledge."""
    body = answer.body.strip()
    if answer.status == 404 and body in _NO_SCRIPT:
        hint = "it must be there, and php-fpm's user must be able to read it"
        return Verdict.NOT_REGISTERED, f"php-fpm finds no script at {answer.target}: {hint}"
    if answer.status == 403 and body == b"Access denied.":
        return Verdict.MISCONFIGURED, f"php-fpm refuses to run {answer.target} (security.limit_extensions)"
    what = "not acknowledged: the answer has no Code header"
    for text in (answer.stderr, answer.body):
        match = _PHP_ERROR.search(text)
        if match is not None:  # once: the excerpt would say the same again
            return Verdict.FAILED, f"{what}; php says: {_shown(match[1])}"
    return Verdict.FAILED, _sentence(what + _hint(answer), answer)


def _hint(answer: Answer) -> str:
    for text in (answer.stderr, answer.body):
        match = _HEADERS_SENT.search(text)
        if match is not None:
            where = f" at {_shown(match[1])}" if match[1] else ""
            return f"; polluted headers: output began before the header was set{where}"
    if answer.body.lstrip().startswith((b"<br", b"Warning:", b"Notice:", b"Deprecated:", b"PHP ")):
        return "; polluted headers: output began before the header was set"
    return f"; status {answer.status}" if answer.status not in (0, 200) else ""


def _sentence(what: str, answer: Answer) -> str:
    code = answer.headers.get("error-code", "")
    parts = [what, f"Error-Code: {code}" if code else "", _shown(answer.body) or _shown(answer.stderr)]
    return "; ".join(part for part in parts if part)


def _shown(data: bytes) -> str:
    text = data[: EXCERPT_CHARS * 4].decode("utf-8", "replace").strip()
    return text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + ".."


def _delay_s(answer: Answer, wall_s: float) -> float | None:
    value = answer.headers.get("retry-after")
    delay_s = None if value is None else headers.retry_after_s(value, wall_s)
    return None if delay_s is None else min(delay_s, RETRY_AFTER_MAX_S)
