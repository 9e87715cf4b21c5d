"""
What is hidden of a job before somebody else may see it: named fields, and what looks like a secret or like a person.

    body --JSON--> fields of the paths, of secret names; texts by patterns --> JSON, written anew
         --form--> the same of each value
         --text--> patterns
         --else--> all of it

Rule: it is better to hide too much than too little, and what is hidden leaves a mark. A body in which nothing is to be
hidden stays as it is, to the byte. Pure. Texts come from strangers: patterns begin where a word begins, bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, unquote_plus

HIDDEN: Final = "***"

_SECRET: Final = r"pass(?:word|wd|phrase)|pwd|secret|token|authori[sz]ation|cookie|credential|api_?key|private_?key"
SECRET_NAME: Final = re.compile(rf"^(?:pass|pw|auth)$|[_-](?:pass|pw)$|{_SECRET}", re.IGNORECASE)
"""Names of fields whose values are secrets."""

_NESTED: Final = 3
_BEGINS: Final = r"(?<![A-Za-z0-9_-])"
_AROUND: Final = "[A-Za-z0-9_-]{0,40}"
_NAMED: Final = rf"{_BEGINS}(?:{_AROUND}(?:{_SECRET}){_AROUND}|(?:[A-Za-z0-9]{{1,40}}[_-])?(?:pass|pw|auth))"
# What stands between a name and its value in a form, a log, JSON inside of something, PHP's serialize(); and the value.
_VALUE: Final = (
    r"""\\?["']?(?:;s:[0-9]{1,9}:|\s{0,3}(?:=>|[:=])\s{0,3})"""
    r"""(?P<value>\\"[^"\\]*|"(?:[^"\\]|\\.)*+|'(?:[^'\\]|\\.)*+|(?:(?:bearer|basic|digest)\s{1,3})?[^\s,;&"'})\]]+)"""
)
_PATTERNS: Final = tuple(re.compile(text, re.IGNORECASE | re.DOTALL) for text in (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    _NAMED + _VALUE,
    r"(?<=://)(?P<value>[^/@\s\"']{1,200})@",
    r"\b(?:bearer|basic) {1,3}(?P<value>[A-Za-z0-9+/=._~-]{6,})",
    r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?",
    r"\b(?:AKIA[0-9A-Z]{16}|LTAI[0-9A-Z]{12,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|xox[abprs]-[\w-]{10,}|sk-[\w-]{16,})",
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}",
    # a Chinese identity card, a mobile number of China, any number with its country
    r"(?<![A-Za-z0-9])[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9X](?![A-Za-z0-9])",
    r"(?<![A-Za-z0-9.])(?:\+?86[ -]?)?1[3-9][0-9](?P<gap>[ -]?)[0-9]{4}(?P=gap)[0-9]{4}(?![A-Za-z0-9])",
    r"(?<![A-Za-z0-9+])\+[1-9](?:[ ()-]{0,2}[0-9]){7,14}(?![0-9])",
))
_CARD: Final = re.compile(r"(?<![A-Za-z0-9.])[3-6][0-9]{3}(?:[ -]?[0-9]){9,15}(?![A-Za-z0-9])")
_BINARY: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_FORM: Final = re.compile(r"[\w.%\[\]+-]{1,200}=[^&\s]*+(?:&[\w.%\[\]+-]{1,200}=[^&\s]*+)*\Z", re.ASCII)
_STEP: Final = re.compile(
    r"(?P<dots>\.\.?)(?P<name>[^\s.\[\]'\"*]+|\*)|\[(?P<index>[0-9]{1,9}|\*)\]|\[(?P<q>['\"])(?P<odd>.+?)(?P=q)\]"
)


class _Step(NamedTuple):
    """One step of a path; *what* is a name, an index or None for any. *deep*: at any depth below."""

    what: str | int | None
    deep: bool


_Path = tuple[_Step, ...]


def steps(path: str) -> _Path:
    """
    The steps of ``$.user.card``, ``$.items[*].pin``, ``$..phone``, ``$['odd name']``.

    Raises:
        ValueError: it is written otherwise.
    """
    found: list[_Step] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            break
        at, (dots, name, index, odd) = match.end(), match.group("dots", "name", "index", "odd")
        what: str | int | None = odd or (name if name != "*" else None)
        if index is not None:
            what = int(index) if index != "*" else None
        found.append(_Step(what, dots == ".."))
    if not path.startswith("$") or at < len(path) or not found:
        raise ValueError(f"{path!r} is no path; write $.name, $.items[*].name, $..name or $['odd name']")
    return tuple(found)


