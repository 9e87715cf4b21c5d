"""
A program of the old contract that keeps the ledger: it takes its jobs by its token, a connection a command.

It outlives doors that are closed in its face: it connects again, as long as its process is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from types import SimpleNamespace

sys.path.insert(0, os.path.dirname(__file__))

from ledger_jobs import record


def ask(options: argparse.Namespace, *words: str) -> str | None:
    """The bulk that answers a command, on a connection of its own; None: nil."""
    with socket.create_connection((options.h, options.p), 5) as sock:
        sock.settimeout(30)
        stream = sock.makefile("rwb")
        for command in (("AUTH", f"{options.q}:{options.a}"), words):
            raw = [word.encode() for word in command]
            stream.write(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw))
            stream.flush()
            head = stream.readline()
            if not head or head[:1] == b"-":
                raise ConnectionError(head.decode() or "the end")
        if head == b"$-1\r\n":
            return None
        size = int(head[1:])
        body = stream.read(size + 2)
        if len(body) < size + 2:
            raise ConnectionError("the end in the middle")
        return body[:size].decode()


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for name in "qhaH":
        parser.add_argument(f"-{name}")
    for name in "pt":
        parser.add_argument(f"-{name}", type=int)
    options = parser.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGINT, lambda signum, _: stopping.append(signum))
    queue, _, topic = options.q.partition("/")
    while not stopping:
        try:
            reply = ask(options, "RPOP", options.q)
        except (OSError, ValueError):
            time.sleep(0.02)
            continue
        if reply is None:
            continue
        (job,) = json.loads(reply)["jobs"]
        told = SimpleNamespace(queue=queue, topic=topic, id=job["id"], text=job["content"], attempt=job["RetryTimes"])
        try:
            record(told)
        except RuntimeError:
            ask(options, "LPUSH", options.q, json.dumps({"jobs": [job], "retrying": True}))


main()
