"""The stopwatch of the tests: it knows a machine that stands still from a program that takes its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.bus import ROOT
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.alone

STOPPED_S = 0.5

PROGRAM = """
from tests.support.stopwatch import Stopwatch
with Stopwatch() as watch:
    print("begun", flush=True)
    input()
print(watch.s, watch.worked_s, flush=True)
"""


def test_pause_of_the_machine_does_not_count() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        os.kill(program.pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(program.pid, signal.SIGCONT)
        said, _ = program.communicate("\n", timeout=20)
    went_by_s, worked_s = map(float, said.split())
    assert went_by_s >= STOPPED_S
    assert went_by_s - worked_s >= STOPPED_S * 0.9


def test_time_that_a_program_takes_counts() -> None:
    paused_s = []
    for _ in range(5):  # the machine may pause in one of them
        with Stopwatch() as watch:
            begun_s = time.thread_time()
            while time.thread_time() < begun_s + 0.15:
                pass
        paused_s.append(watch.paused_s)
        assert watch.s >= 0.15
    assert min(paused_s) == 0.0


def test_it_may_be_read_while_it_runs_and_between_two_times() -> None:
    with Stopwatch() as watch:
        begun_s = time.time()
        time.sleep(0.2)
        half_s = time.time()
        assert watch.s >= 0.2
        time.sleep(0.2)
        assert abs(watch.worked_between_s(begun_s, half_s) - (half_s - begun_s)) <= watch.paused_s + 1e-3
    assert watch.worked_s <= watch.s
