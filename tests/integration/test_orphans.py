"""Topics that are gone from the files go on until they are empty: after a reload, after a restart, on both stores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.redis_server import RedisServer
from tests.support.shop import HANDLERS, OpenShop, Shop
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

JOBS = 50
OLD = f"""
[queue.mail.topic.send]
python = {{ call = "consumer_jobs:act", path = "{HANDLERS}" }}
concurrency = 2
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server.url
    server.close()


def opened(shop: OpenShop, store: str, jobs: int = JOBS) -> Shop:
    """A bus with a second queue that has *jobs* slow jobs, and is not in the files any more."""
    gift = shop(store=store)
    mail = gift.bus.conf / "mail.toml"
    mail.write_text(OLD)
    assert gift.bus.cli("reload", "--wait").returncode == 0, gift.bus.tail()
    gift.push_to("mail", *(f"sleep 0.1 {number}" for number in range(jobs)))
    mail.unlink()
    return gift


def is_gone(gift: Shop) -> bool:
    return not any(row["queue"] == "mail" for row in gift.bus.status()["topics"])


def all_done(gift: Shop) -> None:
    bus = gift.bus
    until(lambda: is_gone(gift), 40, lambda: f"it is gone: {bus.status()['topics']}\n{bus.tail()}")
    assert len(gift.runs("end")) == len({run.id for run in gift.runs("end")}) == JOBS
    assert bus.status()["problems"] == []
    assert bus.cli("topic", "ls").stdout.count("mail/") == 0
    processes = lambda: [row for row in bus.status()["processes"] if row["path"] == "mail/send"]  # noqa: E731
    until(lambda: not processes(), 10, "its processes leave")


def test_removed_queue_finishes_what_it_has_and_takes_nothing_new(shop: OpenShop, store: str) -> None:
    gift = opened(shop, store)
    assert gift.bus.cli("reload", "--wait").returncode == 0, gift.bus.tail()
    row = gift.bus.topic("mail", "send")
    assert row["state"] == "orphaned", row
    assert any(line.startswith("mail/send orphaned: ") for line in gift.bus.status()["problems"])
    with pytest.raises(redis.ResponseError, match="NOQUEUE 'mail' is not in the configuration"):
        gift.push_to("mail", "x")
    all_done(gift)
    with pytest.raises(redis.ResponseError, match="NOQUEUE"):
        gift.push_to("mail", "x")


def test_queue_that_is_missing_at_a_restart_finishes_what_it_has(shop: OpenShop, store: str) -> None:
    gift = opened(shop, store)
    gift.bus.stop()
    gift.bus.start(("degraded",))
    assert gift.bus.topic("mail", "send")["state"] == "orphaned"
    all_done(gift)


def test_purge_ends_it_at_once(shop: OpenShop) -> None:
    gift = opened(shop, "")
    assert gift.bus.cli("reload", "--wait").returncode == 0, gift.bus.tail()
    told = gift.bus.cli("topic", "rm", "mail/send", "--purge", "--yes")
    assert told.returncode == 0, told.stdout + told.stderr + gift.bus.tail()
    assert is_gone(gift)
    assert len(gift.runs("begin")) < JOBS
    began_s = time.monotonic()
    assert gift.bus.cli("reload", "--wait").returncode == 0
    assert is_gone(gift), f"it came back after {time.monotonic() - began_s:.1f} s"
