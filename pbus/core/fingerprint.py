"""
The group of an error: which failures are the same one with other numbers.

    text --cut--> the lines that say what it is --mask--> masked text --hash with the reason--> 16 hex digits

What differs from job to job is masked: numbers, ids, addresses, times, quoted values. What tells the kinds of
an error apart stays: words, the names of files and functions, and a number that is a code (``HTTP 502``,
``errno 13``, ``SQLSTATE[42S02]``).

Rule: pure, and stable: dead letters keep their group for weeks, so a change here makes new groups of old
errors. Texts come from strangers: they are cut first, and every pattern reads each character a bounded number of
times (possessive, or begins only where a word begins).
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Final

TEXT_CHARS: Final = 2048
"""Nothing behind this is looked at."""
MASKED_CHARS: Final = 512
"""So much of the masked text makes the group; it is cut after masking, where lengths do not vary any more."""
TRACEBACK_LINES: Final = 5
"""Of a traceback the last lines count: the exception, and the frames nearest to it."""

_FRAME: Final = re.compile(r'^[ \t]*+File "', re.MULTILINE)
_SAY_NOTHING: Final = re.compile(r"(?:[\s~^]*|Traceback \(most recent call last\):)\Z")

_PARTS: Final = (
    # A code tells errors apart, so it stays as it is: HTTP 502, status 255, errno 13, SQLSTATE[42S02].
    r"(?P<code>(?<!\w)(?i:HTTP(?:/[0-9.]{1,3})?|status|code|errno|signal)[ :=]{1,2}[0-9]{1,3}(?![\w.,:-]*[0-9])"
    r"|SQLSTATE\[[0-9A-Z]{5}\])",
    # A frame of a traceback: its file is what it is about, only numbers in it are masked.
    r'(?P<frame>File "[^"\n]{1,300}")',
    r"(?P<time>(?<!\w)[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9:.,]*+(?:Z|[+-][0-9:]{2,5})?)",
    r"(?P<uuid>(?<!\w)[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}(?!\w))",
    r"(?P<job>(?<!\w)[0-9]{10,14}-[0-9]{1,20}(?!\w))",
    r"(?P<ip4>(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5})?(?!\.?\w))",
    r"(?P<ip6>\[(?=[0-9a-fA-F.]*+:)[0-9a-fA-F:.]{2,45}\](?::[0-9]{1,5})?"
    r"|(?<![\w:.])(?=[a-fA-F:]{0,39}[0-9])(?=[0-9:]{0,39}(?:[a-fA-F]|::))(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:]))",
    # HOST.NAME:PORT, but not the line of a file.
    r"(?P<host>(?:(?<![\w./-])|(?<=//))(?:[A-Za-z0-9-]++\.)++[A-Za-z0-9-]++"
    r"(?<!\.php)(?<!\.phtml)(?<!\.inc)(?<!\.py)(?<!\.js)(?<!\.rb)(?<!\.go):[0-9]{1,5}(?!\w))",
    r"(?P<quoted>(?<!\w)(?:'[^'\n]*+'|\"[^\"\n]*+\"|`[^`\n]*+`)(?!\w))",
    r"(?P<hex>(?<![0-9A-Za-z_])(?:0[xX][0-9a-fA-F]++|[0-9a-fA-F]{8,}+)(?![0-9A-Za-z_]))",
    # A word with digits in three places: an id in some alphabet (ULID, base62, a temporary file).
    r"(?P<word>(?<![0-9A-Za-z_])(?=[A-Za-z_]*+[0-9]++[A-Za-z_]++[0-9]++[A-Za-z_]++[0-9])[0-9A-Za-z_]++)",
    r"(?P<number>(?:(?<![\w)\]])[-+])?[0-9]++(?:[.,][0-9]++)*+(?:[eE][-+]?[0-9]++(?!\w))?)",
)
_VARIES: Final = re.compile("|".join(_PARTS))
_MASKS: Final = {"ip4": "<address>", "ip6": "<address>", "host": "<address>", "quoted": "<text>"}
"""Everything else is ``<n>``: whether a number is an id, a time or a count cannot be told by its looks."""
_DIGITS: Final = re.compile(r"[0-9]++")
_LISTS: Final = re.compile(r"<(n|text|address)>(?:(?:[,;] ?|[ :./+-])<\1>)++")
"""Several in a row are one: a list may have any length, a version or a date any number of parts."""
_SPACES: Final = re.compile(r"\s++")


def masked(text: str) -> str:
    """*text* with everything replaced that varies from one occurrence of the same error to the next."""
    return _SPACES.sub(" ", _LISTS.sub(r"<\1>", _VARIES.sub(_mask, _telling(text[:TEXT_CHARS])))).strip()


def fingerprint(reason: str, error: str) -> str:
    """
    The group of a failure, 16 hex digits.

    Args:
        reason: Class of the failure; the same text under another class is another group.
        error: Text for people, of any length.
    """
    return _of(reason, error[:TEXT_CHARS])


@functools.lru_cache(maxsize=256)
def _of(reason: str, error: str) -> str:
    """Many failures in a row have the very same text: then it costs nothing."""
    told = f"{reason}\n{masked(error)[:MASKED_CHARS]}"
    return hashlib.blake2b(told.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _mask(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    if kind == "code":
        return match[0]
    return _DIGITS.sub("<n>", match[0]) if kind == "frame" else _MASKS.get(kind, "<n>")


def _telling(text: str) -> str:
    """The lines of *text* that say what happened: of a traceback its end, of anything else all of them."""
    if _FRAME.search(text) is None:
        return text
    lines = [line for line in text.splitlines() if not _SAY_NOTHING.match(line)]
    return "\n".join(lines[-TRACEBACK_LINES:])
