"""
What is compared between a topic and its shadow: two answers to one job, and what a thousand of them add up to.

    half of the topic --+
                        +--> differences --> Tally: how many differ, by what, some examples, ratios of run times
    half of the shadow -+

The topic's half is its final outcome (done, or dead) and the answer that led to it; the shadow's is its only attempt.
Compared are the outcome; the code, where both have one; the body, where both are done and have one, as JSON when it
is some (order of keys, white space and the notation of numbers do not count), else byte by byte.

Rule: pure and bounded. A half is at most HALF_BYTES, a tally at most EXAMPLES examples of a few hundred bytes each.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Self

KIND: Final = "shadow"
"""Of documents with a ``Tally``; their names are ``queue/topic`` of shadows."""
BODY_BYTES: Final = 2 * 1024
"""A normalised body that is longer goes by its digest: whether it differs is known, where is not."""
HALF_BYTES: Final = 3 * BODY_BYTES
EXAMPLES: Final = 10
_PATH_CHARS: Final = 120
_VALUE_CHARS: Final = 60
_DEEPEST: Final = 100
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+|\*)\]")
IGNORE: Final = re.compile(r"\$(\.[A-Za-z0-9_-]+|\[(\d+|\*)\])+\Z")
"""What may be left out of a comparison: ``$.time``, ``$.items[*].at``."""

RATIOS: Final = tuple(round(10 ** (step / 20), 6) for step in range(-40, 41))
"""Classes of (shadow's run time / topic's), 12 % wide, from 0.01 to 100; a last one for what is above."""

Path = tuple[str | int, ...]


def steps_of(path: str) -> Path:
    """``$.items[*].at`` as ('items', '*', 'at'); indexes are numbers."""
    return tuple(
        name or (index if index == "*" else int(index)) for name, index in _STEP.findall(path)
    )


@dataclass(frozen=True, slots=True)
class Half:
    """
    How one of the two ended one job.

    Attributes:
        done: Otherwise it failed.
        verdict: In a word (``core.outcome.Verdict``).
        code: Of the answer; empty: none.
        run_ms: How long the attempt took.
        body: Normalised answer; empty where it is too long, or there is none.
        digest: Of the whole normalised answer; empty: it has none.
    """

    done: bool
    verdict: str
    code: str
    run_ms: float
    body: str
    digest: str

    def to_text(self) -> str:
        """For the store."""
        return json.dumps([self.done, self.verdict, self.code, round(self.run_ms, 3), self.body, self.digest])

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None: it is none, as another version of pbus may have written it."""
        try:
            done, verdict, code, run_ms, body, digest = json.loads(text)
            return cls(bool(done), str(verdict), str(code), float(run_ms), str(body), str(digest))
        except (ValueError, TypeError):
            return None


def half_of(
    done: bool, verdict: str, code: str, run_s: float, output: bytes, ignore: Sequence[Path] = ()
) -> Half:
    """*output* as an attempt left it; a handler that answers nothing has no body to compare."""
    body = normalised(output, ignore) if done and output else ""
    digest = blake2b(body.encode(), digest_size=12).hexdigest() if body else ""
    kept = len(body) <= BODY_BYTES and len(json.dumps(body)) <= 2 * BODY_BYTES
    return Half(done, verdict, code[:40], run_s * 1000, body if kept else "", digest)


def normalised(output: bytes, ignore: Sequence[Path] = ()) -> str:
    """
    An answer as it is compared: JSON with sorted keys and without what is to be ignored, anything else as it is.

    Two texts that mean the same JSON become one. A number is what it is worth: ``1``, ``1.0`` and ``1e0`` are one.
    """
    try:
        value = json.loads(output, parse_float=_number, parse_constant=_no_constant)
        for path in ignore:
            value = _without(value, path)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except (ValueError, RecursionError):
        return output.decode("utf-8", "backslashreplace")
    return text


def _number(text: str) -> int | float | str:
    value = float(text)
    if not math.isfinite(value):
        return text                       # above what a double holds: by its digits
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _no_constant(_: str) -> Any:
    raise ValueError("no JSON")           # NaN, Infinity


def _without(value: Any, path: Path) -> Any:
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        names = list(value) if step == "*" else [step] if step in value else []
        for name in names:
            if rest:
                value[name] = _without(value[name], rest)
            else:
                del value[name]
    elif isinstance(value, list):
        places = range(len(value)) if step == "*" else [step] if isinstance(step, int) and step < len(value) else []
        for place in places:
            value[place] = _without(value[place], rest) if rest else None
    return value


@dataclass(frozen=True, slots=True)
class Difference:
    """*what* (outcome, code, body) differs: one sentence for people; *path* of the first place in a body."""

    what: str
    text: str
    path: str = ""


