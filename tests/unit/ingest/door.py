"""
An ingest server in this process: real loop, real sockets (pairs), a store in memory.

The clock is the machine's plus what a test moves it by, so limits of many seconds take none.
"""

from __future__ import annotations

import collections
import os
import socket
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gevent
import gevent.event
import gevent.socket
import hiredis
import structlog

from pbus.clock import SystemClock
from pbus.config.schema import (
    CommandHandler, Concurrency, Ingest, PullHandler, PythonHandler, Queue, Retry, System, Topic,
)
from pbus.core import tokens
from pbus.core.job import Delivery, Move, Push, Settlement
from pbus.core.names import Owner
from pbus.ingest.access import Directory
from pbus.ingest.server import Server
from pbus.ingest.store import Store
from pbus.storage.driver import (
    Appended, Bell, Capabilities, Entry, Fill, Held, JobRecord, Place, Promoted, QueueNumbers, QueueSpec,
    Running, TopicNumbers, TopicSpec, Want,
)
from pbus.storage.open import StoreTarget
from pbus.supervisor.histograms import Histograms, Row
from pbus.supervisor.scoreboard import Scoreboard, Slot

KEY = b"a key of this boot that is long enough"
PULL = Topic(pull=PullHandler())
PYTHON = Topic(python=PythonHandler(call="a:b"))
PROGRAM = CommandHandler(argv=["php", "credit.php"], protocol="pepper")
QUEUES = {
    "gift": Queue(topic={"credit": PULL, "mail": PYTHON}, alias=["live:gift:list"]),
    "mail": Queue(topic={"smtp": PULL}),
    "old": Queue(topic={"credit": PULL}, pepper=True),
    "safe": Queue(
        topic={"credit": PULL, "own": Topic(pull=PullHandler(), password="topic-pw")}, password="pw", system="live"
    ),
    "empty": Queue(),
    "php": Queue(topic={
        "credit": Topic(command=PROGRAM, retry=Retry(attempts=3, jitter=0.0), timeout_s=5.0),
        "many": Topic(command=PROGRAM, concurrency=Concurrency(min=1, max=4)),
        "once": Topic(command=PROGRAM, retry=Retry(attempts=1), on_unknown="hold"),
        "lines": Topic(command=CommandHandler(argv=["php", "lines.php"])),
    }),
}
SYSTEMS = {"live": System(password="live-pw")}


class MovableClock(SystemClock):
    """The machine's clock, which a test moves forward; sleeping yields to the loop."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)


class FakeBell:
    """Rings when the driver says so."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver
        self._rang = gevent.event.Event()
        self._rung: set[str] = set()

    def ring(self, queues: set[str]) -> None:
        self._rung |= queues
        self._rang.set()

    def wait(self, timeout_s: float) -> frozenset[str] | None:
        self._rang.wait(timeout_s)
        self._rang.clear()
        rung, self._rung = frozenset(self._rung), set()
        return rung

    def close(self) -> None:
        self._driver.bells.remove(self)


