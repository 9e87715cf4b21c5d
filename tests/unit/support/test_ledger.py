"""The ledger itself: it must see what is lost, made up or done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ledger import ERR, OK, UNKNOWN, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    file = ledger.producer("test")
    for number, result in enumerate((OK, OK, OK, ERR, UNKNOWN, UNKNOWN)):
        file.record(f"k{number}", 1.0, 2.0, result, f"{number}-1" if result == OK else "gone\tand\nmore")
    file.close()
    return ledger


def ran(ledger: Ledger, *keys: str, result: str = "ok", topic: str = "credit") -> None:
    with (ledger.ran_dir / f"gift.{topic}").open("a") as file:
        for key in keys:
            file.write(f"{key} 1 42 1.0 2.0 {key[1:]}-1 {result}\n")


def test_everything_executed_once_is_well(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ran(ledger, "k0", "k1", "k2", "k4")
    ledger.expect_nothing_lost("gift", ["credit"])
    assert "ok=3 unknown=2 refused=1 executed=4 failed_attempts=0 lost=0 phantom=0 dup=0" in capsys.readouterr().out


def test_accepted_job_that_is_nowhere_is_lost(ledger: Ledger) -> None:
    ran(ledger, "k0", "k2")
    with pytest.raises(AssertionError, match="lost: k1"):
        ledger.expect_nothing_lost("gift", ["credit"])


def test_failed_attempt_is_not_execution(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1")
    ran(ledger, "k2", result="failed")
    verdict = ledger.verdict("gift", ["credit"])["credit"]
    assert verdict.lost == {"k2"}
    assert verdict.failed_attempts == 1


def test_job_that_is_still_in_the_store_is_not_lost(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1")
    assert not ledger.verdict("gift", ["credit"], {"credit": ["2-1"]})["credit"].lost


def test_job_in_the_store_whose_key_nobody_knows_stands_in_for_one(ledger: Ledger) -> None:
    ran(ledger, "k0")
    assert ledger.verdict("gift", ["credit"], {"credit": ["77-1"]})["credit"].lost_count == 1


def test_refused_job_that_ran_is_a_phantom(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1", "k2", "k3")
    with pytest.raises(AssertionError, match="phantom: k3"):
        ledger.expect_nothing_lost("gift", ["credit"])


def test_second_run_is_a_duplicate(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1", "k2", "k2", "k2")
    assert ledger.verdict("gift", ["credit"])["credit"].dup == 2
    with pytest.raises(AssertionError, match="allowed dup: 1"):
        ledger.expect_nothing_lost("gift", ["credit"], most_dup=1)
    ledger.expect_nothing_lost("gift", ["credit"], most_dup=2)


def test_each_topic_is_judged_by_itself(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1", "k2")
    verdicts = ledger.verdict("gift", ["credit", "mail"])
    assert verdicts["credit"].lost_count == 0
    assert verdicts["mail"].lost_count == 3


def test_nothing_pushed_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing was pushed"):
        Ledger(tmp_path).expect_nothing_lost("gift", ["credit"])


def test_half_a_line_is_not_read(ledger: Ledger) -> None:
    ran(ledger, "k0")
    with (ledger.ran_dir / "gift.credit").open("a") as file:
        file.write("k1 1 42 1.0")
    assert ledger.verdict("gift", ["credit"])["credit"].executed == 1


def test_pushes_without_keys_are_judged_by_number(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1", "k1")
    verdict = ledger.verdict_by_count("gift", ["credit"], accepted=3)["credit"]
    assert (verdict.lost_count, len(verdict.phantom), verdict.dup) == (1, 0, 1)
    assert len(ledger.verdict_by_count("gift", ["credit"], accepted=1)["credit"].phantom) == 1
