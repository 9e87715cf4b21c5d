"""
The SQLite driver in a patched process, as ingest and delivery children have it; run by test_sqlite_gevent.

Prints one JSON object of findings. Argument: path of the database.
"""

# ruff: noqa: E402 - gevent patches before anything else is imported
from gevent import monkey

monkey.patch_all()

import json
import sys
import time

import gevent
import gevent.threadpool
from gevent import _hub_local

from pbus.core.job import Push
from pbus.errors import Unavailable
from pbus.storage.driver import QueueSpec, TopicSpec
from pbus.storage.open import StoreTarget, make
from pbus.storage.threaded import Threaded

ALICE = "n1/b1/1.1"


def main(path: str) -> None:
    pool = gevent.threadpool.ThreadPool(1)
    store = Threaded(make(StoreTarget("main", f"sqlite:{path}", "", 2.0, "n1")), pool.apply)
    store.open()
    store.declare([QueueSpec("gift", (TopicSpec("credit"),), 3600.0, 1 << 20)])
    findings: dict[str, object] = {}

    # A bell that waits leaves the hub to the others, and is rung from the storage thread.
    bell = store.bell("d0", ["gift"])
    findings["first_wait"] = bell.wait(1)
    listening = gevent.spawn(bell.wait, 10)
    gevent.sleep(0.05)
    store.append(ALICE, 1, [Push("gift", b"a")])
    findings["rung"] = sorted(listening.get(timeout=5))  # before its own 10 s are over
    waiting = gevent.spawn(bell.wait, 30)
    gevent.sleep(0.05)
    bell.close()
    findings["closed"] = sorted(waiting.get(timeout=5))

    # The turn is somebody else's: the caller waits and is told in time, the hub goes on.
    print("hold", flush=True)
    sys.stdin.readline()
    turns = 0
    started = time.monotonic()

    def told() -> str:
        try:
            store.check()
        except Unavailable:
            return "Unavailable"
        return "checked"

    caller = gevent.spawn(told)
    while not caller.ready():
        gevent.sleep(0.01)
        turns += 1
    findings["held"] = caller.value
    findings["held_s"] = time.monotonic() - started
    findings["turns"] = turns
    print("free", flush=True)
    sys.stdin.readline()
    findings["after"] = told()

    # Nothing of the driver made an event loop of its own in the storage thread.
    findings["thread_has_hub"] = pool.apply(_hub_local.get_hub_if_exists) is not None
    store.close()
    print(json.dumps(findings), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
