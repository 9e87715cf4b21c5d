"""
Which jobs are meant: ``error ~ "timeout" and attempts >= 3 and not $.vip``.

    or        = and ("or" and)*
    and       = not ("and" not)*
    not       = "not" not | "(" or ")" | test
    test      = field [op value | "in" "(" value ("," value)* ")"]      a field alone: it is there, and not empty or 0
    op        = "=" "==" "!=" "<" "<=" ">" ">=" "~" (contains) "!~"
    field     = a row of FIELDS | $.path.in.a.JSON.body
    value     = "text" 'text' word number duration (90s, 5m, 2h, 1d: seconds)

Rule: pure. What a job does not have is no match of any test but ``!=`` and ``!~``. Numbers are compared as such where
both sides are some, else as text; there is no regular expression, so no expression is slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

PARSED_BYTES: Final = 1024 * 1024
"""A longer body is not looked into for ``$.path``."""
LONGEST: Final = 4096
"""Characters of an expression."""
DEEPEST: Final = 50
"""Of parentheses and ``not``."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class FilterError(ValueError):
    """An expression that nobody understands; the text shows where."""


@dataclass(slots=True)
class Job:
    """
    What of a job, and of its delivery to one topic, can be asked for.

    Attributes:
        age_s: Since its push.
    """

    id: str
    queue: str
    topic: str
    body: bytes = b""
    error: str = ""
    reason: str = ""
    fingerprint: str = ""
    attempts: int = 0
    crashes: int = 0
    key: str = ""
    content_type: str = ""
    age_s: float = 0.0
    _parsed: list[Any] = field(default_factory=list)

    def value(self, path: tuple[str, ...]) -> Any:
        """Of its JSON body; None: there is none."""
        if not self._parsed:
            try:
                self._parsed.append(json.loads(self.body) if len(self.body) <= PARSED_BYTES else None)
            except (ValueError, RecursionError):
                self._parsed.append(None)
        found = self._parsed[0]
        for name in path:
            if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict):
                found = found.get(name)
            else:
                return None
        return found


FIELDS: Final[dict[str, Callable[[Job], Any]]] = {
    "id": lambda job: job.id,
    "queue": lambda job: job.queue,
    "topic": lambda job: job.topic,
    "error": lambda job: job.error,
    "reason": lambda job: job.reason,
    "group": lambda job: job.fingerprint,
    "attempts": lambda job: job.attempts,
    "crashes": lambda job: job.crashes,
    "key": lambda job: job.key,
    "type": lambda job: job.content_type,
    "size": lambda job: len(job.body),
    "age": lambda job: job.age_s,
    "body": lambda job: job.body.decode("utf-8", "replace"),
}
"""What a test may begin with; ``age`` in seconds, ``group`` as ``pbus dead ls`` shows it."""

