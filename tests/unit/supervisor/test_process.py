"""What the kernel says of processes and of the machine, and that nothing there can stop the master."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from pbus.supervisor import process
from pbus.supervisor.machine import Machine
from tests.support.waiting import until

CHAIN = "import os, sys, time\nfor _ in range({depth}):\n    if os.fork():\n        time.sleep(600)\ntime.sleep(600)\n"


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as child:
        try:
            yield child
        finally:
            os.killpg(child.pid, 9)


def test_usage_is_what_psutil_says() -> None:
    seen, known = process.usage(os.getpid()), psutil.Process()
    assert seen is not None
    assert seen.rss_bytes == pytest.approx(known.memory_info().rss, rel=0.05)
    assert seen.cpu_s == pytest.approx(sum(known.cpu_times()[:4]), abs=0.1)


def test_family_is_weighed_with_all_generations_of_it() -> None:
    with python(CHAIN.format(depth=3)) as child:
        until(lambda: len(psutil.Process(child.pid).children(recursive=True)) == 3, 10, "three generations")
        alone, family = process.usage(child.pid), process.usage_of_family(child.pid)
    assert alone is not None
    assert family is not None
    assert family.own_bytes == pytest.approx(alone.rss_bytes, rel=0.2)
    assert family.rss_bytes > 2 * alone.rss_bytes


def test_family_without_end_is_looked_at_no_further_than_makes_sense() -> None:
    """Each is the parent of the next: four hundred generations."""
    with python(CHAIN.format(depth=400)) as child:
        until(lambda: len(psutil.Process(child.pid).children(recursive=True)) > 300, 30, "many generations")
        assert process.usage_of_family(child.pid) is not None


def test_mark_is_inherited_whatever_a_process_does_to_get_away() -> None:
    code = "import os\nfrom pbus.supervisor import process\nprocess.brand(4711)\nif os.fork():\n os.wait()\nelse:\n"
    code += " os.setsid()\n os.execvp('sh', ['sh', '-c', 'echo $$; exec sleep 600'])\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert process.brand_of(pid) == 4711
        os.kill(pid, 9)
    assert process.brand_of(os.getpid()) == 0
    assert process.brand_of(1 << 22) == 0


def test_machine_without_a_free_descriptor_is_as_it_was() -> None:
    machine = Machine()
    before = machine.look(1.0)
    assert before["memory_bytes"] == psutil.virtual_memory().total
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert machine.look(2.0) == before
        assert process.usage(os.getpid()) is None
        assert process.children(os.getpid()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
