"""
The stage of the acceptance tests: a real bus on a real store, real handlers that keep the ledger.

    def test_something(scenario):
        bus = scenario.start({"mail": scenario.python(concurrency=2)})
        with scenario.pushing():
            ... the fault ...
        scenario.settled()
        scenario.expect(dup={"mail": 0})

``scenario`` comes once for each store. Figures are printed even when all is well.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import redis

from pbus.storage.driver import Driver, TopicNumbers
from pbus.storage.open import StoreTarget, make, queue_specs
from tests.support import standing
from tests.support.bus import Bus, BusFactory
from tests.support.fault_proxy import FaultProxy
from tests.support.ledger import OK, Ledger, Standing
from tests.support.ledger_handlers import (
    HttpHandler, command_handler, fastcgi_handler, program_handler, python_environment, python_handler,
)
from tests.support.php_fpm import PhpFpm
from tests.support.producers import RedisPy
from tests.support.programs import requires
from tests.support.pullers import Puller
from tests.support.redis_server import RedisServer
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import until

QUEUE = "gift"
SETTLED_S = 60.0
PATIENCE_S = 20.0
"""For so much longer a test looks on when a promise in seconds is broken, or the machine stands still."""

T = TypeVar("T")


class Scenario:
    """
    One test's stage.

    Attributes:
        store: ``sqlite``, ``redis`` (which fsyncs before it answers) or ``redis-everysec``.
        redis: The private redis-server, when that is the store.
        ledger: What was pushed and what ran.
        bus: After ``start``.
        recoveries_s: What ``resumed`` has measured, and what a test adds; printed with the verdict.
        watch: Runs from the beginning; it knows when the machine paused.
    """

    def __init__(self, folder: Path, store: str, bus_factory: BusFactory, stack: contextlib.ExitStack) -> None:
        self.store = store
        self.ledger = Ledger(folder / "ledger")
        self._folder = folder
        self._bus_factory = bus_factory
        self._stack = stack
        self.recoveries_s: list[float] = []
        self.watch = stack.enter_context(Stopwatch())
        self.proxy: FaultProxy | None = None
        self.redis: RedisServer | None = None
        kind, _, fsync = store.partition("-")
        if kind == "redis":
            data = folder / "redis"
            data.mkdir()
            self.redis = RedisServer(data, appendonly="yes", appendfsync=fsync or "always")
            stack.callback(self.redis.close)
            self.redis.start()

    def behind_a_proxy(self, name: str = "proxy") -> FaultProxy:
        """Buses that are started from now on reach Redis through this; tests that look into the store go past it."""
        assert self.redis is not None, "only a Redis is reached over a network"
        self.proxy = self._stack.enter_context(FaultProxy(self.redis.path, name=name))
        return self.proxy

    # -- handlers -----------------------------------------------------------------------------

    def python(self, concurrency: int = 2, more: str = "") -> str:
        """TOML of a topic with the Python handler of the ledger."""
        return f"python = {python_handler()}\nconcurrency = {concurrency}\n{more}\n"

    def command(self, concurrency: int = 2, more: str = "") -> str:
        """TOML of a topic with the PHP program of the ledger."""
        requires("php")
        return f"command = {command_handler()}\nconcurrency = {concurrency}\n{more}\n"

    def program(self, concurrency: int = 2, more: str = "") -> str:
        """TOML of a topic with the program of the ledger that takes its jobs by its token."""
        return f"command = {program_handler()}\nconcurrency = {concurrency}\n{more}\n"

    def fpm(self, **settings: str) -> PhpFpm:
        """A private php-fpm; ends with the test."""
        folder = self._folder / "fpm"
        folder.mkdir(exist_ok=True)
        fpm = PhpFpm(folder, **settings)  # type: ignore[arg-type]
        self._stack.callback(fpm.close)
        return fpm

    def fastcgi(self, address: str, concurrency: int = 4, more: str = "") -> str:
        """TOML of a topic with the php-fpm script of the ledger."""
        return f"fastcgi = {fastcgi_handler(self.ledger, address)}\nconcurrency = {concurrency}\n{more}\n"

    def http(self, concurrency: int = 4, more: str = "") -> str:
        """TOML of a topic with the HTTP handler of the ledger, which is started."""
        handler = self._stack.enter_context(HttpHandler(self.ledger))
        return f"http = {handler.toml()}\nconcurrency = {concurrency}\n{more}\n"

    @staticmethod
    def pulled(max_open: int = 1000, more: str = "") -> str:
        """TOML of a topic that is pulled; see ``pulling``."""
        return f"pull = {{ max_open = {max_open} }}\n{more}\n"

    # -- the bus ------------------------------------------------------------------------------

    def start(
        self, topics: Mapping[str, str], more: str = "", queue: str = "", start: bool = True, name: str = "bus"
    ) -> Bus:
        """
        A bus with one queue and these topics (name -> TOML); *more* is further top-level TOML.

        Another *name* is another node on the same store, which *more* has to call by another name too;
        ``bus`` is the last one started.
        """
        text = [more]
        if self.redis is not None:
            text.append(f'[storage.main]\nurl = "{self.proxy.url if self.proxy else self.redis.url}"')
        text.append(f"[queue.{QUEUE}]\n{queue}")
        text += [f"[queue.{QUEUE}.topic.{name}]\n{toml}" for name, toml in topics.items()]
        self.topics = list(topics)
        environment = python_environment(self.ledger)
        self.bus = self._bus_factory("\n".join(text), name=name, start=start, environment=environment)
        return self.bus

    def pushing(self, **settings: object) -> RedisPy:
        """Producers that push until the block ends (a context manager; ``stop()`` ends them in order)."""
        return RedisPy(self.ledger, self.bus.port, QUEUE, **settings)  # type: ignore[arg-type]

    def pulling(self, topic: str, **settings: object) -> Puller:
        """A process that reads *topic* and keeps the ledger until the block ends (a context manager)."""
        return Puller(self.ledger, self.bus.port, f"{QUEUE}/{topic}", **settings)  # type: ignore[arg-type]

    def push(self, key: str, orders: str = "") -> str:
        """Push one job by hand; its id. *orders* are words for the handler, such as ``sleep=5``."""
        pushed = self.ledger.producer(key)
        sent_s = time.time()
        job_id: str = self.client().xadd(QUEUE, {"body": f"{key} {orders}"}).decode()  # type: ignore[union-attr]
        pushed.record(key, sent_s, time.time(), OK, job_id)
        pushed.close()
        return job_id

    def client(self) -> redis.Redis:
        """redis-py with its defaults."""
        client = redis.Redis(port=self.bus.port, socket_timeout=10)
        self._stack.callback(client.close)
        return client

    @contextlib.contextmanager
    def driver(self) -> Iterator[Driver]:
        """The store itself, as a bus' child sees it."""
        settings = self.bus.settings
        storage = settings.storage["main"]
        if self.redis is not None:
            url = self.redis.url
        else:
            url = "sqlite:" + str(Path(settings.node.data_dir) / storage.url.removeprefix("sqlite:"))
        driver = make(StoreTarget("main", url, storage.password, storage.call_timeout_s, settings.node.name))
        driver.open()
        try:
            driver.declare(queue_specs(settings.queue, "main"))
            yield driver
        finally:
            driver.close()

    # -- the end ------------------------------------------------------------------------------

    def ran(self) -> int:
        """Successful runs so far of the topic that has the fewest."""
        return min(self.ledger.executed_count(QUEUE, topic) for topic in self.topics)

    def resumed(self, since_s: float, timeout_s: float) -> float:
        """
        Wait until every topic has run something that was pushed after *since_s* (wall clock).

        Returns:
            Seconds from then, pauses of the machine apart.
        """
        first: dict[str, float] = {}

        def found() -> bool:
            sent = {push.key for push in self.ledger.pushed() if push.sent_s > since_s}
            for topic in self.topics:
                ends = [run.end_s for run in self.ledger.runs(QUEUE, topic) if run.end_s > since_s and run.key in sent]
                if ends:
                    first[topic] = min(ends)
            return len(first) == len(self.topics)

        until(found, timeout_s, lambda: f"new jobs run on {self.topics}, they do on {list(first)}\n{self.bus.tail()}")
        self.recoveries_s.append(self.watch.worked_between_s(since_s, max(first.values())))
        return self.recoveries_s[-1]

    def within(self, limit_s: float, condition: Callable[[], T], what: str | Callable[[], str]) -> float:
        """Wait until *condition* is true, and fail if that took more than *limit_s*, pauses of the machine apart."""
        return self.since(time.time(), limit_s, condition, what)

    def since(self, begun_s: float, limit_s: float, condition: Callable[[], T], what: str | Callable[[], str]) -> float:
        """The same from *begun_s*, a wall clock time; seconds that it took."""
        until(condition, limit_s + PATIENCE_S, what)
        took_s = self.watch.worked_between_s(begun_s, time.time())
        assert took_s <= limit_s, f"{took_s:.2f} s, not {limit_s:g} s: {what if isinstance(what, str) else what()}"
        return took_s

    def numbers(self) -> dict[str, TopicNumbers]:
        """Where the deliveries are, by topic, read from the store."""
        with self.driver() as driver:
            return {topic: numbers for (queue, topic), numbers in driver.numbers().items() if queue == QUEUE}

    def claims(self) -> dict[str, int]:
        """How many deliveries of each topic somebody holds, read from the store."""
        with self.driver() as driver:
            held = Counter(claim.topic for owner in driver.owners() for claim in driver.held(owner))
        return {topic: held[topic] for topic in self.topics}

    def settled(self, timeout_s: float = SETTLED_S) -> None:
        """Wait until nothing is ready, running or delayed."""
        last: dict[str, TopicNumbers] = {}
        with self.driver() as driver:
            def quiet() -> bool:
                last.update({topic: n for (queue, topic), n in driver.numbers().items() if queue == QUEUE})
                return not any(n.ready + n.running + n.delayed for n in last.values())

            until(quiet, timeout_s, lambda: f"everything is settled: {last}\n{self.bus.tail()}")

    def expect(self, dup: int | Mapping[str, int] | None = 0) -> None:
        """Lost 0 and phantom 0 on every topic; duplicates at most *dup* (by topic, or of each; None: any)."""
        with self.driver() as driver:
            standings = standing.read(driver, QUEUE, self.topics) if hasattr(driver, "jobs") else self._dead(driver)
        print("recovery " + (" ".join(f"{seconds:.2f} s" for seconds in self.recoveries_s) or "was not measured"))
        for topic in self.topics:
            most = dup.get(topic, 0) if isinstance(dup, Mapping) else dup
            self.ledger.expect_nothing_lost(QUEUE, [topic], standings, most)

    def _dead(self, driver: Driver) -> dict[str, Standing]:
        known = {push.about: push.key for push in self.ledger.pushed()}
        return {
            topic: Standing(dead=frozenset(
                known[letter.id] for letter in driver.dead_letters(QUEUE, topic, 100_000) if letter.id in known
            ))
            for topic in self.topics
        }
