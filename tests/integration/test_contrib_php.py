"""contrib/php on real PHP: what a producer throws when, which bus it takes, what a handler answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pbus.codec.resp import Limits, RequestParser, Run
from pbus.core.traceparent import trace_id
from tests.support.bus import Bus, BusFactory, free_port
from tests.support.php_fpm import PhpFpm
from tests.support.programs import requires, requires_php_redis
from tests.support.waiting import until

CONTRIB = Path(__file__).parents[2] / "contrib" / "php"
SECRET = "open-sesame"
IDLE_S = 1.1
"""A little more than a producer uses a connection again without a look."""


def php(code: str, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run *code* with both files of contrib loaded."""
    head = f"require '{CONTRIB}/PbusProducer.php'; require '{CONTRIB}/PbusConsumer.php';"
    return subprocess.run(
        [requires("php"), "-d", "display_errors=stderr", "-r", head + code, "--", *arguments], capture_output=True,
        text=True, timeout=timeout_s,
    )


PUSH = """
    $bus = new Pbus\\Producer(json_decode($argv[1], true), $argv[2], 0.3, 5.0);
    try {
        $id = $bus->push($argv[3], $argv[4], ...json_decode($argv[5] ?? '{}', true));
        echo json_encode(['id' => $id, 'place' => $bus->place()]);
    } catch (Pbus\\PushError $error) {
        echo json_encode([
            'thrown' => $error::class, 'word' => $error->word, 'stored' => !$error instanceof Pbus\\NotStored,
            'said' => $error->getMessage(),
        ]);
    }
"""


def push(places: list[str], queue: str, body: str = "x", auth: str = "", **options: Any) -> dict[str, Any]:
    """One push by a producer of its own; what it answered or threw."""
    requires_php_redis()
    done = php(PUSH, json.dumps(places), auth, queue, body, json.dumps(options))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
def bus(bus_factory: BusFactory) -> Bus:
    pulled = {"pull": {}}
    return bus_factory({
        "ingest": {"max_body": "64KiB", "listen": [f"127.0.0.1:{free_port()}", "unix:var/in.sock"]},
        "queue": {
            "gift": {"topic": {"credit": pulled}}, "small": {"max_backlog": 1, "topic": {"credit": pulled}},
            "shut": {"password": SECRET, "topic": {"credit": pulled}},
            "own": {"password": SECRET, "topic": {"credit": pulled}}, "nobody": {"topic": {}},
        },
    })


def address(bus: Bus) -> str:
    return f"127.0.0.1:{bus.port}"


def test_a_push_is_stored_with_its_options_and_answers_the_id(bus: Bus) -> None:
    first = push([address(bus)], "gift", "a\r\nb", dedupe="order-1", delayMs=1, ttlMs=60000, key="uid-7")
    again = push([address(bus)], "gift", "a\r\nb", dedupe="order-1")
    assert first["id"] == again["id"]
    with redis.Redis(port=bus.port) as client:
        assert client.brpop("gift/credit", 5) == (b"gift/credit", b"a\r\nb")
        assert client.llen("gift/credit") == 0


def test_a_local_socket_is_a_place_too(bus: Bus) -> None:
    place = next(text for text in bus.settings.ingest.listen if text.startswith("unix:"))
    if len(place) > 100:
        pytest.skip("the folder of this test is too deep for the path of a socket")
    assert push([place], "gift")["place"] == place


REFUSALS: list[tuple[str, str, str, dict[str, Any], str, str]] = [
    ("gone", "x", "", {}, "NoQueue", "NOQUEUE"),
    ("gift/credit", "x", "", {}, "NoQueue", "NOQUEUE"),
    ("nobody", "x", "", {}, "NoQueue", "NOTOPIC"),
    ("gift", "x" * 70000, "", {}, "TooBig", "TOOBIG"),
    ("gift", "x", "", {"dedupe": ""}, "BadValue", "BADVALUE"),
    ("gift", "x", "", {"delayMs": -1}, "BadValue", "BADVALUE"),
    ("shut", "x", "", {}, "AuthFailed", "NOAUTH"),
    ("shut", "x", "shut:wrong", {}, "AuthFailed", "WRONGPASS"),
    ("shut", "x", f"own:{SECRET}", {}, "AuthFailed", "NOPERM"),
]


