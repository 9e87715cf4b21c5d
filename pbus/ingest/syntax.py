"""
The syntax of a command as text, and as the argument specifications that COMMAND DOCS answers.

    queue body [body ...]             LPUSH
    GROUP topic consumer [COUNT n]    the beginning of XREADGROUP

Rule: pure. The shapes are those of Redis 7, commands.c: redis-cli makes its hints of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEYS: Final = frozenset({"queue", "queue/topic", "key"})
"""Words that name a key; a cluster client would route by them."""
_INTEGERS: Final = frozenset({"n", "ms", "index", "count", "min-idle-ms"})
_DOUBLES: Final = frozenset({"seconds"})
_WORDS: Final = re.compile(r"[\[\]<>|]|\.\.\.|[^\s\[\]<>|]+")


@dataclass(frozen=True, slots=True)
class Argument:
    """
    One argument of a command.

    Attributes:
        name: What people call it.
        kind: ``key``, ``string``, ``integer``, ``double``, ``pure-token``, ``block`` or ``oneof``.
        token: The word that is said before it, or instead of it.
        optional: It may be left out.
        multiple: It may be said more than once.
        parts: Of a block, or the choices.
    """

    name: str
    kind: str
    token: str = ""
    optional: bool = False
    multiple: bool = False
    parts: tuple[Argument, ...] = ()


def parse(text: str) -> tuple[Argument, ...]:
    """
    The arguments that *text* describes.

    Raises:
        ValueError: brackets that do not match.
    """
    words = _WORDS.findall(text)
    arguments, place = _sequence(words, 0)
    if place != len(words):
        raise ValueError(f"{text!r}: {words[place]} closes nothing")
    return tuple(arguments)


def _sequence(words: Sequence[str], place: int) -> tuple[list[Argument], int]:
    """Arguments up to the end, or to what closes or divides."""
    found: list[Argument] = []
    while place < len(words) and words[place] not in ("]", ">", "|"):
        word = words[place]
        if word == "[" and found and (more := _repetition(words, place, found[-1])):
            found[-1] = _changed(found[-1], multiple=True)
            place = more
        elif word == "[":
            inner, place = _sequence(words, place + 1)
            place = _closed(words, place, "]")
            found.append(_changed(_block(inner), optional=True))
        elif word == "<":
            choice, place = _choice(words, place)
            found.append(choice)
        elif _is_token(word):
            argument, place = _with_token(words, place)
            found.append(argument)
        else:
            found.append(_value(word))
            place += 1
    return found, place


def _repetition(words: Sequence[str], place: int, before: Argument) -> int:
    """Where ``[name ...]`` after *name* ends; 0: it is something else."""
    return place + 4 if list(words[place:place + 4]) == ["[", before.name, "...", "]"] else 0


def _choice(words: Sequence[str], place: int) -> tuple[Argument, int]:
    """``<one | other>``."""
    choices, closing = [], "<"
    while closing != ">":
        inner, place = _sequence(words, place + 1)
        closing = words[place] if place < len(words) else ""
        if closing not in ("|", ">"):
            raise ValueError(f"< is not closed before {closing!r}")
        choices.append(_block(inner))
    return Argument("-or-".join(choice.name for choice in choices), "oneof", parts=tuple(choices)), place + 1


def _with_token(words: Sequence[str], place: int) -> tuple[Argument, int]:
    """``COUNT n``: the word and the values that belong to it."""
    token, place = words[place], place + 1
    values: list[Argument] = []
    while place < len(words) and token.isalpha():
        word = words[place]
        if word == "[" and values and (more := _repetition(words, place, values[-1])):
            values[-1] = _changed(values[-1], multiple=True)
            place = more
        elif word in ("[", "]", "<", ">", "|") or _is_token(word):
            break
        else:
            values.append(_value(word))
            place += 1
    if not values:
        return Argument(token.lower(), "pure-token", token), place
    if len(values) == 1:
        return _changed(values[0], token=token), place
    return Argument("-".join(value.name for value in values), "block", token, parts=tuple(values)), place


def _closed(words: Sequence[str], place: int, bracket: str) -> int:
    if place == len(words) or words[place] != bracket:
        raise ValueError(f"{bracket} is missing")
    return place + 1


def _is_token(word: str) -> bool:
    """It is said as it is: capitals, digits, ``*`` and the like."""
    return word != "..." and word == word.upper()


def _value(word: str) -> Argument:
    if word in KEYS:
        return Argument(word, "key")
    return Argument(word, "integer" if word in _INTEGERS else "double" if word in _DOUBLES else "string")


def _block(parts: Sequence[Argument]) -> Argument:
    if not parts:
        raise ValueError("brackets around nothing")
    if len(parts) == 1:
        return parts[0]
    return Argument("-".join(part.name for part in parts), "block", parts=tuple(parts))


def _changed(argument: Argument, *, token: str = "", optional: bool = False, multiple: bool = False) -> Argument:
    return Argument(
        argument.name, argument.kind, token or argument.token, optional or argument.optional,
        multiple or argument.multiple, argument.parts,
    )
