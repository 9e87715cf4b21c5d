"""The ledger itself: it must see what is lost, made up or done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ledger import ERR, OK, UNKNOWN, Ledger, Standing


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    file = ledger.producer("test")
    for number, result in enumerate((OK, OK, OK, ERR, UNKNOWN, UNKNOWN)):
        file.record(f"k{number}", 1.0, 2.0, result, f"{number}-1" if result == OK else "gone\tand\nmore")
    file.close()
    return ledger


def ran(ledger: Ledger, *keys: str, result: str = "ok", topic: str = "credit", at: str = "1.0 2.0") -> None:
    with (ledger.ran_dir / f"gift.{topic}").open("a") as file:
        for key in keys:
            file.write(f"{key} 1 42 {at} {key[1:]}-1 {result}\n")


def test_everything_executed_once_is_well(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ran(ledger, "k0", "k1", "k2", "k4")
    ledger.expect_nothing_lost("gift", ["credit"])
    said = capsys.readouterr().out
    assert "ok=3 unknown=2 refused=1 executed=4 failed_attempts=0" in said
    assert "lost=0 phantom=0 dup=0" in said
    assert "PBUS_SEED=" in said


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


@pytest.mark.parametrize("place", ["ready", "running", "delayed", "dead"])
def test_job_that_is_still_in_the_store_is_not_lost(ledger: Ledger, place: str) -> None:
    ran(ledger, "k0", "k1")
    standing = Standing(**{place: frozenset({"k2"})})
    assert not ledger.verdict("gift", ["credit"], {"credit": standing})["credit"].lost


@pytest.mark.parametrize("where", ["ran", "stored"])
def test_refused_job_that_exists_is_a_phantom(ledger: Ledger, where: str) -> None:
    ran(ledger, "k0", "k1", "k2", *(["k3"] if where == "ran" else []))
    standing = Standing(ready=frozenset({"k3"} if where == "stored" else ()))
    with pytest.raises(AssertionError, match="phantom: k3"):
        ledger.expect_nothing_lost("gift", ["credit"], {"credit": standing})


def test_push_that_was_refused_and_repeated_with_success_is_no_phantom(ledger: Ledger) -> None:
    file = ledger.producer("again")
    file.record("k3", 3.0, 4.0, OK, "3-1")
    file.close()
    ran(ledger, "k0", "k1", "k2", "k3")
    assert ledger.expect_nothing_lost("gift", ["credit"])["credit"].refused == 0


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


def test_job_done_without_a_run_is_told(ledger: Ledger) -> None:
    ran(ledger, "k0", "k1", "k2")
    with pytest.raises(AssertionError, match="1 more are done than ever ran"):
        ledger.expect_nothing_lost("gift", ["credit"], {"credit": Standing(done=4)})


# -- what people and time end -------------------------------------------------------------------------


def test_cancelled_job_is_not_lost_where_it_was_cancelled(ledger: Ledger) -> None:
    with ledger.canceller("test") as canceller:
        canceller.record("k2", "credit", 3.0, certain=True)
    for topic in ("credit", "mail"):
        ran(ledger, "k0", "k1", topic=topic)
    standing = Standing(cancelled=1)
    verdicts = ledger.verdict("gift", ["credit", "mail"], {"credit": standing, "mail": standing})
    assert (verdicts["credit"].lost_count, verdicts["credit"].cancelled) == (0, {"k2"})
    assert verdicts["mail"].lost == {"k2"}


def test_cancel_that_the_store_did_not_count_explains_nothing(ledger: Ledger) -> None:
    with ledger.canceller("test") as canceller:
        canceller.record("k2", "", 3.0, certain=False)
    ran(ledger, "k0", "k1")
    assert ledger.verdict("gift", ["credit"], {"credit": Standing(cancelled=0)})["credit"].lost_count == 1


def test_job_that_ran_after_it_was_cancelled_for_certain_is_a_phantom(ledger: Ledger) -> None:
    with ledger.canceller("test") as canceller:
        canceller.record("k0", "credit", 3.0, certain=True)
        canceller.record("k1", "credit", 3.0, certain=False)
    ran(ledger, "k0", "k1", "k2", at="4.0 5.0")
    assert ledger.verdict("gift", ["credit"])["credit"].phantom == {"k0"}


def test_expired_job_is_one_with_a_ttl_that_the_store_counted(ledger: Ledger) -> None:
    file = ledger.producer("ttl")
    for number in (7, 8):
        file.record(f"k{number}", 1.0, 2.0, OK, f"{number}-1", "ttl=100 key=a")
    file.close()
    ran(ledger, "k0", "k1", "k2")
    verdict = ledger.verdict("gift", ["credit"], {"credit": Standing(expired=1)})["credit"]
    assert (verdict.lost, verdict.expired, verdict.lost_count) == (frozenset(), {"k7", "k8"}, 1)


# -- replies and order --------------------------------------------------------------------------------


def test_reply_to_the_wrong_caller_is_seen_by_its_id(ledger: Ledger) -> None:
    file = ledger.producer("other")
    file.record("k9", 1.0, 2.5, OK, "0-1")
    file.close()
    ran(ledger, "k0", "k1", "k2")
    assert ledger.strangers("gift", "credit") == {"k9": "0-1"}


def keyed(ledger: Ledger, *runs: tuple[int, str]) -> None:
    file = ledger.producer("keyed")
    for number, at in runs:
        file.record(f"k{number}", 1.0, 2.0, OK, f"{number}-1", "key=a")
        ran(ledger, f"k{number}", at=at)
    file.close()


def test_jobs_of_one_key_one_after_the_other_are_in_order(ledger: Ledger) -> None:
    keyed(ledger, (20, "1.0 2.0"), (21, "2.0 3.0"))
    ran(ledger, "k0", at="1.5 1.6")
    order = ledger.key_order("gift", "credit")
    assert (order.ran, order.overlaps, order.inversions) == (2, (), ())


def test_overlap_and_inversion_of_one_key_are_seen(ledger: Ledger) -> None:
    keyed(ledger, (21, "1.0 9.0"), (20, "2.0 3.0"), (22, "4.0 5.0"))
    order = ledger.key_order("gift", "credit")
    assert order.overlaps == (("k21", "k20"), ("k21", "k22"))
    assert order.inversions == (("k21", "k20"),)


# -- the files ----------------------------------------------------------------------------------------


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
