"""
A crash between any two steps: what was acknowledged is there, and nothing is half done.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from pbus.core.job import Move, Push, Settlement
from pbus.storage.driver import Driver, Want
from pbus.storage.open import StoreTarget, make
from tests.conformance.storage.mortal import OWNER, TOPICS, Diary, live
from tests.conformance.storage.places import Place
from tests.conformance.storage.world import gift

HEIR = "n1/b2/1.1"
LIVES = 120


@pytest.mark.timeout(180)
def test_kill_at_any_step_loses_nothing_and_leaves_nothing_half_done(place: Place, tmp_path: Path) -> None:
    seed = int(os.environ.get("PBUS_TEST_SEED", random.randrange(1 << 32)))
    steps = whole_life(place, tmp_path)
    lives = sorted(random.Random(seed).sample(range(1, steps), LIVES))
    print(f"PBUS_TEST_SEED={seed} steps={steps} lives={LIVES}")

    killed = 0
    for last_step in lives:
        url, diary = place.empty(), tmp_path / str(last_step)
        status = live(url, diary, last_step)
        # The last few steps are not always taken: what the kernel answers varies a little.
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        killed += status != 0
        judge(url, Diary.read(diary) if diary.exists() else Diary(), f"seed {seed}, killed at step {last_step}")
    assert killed > 0.9 * LIVES


def whole_life(place: Place, folder: Path) -> int:
    """Live and judge once without a kill (which also imports everything), then count the steps."""
    steps = 0
    for name in ("first", "second"):
        url, diary = place.empty(), folder / name
        assert live(url, diary, 0) == 0
        steps = Diary.read(diary).steps
        judge(url, Diary.read(diary), "not killed")
    return steps


def judge(url: str, diary: Diary, when: str) -> None:
    """What the store holds after a life that left *diary*."""
    store = make(StoreTarget("main", url, "", 5.0, "n1"))
    store.open()
    try:
        store.declare([gift(*TOPICS)])
        stored = {topic: contents(store, topic, diary, when) for topic in TOPICS}
        assert stored["credit"] == stored["mail"], f"{when}: a push reached one topic only"
        finish_last_batch(store, diary, stored["credit"], when)
    finally:
        store.close()


def contents(store: Driver, topic: str, diary: Diary, when: str) -> set[str]:
    """Bodies of every job that a topic has or had, each in exactly one place."""
    numbers = store.numbers()["gift", topic]
    held = [one for one in store.held(OWNER) if one.topic == topic]
    assert len(held) == numbers.running, when
    back = [Settlement(owner=OWNER, queue="gift", topic=topic, id=one.id, move=Move.RELEASE) for one in held]
    assert store.give_back(OWNER, back) == [True] * len(back), when
    while store.promote_due().moved:
        pass
    claimed = store.claim([Want(HEIR, "gift", topic, 1000)])
    bodies = [one.body.decode() for one in claimed]
    assert len(bodies) == numbers.ready + numbers.running + numbers.delayed, when

    dead = {letter.id for letter in store.dead_letters("gift", topic)}
    assert len(dead) == numbers.dead == numbers.dead_total, when
    assert not dead & {one.id for one in claimed}, when
    ended = Counter(move for name, _, move in diary.settling if name == topic)
    sure = Counter(move for name, _, move in diary.settled if name == topic)
    assert sure["ack"] <= numbers.done_total <= ended["ack"], when
    assert sure["bury"] <= numbers.dead_total <= ended["bury"], when

    gone = [body for name, body, move in diary.settling if name == topic and move in ("ack", "bury")]
    gone = [body for body in gone if body not in bodies]
    assert len(gone) == numbers.done_total + numbers.dead, when
    for name, body, move in diary.settled:
        if name == topic and move in ("ack", "bury"):
            assert body not in bodies, f"{when}: {move} of {body} undone"
        elif name == topic:
            assert body in bodies or body in gone, f"{when}: {body} lost by {move}"
    assert len(bodies) == len(set(bodies)), when
    return set(bodies) | set(gone)


def finish_last_batch(store: Driver, diary: Diary, stored: set[str], when: str) -> None:
    """Pushes are there batch by batch; asking again for the last one stores it exactly once."""
    for batch, bodies in diary.pushing.items():
        there = stored & set(bodies)
        assert there in (set(), set(bodies)), f"{when}: half of batch {batch}"
        assert there or batch not in diary.pushed, f"{when}: batch {batch} was acknowledged and is lost"
    assert stored <= {body for bodies in diary.pushing.values() for body in bodies}, when
    if not diary.pushing:
        return
    last = max(diary.pushing)
    was_there = set(diary.pushing[last]) <= stored
    store.append(OWNER, last, [Push("gift", body.encode()) for body in diary.pushing[last]])
    again = [one.body.decode() for one in store.claim([Want(HEIR, "gift", "credit", 1000)])]
    assert again == ([] if was_there else diary.pushing[last]), when
