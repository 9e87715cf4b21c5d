"""What a job pushes belongs to its trace, whether it was pushed with one or not."""

from __future__ import annotations

import pytest

from pbus.core.traceparent import PATTERN, child_of, trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SPAN = bytes(range(8))


def test_a_child_has_the_trace_and_the_flags_of_its_parent_and_its_own_span() -> None:
    assert child_of(PARENT, "1-0", SPAN) == "00-0af7651916cd43dd8448eb211c80319c-0001020304050607-01"


def test_children_of_a_job_without_a_trace_share_one_that_is_made_of_its_id() -> None:
    first, second = child_of("", "1-0", SPAN), child_of("", "1-0", b"other..8")
    assert first.split("-")[1] == second.split("-")[1] == trace_id("", "1-0") != trace_id("", "2-0")
    assert PATTERN.match(first)
    assert first.endswith("-00")


NO_TRACE = f"00-{'0' * 32}-{PARENT[36:]}"


@pytest.mark.parametrize("broken", ["x", PARENT[:-1], PARENT.upper(), "ff" + PARENT[2:], NO_TRACE])
def test_a_broken_trace_counts_as_none(broken: str) -> None:
    assert child_of(broken, "1-0", SPAN) == child_of("", "1-0", SPAN)
