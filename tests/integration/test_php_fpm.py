"""Calls to a real php-fpm: what PHP does of its own accord, and what becomes of the job."""

from __future__ import annotations

import json
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from pbus.clock import FakeClock
from pbus.config import schema
from pbus.core.outcome import Outcome, Verdict
from pbus.delivery.backend import HOT_S
from pbus.delivery.rests import Rests
from tests.support.call_desk import Calls, JobClock, delivery, eventually
from tests.support.php_fpm import PhpFpm

PING = "if ($_POST['type'] === 'ping') { header('Code: 200'); exit; }\n"
DONE = PING + "header('Code: 200'); echo 'done';"

OpenPool = Callable[..., PhpFpm]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[OpenPool]:
    pools: list[PhpFpm] = []

    def open_pool(**settings: object) -> PhpFpm:
        pools.append(PhpFpm(tmp_path, **settings))
        pools[-1].start()
        return pools[-1]

    yield open_pool
    for each in pools:
        each.close()


def calls(fpm: PhpFpm, script: str, backend: dict[str, object] | None = None, **settings: object) -> Calls:
    own = schema.Backend(**({"fastcgi": [fpm.address]} | (backend or {})))
    return Calls(schema.FastcgiHandler(backend="b", script=script), backend=own, **settings)


def outcome_of(fpm: PhpFpm, code: str, **settings: object) -> Outcome:
    with calls(fpm, fpm.script("handler.php", PING + code), **settings) as running:
        return running.run_one()


def test_script_sees_the_job_as_the_contract_says(pool, tmp_path):
    seen = tmp_path / "seen.json"
    seen.touch()
    seen.chmod(0o666)
    fpm = pool()
    code = (
        f"file_put_contents('{seen}', json_encode(['post' => $_POST, 'server' => $_SERVER, "
        "'job' => json_decode($_POST['jobs'], true)[0]])); header('Code: 200');"
    )
    body = '{"uid": 7, "note": "礼物 & + % = 100 \\u0000"}'
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with calls(fpm, fpm.script("handler.php", PING + code)) as running:
        assert running.run_one(delivery(7, body.encode(), attempt=2, traceparent=trace)).verdict is Verdict.DONE
    told = json.loads(seen.read_text())
    assert told["job"]["content"] == body
    assert (told["job"]["id"], told["job"]["RetryTimes"], told["job"]["retrying"]) == ("1800000000000-7", 2, True)
    assert (told["post"]["type"], told["post"]["IS_PEPPER_BUS_REQUEST"]) == ("data", "true")
    assert told["server"]["REQUEST_URI"] == "/pbus/gift/credit/1800000000000-7"
    assert told["server"]["HTTP_TRACEPARENT"] == trace
    assert told["server"]["REQUEST_METHOD"] == "POST"
    assert told["server"]["SCRIPT_FILENAME"] == str(fpm.scripts / "handler.php")


@pytest.mark.parametrize("size", [0, 1, 65_000, 65_536, 1_048_576])
def test_script_gets_bodies_of_any_size(pool, size):
    fpm = pool()
    code = "$c = json_decode($_POST['jobs'], true)[0]['content']; header('Code: 200'); echo strlen($c), ' ', crc32($c);"
    body = (b"0123456789 {}\"\\/&" * (size // 16 + 1))[:size]
    with calls(fpm, fpm.script("handler.php", PING + code)) as running:
        outcome = running.run_one(delivery(1, body))
    assert outcome.output == f"{size} {zlib.crc32(body)}".encode()


def test_long_configured_parameters_reach_the_script(pool):
    fpm = pool()
    params = {f"PARAM_{n}": "v" * 30_000 for n in range(5)} | {"SHORT": "礼"}
    script = fpm.script("handler.php", "header('Code: 200'); echo strlen($_SERVER['PARAM_4']), $_SERVER['SHORT'];")
    with Calls(schema.FastcgiHandler(address=fpm.address, script=script, params=params)) as running:
        assert running.run_one().output == "30000礼".encode()


# -- what php says about a handler --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("die('stopped');", "the answer has no Code header; stopped"),
        ("throw new Exception('no money');", "php says: Uncaught Exception: no money"),
        ("undefined_function();", "Call to undefined function undefined_function()"),
        ("exit(255);", "not acknowledged: the answer has no Code header"),
        ("http_response_code(500);", "status 500"),
        ("header('Code: 500'); header('Error-Code: E1'); echo 'too low';", "Code: 500; Error-Code: E1; too low"),
    ],
)
@pytest.mark.parametrize("display_errors", ["0", "1"])
def test_handler_that_does_not_acknowledge_has_failed(pool, code, text, display_errors):
    outcome = outcome_of(pool(ini={"display_errors": display_errors, "log_errors": "1", "html_errors": "1"}), code)
    assert outcome.verdict is Verdict.FAILED
    assert text in outcome.error


