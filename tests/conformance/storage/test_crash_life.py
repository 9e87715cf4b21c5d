"""
A crash between any two steps of everything that can be asked: every delivery is somewhere, can be brought to its end,
and when all have ended nothing is left behind.
"""

from __future__ import annotations

import collections
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pbus.core.job import Move, Settlement
from pbus.storage.driver import Driver, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.mortal import live
from tests.conformance.storage.mortal_life import ORDER, OWNER, TOPICS, jobs, life, spec
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import accounted, pass_ms, settlement
from tests.support import seeds
from tests.support.nightly import figure

HEIR = "n1/b2/1.1"
LIVES = figure(60, nightly=1500)


@pytest.mark.timeout(900)
def test_kill_at_any_step_leaves_every_delivery_where_it_can_come_to_its_end(place: Place, tmp_path: Path) -> None:
    steps = _steps(place, tmp_path)
    lives = sorted(seeds.generator("lives", place.name).sample(range(1, steps), min(LIVES, steps - 1)))

    killed = 0
    for last_step in lives:
        url, diary = place.empty(), tmp_path / str(last_step)
        status = live(url, diary, last_step, spec(), life)
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        killed += status != 0
        _judge(url, _read(diary), f"killed at step {last_step} of {steps}")
    print(f"{killed} of {len(lives)} lives killed, of {steps} steps each")
    assert killed > 0.8 * len(lives)


def _steps(place: Place, folder: Path) -> int:
    """Live twice without a kill (the first one imports everything), then count the steps."""
    for name in ("first", "second"):
        url, diary = place.empty(), folder / name
        assert live(url, diary, 0, spec(), life) == 0
        notes = _read(diary)
        _judge(url, notes, "not killed")
    return int(dict(notes)["steps"])


def _read(diary: Path) -> list[tuple[str, Any]]:
    return [(word, what) for word, what in map(json.loads, diary.read_text().splitlines())] if diary.exists() else []


def _judge(url: str, notes: list[tuple[str, Any]], when: str) -> None:
    """What the store holds after a life that left *notes*."""
    store = make(StoreTarget("main", url, "", 5.0, "n1"))
    store.open()
    try:
        store.declare([spec(), ORDER])
        _identity(store, when)
        held = store.held(OWNER)
        back = [Settlement(owner=OWNER, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE) for one in held]
        assert store.give_back(OWNER, back) == [True] * len(back), when
        _push_again(store, notes, when)
        for topic in TOPICS:
            store.pause("gift", topic, paused=False)
            _bring_to_its_end(store, topic, when)
        _identity(store, when)
        assert store.backlog("gift") == 0, when
        assert store.queue_numbers()["gift"].backlog_bytes == 0, when
        pass_ms(2)
        while store.trim():
            pass
        assert store.jobs("gift") == [], f"{when}: bodies that nobody needs are kept"
        assert store.queue_numbers()["gift"].kept == 0, when
    finally:
        store.close()


def _identity(store: Driver, when: str) -> None:
    """The first topic is as old as the queue: it accounts for every job; the numbers are what can be listed."""
    pushed = store.queue_numbers()["gift"].pushed_total
    numbers = store.numbers()
    assert accounted(numbers["gift", "credit"]) == pushed, when
    assert accounted(numbers["gift", "mail"]) <= pushed, when
    records = store.jobs("gift", limit=1000)
    for topic in TOPICS:
        states = [record.topics[topic].state for record in records if topic in record.topics]
        shown = numbers["gift", topic]
        assert states.count("running") == shown.running == len([h for h in store.held(OWNER) if h.topic == topic]), when
        assert states.count("dead") == shown.dead == len(store.dead_letters("gift", topic)), when
        assert states.count("ready") + states.count("delayed") == shown.ready + shown.delayed, when


def _push_again(store: Driver, notes: list[tuple[str, Any]], when: str) -> None:
    """
    The last append, repeated as after a lost reply, answers as it did, or stores all of it now; what it stored
    before is all of it in all queues, or nothing.
    """
    told = [what for word, what in notes if word == "pushed"]
    pushing = [what for word, what in notes if word == "pushing"]
    if not pushing:
        return
    before = _pushed(store)
    answers = store.append(OWNER, pushing[-1], jobs(pushing[-1]))
    shown = [[one.id, one.duplicate, one.refused] for one in answers]
    known = collections.Counter(queue for batch, of_batch in told for queue in _stored(batch, of_batch))
    whole = known if told and told[-1][0] == pushing[-1] else known + collections.Counter(_stored(pushing[-1], shown))
    assert _pushed(store) == whole, when
    assert before in (known, whole), f"{when}: half of an append was stored"
    if known == whole and told:
        assert shown == told[-1][1], when
    again = answers[-1]
    assert not again.id or again.duplicate or again.refused or pushing[-1] == 1, when


def _pushed(store: Driver) -> dict[str, int]:
    """Jobs ever pushed, a queue; those without any are left out, as a Counter does."""
    return {name: numbers.pushed_total for name, numbers in store.queue_numbers().items() if numbers.pushed_total}


def _stored(batch: int, answers: list[Any]) -> list[str]:
    """The queue of each job of a batch that was stored, by what its append answered."""
    return [job.queue for job, (job_id, duplicate, _) in zip(jobs(batch), answers, strict=True)
            if job_id and not duplicate]


def _bring_to_its_end(store: Driver, topic: str, when: str) -> None:
    """Revive the dead, run what is ready, cancel what is delayed: then nothing is anywhere."""
    dead = [letter.id for letter in store.dead_letters("gift", topic)]
    assert store.revive("gift", topic, dead) == [True] * len(dead), when
    assert store.dead_groups("gift", topic) == [], when
    pass_ms(2)
    idle = 0
    while idle < 3:
        moved = store.promote_due().moved
        claimed = store.claim([Want(HEIR, "gift", topic, 1000)])
        assert all(store.settle([settlement(one, Move.ACK) for one in claimed])), when
        idle = 0 if claimed or moved else idle + 1
    left = store.numbers()["gift", topic]
    assert (left.ready, left.running, left.dead) == (0, 0, 0), f"{when}: stuck in {topic}: {left}"
    assert store.purge("gift", topic) == left.delayed, when
    assert store.numbers()["gift", topic].delayed == 0, when
