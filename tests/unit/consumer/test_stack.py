"""Where a job is, seen from another thread: the user's lines, and none of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pbus.consumer.stack import STACK_BYTES

BLOCKING = """
def run(job):
    outer()

def outer():
    gate.wait()  # stuck here
"""
RECURSIVE = """
def run(job, depth=150):
    gate.wait() if depth == 0 else run(job, depth - 1)  # stuck at the bottom
"""
COROUTINE = """
import asyncio
async def run(job):
    await inner()

async def inner():
    asyncio.get_running_loop().call_later(0.2, there.set)
    await asyncio.sleep(0.6)  # waits here
"""
BLOCKED_LOOP = """
async def run(job):
    gate.wait()  # holds the loop
"""
IN_A_LIBRARY = """
import queue, threading
def run(job):
    there.set(), queue.Queue().get(timeout=0.6)  # in a library
"""
PROGRAM = """
import sys, threading, types
gate, there = threading.Event(), threading.Event()
class Gate:
    def wait(self): there.set(); gate.wait(5)
sys.path.insert(0, {folder!r})
import handler_of_test
handler_of_test.gate, handler_of_test.there = Gate(), there
from pbus.consumer import stack
from pbus.consumer.python_handler import PythonHandler
handler = PythonHandler(handler_of_test, handler_of_test.run)
def look():
    there.wait(5)
    print(*stack.of_job(handler.loop), sep="\\n")
    gate.set()
thread = threading.Thread(target=look)
thread.start()
handler.run(None)
thread.join()
print("after:", stack.of_job(handler.loop))
"""


def seen(folder: Path, source: str) -> tuple[str, str, str]:
    """Innermost place and stack while it was stuck, both when it was over."""
    (folder / "handler_of_test.py").write_text(source)
    program = PROGRAM.format(folder=str(folder))
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    during, _, after = said.stdout.rpartition("after: ")
    place, _, stack = during.partition("\n")
    return place, stack, after


@pytest.mark.parametrize(
    ("source", "line", "place"),
    [
        (BLOCKING, "# stuck here", "outer (handler_of_test.py:6)"),
        (COROUTINE, "# waits here", "inner (handler_of_test.py:8)"),
        (BLOCKED_LOOP, "# holds the loop", "run (handler_of_test.py:3)"),
        (IN_A_LIBRARY, "# in a library", "run (handler_of_test.py:4)"),
    ],
)
def test_the_stack_begins_in_the_handler_and_shows_the_line(
    tmp_path: Path, source: str, line: str, place: str
) -> None:
    where, stack, after = seen(tmp_path, source)
    assert where == place
    assert "in run" in stack.splitlines()[0] + stack.splitlines()[1]
    assert line in stack
    assert "pbus/consumer" not in stack
    assert "base_events" not in stack
    assert after.strip() == "('', '')"


def test_of_a_deep_stack_the_inner_end_is_kept(tmp_path: Path) -> None:
    _, stack, _ = seen(tmp_path, RECURSIVE)
    assert len(stack.encode()) <= STACK_BYTES + 1
    assert stack.rstrip().endswith("waiter.acquire(True, timeout)")