def test_headers_polluted_by_output_are_named(pool):
    fpm = pool(ini={"display_errors": "1", "output_buffering": "0"})
    outcome = outcome_of(fpm, "echo 'hello'; flush();\nheader('Code: 200');")
    assert outcome.verdict is Verdict.FAILED
    assert "polluted headers" in outcome.error
    assert "handler.php:3" in outcome.error


def test_stderr_comes_beside_the_answer(pool):
    outcome = outcome_of(pool(), "error_log('one'); file_put_contents('php://stderr', 'two'); header('Code: 200');")
    assert outcome.verdict is Verdict.DONE
    assert b"one" in outcome.stderr
    assert outcome.output == b""


def test_stderr_of_a_pool_with_a_log_of_its_own_goes_there(pool, tmp_path):
    log = tmp_path / "own.log"
    outcome = outcome_of(pool(ini={"error_log": str(log)}), "error_log('elsewhere'); header('Code: 200');")
    assert (outcome.verdict, outcome.stderr) == (Verdict.DONE, b"")
    assert "elsewhere" in log.read_text()


def test_fastcgi_finish_request_ends_the_call(pool, tmp_path):
    over = tmp_path / "over"
    goes_on = f"while (!file_exists('{over}')) {{ usleep(5000); clearstatcache(); }}"
    outcome = outcome_of(pool(), f"header('Code: 200'); echo 'early'; fastcgi_finish_request(); {goes_on}")
    assert (outcome.verdict, outcome.output) == (Verdict.DONE, b"early")
    over.touch()


def test_script_that_does_not_exist_pauses_the_topic_until_it_does(pool):
    fpm = pool()
    with calls(fpm, str(fpm.scripts / "later.php"), rests=Rests(first_s=0.1, max_s=0.2)) as running:
        running.lane.wants()
        eventually(lambda: running.lane.state == "paused", 5.0, "paused")
        assert "php-fpm finds no script at" in running.lane.reason
        fpm.script("later.php", DONE)
        assert running.run_one().verdict is Verdict.DONE


def test_script_of_a_forbidden_kind_is_misconfigured(pool):
    fpm = pool()
    with calls(fpm, fpm.script("handler.txt", DONE)) as running:
        running.lane.wants()
        eventually(lambda: running.lane.state == "paused", 5.0, "paused")
        assert "security.limit_extensions" in running.lane.reason


def test_deadline_closes_the_connection_and_the_next_job_runs(pool):
    fpm = pool()
    script = fpm.script("handler.php", PING + "if (strpos($_POST['jobs'], 'slow')) sleep(2); header('Code: 200');")
    with calls(fpm, script, timeout_s=0.3) as running:
        outcomes = running.run(delivery(1, b"slow"), delivery(2, b"quick"))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.TIMEOUT, Verdict.DONE]


# -- post_max_size ------------------------------------------------------------------------------------

ALWAYS_SUCCESS = "header('Code: 200'); foreach (json_decode($_POST['jobs'] ?? '[]') as $job) { echo 'ran'; }"


@pytest.mark.parametrize("own_log", [False, True])
def test_body_above_max_post_is_never_sent_and_never_acknowledged(pool, tmp_path, own_log):
    ini = {"post_max_size": "16K"} | ({"error_log": str(tmp_path / "own.log")} if own_log else {})
    fpm = pool(ini=ini)
    script = fpm.script("handler.php", ALWAYS_SUCCESS)
    with calls(fpm, script, backend={"max_post_bytes": 16 * 1024}) as running:
        outcomes = running.run(delivery(1, b"x" * 20_000), delivery(2, b"&" * 6000), delivery(3, b"x" * 15_000))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.UNSENT, Verdict.UNSENT, Verdict.DONE]
    assert outcomes[2].output == b"ran"


def test_success_for_a_dropped_form_is_no_success_where_php_says_so(pool):
    fpm = pool(ini={"post_max_size": "16K"})  # and max_post was left at its default
    with calls(fpm, fpm.script("handler.php", ALWAYS_SUCCESS)) as running:
        outcome = running.run_one(delivery(1, b"x" * 20_000))
    assert outcome.verdict is Verdict.PERMANENT
    assert "post_max_size of 16384" in outcome.error


# -- processes that come and go ---------------------------------------------------------------------------------------


def test_process_that_is_killed_mid_call_is_a_crash(pool):
    fpm = pool()
    code = "shell_exec('kill -9 ' . getmypid());"
    with calls(fpm, fpm.script("handler.php", PING + code)) as running:
        outcomes = running.run(delivery(1), delivery(2))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CRASHED, Verdict.CRASHED]
    assert [outcome.resent for outcome in outcomes] == [True, False]  # the first was on the ping's connection


