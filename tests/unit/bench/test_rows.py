"""Which rows are measured, what happens to those that cannot be, and patience."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pbus.bench import session
from pbus.bench.fastcgi_loop import Loop
from pbus.bench.figures import Figure
from pbus.bench.private import BenchError, Missing, find
from pbus.bench.rows import ROWS, NoSuchRow, Options, Run, selected
from pbus.bench.slices import Patience
from pbus.clock import SystemClock
from pbus.config.schema import FastcgiHandler
from pbus.core.job import Delivery
from pbus.core.retry import RetryPolicy
from pbus.delivery.fastcgi_client import FastcgiClient


@pytest.mark.parametrize("name", ROWS)
def test_row_has_a_function_and_stores(name: str) -> None:
    module, _, function = ROWS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(f"pbus.bench.{module}"), function))
    assert ROWS[name].stores


def test_all_rows_are_measured_but_those_that_want_to_be_named() -> None:
    names = {name for name, _ in selected([], "all")}
    assert names == {name for name, row in ROWS.items() if not row.named}


def test_rows_are_chosen_by_name_and_pattern_in_the_order_of_the_table() -> None:
    assert selected(["memory", "pushes"], "sqlite") == [("pushes", "sqlite"), ("memory", "sqlite")]
    growth = {name for name in ROWS if name.startswith("growth-")}
    assert {name for name, _ in selected(["growth-*"], "redis")} == growth


def test_unknown_row_is_refused_with_those_that_exist() -> None:
    with pytest.raises(NoSuchRow, match=r"no such row 'pushez', did you mean 'pushes'\? There are: pushes, ") as caught:
        selected(["pushez"], "all")
    assert caught.value.exit_status == 5


def test_row_that_is_not_measured_on_a_store_is_refused() -> None:
    with pytest.raises(NoSuchRow, match=r"none of these is measured on redis \(disk: sqlite\)"):
        selected(["disk"], "redis")


def test_program_that_is_not_there_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match=r"redis-benchmark is not installed \(Debian: apt install redis-tools\)"):
        find("redis-benchmark")


class _Watcher:
    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def begins(self, part: session.Part) -> None:
        self.heard.append(("begins", part))

    def made(self, rounds: int) -> None:
        self.heard.append(("made", rounds))

    def ended(self, part: session.Part) -> None:
        self.heard.append(("ended", part))


def _measured(name: str, run: Run) -> Iterator[Figure]:
    if name == "memory":
        raise Missing("no memory here (Debian: apt install memory)")
    yield Figure(name=name, unit="ms", pbus=1.0, goal=2.0, most=True)
    run.tell(1)
    if name == "start":
        raise BenchError("it fell over")


def test_row_without_its_parts_is_skipped_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    watcher = _Watcher()
    parts = [("memory", "sqlite"), ("start", "sqlite"), ("disk", "sqlite")]
    result = session.run(parts, Options(folder=str(tmp_path)), watcher, _measured)
    assert result.skipped == [("memory", "sqlite", "no memory here (Debian: apt install memory)")]
    assert result.failed == [("start", "sqlite", "it fell over")]
    assert [figure.name for figure in result.figures] == ["start", "disk"]
    heard = [what for what, _ in watcher.heard]
    assert heard == ["begins", "ended", *2 * ["begins", "made", "ended"]]
    assert result.document("now")["skipped"][0]["reason"].startswith("no memory here")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_row_is_left_when_it_is_interrupted(tmp_path: Path) -> None:
    def measured(_: str, run: Run) -> Iterable[Figure]:
        (run.stage.subfolder("x") / "file").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run([("disk", "sqlite")], Options(folder=str(tmp_path)), _Watcher(), measured)
    assert list(tmp_path.iterdir()) == []


def test_patience_takes_turns_in_who_is_first() -> None:
    order: list[str] = []
    patience = Patience(rounds=2, tries=2)
    pairs = patience.pairs(lambda: order.append("base") or 2.0, lambda: order.append("pbus") or 1.0)  # type: ignore[func-returns-value]
    assert order == ["base", "pbus", "pbus", "base"]
    assert {(pair.base, pair.pbus) for pair in pairs} == {(2.0, 1.0)}


def test_bare_loop_sends_php_fpm_what_pbus_sends(tmp_path: Path) -> None:
    script = tmp_path / "empty.php"
    script.touch()
    client = FastcgiClient(
        "bench", "php", FastcgiHandler(script=str(script)), retry=RetryPolicy(), max_post_bytes=1 << 20, address="",
        clock=SystemClock(),
    )
    delivery = Delivery(
        queue="bench", topic="php", id="1800000000000-1", body=(b"bench-%012d " % 1).ljust(200, b"x"), attempt=1,
        crashes=0, redelivered=False, traceparent="", content_type="", first_ms=0, owner="bare",
    )
    assert abs(len(Loop("", str(script), 1).request(1)) - len(client.encode(delivery)[0])) <= 2  # residue of the time
