"""``pbus job curl`` and ``pbus job export``: the printed lines are run for real, and send what the bus had sent."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import redis

from tests.support.bus import Bus, write_config
from tests.support.http_stub import HttpRequest, HttpStub, response
from tests.support.php_fpm import PhpFpm
from tests.support.programs import requires
from tests.support.talker import Plan
from tests.support.waiting import until

SCRIPT = """
if ($_POST['type'] === 'ping') { header('Code: 200'); exit; }
$seen = ['server' => $_SERVER, 'input' => base64_encode(file_get_contents('php://input'))];
file_put_contents('%s', json_encode($seen) . "\\n", FILE_APPEND);
header('Code: 500');
echo 'no money';
"""
BODIES = [
    b'{"uid": 7, "name": "it\'s $HOME `x`"}', bytes(range(256)) * 40, b"a\n\n", b"", "\u795d\u798f %s \\".encode(),
    b"@/etc/passwd",
]
OURS = ("REQUEST_TIME", "REQUEST_TIME_FLOAT", "HTTP_X_PBUS_REDELIVERED")


@dataclass
class Place:
    """A bus with every kind of handler, and what those have seen."""

    bus: Bus
    fpm_seen: Path
    requests: list[HttpRequest] = field(default_factory=list)

    def calls(self) -> list[dict[str, Any]]:
        """What the script has seen, as far as a caller decides it."""
        lines = self.fpm_seen.read_text().splitlines() if self.fpm_seen.exists() else []
        seen = [json.loads(line) for line in lines]
        return [each | {"server": {k: v for k, v in each["server"].items() if k not in OURS}} for each in seen]

    def dead(self, body: bytes) -> str:
        """Push *body*; its id when all topics have given it up."""
        before = self._graves()
        with redis.Redis(port=self.bus.port) as client:
            job: bytes = client.xadd("gift", {"body": body})
        until(lambda: self._graves() == before + 2, 15, "both are dead")
        return job.decode()

    def _graves(self) -> int:
        return sum(self.bus.topic("gift", each)["dead"] for each in ("web", "fpm"))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pbus", *arguments, "-c", str(self.bus.conf)], env=self.bus.environment,
            capture_output=True, text=True, timeout=60, cwd=self.bus.folder,
        )


def run_line(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """As a person who pastes it into a shell that knows nothing."""
    clean = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9", "HOME": "/nonexistent", **environment}
    return subprocess.run(["sh"], input=line.encode(), env=clean, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("elsewhere")
    fpm = PhpFpm(folder)
    requests: list[HttpRequest] = []

    def plan(request: HttpRequest, number: int) -> Plan:
        requests.append(request)
        return [response(422, b"password=hunter2, no money")]

    stub = HttpStub(plan)
    bus = Bus(folder / "bus")
    try:
        fpm.start()
        (folder / "acts.py").write_text("def act(job): pass")
        script = fpm.script("credit.php", SCRIPT % (folder / "seen"))
        once = {"retry": {"attempts": 1}}
        headers = {"Authorization": "Bearer it's $x", "X-Shop": "a 'b' \"c\"", "User-Agent": "shop"}
        topics = {
            "web": once | {"http": {"url": stub.url + "/x%20y?a=[1-2]&b={c,d}", "headers": headers}},
            "fpm": once | {"fastcgi": {
                "address": fpm.address, "script": script, "params": {"SHOP_MODE": "it's $x", "SHOP_TOKEN": "s3cret"},
            }},
            "py": {"python": {"call": "acts:act", "path": str(folder)}},
            "away": {"pull": {}},
        }
        write_config(bus.folder, {"queue": {"gift": {"topic": topics}}})
        yield Place(bus.start(), folder / "seen", requests)
    finally:
        bus.clean_up()
        fpm.close()
        stub.close()


@pytest.mark.parametrize("body", BODIES)
def test_the_lines_send_what_the_bus_had_sent(place: Place, body: bytes) -> None:
    requires("curl")
    requires("cgi-fcgi")
    job = place.dead(body)
    told = place.cli("job", "curl", job, "--secrets", "-o", "json")
    assert told.returncode == 0, told.stderr
    lines = {row["topic"]: row["line"] for row in json.loads(told.stdout)["lines"]}
    _same_request(place, lines["web"], body)
    _same_call(place, lines["fpm"])


def _same_request(place: Place, line: str, body: bytes) -> None:
    sent = place.requests[-1]
    answer = run_line(line)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith(b"no money")
    again = place.requests[-1]
    assert again is not sent
    assert again.line == sent.line
    assert again.body == sent.body == body
    theirs, ours = ({k: v for k, v in each.headers.items() if k != "X-Pbus-Redelivered"} for each in (sent, again))
    assert ours == theirs


def _same_call(place: Place, line: str) -> None:
    before = len(place.calls())
    answer = run_line(line)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith(b"no money")
    sent, again = place.calls()[-2:]
    assert len(place.calls()) == before + 1
    forms = [_without_times(each.pop("input")) for each in (sent, again)]
    assert forms[0] == forms[1]
    for each in (sent, again):
        del each["server"]["CONTENT_LENGTH"]  # of other times
    assert again == sent


def _without_times(form: str) -> list[dict[str, Any]]:
    fields = {name: value for name, (value,) in parse_qs(base64.b64decode(form).decode()).items()}
    (job,) = json.loads(fields.pop("jobs"))
    del job["BeginRetry"], job["RetryResidueTime"]
    return [fields, job]


def test_passwords_are_left_to_variables(place: Place) -> None:
    job = place.dead(b"x")
    told = place.cli("job", "curl", job)
    assert told.returncode == 0
    assert "Bearer" not in told.stdout
    assert "s3cret" not in told.stdout
    assert "set PBUS_SHOP_TOKEN" in told.stderr
    assert "clients pull its jobs" in told.stderr
    lines = "\n".join(line for line in told.stdout.splitlines() if not line.startswith("pbus "))
    answer = run_line(lines, PBUS_AUTHORIZATION="Bearer it's $y", PBUS_SHOP_TOKEN="t'wo")
    assert place.requests[-1].headers["Authorization"] == "Bearer it's $y"
    assert place.calls()[-1]["server"]["SHOP_TOKEN"] == "t'wo"
    assert answer.stdout.count(b"no money") == 2


def test_each_topic_has_its_line(place: Place) -> None:
    job = place.dead(b"x")
    told = place.cli("job", "curl", job, "-o", "json")
    lines = {row["topic"]: row["line"] for row in json.loads(told.stdout)["lines"]}
    assert set(lines) == {"web", "fpm", "py"}
    assert lines["py"] == f"pbus topic debug gift/py --job {job} -c {place.bus.conf}"
    assert place.cli("job", "curl", job, "--topic", "away").returncode == 1
    assert place.cli("job", "curl", job, "--topic", "nowhere").returncode == 5
    assert place.cli("job", "curl", "1-0").returncode == 5
    assert place.cli("job", "curl", job, "2-0").returncode == 2


def test_an_exported_job_is_what_was_pushed(place: Place) -> None:
    jobs = [place.dead(body) for body in (b'{"password": "hunter2"}', b"\xff\x00")]
    told = place.cli("job", "export", *jobs)
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert [row["id"] for row in rows] == jobs
    assert rows[0]["body"] == '{"password": "hunter2"}'
    assert (rows[1]["body"], rows[1]["encoding"]) == ("/wA=", "base64")
    assert rows[0]["topics"]["web"]["state"] == "dead"
    assert "masked" not in rows[0]


def test_a_masked_export_hides_secrets_persons_and_paths(place: Place) -> None:
    jobs = [place.dead(each) for each in (
        b'{"password": "hunter2", "user": {"pin": 77}, "phone": "13812345678", "n": 1}', b"hunter2\xff", b'{ "n": 1 }',
    )]
    told = place.cli("job", "export", *jobs, "--mask-path", "$.user.pin")
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert json.loads(rows[0]["body"]) == {"password": "***", "user": {"pin": "***"}, "phone": "***", "n": 1}
    assert (rows[1]["body"], rows[1]["masked"]) == ("***", True)
    assert rows[2]["body"] == '{ "n": 1 }'
    assert "password=***, no money" in rows[2]["topics"]["web"]["error"]
    told = place.cli("queue", "export", "gift", "--mask")
    assert "hunter2" not in told.stdout
    assert place.cli("job", "export", jobs[0], "--mask-path", "pin").returncode == 2