def test_each_refusal_is_an_exception_of_its_own_and_nothing_is_stored(bus: Bus) -> None:
    for queue, body, auth, options, thrown, word in REFUSALS:
        told = push([address(bus)], queue, body, auth, **options)
        assert (told["thrown"], told["word"], told["stored"]) == (f"Pbus\\{thrown}", word, False), told
    with redis.Redis(port=bus.port) as client:
        assert client.llen("gift") == 0


def test_a_full_queue_says_so(bus: Bus) -> None:
    assert "id" in push([address(bus)], "small")
    told = push([address(bus)], "small")
    assert (told["thrown"], told["word"]) == ("Pbus\\QueueFull", "QUEUEFULL")


def test_a_password_opens_its_queue(bus: Bus) -> None:
    assert "id" in push([address(bus)], "shut", auth=f"shut:{SECRET}")


def test_several_jobs_are_stored_in_one_go(bus: Bus) -> None:
    requires_php_redis()
    code = "echo (new Pbus\\Producer([$argv[1]]))->pushAll('gift', ['a', 'b', 'c']);"
    assert php(code, address(bus)).stdout == "3"


def test_the_next_bus_is_tried_when_the_first_cannot_be_connected_to(bus: Bus) -> None:
    told = push([f"127.0.0.1:{free_port()}", "unix:/nowhere/at/all.sock", address(bus)], "gift")
    assert told["place"] == address(bus)


def test_without_any_bus_it_says_that_nothing_was_sent() -> None:
    told = push([f"127.0.0.1:{free_port()}", "unix:/nowhere/at/all.sock"], "gift")
    assert (told["thrown"], told["word"]) == ("Pbus\\Unavailable", "")
    assert "/nowhere/at/all.sock" in told["said"]


