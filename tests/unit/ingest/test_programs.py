"""Programs under a token: what they took is theirs until it is over, nothing they never got is taken for done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gevent
import pytest

from pbus.core import tokens
from pbus.core.job import Delivery, Move, Push
from pbus.core.names import Owner
from pbus.errors import Unavailable
from pbus.storage.driver import Want
from pbus.supervisor.handed import Handed
from pbus.supervisor.scoreboard import Slot
from tests.unit.ingest.door import KEY, Client, Door, encode

TOPIC = "php/credit"
HOW = (
    "BADVALUE PBUS.SETTLE takes one of done, failed, crashed, timeout, stopped, and a reason: nothing settled"
)


class Program:
    """A program as the old SDK makes one: a connection a command, all under one token."""

    def __init__(self, door: Door, path: str = TOPIC, n: int = 7) -> None:
        self.door = door
        self.path = path
        self.owner: Owner
        self.slot: Slot
        self.owner, self.slot = door.process(path, n)
        self.token = tokens.make(KEY, tokens.PEPPER, self.owner, path)

    def connect(self, family: str = "unix") -> Client:
        client = self.door.client() if family == "unix" else self.door.tcp_client()
        assert client.ask("AUTH", f"{self.path}:{self.token}") == "OK"
        return client

    def pop(self) -> Any:
        """The job of one RPOP, None for nil, the error as text."""
        client = self.connect()
        answer = client.ask("RPOP", self.path)
        client.close()
        self.door.until(lambda: not self.door.store.holder._returned)
        if answer is None or not answer.startswith("{"):
            return answer
        (job,) = json.loads(answer)["jobs"]
        return job

    def give_back(self, job: dict[str, Any]) -> Any:
        client = self.connect()
        answer = json.loads(client.ask("LPUSH", self.path, json.dumps({"jobs": [job], "retrying": True})))
        client.close()
        return answer

    def settle(self, *words: str) -> Any:
        client = self.connect()
        answer = client.ask("PBUS.SETTLE", *words)
        client.close()
        return answer


@pytest.fixture
def program(door: Door) -> Program:
    return Program(door)


def push(client: Client, *bodies: str) -> None:
    client.ask("LPUSH", "php", *bodies)


def test_pop_is_the_old_contract_and_a_claim_of_the_process(door: Door, client: Client, program: Program) -> None:
    push(client, "a")

    job = program.pop()

    assert (job["id"], job["content"], job["retrying"], job["RetryTimes"]) == ("1000-1", "a", False, 1)
    assert door.driver.owners_of["php", "credit", "1000-1"] == str(program.owner)
    assert door.driver.settled == [], "it is held, not done"


def test_next_pop_on_another_connection_settles_the_one_before(door: Door, client: Client, program: Program) -> None:
    push(client, "a", "b")
    program.pop()

    assert program.pop()["content"] == "b"

    assert door.driver.settled == [(Move.ACK, "1000-1")]
    assert door.driver.owners_of["php", "credit", "1000-2"] == str(program.owner)


def test_job_handed_out_by_an_ingest_child_that_is_gone_is_found(
    door: Door, client: Client, program: Program
) -> None:
    push(client, "a", "b")
    program.pop()
    door.store.holder._given.clear()                  # all that another child would not know
    assert Handed(door.child.run_dir).read(program.owner) is not None

    assert program.pop()["content"] == "b"

    assert door.driver.settled == [(Move.ACK, "1000-1")]


def test_claim_that_no_child_handed_over_goes_back(door: Door, client: Client, program: Program) -> None:
    """An ingest child was killed between its claim and its reply."""
    push(client, "a")
    door.driver.claim([Want(str(program.owner), "php", "credit", 1)])

    assert program.pop()["content"] == "a"

    assert door.driver.settled == [(Move.RELEASE, "1000-1")]
    assert door.driver.settlements[0].redelivered


def test_claim_of_a_dead_child_that_lands_while_the_program_waits_comes_to_it(
    door: Door, client: Client, program: Program
) -> None:
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.driver.wants)
    _, other = door.process("", n=50)
    push_unheard(door, "a")
    door.driver.claim([Want(str(program.owner), "php", "credit", 1)])
    door.clock.ahead_s += 60                          # nobody has died for long
    door.store._see_deaths()
    assert waiting.silent()

    door.child.scoreboard.bury(other, -9)
    door.store._see_deaths()

    assert json.loads(waiting.read(1.0))["jobs"][0]["content"] == "a"
    assert door.driver.settled == [(Move.RELEASE, "1000-1")]


def test_doubt_settles_nothing_that_was_handed_over(door: Door, client: Client, program: Program) -> None:
    """The program has got a job by another child while its first command still waits here."""
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.driver.wants)
    push_unheard(door, "a")
    door.driver.claim([Want(str(program.owner), "php", "credit", 1)])
    Handed(door.child.run_dir).give(program.owner, "1000-1", door.clock.monotonic_s())

    door.store.holder.doubt()

    assert waiting.silent()
    assert door.driver.settled == []


def push_unheard(door: Door, body: str) -> None:
    """A push whose bell nobody hears."""
    bells, door.driver.bells = door.driver.bells, []
    door.driver.append("other", 1, [Push("php", body.encode())])
    door.driver.bells = bells


def test_job_is_settled_although_its_row_cannot_be_written(door: Door, client: Client, program: Program) -> None:
    door.store.holder._handed = Handed("/nowhere")
    push(client, "a", "b")
    program.pop()

    assert program.pop()["content"] == "b"

    assert door.driver.settled == [(Move.ACK, "1000-1")]


def test_nil_comes_after_ten_seconds(door: Door, program: Program) -> None:
    client = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._waiting)
    assert client.silent()

    door.clock.ahead_s += 9.0
    door.store.holder.look()
    assert client.silent()
    door.clock.ahead_s += 1.1
    door.store.holder.look()

    assert client.read() is None


def test_waiting_program_is_woken_by_a_push(door: Door, client: Client, program: Program) -> None:
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.driver.wants)
    assert waiting.silent()

    push(client, "a")

    assert json.loads(waiting.read(1.0))["jobs"][0]["content"] == "a"


def test_one_claim_call_serves_all_who_wait_the_longest_waiting_first(door: Door, client: Client) -> None:
    programs = [Program(door, "php/many", n) for n in (3, 4, 5)]
    waiting = []
    for each in programs:
        waiting.append(each.connect().command("RPOP", "php/many"))
        door.until(lambda: len(door.store.holder._waiting) == len(waiting) and not door.store.holder._busy)
    door.driver.wants.clear()

    push(client, "a", "b")

    assert [json.loads(each.read())["jobs"][0]["content"] for each in waiting[:2]] == ["a", "b"]
    assert waiting[2].silent()
    assert [want.owner for want in door.driver.wants[:3]] == [str(each.owner) for each in programs]


def test_topic_of_one_process_is_claimed_for_one_owner_only(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    program.pop()
    Program(door, "php/many", 9).pop()

    assert [want.exclusive for want in door.driver.wants] == [True, False]


def test_job_that_was_pushed_back_is_tried_again_by_the_policy(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    job = program.pop()

    answer = program.give_back(job)

    assert (answer["jobs"], answer["error"]) == (["1000-1"], "")
    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.counts, settlement.delay_s) == (Move.RETRY, True, 1.0)
    assert len(door.driver.appends) == 1, "nothing new was pushed"


def test_job_that_was_pushed_back_too_often_is_a_dead_letter(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    door.driver.attempts["php", "credit", "1000-1"] = 2
    door.driver.first_ms["php", "credit", "1000-1"] = int(door.clock.wall_s() * 1000)
    job = program.pop()
    assert (job["RetryTimes"], job["retrying"]) == (3, True)

    program.give_back(job)

    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.reason) == (Move.BURY, "failed")
    assert settlement.error == "attempt 3 of 3 failed: the program pushed it back"
    assert settlement.fingerprint


def test_age_of_the_first_attempt_counts(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    door.driver.attempts["php", "credit", "1000-1"] = 1
    door.driver.first_ms["php", "credit", "1000-1"] = int((door.clock.wall_s() - 90_000) * 1000)

    program.give_back(program.pop())

    assert door.driver.settlements[0].move is Move.BURY


def test_job_that_is_not_held_cannot_be_pushed_back(door: Door, client: Client, program: Program) -> None:
    push(client, "a", "b")
    first = program.pop()
    program.pop()                                     # the first one is done by that

    answer = program.give_back(first)

    assert answer["jobs"] is None
    assert answer["error"] == "BADVALUE this program does not hold job 1000-1 (any more): not stored"
    assert door.driver.settled == [(Move.ACK, "1000-1")]


@pytest.mark.parametrize(
    "body", ["", "x", "{}", "[]", '{"jobs":[]}', '{"jobs":null}', '{"jobs":[{"id":1}]}', '{"jobs":[{"id":"1"}]}',
             '{"jobs":[{"id":"1-1"},{"id":"1-2"}]}', "[" * 10_000, "\udcff"]
)
def test_what_was_never_popped_cannot_be_pushed_back(door: Door, program: Program, body: str) -> None:
    client = program.connect()

    raw = body.encode("utf-8", "surrogateescape")
    answer = json.loads(client.command("LPUSH", TOPIC, raw).read())

    assert answer["jobs"] is None
    assert answer["error"] == "BADVALUE php/credit takes back what it handed out: not stored"
    assert door.driver.appends == []


def test_replies_keep_their_order_around_a_job_that_is_pushed_back(
    door: Door, client: Client, program: Program
) -> None:
    push(client, "a")
    job = program.pop()
    reply = json.dumps({"jobs": [job], "retrying": True})

    own = program.connect()
    own.send(
        encode("LPUSH", "gift", "x") + encode("LPUSH", TOPIC, reply) + encode("LPUSH", "gift", "y") + encode("PING")
    )

    first, second, third, fourth = (own.read() for _ in range(4))
    assert (first, third, fourth) == (2, 2, "PONG")
    assert json.loads(second)["jobs"] == ["1000-1"]


@pytest.mark.parametrize(
    ("how", "move", "reason"),
    [("done", Move.ACK, ""), ("failed", Move.RETRY, "failed"), ("crashed", Move.RETRY, "crashed"),
     ("TIMEOUT", Move.RETRY, "timeout"), ("stopped", Move.RELEASE, "")],
)
def test_end_of_the_program_settles_what_it_held(
    door: Door, client: Client, program: Program, how: str, move: Move, reason: str
) -> None:
    push(client, "a")
    program.pop()

    assert program.settle(how, "exit status 255: Uncaught Error") == 1

    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.reason) == (move, reason)
    assert settlement.crash is (how == "crashed")
    assert settlement.counts is (move is Move.RETRY)
    assert settlement.redelivered is (how != "done")
    assert settlement.error == ("" if how in ("done", "stopped") else "exit status 255: Uncaught Error")
    assert program.settle(how) == 0


def test_end_of_the_program_ends_what_it_waited_for(door: Door, client: Client, program: Program) -> None:
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._waiting)

    assert program.settle("done") == 0

    assert waiting.read() is None
    push(client, "a")
    assert waiting.silent()
    assert door.driver.owners_of == {}


def test_claim_on_its_way_to_a_program_that_has_ended_goes_back(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    door.driver.claim_go.clear()
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._busy)

    assert program.settle("crashed", "signal 11") == 0
    door.driver.claim_go.set()

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])
    assert waiting.read() is None


def test_claim_that_was_not_handed_over_is_no_failure_of_the_program(
    door: Door, client: Client, program: Program
) -> None:
    push(client, "a")
    door.driver.claim([Want(str(program.owner), "php", "credit", 1)])

    assert program.settle("crashed", "signal 11") == 1

    (settlement,) = door.driver.settlements
    assert (settlement.move, settlement.crash, settlement.counts) == (Move.RELEASE, False, False)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("PBUS.SETTLE", "well"), HOW),
        (("PBUS.SETTLE", "done", "a", "b"), HOW),
        (("PBUS.SETTLE",), "ERR wrong number of arguments for 'pbus.settle' command"),
        (("RPOP", TOPIC, "2"), "BADVALUE a program takes one job at a time, without a count: nothing taken"),
        (("RPOP", "php/many"), "NOPERM the token of php/credit is not for php/many: nothing taken"),
        (("RPOP", "gift/credit"), "NOPERM the token of php/credit is not for gift/credit: nothing taken"),
        (("RPOP", "php/nope"), "NOTOPIC there is no topic 'php/nope': nothing taken"),
        (("BRPOP", TOPIC, "1"), "BADVALUE php/credit has a handler; only topics with pull are taken from: "
                                "nothing taken"),
    ],
)
def test_refusal_of_a_program(program: Program, words: tuple[str, ...], wanted: str) -> None:
    client = program.connect()

    assert client.ask(*words) == wanted
    assert client.ask("PING") == "PONG"


def test_settle_is_for_tokens(client: Client) -> None:
    assert client.ask("PBUS.SETTLE", "done") == (
        "NOPERM PBUS.SETTLE is for the process of a program, by its token: nothing settled"
    )


def test_process_of_another_handler_takes_nothing_by_its_token(door: Door) -> None:
    program = Program(door, "php/lines")

    assert program.pop() == (
        "NOPERM the handler of php/lines is no program that takes jobs by a token: nothing taken"
    )


def test_program_whose_client_goes_takes_nothing_along(door: Door, client: Client, program: Program) -> None:
    waiting = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._waiting)
    waiting.close()
    door.until(lambda: not door.store.holder._waiting, "the end of file is noticed")

    push(client, "a")

    assert program.pop()["content"] == "a"
    assert door.driver.settled == []


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_job_goes_back_when_its_taker_is_gone_before_the_reply(
    door: Door, client: Client, program: Program, family: str
) -> None:
    push(client, "a")
    door.driver.claim_go.clear()
    waiting = program.connect(family).command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._busy)
    waiting.close()
    door.driver.claim_go.set()                        # in the same turn: nobody has seen the end of file

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])

    assert program.pop()["content"] == "a"


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_job_that_was_never_read_goes_back(door: Door, client: Client, program: Program, family: str) -> None:
    push(client, "a")
    waiting = program.connect(family).command("RPOP", TOPIC)
    door.until(lambda: Handed(door.child.run_dir).read(program.owner) is not None, "the kernel has the reply")

    waiting.close()                                   # with the reply in its socket

    door.until(lambda: door.driver.settled == [(Move.RELEASE, "1000-1")])
    assert Handed(door.child.run_dir).read(program.owner) is None


def test_job_that_may_not_run_twice_is_unknown_when_its_reply_was_not_read(door: Door, client: Client) -> None:
    program = Program(door, "php/once")
    push(client, "a")
    waiting = program.connect().command("RPOP", "php/once")
    door.until(lambda: Handed(door.child.run_dir).read(program.owner) is not None)

    waiting.close()

    door.until(lambda: door.driver.settled == [(Move.BURY, "1000-1")])
    assert door.driver.settlements[0].reason == "unknown"


def test_job_that_may_not_run_twice_is_unknown_when_it_was_maybe_handed_over(door: Door, client: Client) -> None:
    program = Program(door, "php/once")
    push(client, "a", "b")
    door.driver.claim([Want(str(program.owner), "php", "once", 1)])

    assert program.pop()["content"] == "b"

    assert door.driver.settled == [(Move.BURY, "1000-1")]


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_job_that_was_read_is_kept_by_a_client_that_says_goodbye_and_does_not_listen(
    door: Door, client: Client, program: Program, family: str
) -> None:
    push(client, "a")
    own = program.connect(family)
    own.ask("RPOP", TOPIC)
    own.command("PING")
    own.close()

    door.until(lambda: len(door.server.connections) == 1)
    assert door.driver.settled == []
    assert not door.store.holder._returned


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_job_that_was_read_stays_when_its_connection_goes(
    door: Door, client: Client, program: Program, family: str
) -> None:
    push(client, "a")
    own = program.connect(family)

    own.ask("RPOP", TOPIC)
    own.close()

    gevent.sleep(0.02)
    assert door.driver.settled == []


def test_second_pop_of_a_process_ends_its_first(door: Door, client: Client, program: Program) -> None:
    first = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._waiting)
    second = program.connect().command("RPOP", TOPIC)

    assert first.read() is None
    push(client, "a")

    assert json.loads(second.read())["jobs"][0]["content"] == "a"


def test_pop_while_the_store_is_away_says_so_at_its_end(door: Door, program: Program) -> None:
    door.driver.fail = Unavailable("gone")
    client = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.away)
    door.clock.ahead_s += 11
    door.store.holder.look()

    assert client.read() == "UNAVAILABLE the store 'main' is away (gone): nothing taken, try again in 1 s"


def test_settle_while_the_store_is_away_can_be_repeated(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    program.pop()
    door.driver.fail = Unavailable("gone")

    assert program.settle("done") == "UNAVAILABLE gone: nothing is known, try again in 1 s"

    door.driver.fail = None
    door.until(lambda: not door.store.away)
    assert program.settle("done") == 1


def test_push_back_while_the_store_is_away_says_so(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    job = program.pop()
    door.driver.fail = Unavailable("gone")

    assert program.give_back(job)["error"] == "UNAVAILABLE gone: not stored, try again in 1 s"


def test_claim_whose_answer_was_lost_goes_back_and_comes_again(door: Door, client: Client, program: Program) -> None:
    push(client, "a", "b")
    claim = door.driver.claim

    def cut(wants: Sequence[Want]) -> list[Delivery]:
        door.driver.claim = claim                     # type: ignore[method-assign]
        claim(wants)
        raise Unavailable("gone after it was done")

    door.driver.claim = cut                           # type: ignore[method-assign]

    assert program.pop()["content"] == "a"
    assert door.driver.settled == [(Move.RELEASE, "1000-1")]


def test_token_of_a_dead_process_takes_nothing(door: Door, client: Client, program: Program) -> None:
    own = program.connect()
    door.child.scoreboard.bury(program.slot, -9)
    push(client, "a")

    assert own.ask("RPOP", TOPIC) == "WRONGPASS the process of this token is gone: nothing is done"
    assert own.ask("PBUS.SETTLE", "done") == "WRONGPASS the process of this token is gone: nothing is done"
    assert own.ask("LPUSH", TOPIC, "x") == "WRONGPASS the process of this token is gone: not stored"


def test_draining_door_leaves_a_living_program_its_connection(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    program.pop()
    own = program.connect()
    door.server.drain()

    assert not door.server.idle
    assert own.ask("PBUS.SETTLE", "done") == 1
    own.close()
    door.until(lambda: door.server.idle)


def test_draining_door_answers_who_waits(door: Door, program: Program) -> None:
    own = program.connect().command("RPOP", TOPIC)
    door.until(lambda: door.store.holder._waiting)

    door.server.drain()

    assert own.read() is None
    assert own.ask("RPOP", TOPIC) is None


def test_draining_door_closes_the_connection_of_a_dead_program(door: Door, program: Program) -> None:
    program.connect()
    door.child.scoreboard.bury(program.slot, 0)
    door.server.drain()

    door.until(lambda: door.server.idle)


def test_program_that_takes_too_long_is_ended_by_the_master(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    program.pop()
    door.clock.ahead_s += 4
    door.store._overdue.look()
    assert ("kill", {"owner": str(program.owner)}) not in door.child.told

    door.clock.ahead_s += 2
    door.store._overdue.look()
    door.store._overdue.look()

    assert door.child.told.count(("kill", {"owner": str(program.owner)})) == 1


def test_program_without_a_job_is_never_overdue(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    job = program.pop()
    program.give_back(job)
    Handed(door.child.run_dir).give(program.owner, job["id"], 0.0)   # a row that nobody cleared

    door.clock.ahead_s += 100
    door.store._overdue.look()

    assert not [kind for kind, _ in door.child.told if kind == "kill"]


def test_one_child_of_several_looks_for_overdue_programs(door: Door, client: Client, program: Program) -> None:
    other = Owner("node", "boot", 5, 99)
    door.child.owner = other
    push(client, "a")
    program.pop()
    door.clock.ahead_s += 100

    door.store._overdue.look()

    assert not [kind for kind, _ in door.child.told if kind == "kill"]


def test_what_was_done_is_told_to_the_master(door: Door, client: Client, program: Program) -> None:
    push(client, "a", "b")
    client.ask("LPUSH", "gift", "x", "y")
    client.ask("RPOP", "gift/credit", "2")
    program.pop()
    door.clock.ahead_s += 2
    program.pop()
    door.until(lambda: len(door.driver.settled) == 3)

    door.store._account.tell()

    topics: dict[str, dict[str, float]] = {}
    for kind, fields in door.child.told:
        if kind == "work":
            for path, work in fields["topics"].items():
                topics.setdefault(path, {"done": 0, "run_s_sum": 0.0})
                topics[path] = {name: topics[path][name] + work[name] for name in work}
    assert topics["gift/credit"]["done"] == 2
    assert topics["php/credit"]["done"] == 1
    assert 1.9 < topics["php/credit"]["run_s_sum"] < 3
    counted = door.child.histograms.read()
    popped, run = counted["gift", "credit"], counted["php", "credit"]
    assert (popped.done, sum(popped.wait), sum(popped.run), popped.bytes) == (2, 2, 0, 2)
    assert (run.done, sum(run.run)) == (1, 1)
    assert 1.9 < run.run_s < 3


def test_end_of_an_attempt_is_published_while_somebody_follows(door: Door, client: Client, program: Program) -> None:
    push(client, "a")
    door.child.watched = True
    program.pop()
    program.settle("failed", "no such user")

    (event,) = door.child.published
    assert (event["event"], event["id"], event["topic"], event["error"]) == (
        "job.retry", "1000-1", "credit", "no such user"
    )