def test_max_requests_closes_after_answers_and_nothing_fails(pool, tmp_path):
    ledger = tmp_path / "ledger"
    ledger.touch()
    ledger.chmod(0o666)
    fpm = pool(pool={"pm.max_requests": "2", "pm.max_children": "3"})
    write = f"file_put_contents('{ledger}', json_decode($_POST['jobs'], true)[0]['id'] . PHP_EOL, FILE_APPEND);"
    code = f"{write} header('Code: 200');"
    with calls(fpm, fpm.script("handler.php", PING + code), slots=3) as running:
        outcomes = running.run(*(delivery(n) for n in range(600)), timeout_s=60.0)
    ran = ledger.read_text().split()
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
    assert len(ran) == len(set(ran)) == 600


def test_reload_that_lets_requests_finish_fails_nothing(pool):
    fpm = pool(control_timeout_s=10)
    script = fpm.script("handler.php", PING + "usleep(20000); header('Code: 200'); echo getmypid();")
    with calls(fpm, script, slots=4) as running:
        reload = gevent.spawn_later(0.2, os.kill, fpm.pid, signal.SIGUSR2)
        outcomes = running.run(*(delivery(n) for n in range(120)), timeout_s=30.0)
        reload.join()
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.DONE, Verdict.UNSURE, Verdict.DOWN}
    assert sum(outcome.verdict is Verdict.DONE for outcome in outcomes) >= 116
    assert len({outcome.output for outcome in outcomes if outcome.verdict is Verdict.DONE}) > 4


def test_reload_in_the_middle_of_a_call_is_a_crash_unless_it_was_resent(pool):
    fpm = pool()  # process_control_timeout is 0 by default: a reload resets running requests
    busy = "$end = microtime(true) + 3; while (microtime(true) < $end) { usleep(5000); }"  # signals end a sleep()
    script = fpm.script("handler.php", PING + busy + "header('Code: 200');")
    with calls(fpm, script, slots=2) as running:
        eventually(lambda: running.lane.wants(), 5.0, "the ping is answered")
        running.lane.accept([delivery(1), delivery(2)])
        gevent.sleep(0.3)
        os.kill(fpm.pid, signal.SIGUSR2)
        eventually(lambda: len(running.desk.outcomes) == 2, 10.0, "both ended")
    for _, outcome in running.desk.outcomes:  # one of them went out on the connection of the ping
        assert outcome.verdict is Verdict.CRASHED or (outcome.verdict is Verdict.DONE and outcome.resent)
    assert "crashed" in running.desk.verdicts


def test_stop_and_start_uses_up_nothing(pool):
    fpm = pool()
    script = fpm.script("handler.php", DONE)
    with calls(fpm, script, slots=4) as running:
        running.run(*(delivery(n) for n in range(20)))
        fpm.stop()
        running.lane.accept([delivery(n) for n in range(20, 40)])
        eventually(lambda: running.lane.state == "down" and not running.lane.busy, 10.0, "down, everything back")
        assert set(running.desk.verdicts[20:]) <= {"down", "released", "unsure"}
        fpm.start()
        assert running.run_one(delivery(50)).verdict is Verdict.DONE


def test_fewer_processes_than_slots_starve_nobody(pool):
    """
    Two processes serve eight connections in the order of their coming, each for as long as it may be hot.

    Judged by what the process that took a call had answered to others while the call waited: a process that the
    machine stops holds up the call in its hands, but answers nobody else meanwhile.
    """
    hot_jobs, slots = 20, 8
    code = PING + "header('Code: 200'); echo getmypid();"
    fpm = pool(pool={"pm.max_children": "2"})
    with calls(fpm, fpm.script("handler.php", code), slots=slots, clock=JobClock(HOT_S / hot_jobs)) as running:
        running.run(*(delivery(n) for n in range(4000)), timeout_s=60.0)
    assert set(running.desk.verdicts) == {"done"}
    servers = [outcome.output for _, outcome in running.desk.outcomes]
    waited = [
        servers[max(0, begun - slots) : end].count(servers[end])  # it began when all before it had begun
        for end, begun in enumerate(int(job_id.partition("-")[2]) for job_id, _ in running.desk.outcomes)
    ]
    assert max(waited) <= slots * (hot_jobs + 2)


def test_switched_symlink_takes_effect_with_the_next_job(pool):
    fpm = pool(ini={"opcache.enable": "1", "opcache.revalidate_freq": "60", "realpath_cache_ttl": "600"})
    for release in ("one", "two"):
        (fpm.scripts / release).mkdir()
        code = f"{PING} header('Code: 200'); echo '{release} ', basename(dirname($_SERVER['SCRIPT_FILENAME']));"
        (fpm.scripts / release / "credit.php").write_text(f"<?php {code}")
    current = fpm.scripts / "current"
    current.symlink_to("one")
    clock = FakeClock()
    with calls(fpm, str(current / "credit.php"), clock=clock) as running:
        assert [outcome.output for outcome in running.run(*(delivery(n) for n in range(5)))] == [b"one one"] * 5
        (fpm.scripts / "next").symlink_to("two")
        os.replace(fpm.scripts / "next", current)
        clock.advance(1.05)  # how long the resolved path is remembered
        assert [outcome.output for outcome in running.run(*(delivery(n) for n in range(5)))] == [b"two two"] * 5
