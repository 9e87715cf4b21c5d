"""A file of the first format: brought up to date as a whole, nothing of it lost; what is too new is refused."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from pbus.clock import FakeClock
from pbus.core.job import Move, Push, Settlement
from pbus.errors import BootError, Exit
from pbus.storage import sqlite_migrate
from pbus.storage.driver import QueueNumbers, QueueSpec, TopicNumbers, TopicSpec, Want
from pbus.storage.open import StoreTarget
from pbus.storage.sqlite import SqliteDriver

OWNER = "n1/b2/1.1"
GIFT = QueueSpec("gift", (TopicSpec("credit"), TopicSpec("mail")), 0.0, 0)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A dump of a file that the first format's own code had made: a delivery in every place, bodies put aside."""
    path = tmp_path / "pbus.db"
    db = apsw.Connection(str(path))
    db.execute(Path(__file__).with_name("sqlite_format_1.sql").read_text())
    db.close()
    return path


def opened(path: Path) -> SqliteDriver:
    store = SqliteDriver(StoreTarget("main", f"sqlite:{path}", "", 5.0, "n1"), FakeClock(1_800_000_001.0))
    store.open()
    store.declare([GIFT])
    return store


def test_every_number_of_an_older_file_is_kept(old: Path) -> None:
    store = opened(old)
    numbers, queues, letters = store.numbers(), store.queue_numbers(), store.dead_letters("gift", "credit")
    groups = store.dead_groups("gift", "credit")
    store.close()

    assert numbers["gift", "credit"] == TopicNumbers(
        ready=3, running=2, delayed=1, dead=1, oldest_wait_s=1.0, done_total=1, failed_total=2, dead_total=1
    )
    assert numbers["gift", "mail"] == TopicNumbers(ready=3, oldest_wait_s=1.0, done_total=5)
    assert queues["gift"] == QueueNumbers(backlog=3, backlog_bytes=15, kept=3, pushed_total=8)
    assert [(letter.error, letter.attempts, letter.crashes) for letter in letters] == [("never", 1, 1)]
    assert [(group.count, group.total, group.error) for group in groups] == [(1, 1, "never")]


def test_everything_in_an_older_file_can_still_be_done(old: Path) -> None:
    store = opened(old)
    held = [one for owner in store.owners() for one in store.held(owner)]
    for owner in store.owners():
        store.give_back(owner, [
            Settlement(owner=owner, queue=one.queue, topic=one.topic, id=one.id, move=Move.RELEASE)
            for one in store.held(owner)
        ])
    assert store.revive("gift", "credit", [letter.id for letter in store.dead_letters("gift", "credit")]) == [True]
    store._clock.advance(60.0)  # type: ignore[attr-defined]
    assert store.promote_due().moved == {("gift", "credit"): 1}
    (pushed,) = store.append(OWNER, 1, [Push("gift", b"job 9")])

    got = [one for topic in ("credit", "mail") for one in store.claim([Want(OWNER, "gift", topic, 100)])]

    assert len(held) == 2
    assert {(one.topic, one.body) for one in got} == {
        *(("credit", b"job %d" % n) for n in range(2, 10)), *(("mail", b"job %d" % n) for n in range(6, 10)),
    }
    assert len(got) == 12
    assert pushed.backlog == 4
    store.settle([Settlement(owner=OWNER, queue=one.queue, topic=one.topic, id=one.id, move=Move.ACK) for one in got])
    while store.trim():
        pass
    assert store.queue_numbers()["gift"] == QueueNumbers(pushed_total=9)
    store.close()


def test_file_is_brought_up_to_date_once(old: Path) -> None:
    opened(old).close()
    store = opened(old)
    store.append(OWNER, 1, [Push("gift", b"x")])
    store.close()


def test_migration_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_migrate, "_stamp", lambda db: db.execute("SELECT nonsense"))
    with pytest.raises(Exception, match="nonsense"):
        opened(old)
    monkeypatch.undo()

    store = opened(old)
    assert store.numbers()["gift", "credit"].ready == 3
    store.close()


def test_newer_file_is_refused(old: Path) -> None:
    db = apsw.Connection(str(old))
    db.pragma("user_version", 3)
    db.close()

    with pytest.raises(BootError, match="format 3; this pbus reads 1 to 2") as caught:
        opened(old)
    assert caught.value.exit_status == Exit.CONFIG


def test_a_file_from_before_there_were_shadows_gets_their_column(tmp_path: Path) -> None:
    path = tmp_path / "pbus.db"
    opened(path).close()
    db = apsw.Connection(str(path))
    db.execute("ALTER TABLE topics DROP COLUMN sample")
    db.close()

    store = opened(path)
    store.append(OWNER, 1, [Push("gift", b"a")])
    backlog = store.backlog("gift")
    store.close()
    assert backlog == 1
