"""job.push on a real bus: stored when it returns, in the trace of its job, by the rules of every producer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bus import free_port
from tests.support.shop import HANDLERS, OpenShop, Shop
from tests.support.waiting import until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def mail(**queue: Any) -> dict[str, Any]:
    """A second queue, whose handler notes what it gets."""
    return {"mail": {"topic": {"send": {"python": {"call": "push_jobs:record", "path": str(HANDLERS)}}}, **queue}}


def mailed(here: Shop, count: int) -> dict[str, str]:
    """Body -> traceparent of *count* jobs of mail, once nothing is left to do."""
    def all_of_them() -> bool:
        row = here.bus.topic("mail", "send")
        return bool(row["done_total"] >= count and not row["ready"] + row["running"] + row["delayed"])

    until(all_of_them, 15, lambda: f"{count} jobs of mail\n{here.bus.tail()}")
    lines = Path(f"{here.runs_file}.mail").read_text().splitlines()
    assert len(lines) == count
    return {body: trace for trace, body in (line.split(" ", 1) for line in lines)}


def test_a_child_is_in_the_trace_of_its_job(shop: OpenShop) -> None:
    here = shop(queues=mail())
    client = redis.Redis(port=here.bus.port)
    client.execute_command("PBUS.ADD", "gift", "push mail with", "TRACEPARENT", PARENT)
    client.lpush("gift", "push mail without")
    client.close()
    children = mailed(here, 2)
    trace = PARENT.split("-")[1]
    assert re.fullmatch(rf"00-{trace}-(?!b7ad6b7169203331)[0-9a-f]{{16}}-01", children["with"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", children["without"])
    assert trace not in children["without"]
    assert here.settled()["done_total"] == 2


def test_a_handler_pushes_where_producers_need_a_password(shop: OpenShop) -> None:
    here = shop(queues=mail(password="secret"))
    here.push("push mail x")
    here.settled()
    assert "pushed " in here.bus.topic_log("gift", "credit")
    assert list(mailed(here, 1)) == ["x"]


def test_threads_and_forked_processes_push_too(shop: OpenShop) -> None:
    here = shop(queues=mail())
    here.push("push-everywhere mail")
    assert sorted(mailed(here, 4)) == ["fork", "here", "thread", '{"from":"here again"}']
    assert here.settled()["failed_total"] == 0


def test_a_refusal_is_an_exception_that_says_why(shop: OpenShop) -> None:
    here = shop(queues={"mail": {"topic": {"send": {"pull": {}}}, "max_backlog": 1}})
    here.push("push-refused nowhere", "push-refused mail", "push-refused mail")
    here.settled()
    log = here.bus.topic_log("gift", "credit")
    assert "refused NOQUEUE False" in log
    assert "refused QUEUEFULL True" in log


def test_a_temporary_refusal_that_is_let_out_costs_no_attempt(shop: OpenShop) -> None:
    here = shop(queues={"mail": {"topic": {"send": {"pull": {}}}, "max_backlog": 1}}, retry={"attempts": 1})
    here.push_to("mail", "the queue is full")
    here.push("push mail x")
    until(lambda: len(here.runs()) >= 2, 10, "it is tried again")
    client = redis.Redis(port=here.bus.port)
    assert client.rpop("mail/send") == b"the queue is full"
    client.close()
    numbers = here.settled()
    assert (numbers["done_total"], numbers["dead"]) == (1, 0)
    assert {run.attempt for run in here.runs()} == {1}


def test_a_repeated_attempt_with_a_dedupe_key_pushes_once(shop: OpenShop) -> None:
    here = shop(call="push_jobs:push_then_die", queues=mail(), path=HANDLERS)
    here.push("x")
    assert here.settled()["done_total"] == 1
    assert list(mailed(here, 1)) == ["child"]


def test_pushes_go_on_when_the_door_was_replaced(shop: OpenShop) -> None:
    here = shop(queues=mail())
    here.push("push mail 1")
    here.settled()
    here.bus.kill("ingest")
    until(lambda: here.bus.pids("ingest"), 10, "the door is back")
    here.push("push mail 2")
    here.settled()
    assert sorted(mailed(here, 2)) == ["1", "2"]


@pytest.mark.parametrize("listen", ["unix", "any"])
def test_the_first_door_is_used_whatever_kind_it_is(shop: OpenShop, tmp_path: Path, listen: str) -> None:
    port = free_port()
    doors = [f"unix:{tmp_path}/{'long' * 30}/door", f"127.0.0.1:{port}"] if listen == "unix" else [f"0.0.0.0:{port}"]
    (tmp_path / ("long" * 30)).mkdir()
    here = shop(queues=mail(), listen=doors)
    here.push("push mail 1")
    assert list(mailed(here, 1)) == ["1"]


def test_the_token_is_neither_in_argv_nor_in_the_environment(shop: OpenShop) -> None:
    here = shop(queues=mail())
    here.push("push mail 1")
    here.settled()
    for pid in here.bus.pids("consumer"):
        seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"push:" not in seen