class Deaf:
    """Takes connections, reads the first command of each, and hangs up without an answer."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                self.heard.append(sock.recv(65536))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    server = Deaf()
    yield server
    server.close()


def test_a_push_whose_answer_was_lost_is_not_sent_to_anybody_else(bus: Bus, deaf: Deaf) -> None:
    told = push([deaf.address, address(bus)], "gift")
    assert (told["thrown"], told["stored"]) == ("Pbus\\MaybeStored", True)
    assert len(deaf.heard) == 1
    assert b"PBUS.ADD" in deaf.heard[0]
    with redis.Redis(port=bus.port) as client:
        assert client.llen("gift") == 0


def test_a_long_lived_producer_outlives_a_restart_of_its_bus(bus: Bus) -> None:
    requires_php_redis()
    code = """
        $bus = new Pbus\\Producer([$argv[1]]);
        echo $bus->push('gift', 'before'), "\\n";
        fgets(STDIN);
        echo $bus->push('gift', 'after'), "\\n";
    """
    head = f"require '{CONTRIB}/PbusProducer.php';"
    process = subprocess.Popen(
        [requires("php"), "-r", head + code, "--", address(bus)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    used_s = time.monotonic()
    bus.restart()
    until(lambda: time.monotonic() - used_s > IDLE_S, 5, "a connection is asked whether it lives only after a second")
    out, err = process.communicate("go\n", 20)
    assert (process.returncode, err) == (0, "")
    assert out.strip()
    with redis.Redis(port=bus.port) as client:
        assert client.llen("gift") == 2


# -- FastCGI -----------------------------------------------------------------------------------------------


SCRIPT = """
require '%s/PbusConsumer.php';
Pbus\\FastcgiHandler::serve(['gift/credit' => function (Pbus\\Job $job): void {
    [$word, $rest] = explode(' ', $job->body, 2) + ['', ''];
    echo "printed before headers\\n";
    ob_start(); // left open
    $line = sprintf("%%s %%d %%s %%s\\n", $job->id, $job->attempt, $job->queue, bin2hex($job->body));
    file_put_contents(getenv('RUNS_FILE'), $line, FILE_APPEND);
    $first = $job->attempt === 1;
    match ($word) {
        'fail-once' => $first ? throw new LogicException($rest) : null,
        'busy-once' => $first && touch(getenv('RUNS_FILE') . ".$rest") && filesize(getenv('RUNS_FILE')) < 120
            ? throw new Pbus\\Busy('not now', 1) : null,
        'die-once' => $first ? die('gone') : null,
        'dead' => throw new Pbus\\Dead($rest),
        default => null,
    };
}]);
"""


@pytest.fixture
def fpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PhpFpm]:
    monkeypatch.setenv("RUNS_FILE", str(tmp_path / "runs"))
    folder = tmp_path / "fpm"
    folder.mkdir()
    server = PhpFpm(folder)
    server.start()
    yield server
    server.close()


def test_a_script_acknowledges_what_its_function_returned_from(
    bus_factory: BusFactory, fpm: PhpFpm, tmp_path: Path
) -> None:
    script = fpm.script("credit.php", SCRIPT % CONTRIB)
    handler = {"address": fpm.address, "script": script}
    topic = {"fastcgi": handler, "retry": {"first": "50ms", "attempts": 3}, "concurrency": 1}
    bus = bus_factory({"queue": {"gift": {"topic": {"credit": topic, "other": topic}}}})
    with redis.Redis(port=bus.port) as client:
        client.lpush("gift", b"ok \xff\x00", "fail-once no money", "die-once", "dead x")
        until(lambda: bus.topic("gift", "credit")["done_total"] == 3, 20, lambda: bus.tail())
        until(lambda: bus.topic("gift", "credit")["dead"] == 1, 20, lambda: bus.tail())
    errors = [event["error"] for event in bus.events("job.failed") if event["topic"] == "credit"]
    assert any("LogicException" in error and "no money" in error for error in errors)
    assert any("no Code header" in error for error in errors)
    assert "no money" in bus.topic_log("gift", "credit")
    runs = [line.split() for line in (tmp_path / "runs").read_text().splitlines()]
    assert b"ok \xff\x00".hex() in [run[3] for run in runs]
    until(lambda: bus.topic("gift", "other")["state"] == "paused", 5, "not registered there: the ping said 404")
    assert bus.topic("gift", "other")["ready"] == 4


def test_a_request_that_lost_its_body_is_not_acknowledged(fpm: PhpFpm) -> None:
    requires("php-fpm")
    script = fpm.script("credit.php", SCRIPT % CONTRIB)
    environment = {
        **os.environ, "REQUEST_METHOD": "POST", "SCRIPT_FILENAME": script, "CONTENT_LENGTH": "0",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
    }
    call = [requires("cgi-fcgi"), "-bind", "-connect", fpm.path]
    answer = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=20)
    assert "Code: 400" in answer.stdout


# -- lines -------------------------------------------------------------------------------------------------


def lines(code: str, *jobs: dict[str, Any] | str) -> subprocess.CompletedProcess[str]:
    """The loop around a handler, fed with *jobs* and the end."""
    whole = {"queue": "gift", "topic": "credit", "attempt": 1, "redelivered": False, "traceparent": ""}
    text = "".join(job if isinstance(job, str) else json.dumps(whole | job) + "\n" for job in jobs)
    head = f"require '{CONTRIB}/PbusConsumer.php';"
    return subprocess.run(
        [requires("php"), "-d", "display_errors=stderr", "-r", f"{head} Pbus\\LinesConsumer::serve({code});"],
        input=text, capture_output=True, text=True, errors="replace", timeout=20,
    )


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_loop_answers_each_job_and_ends_with_its_input() -> None:
    done = lines("fn ($job) => print(bin2hex($job->body))", {"id": "1-0", "body": "a"}, {
        "id": "2-0", "body": "/wA=", "encoding": "base64",
    })
    assert done.returncode == 0
    assert answers(done) == [{"id": "1-0", "ok": True}, {"id": "2-0", "ok": True}]
    assert done.stdout.splitlines()[0] == "61"
    assert done.stdout.splitlines()[2] == "ff00"


@pytest.mark.parametrize(
    ("thrown", "expected"),
    [
        ("new Pbus\\Retry('later', 2.5)", {"ok": False, "error": "later", "retry_after": 2.5}),
        ("new Pbus\\Retry('again')", {"ok": False, "error": "again"}),
        ("new Pbus\\Busy('full', 3)", {"ok": False, "error": "full", "retry_after": 3}),
        ("new Pbus\\Dead('never')", {"ok": False, "error": "never", "dead": True}),
        ("new Pbus\\Dead()", {"ok": False, "error": "Pbus\\Dead", "dead": True}),
    ],
)
def test_what_a_handler_throws_is_what_it_answers(thrown: str, expected: dict[str, Any]) -> None:
    (told,) = answers(lines(f"fn () => throw {thrown}", {"id": "1-0", "body": "a"}))
    assert told == {"id": "1-0", **expected}


def test_an_exception_is_told_with_its_place_and_the_loop_goes_on() -> None:
    code = "fn ($job) => $job->body === 'a' ? throw new RuntimeException(\"bad \\xff\") : intdiv(1, 0)"
    done = lines(code, {"id": "1-0", "body": "a"}, {"id": "2-0", "body": "b"})
    first, second = answers(done)
    assert first["error"].startswith("RuntimeException: bad \ufffd in ")
    assert second["error"].startswith("DivisionByZeroError: Division by zero in ")
    assert "#0" in done.stderr


def test_what_is_no_job_is_told_and_passed_over() -> None:
    done = lines("fn () => null", "nonsense\n", {"id": "1-0", "body": "a"})
    assert answers(done) == [{"id": "1-0", "ok": True}]
    assert "not a job: nonsense" in done.stderr


def test_output_comes_while_the_job_runs_and_never_in_the_line_of_an_answer() -> None:
    code = "function () { echo 'a', str_repeat('x', 10000); ob_start(); echo 'left open'; }"
    done = lines(code, {"id": "1-0", "body": "a"})
    assert answers(done) == [{"id": "1-0", "ok": True}]
    assert done.stdout.splitlines()[0].endswith("left open")
    assert done.returncode == 0


# -- pushing from a handler --------------------------------------------------------------------------------


TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def children(bus: Bus, count: int) -> dict[str, str]:
    """Body and trace id of what was pushed to ``child``; '' where it has none."""
    found: dict[str, str] = {}
    with redis.Redis(port=bus.port, decode_responses=True) as client:
        while len(found) < count:
            reply = client.xreadgroup("t", "c", {"child": ">"}, block=3000)
            assert reply, f"only {found} after 3 s\n{bus.tail()}"
            found |= {fields["body"]: fields["traceparent"].split("-")[1:2] for _, fields in reply[0][1]}
    return {body: trace[0] if trace else "" for body, trace in found.items()}


PUSHING = {
    "consumer": """
        Pbus\\FastcgiHandler::serve(['gift/consumer' => function (Pbus\\Job $job): void {
            (new Pbus\\Producer([getenv('BUS')]))->push('child', "consumer $job->body");
        }]);
    """,
    "hand": """
        $job = json_decode($_POST['jobs'] ?? '', true)[0] ?? null;
        if ($job) (new Pbus\\Producer([getenv('BUS')]))->push('child', "hand {$job['content']}");
        header('Code: 200');
        echo 'gift/hand';
    """,
}
"""Scripts of topics: of PbusConsumer.php, and without it."""


def test_what_a_script_pushes_is_in_the_trace_of_its_job(
    bus_factory: BusFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires_php_redis()
    port = free_port()
    monkeypatch.setenv("BUS", f"127.0.0.1:{port}")
    (tmp_path / "fpm").mkdir()
    fpm = PhpFpm(tmp_path / "fpm", machine_ini=True)
    fpm.start()
    try:
        topics = {}
        for name, code in PUSHING.items():
            files = ["PbusProducer.php", *(["PbusConsumer.php"] if name == "consumer" else [])]
            script = fpm.script(f"{name}.php", "".join(f"require '{CONTRIB}/{file}';\n" for file in files) + code)
            topics[name] = {"fastcgi": {"address": fpm.address, "script": script}, "concurrency": 1}
        queues = {"gift": {"topic": topics}, "child": {"topic": {"t": {"pull": {}}}}}
        bus = bus_factory({"ingest": {"listen": [f"127.0.0.1:{port}"]}, "queue": queues})
        with redis.Redis(port=bus.port, decode_responses=True) as client:
            client.xadd("gift", {"body": "a", "traceparent": TRACEPARENT})
            plain = client.xadd("gift", {"body": "b"})
        assert children(bus, 4) == {
            "consumer a": TRACE, "consumer b": trace_id("", plain), "hand a": TRACE, "hand b": trace_id("", plain),
        }
    finally:
        fpm.close()


def test_a_loop_tells_the_bus_of_each_job_and_of_none_behind_them(bus_factory: BusFactory) -> None:
    requires_php_redis()
    bus = bus_factory({"queue": {"child": {"topic": {"t": {"pull": {}}}}}})
    code = f"""
        require '{CONTRIB}/PbusProducer.php';
        $bus = new Pbus\\Producer(['{address(bus)}']);
        register_shutdown_function(fn () => $bus->push('child', 'behind them'));
        Pbus\\LinesConsumer::serve(function ($job) use ($bus) {{
            $bus->push('child', "first {{$job->body}}");
            $bus->pushAll('child', ["second {{$job->body}}"]);
            $bus->push('child', "own {{$job->body}}", traceparent: '00-' . str_repeat('e', 32) . '-{"f" * 16}-01');
            throw new Pbus\\Dead();
        }});
    """
    jobs = [{"id": "1-0", "body": "a", "traceparent": TRACEPARENT}, {"id": "2-0", "body": "b", "traceparent": ""}]
    whole = {"queue": "q", "topic": "t", "attempt": 1, "redelivered": False}
    text = "".join(json.dumps(whole | job) + "\n" for job in jobs)
    done = subprocess.run(
        [requires("php"), "-d", "display_errors=stderr", "-r", f"require '{CONTRIB}/PbusConsumer.php'; {code}"],
        input=text, capture_output=True, text=True, timeout=20,
    )
    assert done.stderr == ""
    own = trace_id("", "2-0")
    assert children(bus, 7) == {
        "first a": TRACE, "second a": TRACE, "own a": "e" * 32, "first b": own, "second b": own, "own b": "e" * 32,
        "behind them": "",
    }


@pytest.mark.parametrize(
    ("variables", "trace"),
    [
        ({"SERVER_SOFTWARE": "pbus", "REQUEST_URI": "/pbus/gift/credit/7-1", "HTTP_TRACEPARENT": TRACEPARENT}, TRACE),
        ({"HTTP_X_PBUS_JOB_ID": "7-1", "HTTP_TRACEPARENT": TRACEPARENT}, TRACE),
        ({"HTTP_X_PBUS_JOB_ID": "7-1", "HTTP_TRACEPARENT": "\x07"}, trace_id("", "7-1")),
        ({"HTTP_X_PBUS_JOB_ID": "7-1\nx", "HTTP_TRACEPARENT": TRACEPARENT}, ""),
        ({"SERVER_SOFTWARE": "nginx", "REQUEST_URI": "/pbus/gift/credit/7-1", "HTTP_TRACEPARENT": TRACEPARENT}, ""),
        ({"SERVER_SOFTWARE": "pbus", "REQUEST_URI": "/pbus/gift/credit/ping", "HTTP_TRACEPARENT": TRACEPARENT}, ""),
        ({"HTTP_TRACEPARENT": TRACEPARENT}, ""),
        ({}, ""),
    ],
)
def test_only_a_handler_has_a_job(variables: dict[str, str], trace: str) -> None:
    requires_php_redis()
    with Recorder() as recorder:
        told = php(
            "$_SERVER = json_decode($argv[2], true); (new Pbus\\Producer([$argv[1]]))->push('gift', 'x');",
            recorder.address, json.dumps(variables),
        )
    assert told.stderr == ""
    parents = [words[1:] for words in recorder.heard if words[0] == b"PBUS.PARENT"]
    assert [trace_id(words[1].decode(), words[0].decode()) for words in parents] == ([trace] if trace else [])


def test_a_bus_that_knows_no_parents_is_pushed_to_all_the_same() -> None:
    requires_php_redis()
    code = """
        $bus = new Pbus\\Producer([$argv[1]]);
        $_SERVER['HTTP_X_PBUS_JOB_ID'] = '7-1';
        echo $bus->push('gift', 'a'), $bus->push('gift', 'b');
    """
    for refusal in (b"-ERR unknown command 'PBUS.PARENT'\r\n", b"-NOAUTH needs AUTH first\r\n"):
        with Recorder(refusal) as recorder:
            told = php(code, recorder.address)
        assert (told.stdout, told.stderr) == ("1-11-1", "")
        assert [words[0] for words in recorder.heard] == [b"PBUS.PARENT", b"PBUS.ADD", b"PBUS.ADD"]


class Recorder:
    """Answers every push with an id, PBUS.PARENT as told, and writes down what it heard."""

    def __init__(self, answer: bytes = b"+OK\r\n") -> None:
        self.heard: list[list[bytes]] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        parser = RequestParser(Limits(100, 10_000, 10_000, 1000))
        with sock:
            while data := sock.recv(65536):
                parser.feed(data)
                for event in parser.parse(100):
                    commands = [[*event.head, last] for last in event.lasts] if isinstance(event, Run) else [event]
                    for words in commands:
                        assert isinstance(words, list)
                        self.heard.append(words)
                        sock.sendall(self._answer if words[0] == b"PBUS.PARENT" else b"$3\r\n1-1\r\n")

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()