class FakeDriver:
    """
    A store in memory.

    Attributes:
        appends: The pushes of each append, in order.
        held_back: While set, an append waits for ``go``.
        claim_go: A claim waits for it; set at first.
        fail: Raised by every call while set.
        share: How full it is.
        refuse: Spans are refused for that reason (``jobs``, ``bytes``), except those whose first body says "small".
        looks: How often its numbers were read.
        page: Most entries of a page.
        settled: (move, id) of each settlement.
        crashes, again: Per delivery how often it killed its consumer; those that may have run before.
        delayed: Deliveries that wait for their time, with their bodies and how long they were to wait.
    """

    capabilities = Capabilities(blocking=False, many_nodes=False, atomic_fan_out=True)

    def __init__(self) -> None:
        self.appends: list[list[Push]] = []
        self.batches: list[int] = []
        self.fail: Exception | None = None
        self.held_back = False
        self.go = gevent.event.Event()
        self.claim_go = gevent.event.Event()
        self.claim_go.set()
        self.ready: dict[tuple[str, str], Any] = collections.defaultdict(collections.deque)
        self.claims: dict[tuple[str, str, str], bytes] = {}
        self.owners_of: dict[tuple[str, str, str], str] = {}
        self.attempts: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.crashes: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.again: set[tuple[str, str, str]] = set()
        self.delayed: dict[tuple[str, str, str], tuple[bytes, float]] = {}
        self.first_ms: dict[tuple[str, str, str], int] = {}
        self.settlements: list[Settlement] = []
        self.wants: list[Want] = []
        self.settled: list[tuple[Move, str]] = []
        self.reassigned: list[tuple[str, str, list[tuple[str, str, str]]]] = []
        self.bells: list[FakeBell] = []
        self.bell_names: list[str] = []
        self.open_appends = 0
        self.topics: dict[str, list[str]] = {}
        self.declared = 0
        self.share = 0.0
        self.refuse = ""
        self.fail_append: Exception | None = None
        self.tries = 0
        self.failed_total = 0
        self.paused_ms = 0
        self.looks = 0
        self.page = 1_000
        self.kept: dict[str, list[JobRecord]] = collections.defaultdict(list)
        self.fresh: dict[str, str] = {}
        self.pushed: collections.Counter[str] = collections.Counter()
        self._serial = 0

    def open(self) -> None:
        self._maybe_fail()

    def close(self) -> None:
        pass

    def check(self) -> None:
        self._maybe_fail()

    def declare(self, queues: Sequence[QueueSpec]) -> None:
        self._maybe_fail()
        self.declared += 1
        self.topics = {spec.name: [topic.name for topic in spec.topics] for spec in queues}

    def append(self, owner: str, batch: int, pushes: Sequence[Push]) -> list[Appended]:
        assert not self.open_appends, "calls of one owner do not overlap"
        self.tries += 1
        self.open_appends += 1
        try:
            if self.held_back:
                self.go.wait()
            self._maybe_fail()
            if self.fail_append is not None:
                raise self.fail_append
        finally:
            self.open_appends -= 1
        self.appends.append(list(pushes))
        self.batches.append(batch)
        reasons = self._reasons(pushes)
        answers = [
            Appended("", 0, 0, refused=why) if why else self._deduped(push)
            for push, why in zip(pushes, reasons, strict=True)
        ]
        for bell in self.bells:
            bell.ring({push.queue for push in pushes})
        for answer, push in zip(answers, pushes, strict=True):
            answer.backlog, answer.topics = self.backlog(push.queue), len(self.topics[push.queue])
        return answers

    def _reasons(self, pushes: Sequence[Push]) -> list[str]:
        """Why each of *pushes* is refused; empty: it is not."""
        reasons: list[str] = []
        for push in pushes:
            reasons.append((self.refuse if push.body != b"small" else "") if push.span else reasons[-1])
        for at, push in enumerate(pushes):
            end = at + push.whole
            first = next((place for place in range(at, end) if reasons[place]), None)
            if first is not None:
                span = range(first, first + pushes[first].span)
                reasons[at:end] = [reasons[place] if place in span else "whole" for place in range(at, end)]
        return reasons

    def _deduped(self, push: Push) -> Appended:
        key = push.options.dedupe if push.options else ""
        known = self.fresh.get(key, "") if key else ""
        answer = Appended(known or self._store(push), 0, 0, duplicate=bool(known))
        if key:
            self.fresh[key] = answer.id
        return answer

    def _store(self, push: Push) -> str:
        self._serial += 1
        self.pushed[push.queue] += 1
        for topic in self.topics[push.queue]:
            self.ready[push.queue, topic].append((f"1000-{self._serial}", push.body))
        key = push.options.key if push.options else ""
        self.kept[push.queue].append(
            JobRecord(f"1000-{self._serial}", push.queue, push.body, push.traceparent, "", key, 0, {})
        )
        return f"1000-{self._serial}"

    def entries(self, queue: str, first: str, last: str, limit: int = 100, *, newest: bool = False) -> list[Entry]:
        self._maybe_fail()
        kept = [Entry(record.id, record.body, record.traceparent, record.key) for record in self.kept[queue]]
        inside = [entry for entry in kept if _order(first) <= _order(entry.id) <= _order(last)]
        return (inside[::-1] if newest else inside)[:min(limit, self.page)]

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        self._maybe_fail()
        lines = [self.ready[queue, each] for each in ([topic] if topic else self.topics[queue])]
        counts = []
        for one in ids:
            found = [(line, entry) for line in lines for entry in line if entry[0] == one]
            for line, entry in found:
                line.remove(entry)
            counts.append(len(found))
        return counts

    def backlog(self, queue: str) -> int:
        self._maybe_fail()
        return max(len(self.ready[queue, topic]) for topic in self.topics[queue])

    def numbers(self, queues: Sequence[str] | None = None) -> dict[tuple[str, str], TopicNumbers]:
        self._maybe_fail()
        self.looks += 1
        return {
            name: TopicNumbers(
                ready=len(line), running=sum(key[:2] == name for key in self.claims),
                oldest_wait_s=1.5, failed_total=self.failed_total, paused_ms=self.paused_ms,
                done_total=sum(move is Move.ACK for move, _ in self.settled),
            )
            for name, line in self.ready.items() if queues is None or name[0] in queues
        }

    def queue_numbers(self) -> dict[str, QueueNumbers]:
        self._maybe_fail()
        served = [name for name, topics in self.topics.items() if topics]
        return {name: QueueNumbers(self.backlog(name), 77, 0, self.pushed[name]) for name in served}

    def fill(self) -> Fill:
        self._maybe_fail()
        return Fill(self.share)

    def claim(self, wants: Sequence[Want]) -> list[Delivery]:
        self._maybe_fail()
        self.claim_go.wait()
        deliveries = []
        self.wants += wants
        for want in wants:
            line = self.ready[want.queue, want.topic]
            for _ in range(min(want.count, len(line))):
                job_id, body = line.popleft()
                key = (want.queue, want.topic, job_id)
                self.claims[key] = body
                self.owners_of[key] = want.owner
                deliveries.append(self._delivery(key, body, want.owner))
        return deliveries

    def _delivery(self, key: tuple[str, str, str], body: bytes, owner: str) -> Delivery:
        attempt, crashes, redelivered = self.attempts[key] + 1, self.crashes[key], key in self.again
        return Delivery(*_turned(key), body, attempt, crashes, redelivered, "", "", self.first_ms.get(key, 0), owner)

    def promote_due(self, limit: int = 1000, queues: Sequence[str] | None = None) -> Promoted:
        self._maybe_fail()
        due = [key for key, (_, delay_s) in self.delayed.items() if delay_s <= 0]
        for key in [key for key in due if queues is None or key[0] in queues]:
            self._make_ready(key, self.delayed.pop(key)[0])
        return Promoted()

    def _make_ready(self, key: tuple[str, str, str], body: bytes) -> None:
        line = [*self.ready[key[:2]], (key[2], body)]
        self.ready[key[:2]] = collections.deque(sorted(line, key=lambda each: int(each[0].partition("-")[2])))
        for bell in self.bells:
            bell.ring({key[0]})

    def held(self, owner: str) -> list[Held]:
        self._maybe_fail()
        keys = [key for key in self.claims if self.owners_of[key] == owner]
        return [Held(*key, self.attempts[key], self.crashes[key]) for key in keys]

    def holders(self, queue: str, topic: str, ids: Sequence[str]) -> list[str]:
        self._maybe_fail()
        return [self.owners_of.get((queue, topic, one), "") for one in ids]

    def running(self, queue: str, topic: str, limit: int = 1000) -> list[Running]:
        self._maybe_fail()
        keys = sorted(key for key in self.claims if key[:2] == (queue, topic))
        return [Running(key[2], self.owners_of[key], self.attempts[key]) for key in keys[:limit]]

    def job(self, queue: str, id: str) -> JobRecord | None:
        self._maybe_fail()
        keys = [key for key in self.claims if key[0] == queue and key[2] == id]
        places = {key[1]: self._place(key) for key in keys}
        if keys:
            return JobRecord(id, queue, self.claims[keys[0]], "", "", "", 0, places)
        return next((record for record in self.kept[queue] if record.id == id), None)

    def _place(self, key: tuple[str, str, str]) -> Place:
        return Place(
            "running", self.attempts[key], self.crashes[key], key in self.again, self.first_ms.get(key, 0),
            owner=self.owners_of[key],
        )

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self._maybe_fail()
        return [self._settle(each) for each in settlements]

    def give_back(self, owner: str, settlements: Sequence[Settlement]) -> list[bool]:
        self._maybe_fail()
        return [each.owner == owner and self._settle(each) for each in settlements]

    def _settle(self, each: Settlement) -> bool:
        key = (each.queue, each.topic, each.id)
        if self.owners_of.get(key) != each.owner:
            return False
        body = self.claims.pop(key)
        del self.owners_of[key]
        if each.counts:
            self.attempts[key] += 1
            self.first_ms.setdefault(key, 1000)
        self.crashes[key] += each.crash
        if each.redelivered:
            self.again.add(key)
        if each.move is Move.RELEASE:
            self._make_ready(key, body)
        if each.move is Move.RETRY:
            self.delayed[key] = (body, each.delay_s)
        self.settled.append((each.move, each.id))
        self.settlements.append(each)
        return True

    def reassign(self, owner: str, heir: str, claims: Sequence[tuple[str, str, str]]) -> list[bool]:
        self._maybe_fail()
        self.reassigned.append((owner, heir, list(claims)))
        for key in claims:
            if self.owners_of.get(key) == owner:
                self.owners_of[key] = heir
        return [self.owners_of.get(key) == heir for key in claims]

    def bell(self, name: str, queues: Sequence[str]) -> Bell:
        self.bell_names.append(name)
        self.bells.append(FakeBell(self))
        return self.bells[-1]

    def _maybe_fail(self) -> None:
        if self.fail is not None:
            raise self.fail


