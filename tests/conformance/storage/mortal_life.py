"""
A whole life of deliveries in a process that is killed at one of its steps (``mortal`` counts them).

It pushes with every option, claims, settles, and does what people do; it notes each call before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pbus.core.job import Move, Push
from pbus.storage.driver import Driver, QueueSpec, Want
from tests.conformance.storage.world import asked, command, gift, group, settlement

OWNER = "n1/b1/1.1"
TOPICS = ("credit", "mail")
LONG_MS = 3_600_000
MOVES = (Move.ACK, Move.RETRY, Move.BURY, Move.RELEASE, Move.BURY)

ORDER = gift("ship", name="order")

Note = Callable[[str, Any], None]


def spec() -> QueueSpec:
    return gift(*TOPICS, retention_s=0.0, retention_bytes=0, max_backlog=12, dead_max=3)


def jobs(batch: int) -> list[Push]:
    """
    What a round pushes: plain, keyed, delayed for a moment and for long, expiring; two at once, another queue's and one
    with a dedupe key, together or not at all; a dedupe key that is there.
    """
    return [
        asked(f"{batch} plain"), asked(f"{batch} keyed", key="k"), asked(f"{batch} soon", delay_ms=1, key="k"),
        asked(f"{batch} later", delay_ms=LONG_MS), asked(f"{batch} brief", ttl_ms=1),
        *group(command(f"{batch} one", f"{batch} two"), command(f"{batch} order", queue="order"),
               [asked(f"{batch} once", dedupe=f"d{batch}")]),
        asked("again", dedupe="d1"),
    ]


def life(store: Driver, note: Note) -> None:
    """Three rounds of everything."""
    store.declare([ORDER])
    for batch in range(1, 4):
        note("pushing", batch)
        answers = store.append(OWNER, batch, jobs(batch))
        note("pushed", [batch, [(one.id, one.duplicate, one.refused) for one in answers]])
        store.promote_due()
        claimed = store.claim([Want(OWNER, "gift", topic, 5) for topic in TOPICS])
        store.settle([
            settlement(one, MOVES[number % len(MOVES)], counts=True, reason="failed", fingerprint="f" * 16)
            for number, one in enumerate(claimed)
        ])
        _people(store, batch, [one.id for one in answers if one.id])
        store.promote_due()
        store.trim()


def _people(store: Driver, batch: int, ids: list[str]) -> None:
    dead = [letter.id for letter in store.dead_letters("gift", "credit")]
    store.revive("gift", "credit", dead[:1])
    store.accept("gift", "credit", dead[1:2])
    store.forgive("gift", "credit", [*dead[2:3], *ids])
    store.forget_dead("gift", "mail", [letter.id for letter in store.dead_letters("gift", "mail")][:1])
    store.cancel("gift", "", ids[1:4])
    store.cancel("gift", "mail", ids[:1])
    store.pause("gift", "mail", batch == 2)
    if batch == 3:
        store.purge("gift", "credit")
        store.drop_topic("gift", "mail")
        store.declare([spec()])
