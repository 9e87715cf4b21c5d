"""
redis-cli. What each step does is said in foreign/steps.py.

A process a command, but for pulls: claims live as long as the connection that read them, so one redis-cli with
commands on its standard input (``Session``) reads, and another one acks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from typing import Any

HOST, PORT, Q = os.environ["PBUS_HOST"], os.environ["PBUS_PORT"], os.environ["PBUS_QUEUE"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAFE = ("--no-auth-warning", "--user", f"{Q}.safe", "--pass")



def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def ask(what: str) -> None:
    say(ask=what)
    sys.stdin.readline()


def cli(*words: str | bytes, stdin: str | None = None) -> str:
    """What redis-cli prints when it is not on a terminal."""
    command = ["redis-cli", "-h", HOST, "-p", PORT, *words]
    ran = subprocess.run(command, input=(stdin or "").encode(), capture_output=True, timeout=30, check=False)
    return ran.stdout.decode().rstrip("\n")


def outcome(*words: str) -> Any:
    """An integer or a text; an error is the line that redis-cli prints."""
    printed = cli(*words).strip()
    first = printed.partition(" ")[0]
    if printed.isdigit():
        return int(printed)
    return {"class": "printed", "text": printed} if first.isupper() and len(first) > 2 else printed


class Session:
    """One redis-cli that takes command after command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["redis-cli", "-h", HOST, "-p", PORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, line: str) -> list[str]:
        """The lines that answer a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\nECHO end-of-reply\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while (got := self._process.stdout.readline().rstrip("\n")) != "end-of-reply":
            lines.append(got)
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-cli ended: {lines}")
        return lines

    def read(self, options: str = "", start: str = ">") -> list[dict[str, str]]:
        """Entries: an id, then names and values in turn, a line each."""
        lines = self(f"XREADGROUP GROUP t me {options} STREAMS {Q} {start}")
        found = []
        for place, line in enumerate(lines):
            if re.fullmatch(r"\d+-\d+", line):
                fields = lines[place + 1 : place + 9]
                found.append({"id": line, **dict(zip(fields[::2], fields[1::2], strict=True))})
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def connect() -> dict[str, Any]:
    told = subprocess.run(["redis-cli", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    version = re.search(r"\d[\d.]+", told)
    return {"version": version[0] if version else "", "ping": cli("PING"), "info": cli("CLIENT", "INFO")}


def push() -> dict[str, Any]:
    """Zero bytes are no words of a command line: that body comes by -x."""
    bodies = [*(f"push {index}" for index in range(97)), "", "花椒 ñ"]
    first = int(cli("LPUSH", f"{Q}.bulk", *bodies))
    quoted = cli(stdin=f'LPUSH {Q}.bulk "\\x00\\xff\\r\\n"\n')
    return {"reply": first + 1 if int(quoted) > first else 0}


def push_typed() -> dict[str, Any]:
    options = ["dedupe", f"{Q} order 4711", "delay", "1", "ttl", "60000", "key", "k", "traceparent", TRACEPARENT]
    ids = [cli("XADD", f"{Q}.bulk", "*", "body", "typed", *options) for _ in range(2)]
    return {"ids": ids, "plain": cli("XADD", f"{Q}.bulk", "*", "body", "plain")}


def pipeline() -> dict[str, Any]:
    """Lines on standard input, one connection."""
    lines = [*(f'LPUSH {Q}.bulk "pipe {index}"' for index in range(100)), f"LLEN {Q}.bulk"]
    replies = [int(line) for line in cli(stdin="\n".join(lines)).splitlines()]
    mixed = cli(stdin=f'LPUSH {Q}.bulk "good 0"\nLPUSH nope bad\nLPUSH {Q}.bulk "good 1"\n').splitlines()
    refused = [int(line) if line.isdigit() else {"class": "printed", "text": line} for line in mixed if line]
    return {"replies": replies, "refused": refused, "note": "lines on stdin"}


def transaction() -> dict[str, Any]:
    lines = cli(stdin=f'MULTI\nLPUSH {Q}.bulk "both 0"\nLPUSH {Q}.bulk "both 1"\nLLEN {Q}.bulk\nEXEC\n').splitlines()

    def aborted(queue: str) -> dict[str, str]:
        printed = cli(stdin=f"MULTI\nLPUSH {Q}.bulk never\nLPUSH {queue} never\nEXEC\n").splitlines()
        return {"class": "printed", "text": next(line for line in printed if line.startswith("EXECABORT"))}

    return {"replies": [int(line) for line in lines[-3:]], "discarded": aborted("nope"), "refused": aborted("full")}


def authenticate() -> dict[str, Any]:
    topic = ("--no-auth-warning", "--user", f"{Q}.safe/t", "--pass", "tpw")
    return {
        "user": int(cli(*SAFE, "pw", "LPUSH", f"{Q}.safe", "safe 0")),
        "password": int(cli("--no-auth-warning", "-a", f"{Q}.safe:pw", "LPUSH", f"{Q}.safe", "safe 1")),
        "topic": cli(*topic, "RPOP", f"{Q}.safe/t"),
    }


def pull() -> dict[str, Any]:
    cli("LPUSH", Q, *(f"pull {index}" for index in range(4)))
    cli("XADD", Q, "*", "body", "pull 4", "traceparent", TRACEPARENT)
    first, rest = reader.read("COUNT 3 BLOCK 2000"), reader.read()
    pulled.extend(entry["id"] for entry in first + rest)
    nothing, waited, still = reader.read(), reader.read("BLOCK 50"), reader.read(start="0")
    return {"first": first, "rest": rest, "nothing": len(nothing), "waited": len(waited), "open": len(still)}


def look() -> dict[str, Any]:
    """A value a line: names are followed by what they name."""

    def names(*words: str) -> list[str]:
        lines = cli(*words).splitlines()
        return [lines[place + 1] for place, line in enumerate(lines) if line == "name"]

    listed = cli("XPENDING", Q, "t", "-", "+", "10").splitlines()
    stream = cli("XINFO", "STREAM", Q).splitlines()
    entries = cli("XRANGE", Q, "-", "+", "COUNT", "100").splitlines()
    never = cli("XADD", Q, "*", "body", "never", "delay", "60000")
    return {
        "pending": int(cli("XPENDING", Q, "t").splitlines()[0]), "ids": listed[::4], "consumer": listed[1],
        "groups": names("XINFO", "GROUPS", Q), "consumers": names("XINFO", "CONSUMERS", Q, "t"),
        "last": stream[stream.index("last-entry") + 1],
        "bodies": [entries[place + 1] for place, line in enumerate(entries) if line == "body"],
        "claimed": len(cli("XAUTOCLAIM", Q, "t", "me", "0", "0-0").split()) - 1,
        "cancelled": int(cli("XDEL", Q, never)),
    }


def ack_elsewhere() -> dict[str, Any]:
    acked, again = (int(cli("XACK", Q, "t", *pulled)) for _ in range(2))
    return {"acked": acked, "again": again, "open": len(reader.read(start="0"))}


def nack() -> dict[str, Any]:
    cli("LPUSH", Q, "nack")
    (entry,) = reader.read("BLOCK 2000")
    (retried,) = reader(f'PBUS.NACK {Q} t {entry["id"]} DELAY 0 REASON "not today"')
    (again,) = reader.read("BLOCK 5000")
    (dead,) = reader(f"PBUS.NACK {Q} t {again['id']} DEAD")
    numbers = cli("HGETALL", f"{Q}/t").splitlines()
    counted = numbers[numbers.index("dead") + 1]
    return {"retried": int(retried), "attempt": again["attempt"], "dead": int(dead), "counted": counted}


def blocking_pop() -> dict[str, Any]:
    timer = threading.Timer(0.1, cli, ("LPUSH", Q, "wake"))
    timer.start()
    got = cli("BRPOP", f"{Q}/t", "5").splitlines()
    timer.join()
    return {"got": got, "nothing": cli("BRPOP", f"{Q}/t", "0.05") == ""}


def errors() -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w") as large:
        large.write("x" * 1048577)
        large.flush()
        with open(large.name) as stdin:
            too_big = subprocess.run(
                ["redis-cli", "-h", HOST, "-p", PORT, "-x", "LPUSH", Q], stdin=stdin, capture_output=True, text=True,
                timeout=30, check=False,
            ).stdout
    found = {
        "NOAUTH": outcome("LPUSH", f"{Q}.safe", "x"),
        "WRONGPASS": outcome("--no-auth-warning", "AUTH", f"{Q}.safe", "no"),
        "NOPERM": outcome(*SAFE, "pw", "XREADGROUP", "GROUP", "t", "me", "STREAMS", f"{Q}.safe", ">"),
        "NOQUEUE": outcome("LPUSH", "nope", "x"),
        "NOTOPIC": outcome("XREADGROUP", "GROUP", "nope", "me", "STREAMS", Q, ">"),
        "QUEUEFULL": outcome("LPUSH", "full", "x"),
        "TOOBIG": {"class": "printed", "text": too_big.strip()},
        "BADVALUE": outcome("XADD", Q, "*", "body", "x", "delay", "-1"),
        "BUSYGROUP": outcome("XGROUP", "CREATE", Q, "t", "$"),
        "ERR": outcome("NOSUCH"),
    }
    ask("freeze")
    found |= {"MAYBESTORED": outcome("LPUSH", "away", "x"), "UNAVAILABLE": outcome("LPUSH", "away", "x")}
    ask("thaw")
    return found | {"after": reader("PING")[-1]}


reader = Session()
pulled: list[str] = []
for step in (
    connect, push, push_typed, pipeline, transaction, authenticate, pull, look, ack_elsewhere, nack, blocking_pop,
    errors,
):
    name = step.__name__.replace("_", "-")
    try:
        say(step=name, got=step())
    except Exception as error:  # noqa: BLE001 - told to the harness, and the next step is tried
        say(step=name, failed=f"{type(error).__name__}: {error}")
reader.close()
