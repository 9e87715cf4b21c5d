"""
The whole suite in less time: most tests wait for most of their time, so two of them run side by side.

    python -m tests.support.lanes [PYTEST ARGUMENTS..]

    together    unit, conformance, half of integration  |  the other half     a pytest of its own each
    alone       chaos, and whatever else is marked ``alone``                  when those have ended

What measures times, rates or shares of the machine is marked ``alone`` and never has company. Output comes a lane
after the other; what failed anywhere is said once more at the end, and there is one closing line, as pytest's own, of
all lanes together. The exit status is the worst.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import seeds

_ROOT = Path(__file__).parents[2]
_WORDS = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warning", "warnings", "error", "errors")
_COUNT = re.compile(rf"(\d+) ({'|'.join(_WORDS)})\b")
_CLOSING = re.compile(r"^(?:=+ )?(?=\d+ |no tests ran)(.*) in [\d.]+s(?: \([\d:]+\))?(?: =+)?$")
_SUMMARY = re.compile(r"^=+ short test summary info =+$")
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Lane:
    """One pytest process: a name for people, and what it is told to run."""

    name: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class Result:
    """How one ended: its exit status, its counts by word, and its lines about what did not pass."""

    status: int
    counts: dict[str, int] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)


def _integration(letters: str) -> list[str]:
    """The files whose subject begins with one of *letters*."""
    found = sorted(_ROOT.glob(f"tests/integration/test_[{letters}]*.py"))
    return [str(path.relative_to(_ROOT)) for path in found]


TOGETHER = (
    Lane("first", ("tests/unit", "tests/conformance", *_integration("a-l"), "-m", "not alone")),
    Lane("second", (*_integration("m-z"), "-m", "not alone")),
)
ALONE = (Lane("alone", ("tests/conformance", "tests/integration", "tests/chaos", "-m", "alone")),)


def understood(status: int, output: str) -> Result:
    """What a lane's output says; a process that ended without a closing line is an error of its own."""
    lines = output.splitlines()
    closings = [place for place, line in enumerate(lines) if _CLOSING.match(line)]
    if not closings:
        return Result(status or 1, {"error": 1}, [f"ERROR a pytest process ended with {status} and no closing line"])
    closing = lines[closings[-1]]
    counts = {_singular(word): int(count) for count, word in _COUNT.findall(closing) if word != "deselected"}
    begins = [place for place, line in enumerate(lines) if _SUMMARY.match(line)]
    return Result(status, counts, lines[begins[-1] + 1:closings[-1]] if begins else [])


def _singular(word: str) -> str:
    return word.removesuffix("s") if word in ("errors", "warnings") else word


def closing_line(results: Iterable[Result], seconds: float) -> str:
    """As pytest would have said it of all of them."""
    total: collections.Counter[str] = collections.Counter()
    for result in results:
        total.update(result.counts)
    order = ("failed", "passed", "skipped", "xfailed", "xpassed", "warning", "error")
    parts = [
        f"{total[word]} {word}{'s' if word in ('warning', 'error') and total[word] > 1 else ''}"
        for word in order if total[word]
    ]
    whole = int(seconds)
    clock = f" ({whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d})" if seconds >= 60 else ""
    return f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s{clock} ".center(80, "=")


def run(lanes: Sequence[Lane], arguments: Sequence[str]) -> list[Result]:
    """Run *lanes* side by side; the first one's output as it comes, then the others'."""
    with tempfile.TemporaryDirectory(prefix="lanes-") as folder:
        outputs = [Path(folder, str(number)) for number in range(len(lanes))]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for lane, output in zip(lanes, outputs, strict=True):
                processes.append(_start([*lane.arguments, *arguments], output))
            return [_follow(*each) for each in zip(lanes, processes, outputs, strict=True)]
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)    # pytest ends what its tests have started
            for process in processes:
                process.wait()


def _start(arguments: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT,
        )


def _follow(lane: Lane, process: subprocess.Popen[bytes], path: Path) -> Result:
    """Show what the process says, from its beginning to its end."""
    print(f"== pytest: {lane.name}", flush=True)
    with path.open(errors="replace") as output:
        ended = False
        while not ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
            ended = process.returncode is not None
            for line in output:
                sys.stdout.write(f"-- {lane.name}: {line.strip('= ')}" if _CLOSING.match(line) else line)
            sys.stdout.flush()
    return understood(process.returncode, path.read_text(errors="replace"))


def main(arguments: Sequence[str]) -> int:
    begun_s = time.monotonic()
    seeds.fix()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = [result for lanes in (TOGETHER, ALONE) for result in run(lanes, arguments)]
    summary = [line for result in results for line in result.summary]
    if summary:
        print(" short test summary info ".center(80, "="), *summary, sep="\n")
    print(closing_line(results, time.monotonic() - begun_s), flush=True)
    return max(abs(result.status) for result in results)


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "120")
    sys.exit(main(sys.argv[1:]))