Filter = Callable[[Job], bool]

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<op>==|!=|<=|>=|!~|[=<>~(),])"""
    r"""|(?P<word>[^\s"'()=<>~!,]+))"""
)
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?\Z")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str) -> Filter:
    """
    What tells of a job whether it is meant; of an empty *text*: each is.

    Raises:
        FilterError: it cannot be understood; says where and what was expected.
    """
    if len(text) > LONGEST:
        raise FilterError(f"the filter has {len(text)} characters, {LONGEST} are possible")
    if not text.strip():
        return lambda _: True
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read(text))
        self._next = 0
        self._depth = 0

    def _read(self, text: str) -> Any:
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                quoted = text[at] in "\"'"
                raise self._wrong(at, "this text has no end" if quoted else f"nothing begins with {text[at]!r}")
            yield _Token(str(found.lastgroup), found[str(found.lastgroup)], found.start(str(found.lastgroup)))
            at = found.end()
        yield _Token("end", "", len(text.rstrip()))

    def _wrong(self, at: int, what: str) -> FilterError:
        # A long expression is shown around the place.
        start = max(0, at - 60)
        shown = "".join(letter if letter.isprintable() else " " for letter in self._text[start : at + 40])
        return FilterError(f"filter, character {at + 1}: {what}\n  {shown}\n  {' ' * (at - start)}^")

    @property
    def _token(self) -> _Token:
        token: _Token = self._tokens[self._next]
        return token

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _is(self, word: str) -> bool:
        if self._token.kind in ("word", "op") and self._token.text.lower() == word:
            self._next += 1
            return True
        return False

    def whole(self) -> Filter:
        found = self._or()
        if self._token.kind != "end":
            raise self._wrong(self._token.at, f"expected 'and', 'or' or the end, not {self._token.text!r}")
        return found

    def _or(self) -> Filter:
        parts = [self._and()]
        while self._is("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda job: any(part(job) for part in parts)

    def _and(self) -> Filter:
        parts = [self._not()]
        while self._is("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda job: all(part(job) for part in parts)

    def _not(self) -> Filter:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._wrong(self._token.at, f"more than {DEEPEST} levels")
        try:
            if self._is("not"):
                part = self._not()
                return lambda job: not part(job)
            opened = self._token.at
            if self._is("("):
                inner = self._or()
                if not self._is(")"):
                    raise self._wrong(self._token.at, f"expected ')' for the '(' of character {opened + 1}")
                return inner
            return self._test()
        finally:
            self._depth -= 1

    def _test(self) -> Filter:
        read = self._field(self._take())
        if self._is("in"):
            return _among(read, self._values())
        token = self._token
        if token.kind != "op" or token.text in "(),":
            return lambda job: bool(read(job))
        self._next += 1
        return _test(read, token.text, self._value())

    def _field(self, token: _Token) -> Callable[[Job], Any]:
        if token.kind == "word" and token.text.startswith("$"):
            path = tuple(token.text.split(".")[1:])
            if token.text[:2] != "$." or not all(path):
                raise self._wrong(token.at, "a value of the body is $.name or $.name.name")
            return lambda job: job.value(path)
        found = FIELDS.get(token.text) if token.kind == "word" else None
        if found is None:
            what = f"there is no field {token.text!r}" if token.kind == "word" else "expected a field"
            raise self._wrong(token.at, f"{what}; fields: {' '.join(FIELDS)} $.path")
        return found

    def _values(self) -> list[Any]:
        if not self._is("("):
            raise self._wrong(self._token.at, "expected '(' after 'in'")
        found = [self._value()]
        while self._is(","):
            found.append(self._value())
        if not self._is(")"):
            raise self._wrong(self._token.at, "expected ',' or ')'")
        return found

    def _value(self) -> Any:
        token = self._take()
        if token.kind == "text":
            return _ESCAPED.sub(r"\1", token.text[1:-1])
        if token.kind != "word":
            raise self._wrong(token.at, "expected a value")
        if _NUMBER.match(token.text):
            return float(token.text) if "." in token.text else int(token.text)
        if span := _DURATION.match(token.text):
            return float(span[1]) * _UNITS[span[2]]
        if token.text.lower() in ("and", "or", "not", "in"):
            raise self._wrong(token.at, f"expected a value, not the word {token.text!r} (quote it if you mean it)")
        return token.text


def _test(read: Callable[[Job], Any], op: str, wanted: Any) -> Filter:
    if op in ("=", "=="):
        return lambda job: _same(read(job), wanted)
    if op == "!=":
        return lambda job: not _same(read(job), wanted)
    text = _text(wanted)
    if op == "~":
        return lambda job: text in _text(read(job))
    if op == "!~":
        return lambda job: text not in _text(read(job))
    return lambda job: _ordered(read(job), op, wanted)


def _among(read: Callable[[Job], Any], wanted: list[Any]) -> Filter:
    return lambda job: any(_same(read(job), one) for one in wanted)


def _same(value: Any, wanted: Any) -> bool:
    if value is None:
        return False
    numbers = _number(value), _number(wanted)
    return numbers[0] == numbers[1] if None not in numbers else _text(value) == _text(wanted)


def _ordered(value: Any, op: str, wanted: Any) -> bool:
    if value is None:
        return False
    first, second = _number(value), _number(wanted)
    less, same = (
        (first < second, first == second) if first is not None and second is not None
        else (_text(value) < _text(wanted), _text(value) == _text(wanted))
    )
    return {"<": less and not same, "<=": less or same, ">": not less and not same, ">=": not less}[op]


def _number(value: Any) -> float | int | None:
    """Of a number, or of a text that is one; large whole numbers stay exact."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and _NUMBER.match(value):
        return float(value) if "." in value else int(value)
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def needs_body(text: str) -> bool:
    """Whether the expression *text* asks for what only the stored job tells, not a dead letter."""
    parse(text)
    words = [found["word"] or "" for found in _TOKEN.finditer(text)]
    return any(word.startswith("$") or word in ("body", "size", "key", "type") for word in words)
