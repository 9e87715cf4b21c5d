from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.consumer.job import Job
from pbus.consumer.python_handler import ERROR_BYTES, Answer, LoadError, PythonHandler

SOURCE = '''
import asyncio
import pbus

calls = []

def setup():
    calls.append("setup")

async def teardown():
    calls.append("teardown")

def good(job):
    calls.append(job.id)
    return "ignored"

def bad(job):
    raise ValueError("no such user: \\u4f60")

def again(job):
    raise pbus.Retry(after_s=2.5, reason="later")

def again_somehow(job):
    raise pbus.Retry()

def again_wrongly(job):
    raise pbus.Retry(after_s="soon")

def again_never(job):
    raise pbus.Retry(after_s=float("inf"))

def refused_for_now(job):
    raise pbus.PushRefused("mail is full", "QUEUEFULL", temporary=True)

def refused(job):
    raise pbus.PushRefused("no such queue", "NOQUEUE")

def maybe_stored(job):
    raise pbus.MaybeStored("silence")

def dead(job):
    raise pbus.Dead("no such gift")

def dead_strangely(job):
    raise pbus.Dead({"lone": "\\udcff", "long": "x" * 5000})

def dead_unsayably(job):
    raise pbus.Dead(Unsayable())

async def slow(job):
    await asyncio.sleep(0)
    calls.append("slow " + job.id)

async def slow_bad(job):
    await asyncio.sleep(0)
    raise KeyError("async")

def leave(job):
    raise SystemExit(3)

def interrupt(job):
    raise KeyboardInterrupt

def cancelled(job):
    raise asyncio.CancelledError

def deep(job, left=400):
    if left:
        return deep(job, left - 1)
    raise ValueError("x" * 3000)

class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("no")

def unsayable(job):
    raise Unsayable

class Group:
    @staticmethod
    def method(job):
        calls.append("method")

number = 5
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "shop_jobs.py").write_text(SOURCE)
    (tmp_path / "broken_jobs.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "leaving_jobs.py").write_text("raise SystemExit(4)\n")
    (tmp_path / "unready_jobs.py").write_text("def setup():\n    raise OSError('no database')\n\ndef run(job): pass\n")
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("shop_jobs", "broken_jobs", "leaving_jobs", "unready_jobs"):
        sys.modules.pop(name, None)


def load(folder: Path, call: str) -> PythonHandler:
    return PythonHandler.load(call, str(folder))


def job() -> Job:
    return Job(id="1-0", queue="gift", topic="credit", attempt=1, redelivered=False, body='{"n": "\u4f60"}'.encode(),
               traceparent="", content_type="", log=logging.getLogger("test"))


def run(folder: Path, name: str) -> Answer:
    handler = load(folder, f"shop_jobs:{name}")
    answer = handler.run(job())
    handler.teardown()
    return answer


def test_returning_is_done_whatever_is_returned(folder: Path) -> None:
    assert run(folder, "good") == Answer("done")


def test_an_exception_is_a_failure_with_its_traceback(folder: Path) -> None:
    answer = run(folder, "bad")
    assert answer.verdict == "failed"
    assert "ValueError: no such user: 你" in answer.error
    assert "shop_jobs.py" in answer.error


def test_a_traceback_begins_in_user_code(folder: Path) -> None:
    for name in ("bad", "slow_bad"):
        assert "python_handler.py" not in run(folder, name).error
        assert "asyncio/runners" not in run(folder, name).error


def test_a_long_traceback_is_kept_from_its_end(folder: Path) -> None:
    error = run(folder, "deep").error
    assert len(error.encode()) <= ERROR_BYTES
    assert error.endswith("x" * 100)


def test_an_exception_that_cannot_be_shown_is_still_a_failure(folder: Path) -> None:
    answer = run(folder, "unsayable")
    assert answer.verdict == "failed"
    assert "Unsayable" in answer.error


def test_retry_carries_the_wish_and_the_reason(folder: Path) -> None:
    assert run(folder, "again") == Answer("retry", "later", 2.5)
    assert run(folder, "again_somehow") == Answer("retry", "", None)


def test_a_wish_that_is_no_time_leaves_it_to_the_policy(folder: Path) -> None:
    assert run(folder, "again_wrongly") == Answer("retry", "", None)


def test_a_push_that_was_refused_for_now_is_busy_and_any_other_is_a_failure(folder: Path) -> None:
    assert run(folder, "refused_for_now").verdict == "busy"
    assert "mail is full" in run(folder, "refused_for_now").error
    assert run(folder, "refused").verdict == "failed"
    assert run(folder, "maybe_stored").verdict == "failed"


def test_dead_is_permanent(folder: Path) -> None:
    assert run(folder, "dead") == Answer("permanent", "no such gift")


def test_a_reason_that_is_no_text_is_shown_as_far_as_it_can_be(folder: Path) -> None:
    answer = run(folder, "dead_strangely")
    assert answer.error.startswith("{'lone': ")
    assert len(answer.error.encode()) <= ERROR_BYTES
    assert "cannot be shown" in run(folder, "dead_unsayably").error


def test_a_wish_for_ever_is_bounded(folder: Path) -> None:
    assert run(folder, "again_never").delay_s == 366 * 86_400


def test_a_coroutine_is_run_to_its_end(folder: Path) -> None:
    handler = load(folder, "shop_jobs:slow")
    handler.setup()
    assert [handler.run(job()).verdict for _ in range(2)] == ["done", "done"]
    handler.teardown()
    assert sys.modules["shop_jobs"].calls == ["setup", "slow 1-0", "slow 1-0", "teardown"]


def test_a_coroutine_that_raises_is_a_failure(folder: Path) -> None:
    handler = load(folder, "shop_jobs:slow_bad")
    answer = handler.run(job())
    handler.teardown()
    assert (answer.verdict, "KeyError: 'async'" in answer.error) == ("failed", True)


def test_sys_exit_fails_the_job_and_ends_the_process_with_its_status(folder: Path) -> None:
    answer = run(folder, "leave")
    assert (answer.verdict, answer.exit_status) == ("failed", 3)


@pytest.mark.parametrize("name", ["interrupt", "cancelled"])
def test_no_exception_ends_the_process(folder: Path, name: str) -> None:
    answer = run(folder, name)
    assert (answer.verdict, answer.exit_status) == ("failed", None)


def test_a_dotted_function_is_found(folder: Path) -> None:
    assert run(folder, "Group.method") == Answer("done")


def test_a_folder_that_does_not_exist_is_named(folder: Path) -> None:
    with pytest.raises(LoadError, match=r"from .*/absent \(there is no such folder\): .*No module named"):
        load(folder / "absent", "nowhere_jobs:run")


def test_path_is_put_in_front_of_everything(folder: Path) -> None:
    load(folder, "shop_jobs:good")
    assert sys.path[0] == str(folder)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("no_such_jobs:run", "No module named 'no_such_jobs'"),
        ("broken_jobs:run", "No module named 'no_such_module_at_all'"),
        ("shop_jobs:missing", "has no attribute 'missing'"),
        ("shop_jobs:number", "is of type int, not a function"),
        ("leaving_jobs:run", "SystemExit: 4"),
    ],
)
def test_a_handler_that_cannot_be_imported_says_why(folder: Path, call: str, text: str) -> None:
    with pytest.raises(LoadError, match="python handler") as caught:
        load(folder, call)
    assert call in str(caught.value)
    assert text in str(caught.value)


def test_a_failing_setup_says_why(folder: Path) -> None:
    with pytest.raises(LoadError, match=r"setup\(\) of unready_jobs failed") as caught:
        load(folder, "unready_jobs:run").setup()
    assert "no database" in str(caught.value)


def test_the_body_is_bytes_text_and_json() -> None:
    assert job().body == '{"n": "你"}'.encode()
    assert job().text == '{"n": "你"}'
    assert job().json() == {"n": "你"}
