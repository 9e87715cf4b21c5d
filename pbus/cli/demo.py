"""
``pbus demo``: the whole bus in one command, on the embedded store, and proof that nothing is lost.

    redis-py --LPUSH--> queue orders --+--> topic email    a Python function
                                       +--> topic billing  an HTTP endpoint that fails 5 % of its attempts

The account does not trust the bus: it compares what the producer was told with what the two
handlers wrote down.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.demo_bus import QUEUE, TOPICS, DemoBus
from pbus.cli.demo_jobs import BILLING, EMAIL, Endpoint
from pbus.cli.output import table_lines
from pbus.clock import Clock, SystemClock
from pbus.errors import Exit, PbusError

if TYPE_CHECKING:
    import redis

_BATCH: Final = 200
_LIVE_BATCH: Final = 20
_PAUSE_S: Final = 0.2
_TURN_S: Final = 1.0
_STUCK_S: Final = 60.0
_UNSETTLED: Final = ("ready", "running", "delayed")
_COLUMNS: Final = ("topic", "ready", "running", "delayed", "dead", "done", "failed", "per_s")


@click.command()
@click.option("--once", type=click.IntRange(1, 10_000_000), metavar="N", help="Push N jobs, account for them, end.")
@pass_context
def demo(context: Context, once: int | None) -> int:
    """Start a bus with two handlers, push orders, show what happens; or prove with N jobs that none is lost."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    folder = tempfile.mkdtemp(prefix="pbus-demo-")
    clock = SystemClock()
    try:
        with Endpoint(folder) as endpoint, DemoBus(folder, endpoint.url, clock) as bus:
            run = _Run(context, bus, folder, clock)
            return run.once(once) if once is not None else run.live()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Account:
    """
    What became of the accepted jobs.

    Attributes:
        accepted: Jobs whose push was answered positively.
        done: Jobs that every handler finished.
        dead: Jobs that ended in the dead letters of a topic.
        lost: Jobs that are neither.
        duplicates: Deliveries that a handler finished more than once, counted beyond the first.
        p50_ms, p99_ms: From the push to the end of a delivery.
    """

    accepted: int
    done: int
    dead: int
    lost: int
    duplicates: int
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return (
            f"accepted={self.accepted} done={self.done} dead={self.dead} lost={self.lost} "
            f"duplicates={self.duplicates} p50_ms={self.p50_ms:.1f} p99_ms={self.p99_ms:.1f}"
        )


def account(pushed: dict[int, float], finished: Sequence[Iterable[tuple[int, float]]], dead: int) -> Account:
    """
    Compare what was pushed with what each handler wrote down.

    Args:
        pushed: Order -> unix seconds of its push, for every accepted one.
        finished: Per topic (order, unix seconds) of every successful run.
        dead: Jobs in dead letters, as the bus counts them.
    """
    runs = [list(topic) for topic in finished]
    counts = [Counter(order for order, _ in topic if order in pushed) for topic in runs]
    done = set.intersection(*(set(count) for count in counts)) if counts else set()
    waits = sorted((at_s - pushed[order]) * 1000 for topic in runs for order, at_s in topic if order in pushed)
    dead = min(dead, len(pushed) - len(done))
    return Account(
        accepted=len(pushed), done=len(done), dead=dead, lost=len(pushed) - len(done) - dead,
        duplicates=sum(count - 1 for topic in counts for count in topic.values()),
        p50_ms=_percentile(waits, 0.50), p99_ms=_percentile(waits, 0.99),
    )


def _percentile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else 0.0