class Mask:
    """
    Hides what *paths* name (of JSON; of other text: what bears the last name of one), secrets and personal data.

    Raises:
        ValueError: see ``steps``.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._paths = [steps(path) for path in paths]
        names = [re.escape(path[-1].what) for path in self._paths if isinstance(path[-1].what, str)]
        own = [re.compile(rf"{_BEGINS}(?:{'|'.join(names)}){_VALUE}", re.IGNORECASE | re.DOTALL)] if names else []
        self._patterns = (*own, *_PATTERNS)

    def text(self, text: str) -> str:
        """*text* with ``***`` for whatever a pattern finds."""
        for pattern in self._patterns:
            text = pattern.sub(_hide, text)
        return _CARD.sub(_hide_card, text)

    def body(self, body: bytes) -> bytes:
        """*body* as others may see it: itself, where nothing is to be hidden; ``***`` where nobody can look inside."""
        try:
            return self._body(body)
        except (UnicodeDecodeError, RecursionError):
            return HIDDEN.encode()

    def _body(self, body: bytes) -> bytes:
        text = body.decode("utf-8")
        if _BINARY.search(text):
            return HIDDEN.encode()
        return self._inside(text, self._paths, _NESTED).encode("utf-8", "backslashreplace")

    def _inside(self, text: str, paths: Sequence[_Path], nested: int) -> str:
        """Of a text that may be JSON or a form; *nested*: so many of them in one another are opened."""
        try:
            value = json.loads(text, object_pairs_hook=_pairs) if nested else None
        except ValueError:
            return self._form(text, nested) if _FORM.match(text) else self.text(text)
        if not isinstance(value, dict | list | str):
            return self.text(text)
        masked = self._value(value, paths, nested - 1)
        return text if masked == value else json.dumps(masked, ensure_ascii=False, separators=(",", ":"))

    def _form(self, text: str, nested: int) -> str:
        fields = []
        for field in text.split("&"):
            name, _, value = field.partition("=")
            plain = unquote_plus(value)
            named = self._names(unquote_plus(name)) and plain
            masked = HIDDEN if named else self._inside(plain, (), nested - 1)
            fields.append(field if masked == plain else f"{name}={quote_plus(masked, safe='*')}")
        return "&".join(fields)

    def _names(self, name: str) -> bool:
        return bool(SECRET_NAME.search(name)) or any(path[-1].what == name for path in self._paths)

    def _value(self, value: Any, paths: Sequence[_Path], nested: int) -> Any:
        if isinstance(value, dict):
            return {self.text(name): self._child(name, each, paths, nested) for name, each in value.items()}
        if isinstance(value, list):
            return [self._child(index, each, paths, nested) for index, each in enumerate(value)]
        if isinstance(value, str):
            return self._inside(value, (), nested) if nested > 0 else self.text(value)
        if value is None or isinstance(value, bool):
            return value
        return value if self.text(str(value)) == str(value) else HIDDEN

    def _child(self, place: str | int, value: Any, paths: Sequence[_Path], nested: int) -> Any:
        left = [path for path in paths if path[0].deep]
        left += [path[1:] for path in paths if path[0].what in (None, place)]
        secret = isinstance(place, str) and SECRET_NAME.search(place) and not isinstance(value, bool)
        if (secret or () in left) and value not in (None, ""):
            return HIDDEN
        return self._value(value, [path for path in left if path], nested)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")  # the first one would be dropped unseen: as text, both are looked at
    return found


def _hide(match: re.Match[str]) -> str:
    """The mark instead of the value, or of all of it."""
    if "value" not in match.re.groupindex:
        return HIDDEN
    begin, end = match.start("value") - match.start(), match.end("value") - match.start()
    quotes = re.match(r"\\?[\"']?", match["value"])
    opening = quotes[0] if quotes else ""
    return f"{match[0][:begin]}{opening}{HIDDEN}{match[0][end:]}"


def _hide_card(match: re.Match[str]) -> str:
    digits = [int(each) for each in reversed(match[0]) if each.isdigit()]
    doubled = (2 * each - 9 * (each > 4) for each in digits[1::2])  # Luhn, ISO/IEC 7812-1
    return HIDDEN if (sum(digits[::2]) + sum(doubled)) % 10 == 0 else match[0]