def _order(job_id: str) -> tuple[int, int]:
    ms, _, sequence = job_id.partition("-")
    return int(ms), int(sequence)


def _turned(key: tuple[str, str, str]) -> tuple[str, str, str]:
    """Id, queue, topic."""
    return key[2], key[0], key[1]


class FakeChild:
    """What ``Server`` and ``Store`` use of a child."""

    def __init__(self, clock: MovableClock, ingest: Ingest, run_dir: str, n: int = 1) -> None:
        self.clock = clock
        self.run_dir = run_dir
        self.watched = False
        self.published: list[Any] = []
        self.owner = Owner("node", "boot", n - 1, n)
        self.index = 0
        self.acts: dict[str, Any] = {}
        self.doors: dict[str, str] = {}
        self.token_key = KEY
        self.scoreboard = Scoreboard(8)
        self.histograms = Histograms([("gift", "credit"), ("php", "credit")], 1)
        os.close(self.histograms.fd)
        ours = [self.scoreboard.take() for _ in range(n)][-1]
        assert ours is not None
        ours.update(n=n, state="ready", role="ingest")
        self.listeners: dict[str, Any] = {}
        self.log = structlog.get_logger()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.problems: dict[str, str] = {}
        self.slot = types.SimpleNamespace(update=lambda **fields: self.fields.update(fields))
        self.fields: dict[str, Any] = {}
        self.spec = types.SimpleNamespace(role="ingest", args={"ingest": ingest})

    def on_frame(self, kind: str, act: Any) -> None:
        self.acts[kind] = act

    def door(self, name: str) -> str:
        return self.doors[name]

    def tell(self, kind: str, **fields: Any) -> None:
        self.told.append((kind, fields))

    def row_of(self, queue: str, topic: str) -> Row:
        return self.histograms.row(0, queue, topic)

    def problem(self, name: str, text: str) -> None:
        self.problems[name] = text

    def publish(self, event: Any) -> None:
        self.published.append(event)


