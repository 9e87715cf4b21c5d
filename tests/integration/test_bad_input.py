"""
Mistakes of people and programs: a clear error that says what is stored and what to do, nothing lost, nobody disturbed.

Beside every mistake an honest producer pushes to a healthy topic over a connection that it keeps.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.codec.resp import encode_command
from pbus.errors import Exit
from tests.support.bus import Bus, BusFactory, write_config
from tests.support.ledger import Ledger
from tests.support.ledger_handlers import PHP_SCRIPT, fastcgi_handler, python_environment, python_handler
from tests.support.php_fpm import PhpFpm
from tests.support.producers import RedisPy
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else or mount")
HEALTHY = f"[queue.healthy.topic.mail]\npython = {python_handler()}\n"
PULL = "[queue.gift.topic.credit]\npull = {}\n"
HANDLERS = PHP_SCRIPT.parent
BODY_BYTES = 1024 * 1024


@contextlib.contextmanager
def undisturbed(bus: Bus, ledger: Ledger, name: str = "honest") -> Iterator[None]:
    """Somebody pushes to the healthy topic all the while: no push fails, and each job has run exactly once."""
    with RedisPy(ledger, bus.port, "healthy", threads=1, pause_s=0.01, name=name) as producer:
        until(lambda: ledger.executed_count("healthy", "mail"), 10, lambda: f"the healthy topic works\n{bus.tail()}")
        yield
        producer.stop()
    jobs = len(ledger.keys("ok"))
    until(lambda: ledger.executed_count("healthy", "mail") >= jobs, 10, "everything of the healthy topic has run")
    [verdict] = ledger.expect_nothing_lost("healthy", ["mail"]).values()
    assert (verdict.refused, verdict.unknown, verdict.failed_attempts) == (0, 0, 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


# -- a start that cannot be ---------------------------------------------------------------------------


UNKNOWN = """
[nod]
name = "x"
[ingest.limits]
conections = 5
[queue.gift]
pasword = "x"
[queue.gift.topic.credit]
pull = {}
concurency = 3
[queue.gift.topic.stats]
python = { call = "a:b", pth = "/srv" }
"""
PROBLEMS = {
    "nod": "node", "ingest.limits.conections": "connections", "queue.gift.pasword": "password",
    "queue.gift.topic.credit.concurency": "concurrency", "queue.gift.topic.stats.python.pth": "path",
}


def test_unknown_keys_are_all_named_and_the_running_bus_goes_on(bus_factory: BusFactory, ledger: Ledger) -> None:
    bus = bus_factory(HEALTHY, environment=python_environment(ledger))
    masters = bus.pids("master")
    added = bus.conf / "later.toml"
    with undisturbed(bus, ledger):
        added.write_text(UNKNOWN)
        for command in (["config", "check"], ["start"], ["start", "--daemon"], ["restart"]):
            said = bus.cli(*command)
            assert (said.returncode, said.stdout) == (Exit.CONFIG, ""), command
            lines = said.stderr.splitlines()
            wanted = {f"{added}: {key}: unknown key; did you mean {near!r}?" for key, near in PROBLEMS.items()}
            assert wanted == set(lines), command
        assert bus.pids("master") == masters
        added.unlink()


def test_port_in_use_ends_the_start_after_ten_seconds_and_the_holder_feels_nothing(
    bus_factory: BusFactory, ledger: Ledger
) -> None:
    holder = bus_factory(HEALTHY, environment=python_environment(ledger))
    listen = f"127.0.0.1:{holder.port}"
    late = {
        "ingest.listen": bus_factory(f'[ingest]\nlisten = ["{listen}"]\n{PULL}', name="ingest", start=False),
        "dashboard.listen": bus_factory(f'[dashboard]\nlisten = "{listen}"\n{PULL}', name="dashboard", start=False),
    }
    with undisturbed(holder, ledger), Stopwatch() as watch:
        for bus in late.values():
            bus.launch()
        for bus in late.values():
            assert "is in use" in bus.wait(("starting",))["problems"][0]
        for key, bus in late.items():
            assert bus.process is not None
            assert bus.process.wait(25) == Exit.TEMPORARY
            waiting, end = bus.out.read_text().splitlines()
            assert waiting == f"{listen} is in use: trying again for 10 s"
            named = re.fullmatch(
                rf"pbus: {key}: {listen} is in use by pbus: .+ \(pid (\d+)\): stop that program, or configure another "
                "address", end,
            )
            assert named
            assert int(named[1]) in holder.processes()
    assert watch.s >= 9.5
    assert watch.worked_s <= 15
    holder.stop()
    late["ingest.listen"].start()  # nothing was left behind that has to be removed first


BELOW_A_FILE, NOT_A_FOLDER, IMPOSSIBLE = "below a file", "not a folder", "a place of the kernel"


@pytest.mark.parametrize("case", [BELOW_A_FILE, NOT_A_FOLDER, IMPOSSIBLE])
@pytest.mark.parametrize("daemon", [[], ["--daemon"]], ids=["foreground", "daemon"])
@pytest.mark.parametrize("key", ["data_dir", "log_dir", "run_dir"])
def test_folder_that_cannot_be_made_is_named(
    bus_factory: BusFactory, tmp_path: Path, case: str, daemon: list[str], key: str
) -> None:
    (tmp_path / "file").touch()
    path, why = {
        BELOW_A_FILE: (f"{tmp_path}/file/data", "Not a directory"), NOT_A_FOLDER: (f"{tmp_path}/file", "File exists"),
        IMPOSSIBLE: ("/proc/pbus/data", "No such file or directory"),
    }[case]
    bus = bus_factory(f'[node]\n{key} = "{path}"\n{PULL}', start=False)
    said = bus.cli("start", *daemon)
    assert said.returncode == Exit.NO_PERMISSION
    assert said.stderr == f"pbus: node.{key}: cannot make the folder {path}: {why}; configure another one\n"
    assert bus.processes() == []


@AS_ROOT
@pytest.mark.parametrize("exists", [True, False])
def test_folder_that_another_user_owns_is_named_with_who_wants_it(
    bus_factory: BusFactory, tmp_path: Path, exists: bool
) -> None:
    data = tmp_path / "owned" / "data"
    (data if exists else data.parent).mkdir(parents=True)
    bus = bus_factory(f'[node]\ndata_dir = "{data}"\n{PULL}', start=False)
    for folder in (data.parent, bus.conf, *bus.conf.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    said = _start(bus, ["setpriv", f"--reuid={pwd.getpwnam('nobody').pw_uid}", "--clear-groups"])
    what = f"cannot write to the folder {data}" if exists else f"cannot make the folder {data}: Permission denied"
    assert said.returncode == Exit.NO_PERMISSION, said.stderr
    assert said.stderr == f"pbus: node.data_dir: {what}; let user nobody write there, or configure another one\n"


@AS_ROOT
@pytest.mark.parametrize("exists", [True, False])
def test_folder_on_a_read_only_file_system_is_named(bus_factory: BusFactory, tmp_path: Path, exists: bool) -> None:
    (tmp_path / "mount").mkdir()
    data = tmp_path / "mount" if exists else tmp_path / "mount" / "data"
    bus = bus_factory(f'[node]\ndata_dir = "{data}"\n{PULL}', start=False)
    mount = f"mount -t tmpfs -o ro none {tmp_path}/mount || exit 99"
    said = _start(bus, ["unshare", "--mount", "sh", "-c", f'{mount}; exec "$@"', "sh"])
    if said.returncode == 99:
        pytest.skip("no rights to mount here")
    what = f"cannot write to the folder {data}" if exists else f"cannot make the folder {data}: Read-only file system"
    assert said.returncode == Exit.NO_PERMISSION, said.stderr
    assert said.stderr == f"pbus: node.data_dir: {what}; let user root write there, or configure another one\n"


def _start(bus: Bus, before: list[str]) -> subprocess.CompletedProcess[str]:
    """``pbus start`` by way of another program."""
    argv = [*before, sys.executable, "-B", "-m", "pbus", "start", "-c", str(bus.conf)]
    return subprocess.run(argv, env=bus.environment, cwd=bus.folder, capture_output=True, text=True, timeout=30)


# -- what comes to the port ---------------------------------------------------------------------------

QUEUES = f"""
[queue.gift]
password = "secret"
topic.credit = {{ pull = {{}} }}
[queue.open.topic.credit]
pull = {{}}
[queue.old]
pepper = true
topic.credit = {{ pull = {{}} }}
[queue.none]
{HEALTHY}
"""
BIG = "x" * (BODY_BYTES + 1)
TOO_BIG = rf"takes at most {BODY_BYTES} bytes a body, this one has {BODY_BYTES + 1}: not stored, send it smaller"
NO_SUCH = r"-NOQUEUE there is no queue '%s': not stored, "

Words = tuple[str, ...]

MISTAKES: list[tuple[list[Words], str]] = [
    ([("AUTH", "gift", "wrong")], r"-WRONGPASS .*: nothing is stored; AUTH takes the name and the password of a queue"),
    ([("AUTH", "gift:wrong")], r"-WRONGPASS .*: nothing is stored"),
    ([("AUTH", "nobody", "secret")], r"-WRONGPASS .*: nothing is stored"),
    ([("HELLO", "3", "AUTH", "gift", "wrong")], r"-WRONGPASS .*: nothing is stored"),
    ([("AUTH", "gift", "wrong"), ("LPUSH", "gift", "x")], r"-NOAUTH gift needs AUTH gift PASSWORD first: not stored"),
    ([("LPUSH", "gift", "x")], r"-NOAUTH gift needs AUTH gift PASSWORD first: not stored"),
    ([("AUTH", "gift/credit", "secret"), ("LPUSH", "gift", "x")], r"-NOPERM gift/credit is a topic .*: not stored"),
    ([("LPUSH", "opne", "x")], NO_SUCH % "opne" + r"did you mean 'open'\?"),
    ([("RPUSH", "opne/credit", "x")], NO_SUCH % "opne/credit" + r"did you mean 'open'\?"),
    ([("XADD", "zzz", "*", "body", "x")], NO_SUCH % "zzz" + r"add \[queue.zzz\] to the configuration"),
    ([("PUBLISH", "a b", "x")], NO_SUCH % "a b" + r"the name of a queue has letters, digits, '_', '.' and '-'"),
    ([("LPUSH", "none", "x")], r"-NOTOPIC none has no topic, .*: not stored, add \[queue.none.topic.NAME\]"),
    ([("LPUSH", "open/credit", "x")], r"-NOQUEUE 'open/credit' is a topic; push to 'open': not stored"),
    ([("PBUS.ADD", "open/credit", "x")], r"-NOQUEUE 'open/credit' is a topic; push to 'open': not stored"),
    ([("LPUSH", "open/nope", "x")], r"-NOQUEUE 'open/nope' is no queue; push to 'open', .*: not stored"),
    ([("LPUSH", "open", BIG)], rf"-TOOBIG open {TOO_BIG}"),
    ([("LPUSH", "open", "small", BIG)], rf"-TOOBIG open {TOO_BIG}"),
    ([("XADD", "open", "*", "body", BIG)], rf"-TOOBIG open {TOO_BIG}"),
    ([("PBUS.ADD", "open", BIG)], rf"-TOOBIG open {TOO_BIG}"),
    ([("LPUSH", "old/credit", BIG)], rf'.*"jobs":null,.*"error":"TOOBIG old/credit {TOO_BIG}"'),
    ([("LPUSH", "open")], r"-BADVALUE wrong number of arguments for 'lpush' command: not stored"),
    ([("XADD", "open", "*", "bdy", "x")], r"-BADVALUE there is no option 'bdy', did you mean 'body'\?: not stored"),
    ([("XADD", "open", "*", "body", "x", "delay", "-1")], r"-BADVALUE delay takes whole milliseconds .*: not stored"),
    ([("PBUS.ADD", "open", "x", "TTL", "1.5")], r"-BADVALUE ttl takes whole milliseconds .*: not stored"),
    ([("PBUS.ADD", "open", "x", "DEDUPE", "k" * 10240)], r"-BADVALUE dedupe takes at most 256 bytes, .*: not stored"),
    ([("XADD", "open", "*", "body", "x", "key", "a\0b")], r"-BADVALUE key takes printable text, .*: not stored"),
    ([("XADD", "open", "*", "body", "x", "dedupe", "")], r"-BADVALUE dedupe is empty, .*: not stored"),
]
GARBAGE: dict[str, tuple[bytes, str]] = {
    "HTTP": (b"POST /gift HTTP/1.1\r\nHost: bus\r\n\r\n", "this port speaks the Redis protocol, not HTTP"),
    "TLS": (bytes.fromhex("16030100a5010000a10303"), "this port does not speak TLS"),
    "NUL": (b"\0\1\2\3\r\n", "Protocol error: control characters in an inline command"),
    "no bulk": (b"*2\r\n$5\r\nLPUSH\r\n:5\r\n", r"Protocol error: expected '\$', got ':'"),
    "a billion elements": (b"*1000000000\r\n", "Protocol error: invalid multibulk length"),
    "a body of 2 GB": (b"*3\r\n$5\r\nLPUSH\r\n$4\r\nopen\r\n$2147483647\r\n", "Protocol error: invalid bulk length"),
    "a wrong length": (b"*3\r\n$5\r\nLPUSH\r\n$4\r\nopen\r\n$1\r\nxxx\r\n", "Protocol error: a bulk is not as long"),
    "a line without end": (b"x" * 8192, "Protocol error: too big inline request"),
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """One bus for every mistake at the port, and somebody honest at it from the first to the last."""
    folder = tmp_path_factory.mktemp("port")
    ledger = Ledger(folder / "ledger")
    bus = Bus(folder / "bus", python_environment(ledger))
    write_config(bus.folder, QUEUES)
    try:
        bus.start()
        with undisturbed(bus, ledger):
            yield bus
        assert not [event for event in bus.events() if event["level"] in ("error", "critical")], bus.tail()
        assert not bus.events("child.exited"), bus.tail()
    finally:
        bus.clean_up()


def _stored(bus: Bus) -> dict[str, int]:
    """Jobs of every queue but the healthy one."""
    return {row["queue"]: row["ready"] for row in bus.status()["topics"] if row["queue"] != "healthy"}


@pytest.mark.parametrize(
    ("commands", "answer"), MISTAKES, ids=[" ".join(words[-1][:3])[:40] for words, _ in MISTAKES]
)
def test_refused_command_says_what_is_stored_and_the_connection_lives(
    port: Bus, commands: list[Words], answer: str
) -> None:
    before = _stored(port)
    with _connect(port) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"".join(encode_command([word.encode() for word in words]) for words in commands))
        sock.sendall(encode_command([b"ECHO", b"after it"]))
        for _ in commands[:-1]:
            replies.readline()
        said = replies.readline().decode()
        if said.startswith("$"):
            said = replies.readline().decode()
        assert re.match(answer, said), said
        assert (replies.readline(), replies.readline()) == (b"$8\r\n", b"after it\r\n")
    assert _stored(port) == before


@pytest.mark.parametrize(("sent", "answer"), GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_gets_one_error_and_the_end_after_what_was_good(port: Bus, sent: bytes, answer: str) -> None:
    before = _stored(port)
    with _connect(port) as sock, Stopwatch() as watch:
        sock.sendall(encode_command([b"LPUSH", b"open", b"before it"]) + sent)
        said = b"".join(iter(lambda: sock.recv(65_536), b"")).decode()
    assert re.fullmatch(rf":{before['open'] + 1}\r\n-ERR {answer}.*: not stored, this connection ends\r\n", said), said
    assert watch.worked_s < 1.0
    assert _stored(port) == {**before, "open": before["open"] + 1}
    assert until(lambda: port.events("client.garbage"), 5, "the log has it")[-1]["peer"]


def _connect(bus: Bus) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bus.port), 5)


# -- handlers that are not there ----------------------------------------------------------------------

JOBS = 20


def _push(bus: Bus, ledger: Ledger) -> None:
    with RedisPy(Ledger(ledger.folder / "gift"), bus.port, "gift", count=JOBS) as producer:
        producer.finish()


def _has_run(bus: Bus, ledger: Ledger, topic: str) -> None:
    """Every job of that topic has, once, and at its first attempt."""
    until(lambda: ledger.executed_count("gift", topic) >= JOBS, 20, lambda: f"gift/{topic} has run all\n{bus.tail()}")
    runs = list(ledger.runs("gift", topic))
    assert (len(runs), len({run.key for run in runs}), {run.attempt for run in runs}) == (JOBS, JOBS, {1})


@pytest.fixture
def fpm(tmp_path: Path) -> Iterator[PhpFpm]:
    pool = PhpFpm(tmp_path)
    pool.start()
    yield pool
    pool.close()


def test_handler_that_does_not_import_costs_its_topic_a_wait_until_it_is_repaired(
    bus_factory: BusFactory, ledger: Ledger, tmp_path: Path
) -> None:
    code = tmp_path / "srv"
    code.mkdir()
    (code / "needs_jobs.py").write_text("import a_module_that_is_not_here\n")
    (code / "other_jobs.py").write_text("def recrod(job): pass\n")
    wrong = {
        "absent": ("no_jobs:record", "ModuleNotFoundError: No module named 'no_jobs'"),
        "needs": ("needs_jobs:record", "ModuleNotFoundError: No module named 'a_module_that_is_not_here'"),
        "misspelt": ("other_jobs:record", "AttributeError: module 'other_jobs' has no attribute 'record'"),
    }
    topics = [f'topic.{topic}.python = {{ call = "{call}", path = "{code}" }}' for topic, (call, _) in wrong.items()]
    backoff = '[supervise]\nbackoff = { first = "20ms", max = "50ms" }'
    bus = bus_factory(
        "\n".join([backoff, HEALTHY, "[queue.gift]", *topics]), states=("running", "degraded"),
        environment=python_environment(ledger),
    )
    with undisturbed(bus, ledger):
        until(lambda: len(bus.status()["problems"]) == len(wrong), 10, "all are given up")
        for topic, (call, why) in wrong.items():
            [said] = [text for text in bus.status()["problems"] if text.startswith(f"consumer gift/{topic}: ")]
            assert f"did not start 3 times: exit status 1 (python handler {call!r} cannot be imported from" in said
            assert said.endswith(f"{why}); given up, its jobs wait: repair it, then 'pbus topic restart gift/{topic}'")
            assert why in bus.topic_log("gift", topic)
            assert bus.topic("gift", topic)["state"] == "fatal"
        _push(bus, ledger)
        assert [bus.topic("gift", topic)["ready"] for topic in wrong] == [JOBS] * len(wrong)
        shown = bus.cli("status")
        assert shown.returncode == Exit.DEGRADED
        assert "! consumer gift/absent: did not start 3 times" in shown.stdout
    for call, _ in wrong.values():
        (code / f"{call.partition(':')[0]}.py").write_text("from ledger_jobs import record\n")
    bus.environment["PYTHONPATH"] += f":{HANDLERS}"
    bus.restart()
    for topic in wrong:
        _has_run(bus, ledger, topic)


def test_script_that_does_not_exist_costs_its_topic_a_wait_until_it_is_there(
    bus_factory: BusFactory, ledger: Ledger, fpm: PhpFpm
) -> None:
    script = fpm.scripts / "credit.php"
    there = fastcgi_handler(ledger, fpm.address)
    absent = there.replace(str(PHP_SCRIPT), str(script))
    bus = bus_factory(
        f"{HEALTHY}[queue.gift]\ntopic.credit.fastcgi = {absent}\ntopic.beside.fastcgi = {there}\n",
        environment=python_environment(ledger),
    )
    hint = "it must be there, and php-fpm's user must be able to read it"
    why = f"php-fpm finds no script at {fpm.address} {script}: {hint}"
    with undisturbed(bus, ledger):
        _push(bus, ledger)
        until(lambda: bus.topic("gift", "credit")["state"] == "paused", 10, "the topic is paused")
        assert f"! gift/credit paused: ping: {why}" in bus.cli("status").stdout
        assert [event["reason"] for event in bus.events("topic.paused")] == [f"ping: {why}"]
        assert f"paused, its jobs wait: ping: {why}" in bus.topic_log("gift", "credit")
        _has_run(bus, ledger, "beside")  # on the same pool
        credit = bus.topic("gift", "credit")
        assert (credit["ready"], credit["failed_total"], credit["dead"]) == (JOBS, 0, 0)
        script.write_bytes(PHP_SCRIPT.read_bytes())
        _has_run(bus, ledger, "credit")  # nobody had to do anything else
    assert until(lambda: bus.events("topic.running"), 5, "the log says so")
