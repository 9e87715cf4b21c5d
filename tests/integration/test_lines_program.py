"""One program that speaks lines, without a bus: what is known of a job when the program ends in every possible way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from pbus.clock import SystemClock
from pbus.codec.lines import Encoder
from pbus.consumer.kin import Kin, children, family, family_rss_bytes
from pbus.consumer.launch import Launch, LaunchError
from pbus.consumer.lines_program import LinesProgram
from tests.support import leftovers
from tests.support.waiting import until

ENCODER = Encoder("gift", "credit")
GOOD = (
    "import json, sys\n"
    "for line in sys.stdin:\n"
    "    print(json.dumps({'id': json.loads(line)['id'], 'ok': True}), flush=True)\n"
)


class Notes:
    """A log that keeps the last of what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def write(self, job_id: str, level: str, text: str, pid: int) -> None:
        self.lines = [*self.lines[-50:], (job_id, level, text[:200])]


@pytest.fixture(scope="module")
def kin() -> Iterator[Kin]:
    """One a process, as in a consumer: it reaps all children, so nothing else may run in this one meanwhile."""
    others = leftovers.descendants()
    assert not others, f"it would reap or kill them:\n{leftovers.describe(others)}"
    kin = Kin(SystemClock())
    yield kin
    kin.close()


Start = Callable[..., LinesProgram]


@pytest.fixture
def start(kin: Kin) -> Iterator[Start]:
    programs: list[LinesProgram] = []
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def make(code: str, **launch: Any) -> LinesProgram:
        argv = [sys.executable, "-c", code]
        program = LinesProgram(Launch(argv=argv, talks=True, **launch), kin, Notes(), SystemClock(), wake_fd, 3.0)
        programs.append(program)
        return program

    yield make
    for program in programs:
        if program.status is None:
            program.kill()
        program.bury()
    os.close(wake_fd)


def run(program: LinesProgram, number: int = 1, body: bytes = b"x", woken: Callable[[], None] = lambda: None) -> Any:
    return program.run(f"{number}-0", ENCODER.job(f"{number}-0", 1, False, "", body), woken)


def test_jobs_are_answered_one_after_the_other(start: Start) -> None:
    program = start(GOOD)
    assert [run(program, number).verdict for number in range(1, 200)] == ["done"] * 199
    assert (program.jobs, program.over) == (199, "")


def test_a_job_that_is_larger_than_the_pipe_arrives_whole(start: Start) -> None:
    assert run(start(GOOD), body=b"x" * 3_000_000).verdict == "done"


def test_a_program_that_prints_while_it_is_written_to_does_not_stand_still(start: Start) -> None:
    code = (
        "import sys\nsys.stdout.write('y' * 3_000_000)\nsys.stdout.flush()\nsys.stdin.readline()\n"
        "print('\\n{\"id\":\"1-0\",\"ok\":true}', flush=True)"
    )
    assert run(start(code), body=b"x" * 3_000_000).verdict == "done"


@pytest.mark.parametrize(
    "code", ["pass", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)", "import os; os.close(0); os._exit(0)"]
)
def test_what_was_never_read_has_not_begun(start: Start, code: str) -> None:
    program = start(code)
    assert run(program) is None
    assert program.over
    assert program.jobs == 0


def test_what_a_program_that_was_already_gone_was_given_has_not_begun(start: Start) -> None:
    program = start("raise SystemExit('no database')")
    program.await_end(5)
    assert run(program) is None
    assert "no database" in program.over


def test_a_job_that_was_read_ends_as_its_program_did(start: Start) -> None:
    told = run(start("import sys; sys.stdin.readline(); sys.exit('no money')"))
    assert (told.verdict, told.error) == ("failed", "the program exited with status 1: no money")
    told = run(start("import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 11)"))
    assert (told.verdict, told.error) == ("crashed", "the program died of SIGSEGV")


def test_an_answer_counts_although_the_program_ended_right_after_it(start: Start) -> None:
    code = "import os, sys; sys.stdin.readline(); os.write(1, b'{\"id\":\"1-0\",\"ok\":true}\\n'); os._exit(3)"
    for _ in range(20):
        assert run(start(code)).verdict == "done"


def test_an_answer_that_comes_twice_is_no_answer_to_the_next_job(start: Start) -> None:
    code = GOOD.replace("print(", "print(json.dumps({'id': json.loads(line)['id'], 'ok': True}), flush=True); print(")
    program = start(code)
    assert [run(program, number).verdict for number in (1, 2, 3)] == ["done"] * 3
    assert program.over == ""


def test_a_grandchild_that_has_the_pipes_holds_nobody_up(start: Start) -> None:
    code = "import os, sys, time; sys.stdin.readline(); os.fork() and os._exit(4); os.setsid(); time.sleep(60)"
    begun_s = time.monotonic()
    program = start(code)
    assert run(program).error == "the program exited with status 4"
    program.bury()
    assert time.monotonic() - begun_s < 10
    assert not [child for child in psutil.Process().children() if child.name().startswith("python")]


def test_who_is_condemned_is_stopped_in_the_middle_of_its_job(start: Start) -> None:
    program = start("import sys, time; sys.stdin.readline(); print('begun', flush=True); time.sleep(60)")

    def condemn() -> None:
        os.eventfd_read(program._wake_fd)
        program.condemned = True
        program.send(signal.SIGTERM)

    threading.Timer(0.2, os.eventfd_write, (program._wake_fd, 1)).start()
    told = run(program, woken=condemn)
    assert (told.verdict, told.error) == ("timeout", "no answer within 3 s, the program was stopped")


def test_a_program_finishes_when_its_input_ends(start: Start) -> None:
    program = start(GOOD)
    run(program)
    program.finish(signal.SIGTERM, 10.0, 5.0)
    assert program.status == 0


def test_who_does_not_finish_is_sent_the_signal_and_then_killed(start: Start) -> None:
    program = start("import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)")
    until(lambda: program.attend(0.05) or "deaf" in program.last_words(), 5, "it ignores the signal")
    program.finish(signal.SIGTERM, 0.4, 0.2)
    assert program.status == -signal.SIGKILL


def test_memory_is_that_of_the_whole_family(start: Start) -> None:
    code = "import os, time; os.fork(); hoard = bytearray(os.urandom(30_000_000)); time.sleep(60)"
    program = start(code)
    until(lambda: program.attend(0.05) or family_rss_bytes(program.pid) > 60_000_000, 10, "both have grown")
    assert len(list(family(program.pid))) == 2
    assert len(children(program.pid)) == 1


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (Launch(argv=["/nowhere/at-all"]), "No such file or directory"),
        (Launch(argv=["no-such-program-of-anybody"]), "No such file or directory"),
        (Launch(argv=["/etc/passwd"]), "Permission denied"),
        (Launch(argv=["sh"], cwd="/nowhere"), "its folder /nowhere is not there"),
        (Launch(argv=["sh"], user="nobody-of-that-name"), "there is no user 'nobody-of-that-name'"),
    ],
)
def test_what_cannot_be_started_says_why(kin: Kin, launch: Launch, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        kin.start(launch.start)