def differences(real: Half, shadow: Half) -> list[Difference]:
    """In what the answer of the shadow is another one; empty: in nothing."""
    found = []
    if real.done != shadow.done:
        found.append(Difference("outcome", f"{real.verdict}, the shadow {shadow.verdict}"))
    if real.code and shadow.code and real.code != shadow.code:
        found.append(Difference("code", f"{real.code}, the shadow {shadow.code}"))
    if real.done and shadow.done and real.digest != shadow.digest and real.digest and shadow.digest:
        path, text = _in_body(real.body, shadow.body)
        found.append(Difference("body", text, path))
    elif real.done and shadow.done and bool(real.digest) != bool(shadow.digest) and real.code and shadow.code:
        who = "the shadow's" if real.digest else "the topic's"
        found.append(Difference("body", f"{who} is empty", "$"))
    return found


def _in_body(real: str, shadow: str) -> tuple[str, str]:
    if not (real and shadow):
        return "", f"longer than {BODY_BYTES} bytes, and not the same"
    try:
        one, other = json.loads(real), json.loads(shadow)
        path, first, second = next(_places(one, other, "$"))
    except (ValueError, RecursionError, StopIteration):
        at = next((at for at, pair in enumerate(zip(real, shadow, strict=False)) if pair[0] != pair[1]),
                  min(len(real), len(shadow)))
        return f"byte {at}", f"{_shown(real[at:])}, the shadow {_shown(shadow[at:])}"
    return path[:_PATH_CHARS], f"{_shown(first)}, the shadow {_shown(second)}"


_MISSING: Final = object()


def _places(one: Any, other: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, the deepest places that can be named."""
    if depth < _DEEPEST and isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from _places(one.get(name, _MISSING), other.get(name, _MISSING), f"{path}.{name}", depth + 1)
    elif depth < _DEEPEST and isinstance(one, list) and isinstance(other, list):
        for place in range(max(len(one), len(other))):
            first = one[place] if place < len(one) else _MISSING
            second = other[place] if place < len(other) else _MISSING
            yield from _places(first, second, f"{path}[{place}]", depth + 1)
    elif type(one) is not type(other) or one != other:
        yield path, one, other


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _VALUE_CHARS else text[:_VALUE_CHARS] + ".."


@dataclass(frozen=True, slots=True)
class Example:
    """A job of which the two differ."""

    id: str
    differences: Sequence[Difference]

    def to_json(self) -> dict[str, Any]:
        """For the store and for programs."""
        return {"id": self.id, "differs": [
            {"what": each.what, "text": each.text, "path": each.path} for each in self.differences
        ]}


@dataclass(slots=True)
class Tally:
    """
    Jobs that were compared.

    Attributes:
        compared, differ: How many, and in how many anything differs.
        by: outcome, code, body -> in how many that does.
        skipped: Halves that never met the other one, or were dropped: compared with nothing.
        ratios: Class of ``RATIOS`` -> how many.
        examples: The last ones, newest last.
    """

    compared: int = 0
    differ: int = 0
    skipped: int = 0
    by: dict[str, int] = field(default_factory=dict)
    ratios: dict[int, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Nothing to tell."""
        return not (self.compared or self.skipped)

    def add(self, job_id: str, real: Half, shadow: Half) -> list[Difference]:
        """Both have ended that job; in what they differ."""
        found = differences(real, shadow)
        self.compared += 1
        if real.run_ms > 0:
            place = bisect_left(RATIOS, shadow.run_ms / real.run_ms)
            self.ratios[place] = self.ratios.get(place, 0) + 1
        if found:
            self.differ += 1
            for each in found:
                self.by[each.what] = self.by.get(each.what, 0) + 1
            self.examples = [*self.examples[1 - EXAMPLES:], Example(job_id, found)]
        return found

    def plus(self, other: Tally) -> Tally:
        """Both together; *other* is the newer one."""
        return Tally(
            self.compared + other.compared, self.differ + other.differ, self.skipped + other.skipped,
            _sum(self.by, other.by), _sum(self.ratios, other.ratios), [*self.examples, *other.examples][-EXAMPLES:],
        )

    def ratio(self, part: float) -> float | None:
        """So many times as long as the topic's, or less, took that *part* of the shadow's; None: nobody knows."""
        left = math.ceil(part * sum(self.ratios.values()))
        for place in sorted(self.ratios):
            left -= self.ratios[place]
            if left <= 0:
                return RATIOS[min(place, len(RATIOS) - 1)]
        return None

    def to_text(self) -> str:
        """For the store."""
        return json.dumps({
            "v": 1, "compared": self.compared, "differ": self.differ, "skipped": self.skipped, "by": self.by,
            "ratios": {str(place): count for place, count in self.ratios.items()},
            "examples": [each.to_json() for each in self.examples],
        })


def _sum(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def tally_of(text: str) -> Tally:
    """What ``Tally.to_text`` wrote; an empty one for anything else."""
    try:
        said = json.loads(text)
        examples = [
            Example(each["id"], [Difference(one["what"], one["text"], one["path"]) for one in each["differs"]])
            for each in said["examples"]
        ]
        return Tally(
            int(said["compared"]), int(said["differ"]), int(said["skipped"]), dict(said["by"]),
            {int(place): int(count) for place, count in said["ratios"].items()}, examples,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return Tally()
