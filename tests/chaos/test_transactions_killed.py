"""
kill -9 ingest children while producers are in the middle of transactions over two queues, one of which fills up.

A transaction is stored wholly or not at all: whoever was told its replies finds all of it, whoever was told EXECABORT
finds nothing of it, and of those that heard nothing each is complete or not there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from typing import Any

import redis

from tests.support import seeds
from tests.support.ledger import ERR, OK, UNKNOWN, Ledger
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

SMALL = "small"
EACH = 5
"""Pushes of a transaction to each queue."""
PRODUCERS = 8
KILLS = 4
WORK_MS = 3
RESPAWN_S = 5.0
PADDING = "x" * 500


class Producer(threading.Thread):
    """Transactions of 2 x EACH pushes, half of them with time between the last QUEUED and EXEC."""

    def __init__(self, ledger: Ledger, port: int, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"producer {number}")
        self._name = f"t{number}"
        self._port = port
        self._told_to_stop = stop
        self._draw = seeds.generator("transactions", self._name)
        self._file = ledger.producer(self._name)

    def run(self) -> None:
        for number in range(1_000_000):
            if self._told_to_stop.is_set():
                break
            keys = [f"{self._name}.{number}-{place}" for place in range(2 * EACH)]
            sent_s = time.time()
            result, about = self._transact(keys)
            for key in keys:
                self._file.record(key, sent_s, time.time(), result, about)
            self._file.sync()
        self._file.close()

    def _transact(self, keys: list[str]) -> tuple[str, str]:
        """How the transaction ended, as its producer knows it, and what was said."""
        connection = redis.Connection(port=self._port, socket_timeout=10)
        executed = False
        try:
            for words in (("MULTI",), *(self._push(place, key) for place, key in enumerate(keys))):
                connection.send_command(*words)
                connection.read_response()
            self._told_to_stop.wait(self._draw.choice((0.0, 0.004)))
            executed = True
            connection.send_command("EXEC")
            replies: Any = connection.read_response()
            return (OK, "") if len(replies) == 2 * EACH else (UNKNOWN, repr(replies))
        except redis.ResponseError as error:
            text = f"{type(error).__name__}: {error}"
            return (UNKNOWN, text) if "MAYBESTORED" in text else (ERR, text)
        except (redis.RedisError, OSError) as error:
            return UNKNOWN if executed else ERR, f"{type(error).__name__}: {error}"  # without EXEC nothing is stored
        finally:
            with contextlib.suppress(redis.RedisError, OSError):
                connection.disconnect()

    def _push(self, place: int, key: str) -> tuple[str, ...]:
        queue = SMALL if place % 2 else QUEUE
        return "LPUSH", queue, f"{key} sleep={WORK_MS if place % 2 else 0} {PADDING}"


def test_transaction_is_stored_wholly_or_not_at_all_when_its_child_is_killed(scenario: Scenario) -> None:
    draw = seeds.generator("kills")
    small = f"[queue.{SMALL}]\nmax_backlog = {6 * EACH}\n[queue.{SMALL}.topic.mail]\n{scenario.python(1)}"
    bus = scenario.start({"mail": scenario.python(2)}, f"[ingest]\nprocesses = 2\n{small}")
    stop = threading.Event()
    producers = [Producer(scenario.ledger, bus.port, number, stop) for number in range(PRODUCERS)]
    try:
        for producer in producers:
            producer.start()
        for _ in range(KILLS):
            ran = scenario.ran()
            until(lambda: scenario.ran() > ran + 6 * EACH, 20, "they are stored")  # noqa: B023
            os.kill(draw.choice(bus.pids("ingest")), signal.SIGKILL)
            until(lambda: len(set(bus.pids("ingest"))) == 2, RESPAWN_S, "both children are there")
    finally:
        stop.set()
        for producer in producers:
            producer.join(20)
    with scenario.driver() as driver:
        busy = lambda: any(n.ready + n.running + n.delayed for n in driver.numbers().values())  # noqa: E731
        until(lambda: not busy(), 60, scenario.bus.tail)
    _expect_whole(scenario.ledger)


def _expect_whole(ledger: Ledger) -> None:
    ran = {run.key for queue in (QUEUE, SMALL) for run in ledger.runs(queue, "mail")}
    told = {push.key.rpartition("-")[0]: push for push in ledger.pushed()}  # all of one were told the same
    found = Counter(key.rpartition("-")[0] for key in ran)
    ends = Counter((push.result, found[name]) for name, push in told.items())
    print(f"{seeds.VARIABLE}={seeds.fix()} transactions (as told, jobs of it that ran): {dict(ends)}")
    assert set(ends) <= {(OK, 2 * EACH), (ERR, 0), (UNKNOWN, 0), (UNKNOWN, 2 * EACH)}, ends
    assert ends[OK, 2 * EACH] > KILLS
    assert any("QUEUEFULL" in push.about for push in told.values()), "some were refused by the store"
    assert any(push.result == ERR and "Connection" in push.about for push in told.values()) or ends[UNKNOWN, 0], (
        "some were cut off before they were stored"
    )
    assert found.keys() <= told.keys()
