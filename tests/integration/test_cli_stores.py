"""The everyday commands while the bus is stopped: they open the store themselves, on SQLite and on Redis."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pbus.app import stores
from pbus.cli import main as frame
from pbus.config.load import load
from pbus.core.job import Move, Push, PushOptions, Settlement
from pbus.errors import BootError, Exit
from pbus.storage.driver import Driver, TopicNumbers, Want
from pbus.storage.open import make, queue_specs
from tests.support.bus import write_config
from tests.support.redis_server import running

OWNER = "bus-test/b1/1.1"
EVIL = "no such user \x1b[2J in\u202e table"
QUEUES = """
[system.live]
title = "Live"
[queue.gift]
description = "a gift was sent"
system = "live"
alias = ["live:gift:list"]
[queue.gift.topic.credit]
python = { call = "a:b" }
[queue.gift.topic.push]
pull = {}
[queue.mail.topic.smtp]
pull = {}
"""


@dataclass
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    def rows(self, name: str) -> list[dict[str, Any]]:
        document = json.loads(self.out)
        assert document["v"] == 1
        rows: list[dict[str, Any]] = document[name]
        return rows


class World:
    """A configuration, its store, and nobody else."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._conf = str(folder / "conf.d")
        self._capsys = capsys
        self.settings = load(self._conf)
        self._batch = 0

    def pbus(self, *words: str) -> Said:
        self._capsys.readouterr()
        status = frame.main([*words, "-c", self._conf])
        out, err = self._capsys.readouterr()
        return Said(status, out, err)

    @contextlib.contextmanager
    def store(self) -> Iterator[Driver]:
        driver = make(stores(self.settings)["main"])
        driver.open()
        try:
            driver.declare(queue_specs(self.settings.queue, "main"))
            yield driver
        finally:
            driver.close()

    def push(self, *bodies: bytes, queue: str = "gift", options: PushOptions | None = None) -> list[str]:
        with self.store() as driver:
            self._batch += 1
            pushes = [Push(queue, body, options=options) for body in bodies]
            return [answer.id for answer in driver.append(OWNER, self._batch, pushes)]

    def kill(self, *bodies: bytes, error: str = EVIL, fingerprint: str = "00ff") -> list[str]:
        """Jobs that are dead in gift/credit and ready in gift/push."""
        ids = self.push(*bodies)
        with self.store() as driver:
            claimed = driver.claim([Want(OWNER, "gift", "credit", 100)])
            assert driver.settle([
                Settlement(
                    owner=OWNER, queue="gift", topic="credit", id=each.id, move=Move.BURY, counts=True, reason="failed",
                    error=error, fingerprint=fingerprint,
                )
                for each in claimed
            ]) == [True] * len(bodies)
        return ids

    def numbers(self, path: str) -> TopicNumbers:
        queue, _, topic = path.partition("/")
        with self.store() as driver:
            return driver.numbers()[queue, topic]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a store that all tests of one kind use one after the other."""
    if request.param == "sqlite":
        yield "sqlite:pbus.db"
        return
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def world(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> World:
    write_config(tmp_path, f'[storage.main]\nurl = "{url}"\n{QUEUES}')
    if not url.startswith("sqlite"):
        import redis

        with redis.Redis(unix_socket_path=url.partition("://")[2]) as client:
            client.flushall()
    world = World(tmp_path, capsys)
    with world.store():
        pass
    return world


# -- topics and queues ----------------------------------------------------------------------------


def test_topics_are_listed_in_every_form(world: World) -> None:
    world.kill(b"a", b"b")
    world.push(b"later", options=PushOptions(delay_ms=60_000))

    told = world.pbus("topic", "ls", "gift", "-o", "json")

    credit, push = told.rows("topics")
    assert told.status == 0
    assert [credit[key] for key in ("queue", "topic", "state", "handler")] == ["gift", "credit", "stopped", "python"]
    assert (credit["ready"], credit["delayed"], credit["dead"]) == (0, 1, 2)
    assert (push["ready"], push["delayed"], push["dead"]) == (2, 1, 0)
    lines = world.pbus("topic", "ls", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["topic"] for line in lines] == ["credit", "push", "smtp"]
    table = world.pbus("topic", "ls", "gift/c*").out.splitlines()
    assert table[0].split()[:3] == ["TOPIC", "STATE", "READY"]
    assert [line.split()[0] for line in table[1:]] == ["gift/credit"]
    rows = list(csv.DictReader(io.StringIO(world.pbus("topic", "ls", "-o", "csv").out)))
    assert [row["dead"] for row in rows] == ["2", "0", "0"]


def test_one_topic_is_shown_with_what_it_died_of(world: World) -> None:
    world.kill(b"a")

    told = world.pbus("topic", "show", "gift/credit")

    assert "dead ever         1\n" in told.out
    assert "died of           1 x failed: no such user \\x1b[2J in\\u202e table" in told.out
    [row] = world.pbus("topic", "show", "live:gift:list/credit", "-o", "json").rows("topics")
    assert row["rules"]["python"]["call"] == "a:b"
    assert row["dead_groups"][0]["count"] == 1


def test_paused_topic_gives_nothing_until_it_is_resumed(world: World) -> None:
    world.push(b"a")

    assert world.pbus("topic", "pause", "gift/credit").status == 0
    assert world.pbus("topic", "pause", "gift/credit").status == 0
    states = {row["topic"]: row["state"] for row in world.pbus("topic", "ls", "gift", "-o", "json").rows("topics")}
    assert states == {"credit": "paused", "push": "stopped"}
    with world.store() as driver:
        assert driver.claim([Want(OWNER, "gift", "credit", 1)]) == []
    assert world.pbus("topic", "resume", "gift/credit").status == 0
    with world.store() as driver:
        assert len(driver.claim([Want(OWNER, "gift", "credit", 1)])) == 1


def test_paused_queue_is_all_of_its_topics(world: World) -> None:
    world.pbus("queue", "pause", "gift")
    assert [row["state"] for row in world.pbus("queue", "ls", "-o", "json").rows("queues")] == ["paused", "open"]
    assert world.numbers("gift/push").paused_ms > 0

    world.pbus("queue", "resume", "gift", "mail")
    assert world.numbers("gift/push").paused_ms == 0


def test_queues_are_listed_and_shown(world: World) -> None:
    world.push(b"12345")

    gift, mail = world.pbus("queue", "ls", "-o", "json").rows("queues")
    assert (gift["backlog"], gift["backlog_bytes"], gift["pushed_total"], gift["topics"]) == (1, 5, 1, 2)
    assert (mail["backlog"], mail["system"]) == (0, "default")
    shown = world.pbus("queue", "show", "gift").out
    assert "takes at most      1.0M jobs and 4.0 GiB\n" in shown
    assert "gift/credit  stopped      1" in shown
    [row] = world.pbus("queue", "show", "gift", "-o", "json").rows("queues")
    assert [topic["topic"] for topic in row["topic"]] == ["credit", "push"]


def test_queue_that_refuses_pushes_is_full(world: World, tmp_path: Path) -> None:
    world.push(b"1", b"2")
    (tmp_path / "conf.d" / "bound.toml").write_text("[queue.gift]\nmax_backlog = 2\n")

    gift, mail = world.pbus("queue", "ls", "-o", "json").rows("queues")

    assert (gift["state"], mail["state"]) == ("full", "open")


def test_systems_are_the_sums_of_their_queues(world: World) -> None:
    world.kill(b"a", b"b")

    default, live = world.pbus("system", "ls", "-o", "json").rows("systems")
    assert (live["system"], live["title"], live["queues"], live["topics"]) == ("live", "Live", 1, 2)
    assert (live["ready"], live["dead"], default["ready"]) == (2, 2, 0)
    assert "a gift was sent" in world.pbus("system", "show", "live").out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("topic show gift/credt", "did you mean 'gift/credit'?"), ("topic pause gift", "'gift' is a queue; its topics"),
        ("queue show gfit", "did you mean 'gift'?"), ("queue pause zzz", "there are: gift, mail"),
        ("dead ls gift/zzz", "there is no topic 'gift/zzz'"), ("dead retry gift/zzz --all", "there is no topic"),
        ("job cancel 1-1", "no queue has a job 1-1"), ("system show liv", "did you mean 'live'?"),
        ("queue show gift/credit", "'gift/credit' is a topic of 'gift'"),
        ("queue export gfit", "did you mean 'gift'?"), ("topic rm gift/zzz", "there is no topic"),
        ("dead retry gift/credit --group beef", "no dead letters of group 'beef'"),
    ],
)
def test_what_is_not_there_is_said_with_a_hint_and_5(world: World, words: str, hint: str) -> None:
    said = world.pbus(*words.split())

    assert said.status == 5
    assert hint in said.err
    assert said.out == ""


# -- dead letters ---------------------------------------------------------------------------------


def test_dead_letters_are_listed_by_group(world: World) -> None:
    world.kill(b"a", b"b")
    world.kill(b"c", error="other", fingerprint="0123")

    rows = world.pbus("dead", "ls", "-o", "json").rows("groups")

    assert [(row["topic"], row["count"], row["fingerprint"]) for row in rows] == [
        ("credit", 2, "00ff"), ("credit", 1, "0123")
    ]
    assert rows[0]["first_ms"] <= rows[0]["last_ms"]
    table = world.pbus("dead", "ls", "gift").out
    assert "no such user \\x1b[2J in\\u202e table" in table
    assert "\x1b" not in table
    assert world.pbus("dead", "ls", "mail").err == "nothing is dead\n"


def test_dead_letters_are_shown_one_by_one(world: World) -> None:
    first, second = world.kill(b"a\x1b[1m", b"b")

    letters = world.pbus("dead", "show", "gift/credit", "-o", "json").rows("letters")
    assert [letter["id"] for letter in letters] == [second, first]
    assert len(world.pbus("dead", "show", "gift/credit", "--limit", "1", "-o", "json").rows("letters")) == 1
    shown = world.pbus("dead", "show", "gift/credit", first)
    assert "body      a\\x1b[1m\n" in shown.out
    assert "! no such user \\x1b[2J in\\u202e table" in shown.out
    missing = world.pbus("dead", "show", "gift/credit", "1-1")
    assert (missing.status, missing.err) == (5, "pbus: gift/credit 1-1 is not dead\n")


def test_retry_makes_ready_what_was_named(world: World) -> None:
    first, second = world.kill(b"a", b"b")
    third, = world.kill(b"c", error="other", fingerprint="0123")

    assert world.pbus("dead", "retry", "gift/credit").status == 2
    assert world.pbus("dead", "retry", "gift/credit", "--all", first).status == 2
    dry = world.pbus("dead", "retry", "gift/credit", "--all", "--dry-run")
    assert dry.err == "gift/credit: would make ready again: 3\n"
    assert world.numbers("gift/credit").dead == 3
    assert world.pbus("dead", "retry", "gift/credit", third).err == "gift/credit: made ready again: 1\n"
    assert world.pbus("dead", "retry", "gift/credit", third).status == 5
    assert world.pbus("dead", "retry", "gift/credit", "--group", "00ff").err == "gift/credit: made ready again: 2\n"
    with world.store() as driver:
        claimed = driver.claim([Want(OWNER, "gift", "credit", 9)])
    assert sorted(each.id for each in claimed) == sorted([first, second, third])
    assert all(each.redelivered and each.attempt == 2 for each in claimed)


def test_many_dead_letters_are_retried_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbus.cli.dead._PAGE", 7)
    world.kill(*[b"x"] * 25)

    assert world.pbus("dead", "retry", "gift/credit", "--all").err == "gift/credit: made ready again: 25\n"
    assert world.numbers("gift/credit").ready == 25


def test_deleting_needs_a_yes(world: World) -> None:
    first, second = world.kill(b"a", b"b")

    refused = world.pbus("dead", "delete", "gift/credit", "--all")
    assert (refused.status, refused.err) == (6, "pbus: gift/credit: 2 dead letters would be destroyed: say --yes\n")
    assert world.pbus("dead", "delete", "gift/credit", "--all", "--dry-run").status == 0
    assert world.numbers("gift/credit").dead == 2
    assert world.pbus("dead", "delete", "gift/credit", first, "--yes").status == 0
    numbers = world.numbers("gift/credit")
    assert (numbers.dead, numbers.forgotten_total) == (1, 1)
    assert world.pbus("dead", "delete", "gift/credit", "--all", "--yes").status == 0
    assert world.numbers("gift/credit").dead == 0
    assert second


def test_letters_that_are_not_there_are_not_counted(world: World) -> None:
    dead, = world.kill(b"a")

    said = world.pbus("dead", "delete", "gift/credit", "1-0")
    assert (said.status, said.err) == (
        5, "gift/credit: deleted: 0\npbus: gift/credit 1-0 is not dead\n"
    )
    said = world.pbus("dead", "retry", "gift/credit", dead, "1-0", "--dry-run")
    assert (said.status, said.err) == (
        5, "gift/credit: would make ready again: 1\npbus: gift/credit 1-0 is not dead\n"
    )


# -- single jobs ----------------------------------------------------------------------------------


def test_job_is_retried_settled_and_cancelled(world: World) -> None:
    first, second = world.kill(b"a", b"b")

    assert world.pbus("job", "retry", first, "--dry-run").err == f"gift/credit {first} would be ready again\n"
    assert world.pbus("job", "retry", first).err == f"gift/credit {first} ready again\n"
    assert world.pbus("job", "done", "gift/credit", second).err == f"gift/credit {second} done\n"
    assert world.pbus("job", "done", second).status == 1
    told = world.pbus("job", "cancel", first, "-o", "json")
    assert [(row["topic"], row["result"]) for row in told.rows("deliveries")] == [
        ("credit", "cancelled"), ("push", "cancelled")
    ]
    numbers = world.numbers("gift/credit")
    assert (numbers.ready, numbers.dead, numbers.done_total, numbers.cancelled_total) == (0, 0, 1, 1)
    elsewhere = world.pbus("job", "cancel", "gift/credit", second)
    assert (elsewhere.status, elsewhere.err) == (1, f"gift/credit {second} is ended, not ready or delayed\n")


def test_nothing_is_done_when_one_of_the_jobs_is_not_there(world: World) -> None:
    dead, = world.kill(b"a")

    said = world.pbus("job", "done", dead, "1-0")

    assert said.status == 5
    assert world.numbers("gift/credit").dead == 1


def test_ambiguous_id_is_refused_and_named_queue_is_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from pbus.cli import job

    gift, = world.push(b"a")
    record = next(_records(world, "gift"))
    monkeypatch.setattr(job, "_search", lambda stock, job_id: iter([record, _moved(record, "mail")]))

    said = world.pbus("job", "cancel", gift)

    assert said.status == 2
    assert f"{gift} is in gift and mail: say which, 'QUEUE {gift}'" in said.err
    assert world.pbus("job", "cancel", "gift", gift).status == 0


@pytest.mark.parametrize(
    "words", ["job retry gift", "job done gift soon", "job cancel 12", "queue export gift --after x",
     "dead retry gift/credit x", "dead show gift/credit x", "dead delete gift/credit x --yes"]
)
def test_what_is_no_job_id_is_a_usage_error(world: World, words: str) -> None:
    said = world.pbus(*words.split())
    assert said.status == 2
    assert "job" in said.err


def _records(world: World, queue: str) -> Iterator[Any]:
    with world.store() as driver:
        yield from driver.jobs(queue)


def _moved(record: Any, queue: str) -> Any:
    import dataclasses

    return dataclasses.replace(record, queue=queue)


# -- purge, export, rm ----------------------------------------------------------------------------


def test_purge_needs_a_yes_and_spares_the_dead(world: World) -> None:
    world.kill(b"a")
    world.push(b"b", b"c")
    world.push(b"d", options=PushOptions(delay_ms=60_000))

    refused = world.pbus("queue", "purge", "gift")
    assert (refused.status, refused.err) == (6, "pbus: gift: 7 jobs would be cancelled and never run: say --yes\n")
    dry = world.pbus("queue", "purge", "gift/push", "--dry-run", "-o", "json")
    assert dry.rows("topics") == [{"queue": "gift", "topic": "push", "cancelled": 0, "would_cancel": 4}]
    assert world.pbus("queue", "purge", "gift/push", "--yes").err == "gift/push: cancelled 4\n"
    assert world.numbers("gift/credit").ready == 2
    assert world.pbus("queue", "purge", "gift", "--yes").status == 0
    numbers = world.numbers("gift/credit")
    assert (numbers.ready, numbers.delayed, numbers.dead, numbers.cancelled_total) == (0, 0, 1, 3)
    assert world.pbus("queue", "purge", "gift").status == 0, "there is nothing to destroy"


def test_export_streams_jobs_with_their_places(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbus.cli.queue._PAGE", 2)
    world.kill("é\x1b\u202e".encode())
    world.push(b"\xff\xfe", b"c", b"d", b"e")

    said = world.pbus("queue", "export", "gift")

    jobs = [json.loads(line) for line in said.out.splitlines()]
    assert said.err == "5 jobs\n"
    assert "\x1b" not in said.out
    assert [job["body"] for job in jobs] == ["é\x1b\u202e", "//4=", "c", "d", "e"]
    assert jobs[1]["encoding"] == "base64"
    assert jobs[0]["topics"]["credit"]["reason"] == "failed"
    assert jobs[2]["topics"] == {"credit": {"state": "ready"}, "push": {"state": "ready"}}
    rest = world.pbus("queue", "export", "gift", "--after", jobs[1]["id"], "--limit", "2").out.splitlines()
    assert [json.loads(line)["body"] for line in rest] == ["c", "d"]


def test_topic_of_no_configuration_is_orphaned_and_removed_for_good(world: World) -> None:
    world.kill(b"a")
    conf = Path(world._conf) / "pbus.toml"
    text = conf.read_text()
    assert world.pbus("topic", "rm", "gift/credit", "--purge", "--yes").status == 6, "the bus would make it again"
    table = '["queue"."gift"."topic"."credit"]'
    assert table in text
    conf.write_text("\n".join(_without(text.splitlines(), table)))

    states = {row["topic"]: row["state"] for row in world.pbus("topic", "ls", "gift", "-o", "json").rows("topics")}
    assert states == {"credit": "orphaned", "push": "stopped"}
    assert world.pbus("dead", "ls", "-o", "json").rows("groups")[0]["topic"] == "credit"
    assert world.pbus("topic", "rm", "gift/credit").err == (
        "pbus: gift/credit holds 0 jobs and 1 dead letters: --purge destroys them\n"
    )
    assert world.pbus("topic", "rm", "gift/credit", "--purge").status == 6
    assert world.pbus("topic", "rm", "gift/credit", "--purge", "--dry-run").status == 0
    removed = world.pbus("topic", "rm", "gift/credit", "--purge", "--yes")
    assert (removed.status, removed.err) == (0, "removed gift/credit with 0 jobs and 1 dead letters\n")
    assert [row["topic"] for row in world.pbus("topic", "ls", "gift", "-o", "json").rows("topics")] == ["push"]


def _without(lines: Sequence[str], table: str) -> Iterator[str]:
    """The TOML without that table and what is below it."""
    keep = True
    for line in lines:
        if line.startswith("["):
            keep = not line.startswith(table.removesuffix("]"))
        if keep:
            yield line


# -- somebody else --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["topic ls", "dead ls", "queue pause gift", "job retry 1-0", "queue purge mail"])
def test_store_of_another_user_is_77_and_not_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    write_config(tmp_path, QUEUES)
    world = World(tmp_path, capsys)
    with world.store():
        pass
    monkeypatch.setattr("os.access", lambda path, mode: False)    # as root may everything

    said = world.pbus(*words.split())

    assert said.status == 77
    assert "pbus: storage main: no permission to use" in said.err
    assert "run this as the user that runs the bus" in said.err


def test_bus_that_does_not_tell_its_state_is_not_said_to_be_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BootError("no permission to use status.sock", Exit.NO_PERMISSION)

    monkeypatch.setattr("pbus.supervisor.control.call", refuse)

    assert {row["state"] for row in world.pbus("topic", "ls", "-o", "json").rows("topics")} == {"unknown"}
    assert "no permission to use status.sock" in world.pbus("topic", "show", "gift/credit").out


# -- the store is away ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["topic ls", "queue ls", "system ls", "dead ls", "topic pause gift/credit", "job cancel 1-1",
              "queue export gift", "queue purge gift --yes", "dead retry gift/credit --all"]
)
def test_store_that_is_away_ends_a_command_with_69(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    write_config(tmp_path, f'[storage.main]\nurl = "redis://127.0.0.1:1/0"\n{QUEUES}')

    said = World(tmp_path, capsys).pbus(*words.split())

    assert said.status == 69
    assert said.err.startswith("pbus: storage main: ")
    assert not said.out or "-" in said.out, "what is configured is listed all the same"


def test_reading_command_makes_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, QUEUES)

    said = World(tmp_path, capsys).pbus("queue", "ls")

    assert said.status == 69
    assert "the first 'pbus start' makes it" in said.err
    assert not (tmp_path / "var").exists()
