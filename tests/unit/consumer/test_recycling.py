"""When a process is replaced: never later than configured, never all at once."""

from __future__ import annotations

import mmap
import os
import random
from typing import Any

from pbus.config.schema import PythonHandler
from pbus.consumer.recycling import JITTER, Recycling, rss_bytes

MIB = 1024 * 1024


def recycling(draw: float = 0.0, rss: int = 0, **limits: Any) -> Recycling:
    return Recycling(PythonHandler(call="a:b", **limits), 100.0, lambda: draw, lambda: rss)


def test_without_limits_a_process_lives_for_ever() -> None:
    forever = recycling(rss=1 << 40)
    assert forever.due(10**9, 1e9) == ""
    assert forever.left_s(1e9) == float("inf")


def test_after_max_jobs_it_is_due_and_says_why() -> None:
    it = recycling(max_jobs=100)
    assert it.due(99, 0) == ""
    assert it.due(100, 0) == "max_jobs: 100 jobs"


def test_processes_that_were_born_together_have_limits_of_their_own_and_none_above_what_is_configured() -> None:
    chance = random.Random(7)
    limits = [Recycling(PythonHandler(call="a:b", max_jobs=1000, max_age_s=100.0), 0, chance.random) for _ in range(50)]
    jobs = [each.jobs for each in limits]
    assert len(set(jobs)) > 25
    assert 1000 * (1 - JITTER) <= min(jobs) <= max(jobs) <= 1000
    ages = [each.left_s(0) for each in limits]
    assert len(set(ages)) == 50
    assert 100 * (1 - JITTER) <= min(ages) <= max(ages) <= 100


def test_one_job_a_process_means_one() -> None:
    assert recycling(draw=0.99, max_jobs=1).jobs == 1


def test_an_old_process_is_due_although_it_has_nothing_to_do() -> None:
    it = recycling(max_age_s=60.0)
    assert it.left_s(130.0) == 30.0
    assert it.due(0, 159.9) == ""
    assert it.due(0, 160.0) == "max_age: 60 s"


def test_memory_above_the_limit_is_due() -> None:
    assert recycling(rss=64 * MIB, max_rss_bytes=64 * MIB).due(1, 0) == ""
    assert recycling(rss=65 * MIB, max_rss_bytes=64 * MIB).due(1, 0) == "max_rss: 65 MiB"


def test_memory_is_what_the_kernel_says() -> None:
    before = rss_bytes()
    with mmap.mmap(-1, 16 * MIB) as ballast:  # pages of its own: an allocator may have some left from other tests
        ballast.write(os.urandom(16 * MIB))
        assert before + 15 * MIB < rss_bytes() < before + 40 * MIB


def test_memory_that_cannot_be_read_is_no_reason() -> None:
    assert recycling(rss=0, max_rss_bytes=1).due(1, 0) == ""
