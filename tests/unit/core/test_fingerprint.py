"""The same error with other numbers is one group; different errors are not; no text costs much."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbus.core.fingerprint import TEXT_CHARS, fingerprint, masked

TRACEBACK = """Traceback (most recent call last):
  File "/srv/gift/{release}/jobs.py", line {line}, in credit
    pay(job.json()["uid"], {amount})
    ~~~^^^^^^^^^^^^^
  File "/srv/gift/{release}/bank.py", line {line}, in pay
    raise Refused(f"user {{uid}}")
{error}: user {amount}"""

WORDS = st.sampled_from(
    ["could", "not", "reach", "the", "store", "of", "user", "was", "refused", "by", "unique", "key", "timed", "out"]
)
NUMBERS = st.integers(0, 10**15).map(str)
VARYING = {
    "integer": NUMBERS,
    "signed": st.integers(-(10**9), -1).map(str),
    "decimal": st.tuples(NUMBERS, NUMBERS).map(".".join),
    "hex": st.text("0123456789abcdef", min_size=8, max_size=40),
    "pointer": st.integers(0, 2**64).map(hex),
    "uuid": st.uuids().map(str),
    "job": st.tuples(st.integers(10**9, 10**13), st.integers(0, 10**6)).map(lambda parts: f"{parts[0]}-{parts[1]}"),
    "ip": st.ip_addresses(v=4).map(str),
    "ip6": st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    "port": st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65535).map(str)).map(":".join),
    "host": st.tuples(st.sampled_from(["a.example", "db-1.internal"]), st.integers(1, 65535).map(str)).map(":".join),
    "quoted": st.text("abc xyz 0189é", max_size=60).map(lambda text: f"'{text}'"),
    "time": st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds") + "Z"),
    "path": NUMBERS.map(lambda number: f"/srv/releases/{number}/credit.php:{number[-3:]}"),
}


PARTS = st.one_of(WORDS, st.sampled_from(sorted(VARYING)).map("{{{}}}".format))


@given(st.data(), st.lists(PARTS, min_size=1, max_size=12))
def test_the_same_error_with_other_values_is_the_same_group(data: st.DataObject, template: list[str]) -> None:
    def told() -> str:
        return " ".join(
            data.draw(VARYING[part[1:-1]]) if part.startswith("{") else part for part in template
        )

    one, other = told(), told()
    assert fingerprint("failed", one) == fingerprint("failed", other), (masked(one), masked(other))


@given(st.lists(WORDS, min_size=1, max_size=10), st.lists(WORDS, min_size=1, max_size=10), NUMBERS)
def test_other_words_are_another_group(one: list[str], other: list[str], number: str) -> None:
    first, second = f"{' '.join(one)} {number}", f"{' '.join(other)} {number}"
    assert (fingerprint("failed", first) == fingerprint("failed", second)) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP 500", "HTTP 502"),
        ("Code: 500; no credit", "Code: 501; no credit"),
        ("consumer 812 exited with status 1", "consumer 812 exited with status 255"),
        ("[Errno 111] Connection refused", "[Errno 104] Connection refused"),
        ("SQLSTATE[42S02]: not found", "SQLSTATE[42S22]: not found"),
        ("consumer 812 died of SIGSEGV", "consumer 812 died of SIGKILL"),
        ("DB::fetch failed", "DB::store failed"),
        ("Undefined index in /srv/a.php:3", "Undefined index in /srv/b.php:3"),
        (TRACEBACK.format(release=1, line=2, amount=3, error="KeyError"),
         TRACEBACK.format(release=1, line=2, amount=3, error="ValueError")),
        ("错误", "超时"),
    ],
)
def test_what_tells_kinds_of_errors_apart_stays(one: str, other: str) -> None:
    assert fingerprint("failed", one) != fingerprint("failed", other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user 42 at 10.2.3.4:9000", "user <n> at <address>"),
        ("fe80::1 and [::1]:8080 and db.internal:3306", "<address> and <address> and <address>"),
        (f"no row {uuid.UUID(int=7)} of {'ab' * 16}", "no row <n> of <n>"),
        ("job 1800000000123-7 at 2027-01-15T08:00:00.250Z", "job <n> at <n>"),
        ('No index "uid" in /srv/releases/20270115/x.php:33', "No index <text> in /srv/releases/<n>/x.php:<n>"),
        ("can't open it, don't try", "can't open it, don't try"),
        ("one of [1, 22, 333]", "one of [<n>]"),
        ("ids ('a', 'b')", "ids (<text>)"),
        ("12:34:56 at x.js:7:123", "<n> at x.js:<n>"),
        ("  spread\n\tover   lines ", "spread over lines"),
        ("", ""),
    ],
)
def test_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_a_traceback_is_one_group_whatever_its_lines_numbers_and_depth_were() -> None:
    short = TRACEBACK.format(release=20270115, line=7, amount=1, error="KeyError")
    long = short.replace("last):\n", 'last):\n  File "/srv/main.py", line 1, in run\n    x()\n')
    moved = TRACEBACK.format(release=7, line=123, amount=99_999, error="KeyError")
    cut = "..." + long[60:]
    assert len({fingerprint("failed", text) for text in (short, long, moved, cut)}) == 1


def test_the_class_is_part_of_the_group() -> None:
    assert fingerprint("failed", "no answer") != fingerprint("unknown", "no answer")


@given(st.text(), st.text(max_size=20))
def test_a_fingerprint_is_sixteen_hex_digits_and_stable(text: str, reason: str) -> None:
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(reason, text))
    assert fingerprint(reason, text) == fingerprint(reason, text)


def test_a_fingerprint_never_changes() -> None:
    """Dead letters keep theirs for weeks."""
    assert fingerprint("failed", "user 42 is gone") == "560446dd54d8f10b"


def test_a_surrogate_does_not_hurt() -> None:
    assert fingerprint("failed", "\udcff")


NASTY = [
    "1", "a", "'", " 'a", '"', "abcdef12-", "a:", "a.", "1.", "a1_", 'File "', ' File "x\n', "[:", "1-", "1.a-", "+1e+",
    ":", "HTTP ", "1, ", " ", "\n", "~^\n File \"", "2027-01-15T08:", "0x", "::1:", "a1b2", "<n> ", "SQLSTATE[",
]


@pytest.mark.parametrize("unit", NASTY)
def test_no_text_costs_more_than_its_length(unit: str) -> None:
    """Four times the text is at most about four times the work (sixteen, were it quadratic), and there is a bound."""
    quarter, whole = _cost_s(unit, TEXT_CHARS // 4), _cost_s(unit, TEXT_CHARS)
    assert whole <= 9 * quarter + 0.0005
    assert _cost_s(unit, 500_000) <= 4 * whole + 0.001


@settings(max_examples=50)
@given(st.lists(st.sampled_from(NASTY), min_size=1, max_size=6))
def test_no_mixture_costs_much(units: list[str]) -> None:
    assert _cost_s("".join(units), TEXT_CHARS) < 0.1


def _cost_s(unit: str, size: int) -> float:
    """Processor time of the fastest of a few."""
    text = (unit * (size // len(unit) + 1))[:size]
    best_s = float("inf")
    for _ in range(5):
        begun_s = time.process_time()
        masked(text)
        best_s = min(best_s, time.process_time() - begun_s)
    return best_s
