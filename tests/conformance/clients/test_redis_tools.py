"""redis-cli and redis-benchmark, unchanged."""

from __future__ import annotations

import json
import subprocess

import redis

from tests.support.bus import Bus
from tests.support.programs import requires


def cli(bus: Bus, *words: str, stdin: str | None = None) -> str:
    command = [requires("redis-cli"), "-p", str(bus.port), *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


def test_cli_pushes_looks_and_pulls(bus: Bus) -> None:
    assert cli(bus, "LPUSH", "cli", "a", "b") == "2"
    assert cli(bus, "LLEN", "cli/t") == "2"
    assert cli(bus, "RPOP", "cli/t") == "a"
    assert cli(bus, "-3", "RPOP", "cli/t", "5") == "b"
    assert cli(bus, "BRPOP", "cli/t", "0.1") == ""


def test_cli_authenticates(bus: Bus) -> None:
    assert int(cli(bus, "--no-auth-warning", "-a", "safe:pw", "LPUSH", "safe", "x")) >= 1
    assert int(cli(bus, "--no-auth-warning", "--user", "safe", "--pass", "pw", "-3", "LPUSH", "safe", "x")) >= 1
    assert cli(bus, "LPUSH", "safe", "x").startswith("NOAUTH")


def test_cli_reads_commands_from_a_file(bus: Bus) -> None:
    lines = "\n".join(f"LPUSH cli {number}" for number in range(50)) + '\nLPUSH cli "two words"\nPING\n'

    assert cli(bus, stdin=lines).splitlines()[-1] == "PONG"


def test_cli_in_pipe_mode(bus: Bus) -> None:
    raw = "".join(f"*3\r\n$5\r\nLPUSH\r\n$3\r\ncli\r\n$4\r\n{number:04}\r\n" for number in range(2000))

    assert "errors: 0, replies: 2000" in cli(bus, "--pipe", stdin=raw)


def test_cli_speaks_the_old_contract(bus: Bus) -> None:
    pushed = json.loads(cli(bus, "--no-auth-warning", "-a", "old:pw", "LPUSH", "old/x", "body"))
    popped = json.loads(cli(bus, "--no-auth-warning", "-a", "old/t:pw", "RPOP", "old/t"))

    assert [job["id"] for job in popped["jobs"]] == pushed["jobs"]


def test_benchmark_pushes_what_it_says(bus: Bus) -> None:
    with redis.Redis(port=bus.port) as client:
        before = client.llen("mylist")
        for pipeline in ("1", "32"):
            subprocess.run(
                [requires("redis-benchmark"), "-p", str(bus.port), "-t", "lpush", "-c", "50", "-n", "10000",
                 "-P", pipeline, "-d", "200", "-q"],
                capture_output=True, timeout=50, check=True,
            )
        after = client.llen("mylist")

    # -n is rounded up to whole pipelines of all its connections.
    assert 20_000 <= after - before <= 20_000 + 50 * 32


def test_benchmark_takes_what_it_pushed(bus: Bus) -> None:
    command = [requires("redis-benchmark"), "-p", str(bus.port), "-n", "1000", "-P", "10", "-q"]
    listed, typed = ["-t", "rpush,lpop,rpop"], ["XADD", "mylist", "*", "body", "x"]
    ran = subprocess.run([*command, *listed], capture_output=True, text=True, timeout=50, check=True)
    subprocess.run([*command, *typed], capture_output=True, timeout=50, check=True)

    assert [word for word in ("RPUSH", "LPOP", "RPOP") if f"{word}: " not in ran.stdout] == []
    assert "Error" not in ran.stdout + ran.stderr


def test_benchmark_pings(bus: Bus) -> None:
    command = [requires("redis-benchmark"), "-p", str(bus.port), "-t", "ping", "-c", "10", "-n", "2000", "-q", "--csv"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    assert "PING_INLINE" in out
    assert "PING_MBULK" in out
