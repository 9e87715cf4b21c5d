"""What is not in the index is looked for in the log; "never" is said only of what is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from pbus.cli.job_find import Search, _by_index, _verdict
from pbus.codec.trace_block import pack_marks
from pbus.core import index
from pbus.core.trace import Run, Shelf
from pbus.storage.traces import Block

T0 = 1_800_000_000
UID = index.mark(b"$.uid")


class FakeDriver:
    """A log of (second, uid); entries before *trimmed* are gone."""

    def __init__(self, jobs: Sequence[tuple[int, int]], trimmed: int = 0) -> None:
        self._jobs = {
            f"{(T0 + second) * 1000 + at}-0": uid for at, (second, uid) in enumerate(jobs) if second >= trimmed
        }

    def entries(self, queue: str, first: str, last: str, limit: int) -> list[Any]:
        made = [self.job(queue, job) for job in self._jobs if _order(first) <= _order(job) <= _order(last)]
        return made[:limit]

    def job(self, queue: str, job: str) -> Any:
        if job not in self._jobs:
            return None
        return type("Entry", (), {"id": job, "body": json.dumps({"uid": self._jobs[job]}).encode()})


class FakeTraces:
    def __init__(self, *blocks: Block) -> None:
        self._blocks = blocks

    def blocks(self, queue: str, shelf: Shelf, first_s: int, last_s: int) -> list[Block]:
        return [block for block in self._blocks if first_s <= block.second <= last_s]


def _order(job: str) -> tuple[int, int]:
    ms, _, number = job.partition("-")
    return int(ms), int(number)


def marks(second: int, *uids: int, at_ms: int = 0) -> Block:
    """Without uids: that it is indexed."""
    run = [Run(f"{(T0 + second) * 1000 + at_ms}-0", len(uids))]
    column = [[index.mark(b"%d" % uid) for uid in uids]]
    return Block("gift", Shelf.INDEX, T0 + second, pack_marks((UID,), run, column))


def gap(second: int) -> Block:
    return Block("gift", Shelf.INDEX, T0 + second, pack_marks((), (), ()))


def ask(driver: FakeDriver, *blocks: Block, uid: int = 7, since: int = 0, until: int = 100, now: int = 200) -> Search:
    search = Search("gift", {"$.uid": str(uid)}, T0 + since, T0 + until, T0 + now)
    _by_index(search, FakeTraces(*blocks), driver)  # type: ignore[arg-type]
    return search


def test_what_was_left_out_of_the_index_is_found_in_the_log() -> None:
    search = ask(FakeDriver([(1, 5), (40, 7)]), marks(-60), gap(40))
    assert (list(search.jobs), search.gaps) == ([f"{(T0 + 40) * 1000 + 1}-0"], set())
    assert _verdict(search, ()) == "found"
    assert _verdict(ask(FakeDriver([(1, 5), (40, 8)]), marks(-60), gap(40)), ()) == "never"


@pytest.mark.parametrize("trimmed", [40, 41, 100])
def test_what_was_left_out_and_is_gone_from_the_log_is_not_known(trimmed: int) -> None:
    driver = FakeDriver([(1, 5), (40, 8), (50, 9)], trimmed)
    search = ask(driver, marks(-60), gap(40), gap(300))
    assert (search.gaps, _verdict(search, ())) == ({T0 + 40}, "unknown")


def test_never_is_said_up_to_the_last_seconds_only() -> None:
    search = ask(FakeDriver([]), marks(-60), now=100)
    assert (_verdict(search, ()), search.sure_to_s) == ("never", T0 + 96)
    assert _verdict(ask(FakeDriver([]), marks(-60), since=98, now=100), ()) == "unknown"
    with_log = ask(FakeDriver([(1, 5)]), marks(-60), now=100)
    assert (_verdict(with_log, ()), with_log.sure_to_s) == ("never", None)
    just_now = ask(FakeDriver([(1, 5), (99, 7)]), marks(-60), now=100)
    assert list(just_now.jobs) == [f"{(T0 + 99) * 1000 + 1}-0"]


def test_a_block_of_marks_says_nothing_of_the_time_before_it() -> None:
    driver = FakeDriver([(4, 7)])
    search = ask(driver, marks(0, 7, at_ms=4_000), since=2)
    assert list(search.jobs) == [f"{(T0 + 4) * 1000}-0"]
    assert ask(driver, marks(0, 7, at_ms=4_000), since=2, uid=8).sure_from_s == T0 + 10
    assert ask(driver, marks(0, 7, at_ms=4_000), since=5).jobs == {}, "pushed before the time that is asked for"