class _Run:
    """One demo, with its bus running."""

    def __init__(self, context: Context, bus: DemoBus, folder: str, clock: Clock) -> None:
        self._output = context.output
        self._bus = bus
        self._folder = folder
        self._clock = clock
        self._pushed: dict[int, float] = {}
        self._next = 0

    def once(self, count: int) -> int:
        """Push *count* jobs, wait until all are accounted for, and say what became of them."""
        pusher = threading.Thread(target=self._push_counted, args=(count,), daemon=True)
        pusher.start()
        self._await_all(pusher)
        result = self._account()
        self._output.line(str(result))
        if result.accepted != count:
            self._output.say(f"pbus: {count - result.accepted} of {count} pushes were not accepted")
        return Exit.DONE if not result.lost and result.accepted == count else Exit.FAILED

    def live(self) -> int:
        """Push a few orders a second and show the topics until Ctrl-C."""
        self._output.say(self._introduction())
        stop = threading.Event()
        pusher = threading.Thread(target=self._push_until, args=(stop,), daemon=True)
        pusher.start()
        before: dict[str, int] = {}
        height = 0
        try:
            while True:
                lines = self._table(before)
                if height and self._output.terminal:
                    self._output.stdout.write(f"\x1b[{height}A\x1b[J")
                for line in lines:
                    self._output.line(line)
                height = len(lines)
                self._clock.sleep(_TURN_S)
        except KeyboardInterrupt:
            stop.set()
            pusher.join(_STUCK_S)
            self._output.say("\nfinishing what was pushed; Ctrl-C again to leave at once")
            self._await_all(pusher)
            result = self._account()
            self._output.line(str(result))
            return Exit.FAILED if result.lost else Exit.DONE

    # -- pushing ----------------------------------------------------------------------------------

    def _push_counted(self, count: int) -> None:
        with self._client() as client:
            for first in range(0, count, _BATCH):
                self._push(client, min(_BATCH, count - first))

    def _push_until(self, stop: threading.Event) -> None:
        with self._client() as client:
            self._push(client, _LIVE_BATCH)
            while not stop.wait(_PAUSE_S):
                self._push(client, _LIVE_BATCH)

    def _push(self, client: redis.Redis, count: int) -> None:
        """LPUSH the next *count* orders, and note those that were accepted."""
        import redis

        orders = range(self._next, self._next + count)
        self._next += count
        batch = client.pipeline(transaction=False)
        for order in orders:
            batch.lpush(QUEUE, json.dumps({"order": order, "amount": 19.90, "customer": f"customer-{order % 97}"}))
        sent_s = self._clock.wall_s()
        try:
            replies: list[Any] = batch.execute(raise_on_error=False)
        except (redis.RedisError, OSError) as error:
            self._output.say(f"pbus: a push failed: {error}")
            return
        self._pushed |= {order: sent_s for order, reply in zip(orders, replies, strict=True) if isinstance(reply, int)}

    def _client(self) -> redis.Redis:
        import redis

        return redis.Redis(port=self._bus.port, socket_timeout=30, socket_connect_timeout=5)

    # -- watching ---------------------------------------------------------------------------------

    def _await_all(self, pusher: threading.Thread) -> None:
        """Wait until nothing is ready, running or delayed any more, or nothing has moved for a minute."""
        moved_s, last = self._clock.monotonic_s(), -1
        while self._clock.monotonic_s() - moved_s < _STUCK_S:
            over = not pusher.is_alive()
            topics = self._topics()
            done = sum(topic["done_total"] + topic["dead"] for topic in topics)
            if over and topics and not any(topic[place] for topic in topics for place in _UNSETTLED):
                break
            if done != last:
                moved_s, last = self._clock.monotonic_s(), done
            self._progress(done)
            self._clock.sleep(0.1)
        self._progress(None)

    def _topics(self) -> list[Any]:
        try:
            topics = list(self._bus.topics())
        except PbusError:
            topics = []  # asked again in a moment
        return [topic for topic in topics if topic["done_total"] is not None]  # the others were not read yet

    def _progress(self, done: int | None) -> None:
        if sys.stderr.isatty():
            text = "" if done is None else f"{done} of {self._next * len(TOPICS)} deliveries done"
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def _table(self, before: dict[str, int]) -> list[str]:
        rows = []
        for topic in self._topics():
            name = f"{topic['queue']}/{topic['topic']}"
            per_s = (topic["done_total"] - before.get(name, topic["done_total"])) / _TURN_S
            before[name] = topic["done_total"]
            rows.append(
                {**topic, "topic": name, "done": topic["done_total"], "failed": topic["failed_total"], "per_s": per_s}
            )
        width = shutil.get_terminal_size().columns if self._output.terminal else None
        return table_lines(_COLUMNS, rows, width)

    def _account(self) -> Account:
        dead = max((topic["dead"] for topic in self._topics()), default=0)
        return account(self._pushed, [_finished(Path(self._folder, name)) for name in (EMAIL, BILLING)], dead)

    def _introduction(self) -> str:
        pbus, conf = _program(), shlex.quote(self._bus.config_dir)
        return (
            f"pbus is running, its port is 127.0.0.1:{self._bus.port}. Every order goes to\n"
            "a Python function (email) and to an HTTP endpoint (billing) that fails 5 %\n"
            "of its attempts. Try in another terminal:\n\n"
            f"  redis-cli -p {self._bus.port} LPUSH orders '{{\"hello\": \"bus\"}}'\n"
            f"  {pbus} push orders '{{\"hello\": \"bus\"}}' --wait -c {conf}\n"
            f"  {pbus} tail jobs --only failed -c {conf}\n\n"
            "Ctrl-C stops the bus and says what became of every order.\nFAILED counts attempts.\n"
        )


def _finished(path: Path) -> list[tuple[int, float]]:
    """(order, unix seconds) of what a handler wrote down."""
    if not path.exists():
        return []
    text = path.read_text(encoding="ascii")
    pairs = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
    return [(int(order), float(at_s)) for order, at_s in pairs]


def _program() -> str:
    """How the reader calls this program."""
    name = os.path.abspath(sys.argv[0])
    return shlex.quote(name) if os.path.basename(name) == "pbus" else f"{shlex.quote(sys.executable)} -m pbus"
