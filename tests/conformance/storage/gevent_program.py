"""
The Redis driver in a patched process, as ingest and delivery children have it; run by test_redis_gevent.

Prints one JSON object of findings. Arguments: URL of the store; pid of its server.
"""

# ruff: noqa: E402 - gevent patches before anything else is imported
from gevent import monkey

monkey.patch_all()

import json
import os
import signal
import sys
import time

import gevent

from pbus.core.job import Push
from pbus.errors import Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec, Want
from pbus.storage.open import StoreTarget, make

ALICE = "n1/b1/1.1"
TIMEOUT_S = 2.0


def main(url: str, pid: int) -> None:
    store = make(StoreTarget("main", url, "", TIMEOUT_S, "n1"))
    store.open()
    store.declare([QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 20)])
    findings: dict[str, object] = {}

    # A bell that waits leaves the hub to the others.
    bell = store.bell("d0", ["gift"])
    findings["first_wait"] = bell.wait(1)
    listening = gevent.spawn(bell.wait, 10)
    gevent.sleep(0.05)
    store.append(ALICE, 1, [Push("gift", b"a")])
    findings["rung"] = sorted(listening.get(timeout=5))
    waiting = gevent.spawn(bell.wait, 30)
    gevent.sleep(0.05)
    bell.close()
    findings["closed"] = sorted(waiting.get(timeout=5))

    # More greenlets than connections: each gets its own answer.
    looks = [gevent.spawn(store.backlog if number % 2 else store.beats, *(["gift"] if number % 2 else []))
             for number in range(200)]
    gevent.joinall(looks, raise_error=True)
    findings["answers"] = sorted({repr(look.value) for look in looks})

    # A frozen store: callers wait, the hub does not, everybody is told in time.
    os.kill(pid, signal.SIGSTOP)
    turns = 0
    started = time.monotonic()

    def told() -> str:
        try:
            store.claim([Want(ALICE, "gift", "credit", 1)])
        except Unavailable as error:
            return type(error).__name__
        return "claimed"

    callers = [gevent.spawn(told) for _ in range(40)]
    while not all(caller.ready() for caller in callers):
        gevent.sleep(0.01)
        turns += 1
    findings["frozen"] = sorted({caller.value for caller in callers} - {"Unknown"})
    findings["frozen_s"] = time.monotonic() - started
    findings["turns"], findings["timeout_s"] = turns, TIMEOUT_S

    # A caller that gives up takes its connection with it: no late reply is read by the next.
    try:
        with gevent.Timeout(0.1):
            store.backlog("gift")
    except gevent.Timeout:
        findings["gave_up"] = True
    os.kill(pid, signal.SIGCONT)
    findings["after"] = [repr(store.beats()) for _ in range(20)]
    store.close()
    print(json.dumps(findings))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
