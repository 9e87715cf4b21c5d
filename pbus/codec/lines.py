r"""
The ``lines`` protocol of command consumers: one JSON line a job, one JSON line back; no I/O.

    to the program    {"id","queue","topic","attempt","redelivered","traceparent"[,"replay_of"],"body"
                       [,"encoding":"base64"]}\n
    from the program  {"id","ok":true}\n
                      {"id","ok":false[,"error":".."][,"retry_after":2.5][,"dead":true]}\n
                      anything else\n                     output, for the topic's log

Rule: a line is an answer when it looks like one, so that a mistake in it is a failure that says what is wrong,
and not a job that waits for its timeout. Nothing that a program writes grows a reader without bound.
Source: docs/handlers.md, section Command.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, Final

ANSWER_BYTES: Final = 1024 * 1024
"""A line that is longer is cut, and no answer."""
ERROR_BYTES: Final = 2000
"""Of an error text its start is kept."""
SHOWN_CHARS: Final = 200
LONGEST_WAIT_S: Final = 366 * 86_400
"""A program cannot ask for more; a mistake in a unit must not hide a job for ever."""

_KEYS: Final = frozenset(("id", "ok", "error", "retry_after", "dead"))
_LIKE_AN_ANSWER: Final = re.compile(rb"""\s*\{.*["']ok["']\s*:""", re.DOTALL)
_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Malformed(ValueError):
    """A line that was meant as an answer and is none; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a program said of a job.

    Attributes:
        job_id: Which one.
        verdict: ``done``, ``failed``, ``retry`` or ``permanent``.
        error: Text for people, at most ERROR_BYTES; empty when done.
        delay_s: What it asked to wait before the next attempt; None: the policy decides.
    """

    job_id: str
    verdict: str
    error: str = ""
    delay_s: float | None = None


class Encoder:
    """
    Writes the jobs of one topic.

    Args:
        queue, topic: Its name.
    """

    def __init__(self, queue: str, topic: str) -> None:
        self._names = f',"queue":{_text(queue)},"topic":{_text(topic)},"attempt":'

    def job(
        self, job_id: str, attempt: int, redelivered: bool, traceparent: str, body: bytes, replay_of: str = ""
    ) -> bytes:
        """One job as a line. A body that is not UTF-8 is base64, and the line says so."""
        try:
            content, encoding = _text(body.decode()), ""
        except UnicodeDecodeError:
            content, encoding = f'"{base64.b64encode(body).decode()}"', ',"encoding":"base64"'
        again = "true" if redelivered else "false"
        replayed = f',"replay_of":{_text(replay_of)}' if replay_of else ""
        line = (
            f'{{"id":{_text(job_id)}{self._names}{attempt},"redelivered":{again},"traceparent":{_text(traceparent)}'
            f'{replayed},"body":{content}{encoding}}}\n'
        )
        return line.encode("utf-8", "replace")


class LineReader:
    """
    Turns what a program writes into lines. One owner: whoever reads the pipe.

    Args:
        limit_bytes: A line is cut here; what follows up to its end is dropped and counted.
    """

    def __init__(self, limit_bytes: int = ANSWER_BYTES) -> None:
        self._limit = limit_bytes
        self._partial = bytearray()
        self._skipping = False
        self.dropped_bytes = 0
        """Bytes of cut lines that were dropped so far; whoever tells of them sets it back to 0."""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that *data* completes, in order, without their ends."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            line = self._ended(piece)
            if line is not None:
                lines.append(line)
        if rest:
            lines += self._kept(rest)
        return lines

    def rest(self) -> bytes:
        """What was written last and has no end; empty when there is nothing. Ends the reader's work."""
        rest = bytes(self._partial)
        self._partial.clear()
        return rest

    @property
    def is_skipping(self) -> bool:
        """A line that was cut has not ended yet."""
        return self._skipping

    @property
    def pending_bytes(self) -> int:
        """Bytes of a line that has not ended."""
        return len(self._partial)

    def _ended(self, piece: bytes) -> bytes | None:
        """The line that ends with *piece*; None where it was cut and handed over before."""
        if self._skipping:
            self._skipping = False
            self.dropped_bytes += len(piece)
            return None
        line = bytes(self._partial) + piece if self._partial else piece
        self._partial.clear()
        return self._cut(line.removesuffix(b"\r"))

    def _kept(self, piece: bytes) -> list[bytes]:
        """Keep the beginning of a line; a line that is too long is handed over at once."""
        if self._skipping:
            self.dropped_bytes += len(piece)
            return []
        self._partial += piece
        if len(self._partial) <= self._limit:
            return []
        self._skipping = True
        line = bytes(self._partial)
        self._partial.clear()
        return [self._cut(line)]

    def _cut(self, line: bytes) -> bytes:
        if len(line) <= self._limit:
            return line
        self.dropped_bytes += len(line) - self._limit
        return line[: self._limit]


def answer(line: bytes) -> Answer | None:
    """
    What a line of a program's standard output says of a job.

    Returns:
        The answer, or None: it is output.

    Raises:
        Malformed: it was meant as an answer (it has an ``ok``, or nothing but an answer's keys).
    """
    if line[:1] not in (b"{", b" ", b"\t", b"\xef"):
        return None
    meant = _LIKE_AN_ANSWER.match(line.removeprefix(b"\xef\xbb\xbf")) is not None
    try:
        said = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        if meant:
            long = f", longer than {ANSWER_BYTES} bytes" if len(line) >= ANSWER_BYTES else ""
            raise Malformed(f"answered {_shown(line)}, which is no JSON{long}: {str(error)[:SHOWN_CHARS]}") from error
        return None
    if not isinstance(said, dict) or not said:
        return None
    if not ("ok" in said and "id" in said) and not said.keys() <= _KEYS:
        return None  # a program that logs in JSON
    return _read(said, line)


def begins(line: bytes) -> int:
    """Where in *line* an answer begins: behind output that has no line end of its own (``echo "debug";``), else 0."""
    if line[:1] == b"{" or b'"ok"' not in line or not line.rstrip().endswith(b"}"):
        return 0
    return max(0, line.rfind(b'{"id"'))


def _read(said: dict[str, Any], line: bytes) -> Answer:
    job_id, ok = said.get("id"), said.get("ok")
    if not isinstance(job_id, str):
        raise Malformed(f'answered {_shown(line)}: "id" is {_kind(said, "id")}, the text of the job is expected')
    if not isinstance(ok, bool):
        raise Malformed(f'answered {_shown(line)}: "ok" is {_kind(said, "ok")}, true or false is expected')
    if ok:
        return Answer(job_id, "done")
    complaints: list[str] = []
    delay_s = _delay_s(said, complaints)
    dead = said.get("dead")
    if dead is not None and not isinstance(dead, bool):
        complaints.append(f'"dead" is {_kind(said, "dead")}, true or false is expected')
    verdict = "permanent" if dead is True else "failed" if delay_s is None else "retry"
    return Answer(job_id, verdict, _error(said, complaints), delay_s if verdict == "retry" else None)


def _delay_s(said: dict[str, Any], complaints: list[str]) -> float | None:
    after = said.get("retry_after")
    if after is None:
        return None
    if isinstance(after, bool) or not isinstance(after, int | float) or not after >= 0:
        complaints.append(f'"retry_after" is {_kind(said, "retry_after")}, a number of seconds is expected')
        return None
    return float(min(after, LONGEST_WAIT_S))


def _error(said: dict[str, Any], complaints: list[str]) -> str:
    error = said.get("error")
    if error is not None and not isinstance(error, str):
        complaints.append(f'"error" is {_kind(said, "error")}, a text is expected')
        error = None
    text = error or ("" if complaints else "the program answered that it failed, and gave no error")
    return kept("; ".join([part for part in (text, *complaints) if part]))


def _kind(said: dict[str, Any], key: str) -> str:
    """What stands there instead, short."""
    if key not in said:
        return "missing"
    value = said[key]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return _text(value)[:SHOWN_CHARS]


def _shown(line: bytes) -> str:
    text = line[: 4 * SHOWN_CHARS].decode("utf-8", "replace").strip()
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}.."


def kept(text: str) -> str:
    """The start of *text*, at most ERROR_BYTES of UTF-8, without halves of characters."""
    return text.encode("utf-8", "replace")[:ERROR_BYTES].decode("utf-8", "ignore")