class Client:
    """The other end of a connection."""

    def __init__(self, sock: Any) -> None:
        self.socket = sock
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")

    def send(self, data: bytes) -> Client:
        self.socket.sendall(data)
        return self

    def command(self, *words: str | bytes) -> Client:
        return self.send(encode(*words))

    def read(self, timeout_s: float = 5.0) -> Any:
        """The next reply; an EOFError when the server has closed."""
        with gevent.Timeout(timeout_s):
            while (reply := self._reader.gets()) is False:
                data = self.socket.recv(65_536)
                if not data:
                    raise EOFError
                self._reader.feed(data)
        return str(reply) if isinstance(reply, hiredis.ReplyError) else reply

    def ask(self, *words: str | bytes) -> Any:
        """A command and its reply."""
        return self.command(*words).read()

    def silent(self, seconds: float = 0.02) -> bool:
        """Nothing comes within *seconds*."""
        try:
            self.read(seconds)
        except gevent.Timeout:
            return True
        return False

    def close(self) -> None:
        self.socket.close()


def encode(*words: str | bytes) -> bytes:
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


class Door:
    """A server, its store and its clients."""

    def __init__(
        self, ingest: Ingest | None = None, queues: Mapping[str, Queue] = QUEUES, fail: Exception | None = None,
        call_timeout_s: float = 5.0, beside: Door | None = None,
    ) -> None:
        """*beside*: another child on the same store, the one before this."""
        self.clock = MovableClock()
        self.ingest = ingest or Ingest()
        self.folder = tempfile.TemporaryDirectory()
        self.child = FakeChild(self.clock, self.ingest, self.folder.name, 1 if beside is None else 2)
        self.driver = FakeDriver() if beside is None else beside.driver
        self.driver.fail = fail
        specs = [
            QueueSpec(name, tuple(_topics(queue)), 1.0, 1, queue.max_backlog, queue.max_backlog_bytes)
            for name, queue in queues.items()
        ]
        target = StoreTarget("main", "sqlite:x", "", call_timeout_s, "node")
        directory = Directory(queues, SYSTEMS)
        programs = [topic for queue in directory.queues.values() for topic in queue.topics.values() if topic.by_token]
        self.store = Store(
            target, self.driver, specs, sorted(queues), self.child, programs,  # type: ignore[arg-type]
        )
        self.store.start()
        self.store.wait_first()
        self.server = Server(self.child, self.ingest, directory, {"main": self.store})  # type: ignore[arg-type]
        self.server.start()
        self._clients: list[Client] = []

    def process(self, path: str = "gift/credit", n: int = 7) -> tuple[Owner, Slot]:
        """A living consumer process of that topic, as the scoreboard has it."""
        slot = self.child.scoreboard.take()
        assert slot is not None
        slot.update(n=n, pid=1000 + n, state="ready", role="consumer", path=path)
        return Owner("node", "boot", slot.slot, n), slot

    def token(self, kind: str, path: str = "gift/credit", n: int = 7) -> tuple[str, Slot]:
        """A token of a living process, and the slot it lives in."""
        owner, slot = self.process(path, n)
        return tokens.make(KEY, kind, owner, path), slot

    def client(self, local: bool = True) -> Client:
        """A new connection; *local*: from this machine."""
        ours, theirs = gevent.socket.socketpair()
        self.greet(ours, local)
        client = Client(theirs)
        self._clients.append(client)
        return client

    def tcp_client(self, local: bool = True) -> Client:
        """A new connection by the loopback."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = gevent.socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        self.greet(ours, local)
        client = Client(theirs)
        self._clients.append(client)
        return client

    def greet(self, ours: Any, local: bool = True) -> None:
        sock = socket.socket(fileno=ours.detach())
        sock.setblocking(False)
        self.server.welcome(sock, "unix" if local else "192.0.2.1:5", local)

    def later(self, seconds: float) -> None:
        """Move the clock, and do what is done once a second."""
        self.clock.ahead_s += seconds
        self.server._sweep()

    def until(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Let the loop run until *condition*."""
        with gevent.Timeout(5, AssertionError(f"not within 5 s: {what}")):
            while not condition():
                gevent.sleep(0.001)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.drain()
        self.server.close()
        self.server._sweep_timer.stop()
        self.store.close()
        self.folder.cleanup()


def _topics(queue: Queue) -> Iterator[TopicSpec]:
    return (TopicSpec(name) for name in queue.topic)
