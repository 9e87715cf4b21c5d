"""
What happens to a bus in a soak: a fault or an intervention each, over when the method returns.

    STORM     processes are killed, of every kind, the master too; also what is in WEATHER
    WEATHER   the store, its network and the backends fail; people pause, cancel and retry; no process of the bus dies

Everything is drawn from one generator, so that a seed gives the same faults in the same order; every kind comes
once before any comes again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import redis

from pbus.errors import StorageError
from pbus.storage.driver import DeadLetter
from tests.support.ledger import OK, UNKNOWN
from tests.support.php_fpm import PhpFpm
from tests.support.scenario import QUEUE, Scenario
from tests.support.waiting import until

HOLD = "once"
"""The topic with on_unknown = hold: what is dead there for that reason stays so."""
CANCELLED_AT_ONCE = 20
DELAY_MS = 2000
HANGING_MS = 6000


class Faults:
    """
    The hand that breaks things.

    Attributes:
        done: How often each fault happened.
    """

    def __init__(self, scenario: Scenario, fpm: PhpFpm, chance: random.Random) -> None:
        self._scenario = scenario
        self._fpm = fpm
        self._chance = chance
        self._canceller = scenario.ledger.canceller("soak")
        self._pushed = scenario.ledger.producer("soak")
        self._keys = 0
        self._hung: set[tuple[str, str]] = set()  # retried by a person already
        self.done: Counter[str] = Counter()

    def close(self) -> None:
        self._canceller.close()
        self._pushed.close()

    def rage(self, names: tuple[str, ...], duration_s: float, pause_s: float) -> None:
        """Those of *names* that this store can have, one after the other, for so long."""
        possible = [name for name in names if self._scenario.redis is not None or not name.startswith("redis_")]
        end_s = time.monotonic() + duration_s
        while True:
            self._chance.shuffle(possible)
            for name in possible:
                self._do(name)
                if time.monotonic() + pause_s >= end_s:
                    return
                time.sleep(pause_s)

    def _do(self, name: str) -> None:
        begun_s = time.monotonic()
        getattr(self, name)()
        self.done[name] += 1
        print(f"  {time.strftime('%H:%M:%S')} {name} {time.monotonic() - begun_s:.1f} s", flush=True)

    def _for_a_while(self, shortest_s: float, longest_s: float) -> None:
        time.sleep(self._chance.uniform(shortest_s, longest_s))

    # -- processes of the bus ---------------------------------------------------------------------

    def _pid(self, *roles: str) -> int:
        """A process of one of these roles, 0 if none is there now."""
        rows = self._scenario.bus.status()["processes"]
        pids = sorted(row["pid"] for row in rows if row["role"] in roles)
        return self._chance.choice(pids) if pids else 0

    def _kill(self, *roles: str) -> None:
        if pid := self._pid(*roles):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_ingest(self) -> None:
        self._kill("ingest")

    def kill_delivery(self) -> None:
        self._kill("delivery")

    def kill_scheduler(self) -> None:
        self._kill("scheduler")

    def kill_consumer(self) -> None:
        self._kill("consumer")

    def kill_several(self) -> None:
        for _ in range(self._chance.randrange(2, 5)):
            self._kill("ingest", "delivery", "scheduler", "consumer")

    def kill_master(self) -> None:
        """Its children leave by themselves; the next life begins at once."""
        self._scenario.bus.kill_master()
        self._scenario.bus.start(("running", "degraded"), 60.0)

    def kill_everything(self) -> None:
        self._scenario.bus.kill_everything()
        self._for_a_while(0.0, 1.0)
        self._scenario.bus.start(("running", "degraded"), 60.0)

    def restart_bus(self) -> None:
        self._scenario.bus.restart(("running", "degraded"))

    def stop_a_child(self) -> None:
        """SIGSTOP, and on again."""
        if pid := self._pid("ingest", "delivery", "scheduler", "consumer"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._for_a_while(0.2, 3.0)
                os.kill(pid, signal.SIGCONT)

    # -- jobs that hurt ---------------------------------------------------------------------------

    def a_job_that_hangs(self) -> None:
        """In every topic, longer than its timeout."""
        self._push_one(f"sleep={HANGING_MS}")

    def a_job_that_kills(self) -> None:
        """Takes its process along at its first attempt (the HTTP handler knows no such order)."""
        self._push_one("die=1")

    def _push_one(self, orders: str) -> None:
        with contextlib.closing(redis.Redis(port=self._scenario.bus.port, socket_timeout=10)) as client:
            self._push(client, orders)

    # -- backends ---------------------------------------------------------------------------------

    def fpm_restart(self) -> None:
        self._fpm.stop(self._chance.choice([signal.SIGTERM, signal.SIGQUIT]))
        self._for_a_while(0.0, 3.0)
        self._fpm.start()

    def fpm_reload(self) -> None:
        self._fpm.reload()

    def fpm_kill_children(self) -> None:
        self._fpm.kill_children()

    # -- the store --------------------------------------------------------------------------------

    def redis_kill(self) -> None:
        assert self._scenario.redis is not None
        self._scenario.redis.kill()
        self._for_a_while(0.0, 3.0)
        self._scenario.redis.start()

    def redis_freeze(self) -> None:
        assert self._scenario.redis is not None
        self._scenario.redis.freeze()
        self._for_a_while(0.5, 7.0)
        self._scenario.redis.resume()

    def _proxied(self, fault: Callable[[], None], shortest_s: float, longest_s: float) -> None:
        assert self._scenario.proxy is not None
        fault()
        self._for_a_while(shortest_s, longest_s)
        self._scenario.proxy.heal()

    def redis_black_hole(self) -> None:
        self._proxied(self._scenario.proxy.blackhole, 0.5, 7.0)  # type: ignore[union-attr]

    def redis_mute(self) -> None:
        self._proxied(self._scenario.proxy.mute, 0.5, 7.0)  # type: ignore[union-attr]

    def redis_refuse(self) -> None:
        self._proxied(self._scenario.proxy.refuse, 0.1, 3.0)  # type: ignore[union-attr]

    def redis_half_open(self) -> None:
        self._proxied(self._scenario.proxy.half_open, 0.0, 1.0)  # type: ignore[union-attr]

    def redis_disconnect(self) -> None:
        self._proxied(self._scenario.proxy.disconnect, 0.0, 0.1)  # type: ignore[union-attr]

    def redis_cut_replies(self) -> None:
        self._proxied(lambda: self._scenario.proxy.cut_share(0.05), 2.0, 5.0)  # type: ignore[union-attr]

    def redis_slow(self) -> None:
        self._proxied(lambda: self._scenario.proxy.delay(0.05), 2.0, 5.0)  # type: ignore[union-attr]

    # -- people -----------------------------------------------------------------------------------

    def pause_a_topic(self) -> None:
        topic = self._chance.choice(self._scenario.topics)
        with contextlib.suppress(StorageError), self._scenario.driver() as driver:
            driver.pause(QUEUE, topic, True)
        self._for_a_while(0.5, 4.0)
        self.resume_all()

    def resume_all(self) -> None:
        """Nothing stays paused."""
        def resumed() -> bool:
            with contextlib.suppress(StorageError), self._scenario.driver() as driver:
                for topic in self._scenario.topics:
                    driver.pause(QUEUE, topic, False)
                return True
            return False

        until(resumed, 30, "every topic is resumed")

    def retry_dead_letters(self) -> None:
        topic = self._chance.choice(self._scenario.topics)
        with contextlib.suppress(StorageError), self._scenario.driver() as driver:
            letters = driver.dead_letters(QUEUE, topic, 1000)
            ids = [letter.id for letter in letters if self._is_retried(topic, letter)]
            driver.revive(QUEUE, topic, ids)

    def _is_retried(self, topic: str, letter: DeadLetter) -> bool:
        """What hangs is retried once: ever more of it would leave php-fpm no process for anything else."""
        if letter.reason == "timeout":
            known = (topic, letter.id) in self._hung
            self._hung.add((topic, letter.id))
            return not known
        return letter.reason != "unknown" or topic != HOLD

    def cancel_jobs(self) -> None:
        """Push some that wait, and cancel them: some in one topic, some in all."""
        with contextlib.closing(redis.Redis(port=self._scenario.bus.port, socket_timeout=10)) as client:
            jobs = [job for _ in range(CANCELLED_AT_ONCE) if (job := self._push(client, delay_ms=DELAY_MS))]
        for key, job_id in jobs:
            self._cancel(key, job_id, self._chance.choice(["", *self._scenario.topics]))

    def _push(self, client: redis.Redis, orders: str = "x", delay_ms: int = 0) -> tuple[str, str] | None:
        """One job; its ledger key and id, or None when it may not be there."""
        key = f"soak-{self._keys}"
        self._keys += 1
        sent_s, result, about = time.time(), UNKNOWN, ""
        try:
            delay = ["delay", str(delay_ms)] if delay_ms else []
            about = client.execute_command("XADD", QUEUE, "*", "body", f"{key} {orders}", *delay).decode()
            result = OK
        except (redis.RedisError, OSError) as error:
            about = f"{type(error).__name__}: {error}"
        self._pushed.record(key, sent_s, time.time(), result, about)
        self._pushed.sync()
        return (key, about) if result == OK else None

    def _cancel(self, key: str, job_id: str, topic: str) -> None:
        cancelled = 0
        with contextlib.suppress(StorageError), self._scenario.driver() as driver:
            [cancelled] = driver.cancel(QUEUE, topic, [job_id])
        wanted = 1 if topic else len(self._scenario.topics)
        self._canceller.record(key, topic, time.time(), certain=cancelled == wanted)


WEATHER = (
    "fpm_restart", "fpm_reload", "fpm_kill_children", "redis_kill", "redis_freeze", "redis_black_hole", "redis_mute",
    "redis_refuse", "redis_half_open", "redis_disconnect", "redis_cut_replies", "redis_slow", "pause_a_topic",
    "retry_dead_letters", "cancel_jobs",
)
STORM = (
    "kill_ingest", "kill_delivery", "kill_scheduler", "kill_consumer", "kill_several", "kill_master",
    "kill_everything", "restart_bus", "stop_a_child", "a_job_that_hangs", "a_job_that_kills", *WEATHER,
)
