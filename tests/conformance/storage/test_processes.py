"""
Several processes on one store, all at once: bounds are exact, keys are unique, order is kept.
"""

from __future__ import annotations

import collections
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pbus.core.job import Move
from pbus.storage.driver import Driver, QueueSpec, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.world import World, accounted, asked, command, gift, settlement
from tests.support import seeds

PROCESSES = 4

Note = Callable[..., None]


def together(world: World, folder: Path, spec: QueueSpec, work: Callable[[Driver, int, Note], None]) -> list[Any]:
    """
    Run *work* in several processes that begin at once, each with a driver of its own.

    Returns:
        What they noted, in the order in which they did.
    """
    path = folder / "notes"
    ready, go = os.pipe(), os.pipe()
    pids = [pid for number in range(PROCESSES) if (pid := _fork(world.url, spec, work, number, path, ready, go))]
    os.close(ready[1])
    os.close(go[0])
    for _ in pids:
        assert os.read(ready[0], 1), "a process did not come to its start"
    os.close(go[1])
    os.close(ready[0])
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * PROCESSES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _fork(url: str, spec: QueueSpec, work: Callable[[Driver, int, Note], None], number: int, path: Path,
          ready: tuple[int, int], go: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.close(go[1])
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        store = make(StoreTarget("main", url, "", 5.0, "n1"))
        store.open()
        store.declare([spec])
        os.write(ready[1], b".")
        os.read(go[0], 1)  # ends when the parent closes its end
        work(store, number, lambda *what: os.write(out, (json.dumps(what) + "\n").encode()))
        store.close()
        status = 0
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def owner(number: int) -> str:
    return f"n1/b{number}/{number}.1"


@pytest.mark.parametrize("span", [1, 3])
def test_max_backlog_is_exact_however_many_append(world: World, tmp_path: Path, span: int) -> None:
    most = 100
    spec = gift(max_backlog=most)

    def push(store: Driver, number: int, note: Note) -> None:
        for batch in range(1, 16):
            jobs = [job for _ in range(4) for job in command(*"xyz"[:span])]
            for job, answer in zip(jobs, store.append(owner(number), batch, jobs), strict=True):
                note(job.span, bool(answer.id), answer.refused, answer.backlog)

    notes = together(world, tmp_path, spec, push)

    stored = sum(kept for _, kept, _, _ in notes)
    assert stored == most - most % span
    assert {refused for _, kept, refused, _ in notes if not kept} == {"jobs"}
    assert max(backlog for _, _, _, backlog in notes) == stored == world.store.backlog("gift")
    assert accounted(world.numbers()) == stored


def test_max_backlog_is_exact_while_others_claim(world: World, tmp_path: Path) -> None:
    most = 20
    spec = gift(max_backlog=most)

    def push_and_claim(store: Driver, number: int, note: Note) -> None:
        for batch in range(1, 41):
            if number % 2:
                answers = store.append(owner(number), batch, [asked(f"{number}.{batch}.{n}") for n in range(4)])
                note("stored", sum(bool(one.id) for one in answers), max(one.backlog for one in answers))
            else:
                note("claimed", len(store.claim([Want(owner(number), "gift", "credit", 3)])), 0)

    notes = together(world, tmp_path, spec, push_and_claim)

    total = collections.Counter({"stored": 0, "claimed": 0})
    for word, count, backlog in notes:
        total[word] += count
        assert backlog <= most
    assert world.store.backlog("gift") == total["stored"] - total["claimed"] <= most
    assert world.numbers().running == total["claimed"]


def test_a_dedupe_key_is_stored_once_whoever_comes_first(world: World, tmp_path: Path) -> None:
    keys = [f"key {number}" for number in range(60)]

    def push(store: Driver, number: int, note: Note) -> None:
        mine = random.Random(number).sample(keys, len(keys))
        for batch in range(0, len(mine), 5):
            jobs = [asked(f"{key} by {number}", dedupe=key) for key in mine[batch : batch + 5]]
            for job, answer in zip(jobs, store.append(owner(number), batch + 1, jobs), strict=True):
                note(job.options.dedupe if job.options else "", answer.id, answer.duplicate)

    notes = together(world, tmp_path, gift(), push)

    told = collections.defaultdict(set)
    for key, job_id, _ in notes:
        told[key].add(job_id)
    assert {len(ids) for ids in told.values()} == {1}
    assert sum(not duplicate for _, _, duplicate in notes) == len(keys)
    claimed = world.claim(1000)
    assert sorted(one.body.decode().rpartition(" by ")[0] for one in claimed) == sorted(keys)
    assert {one.id for one in claimed} == set().union(*told.values())


def test_deliveries_of_a_key_keep_their_order_and_never_overlap(world: World, tmp_path: Path) -> None:
    seed = seeds.generator("keys").randrange(1 << 30)
    jobs = [(f"{number % 5}", f"{number % 5} {number // 5:03d}") for number in range(200)]
    world.push(*[asked(body, key=key) for key, body in jobs])

    def run(store: Driver, number: int, note: Note) -> None:
        chance = random.Random(seed + number)
        idle = 0
        while idle < 200:
            claimed = store.claim([Want(owner(number), "gift", "credit", 3)])
            idle = 0 if claimed or store.promote_due().moved else idle + 1
            for one in claimed:
                note("begin", one.key, one.body.decode(), one.attempt)
            for one in chance.sample(claimed, len(claimed)):
                move = chance.choice([Move.ACK] * 4 + [Move.BURY, Move.RETRY, Move.RELEASE])
                note("end", one.key, one.body.decode(), move.value)
                assert store.settle([settlement(one, move, counts=True, delay_s=0.001)]) == [True]

    notes = together(world, tmp_path, gift(), run)

    last: dict[str, str] = {}
    open_: dict[str, str] = {}
    for word, key, body, _ in notes:
        if word == "begin":
            assert key not in open_, f"{body} begins while {open_.get(key)} runs"
            assert body >= last.get(key, ""), f"{body} begins after {last.get(key)}"
            open_[key] = last[key] = body
        else:
            assert open_.pop(key) == body
    ended = [body for word, _, body, how in notes if word == "end" and how in ("ack", "bury")]
    assert sorted(ended) == sorted(body for _, body in jobs)
    assert world.where()[:3] == (0, 0, 0)


def test_one_delivery_has_one_end_whoever_wants_it_to_end(world: World, tmp_path: Path) -> None:
    """Cancel, purge, claim and expire meet at the same deliveries; each gets exactly one of them."""
    world.push(*[asked(f"{n}", key="" if n % 3 else f"k{n % 5}", delay_ms=n % 2, ttl_ms=0 if n % 7 else 20)
                 for n in range(300)])
    ids = [record.id for record in world.store.jobs("gift", limit=1000)]
    assert len(ids) == 300

    def end(store: Driver, number: int, note: Note) -> None:
        mine = random.Random(number).sample(ids, len(ids))
        for at in range(0, len(mine), 20):
            some = mine[at : at + 20]
            note("cancelled", [job for job, done in zip(some, store.cancel("gift", "", some), strict=True) if done])
            store.promote_due()
            claimed = store.claim([Want(owner(number), "gift", "credit", 7)])
            ended = store.settle([settlement(one, Move.ACK if at % 40 else Move.BURY) for one in claimed])
            assert all(ended)
            word = "done" if at % 40 else "buried"
            note(word, [one.id for one in claimed])
            if word == "buried":
                revived = store.revive("gift", "credit", [one.id for one in claimed])
                note("revived", [one.id for one, done in zip(claimed, revived, strict=True) if done])

    notes = together(world, tmp_path, gift(), end)

    by_word = {word: collections.Counter(job for known, jobs in notes if known == word for job in jobs)
               for word in ("cancelled", "done", "buried", "revived")}
    numbers = world.numbers()
    assert max((by_word["cancelled"] + by_word["done"]).values()) == 1
    assert numbers.cancelled_total == by_word["cancelled"].total()
    assert numbers.done_total == by_word["done"].total()
    assert numbers.dead_total == by_word["buried"].total() == numbers.dead + by_word["revived"].total()
    assert accounted(numbers) == len(ids)
