"""redis-py. What each step does is said in foreign/steps.py; PBUS_PROTOCOL chooses RESP2."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

HOST, PORT, Q = os.environ["PBUS_HOST"], int(os.environ["PBUS_PORT"]), os.environ["PBUS_QUEUE"]
CUT_PORT = int(os.environ["PBUS_CUT_PORT"])
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VERSION = {"protocol": int(os.environ["PBUS_PROTOCOL"])} if "PBUS_PROTOCOL" in os.environ else {}


def client(port: int = PORT, **identity: str) -> redis.Redis:
    return redis.Redis(host=HOST, port=port, **VERSION, **identity)  # type: ignore[arg-type]


r = client()
pulled: list[str] = []


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def ask(what: str) -> None:
    say(ask=what)
    sys.stdin.readline()


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def shown(error: BaseException) -> dict[str, str]:
    return {"class": type(error).__name__, "text": str(error)}


def outcome(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        reply = call(*arguments, **named)
    except redis.RedisError as error:
        return shown(error)
    return reply.decode() if isinstance(reply, bytes) else reply


def connect() -> dict[str, Any]:
    info = r.client_info()
    return {
        "version": redis.__version__, "ping": "PONG" if r.ping() else "",
        "info": " ".join(f"{name}={value}" for name, value in info.items()),
    }


def push() -> dict[str, Any]:
    return {"reply": r.lpush(f"{Q}.bulk", *(f"push {index}" for index in range(97)), "", "花椒 ñ", b"\x00\xff\r\n")}


def push_typed() -> dict[str, Any]:
    options = {"dedupe": f"{Q} order 4711", "delay": 1, "ttl": 60000, "key": "k", "traceparent": TRACEPARENT}
    ids = [text(r.xadd(f"{Q}.bulk", {"body": "typed", **options})) for _ in range(2)]  # type: ignore[dict-item]
    return {"ids": ids, "plain": text(r.xadd(f"{Q}.bulk", {"body": "plain"}))}


def pipeline() -> dict[str, Any]:
    pipe = r.pipeline(transaction=False)
    for index in range(100):
        pipe.lpush(f"{Q}.bulk", f"pipe {index}")
    pipe.llen(f"{Q}.bulk")
    replies = pipe.execute()
    pipe.lpush(f"{Q}.bulk", "good 0").lpush("nope", "bad").lpush(f"{Q}.bulk", "good 1")
    refused = [shown(reply) if isinstance(reply, Exception) else reply for reply in pipe.execute(raise_on_error=False)]
    return {"replies": replies, "refused": refused}


def transaction() -> dict[str, Any]:
    pipe = r.pipeline()
    replies = pipe.lpush(f"{Q}.bulk", "both 0").lpush(f"{Q}.bulk", "both 1").llen(f"{Q}.bulk").execute()
    discarded, refused = (
        outcome(pipe.lpush(f"{Q}.bulk", "never").lpush(queue, "never").execute) for queue in ("nope", "full")
    )
    return {"replies": replies, "discarded": discarded, "refused": refused}


def pool() -> dict[str, Any]:
    mixed_up: list[str] = []
    pushed: list[int] = []

    def work(worker: int) -> None:
        for turn in range(25):
            own = f"pool {worker} {turn}"
            if r.echo(own) != own.encode():
                mixed_up.append(own)
            pushed.append(r.lpush(f"{Q}.bulk", own))

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(work, range(8)))
    return {"mixed_up": len(mixed_up), "pushed": len(pushed)}


def authenticate() -> dict[str, Any]:
    return {
        "user": client(username=f"{Q}.safe", password="pw").lpush(f"{Q}.safe", "safe 0"),
        "password": client(password=f"{Q}.safe:pw").lpush(f"{Q}.safe", "safe 1"),
        "topic": text(client(username=f"{Q}.safe/t", password="tpw").rpop(f"{Q}.safe/t")),
    }


def entries(reply: Any) -> list[dict[str, str]]:
    """What XREADGROUP answers: pairs with RESP2, a map with RESP3."""
    streams: Iterable[Any] = reply.items() if isinstance(reply, dict) else reply or []
    found = []
    for _, messages in streams:
        for message_id, fields in messages[0] if messages and isinstance(messages[0], list) else messages:
            found.append({"id": text(message_id), **{text(name): text(value) for name, value in fields.items()}})
    return found


def read(start: str = ">", **options: int) -> list[dict[str, str]]:
    return entries(r.xreadgroup("t", "me", {Q: start}, **options))


def pull() -> dict[str, Any]:
    r.lpush(Q, *(f"pull {index}" for index in range(4)))
    r.xadd(Q, {"body": "pull 4", "traceparent": TRACEPARENT})
    first, rest = read(count=3, block=2000), read()
    pulled.extend(entry["id"] for entry in first + rest)
    return {
        "first": first, "rest": rest, "nothing": len(read()), "waited": len(read(block=50)), "open": len(read("0")),
    }


def look() -> dict[str, Any]:
    listed = r.xpending_range(Q, "t", "-", "+", 10)
    found = {
        "pending": r.xpending(Q, "t")["pending"],
        "ids": [text(claim["message_id"]) for claim in listed], "consumer": text(listed[0]["consumer"]),
        "groups": [text(group["name"]) for group in r.xinfo_groups(Q)],
        "consumers": [text(consumer["name"]) for consumer in r.xinfo_consumers(Q, "t")],
        "last": text(r.xinfo_stream(Q)["last-entry"][0]),
        "bodies": [text(fields[b"body"]) for _, fields in r.xrange(Q, "-", "+", count=100)],
        "claimed": len(r.xautoclaim(Q, "t", "me", 0, "0-0")[1]),
    }
    return found | {"cancelled": r.xdel(Q, r.xadd(Q, {"body": "never", "delay": 60000}))}


def ack_elsewhere() -> dict[str, Any]:
    other = client()
    return {"acked": other.xack(Q, "t", *pulled), "again": other.xack(Q, "t", *pulled), "open": len(read("0"))}


def nack() -> dict[str, Any]:
    r.lpush(Q, "nack")
    (entry,) = read(block=2000)
    retried = r.execute_command("PBUS.NACK", Q, "t", entry["id"], "DELAY", 0, "REASON", "not today")
    (again,) = read(block=5000)
    dead = r.execute_command("PBUS.NACK", Q, "t", again["id"], "DEAD")
    counted = text(r.hgetall(f"{Q}/t")[b"dead"])
    return {"retried": retried, "attempt": again["attempt"], "dead": dead, "counted": counted}


def blocking_pop() -> dict[str, Any]:
    timer = threading.Timer(0.1, client().lpush, (Q, "wake"))
    timer.start()
    got = r.brpop([f"{Q}/t"], timeout=5)
    timer.join()
    return {"got": [text(part) for part in got or ()], "nothing": r.brpop([f"{Q}/t"], timeout=0.05) is None}


def no_entry(**identity: str) -> Any:
    """redis-py takes it for a lost connection and tries ten times again, so it is asked for meanwhile."""
    return outcome(client(**identity).lpush, f"{Q}.safe", "x")


def errors() -> dict[str, Any]:
    owner = client(username=f"{Q}.safe", password="pw")
    found = {
        "NOPERM": outcome(owner.xreadgroup, "t", "me", {f"{Q}.safe": ">"}),
        "NOQUEUE": outcome(r.lpush, "nope", "x"),
        "NOTOPIC": outcome(r.xreadgroup, "nope", "me", {Q: ">"}),
        "QUEUEFULL": outcome(r.lpush, "full", "x"),
        "TOOBIG": outcome(r.lpush, Q, "x" * 1048577),
        "BADVALUE": outcome(r.xadd, Q, {"body": "x", "delay": -1}),
        "BUSYGROUP": outcome(r.xgroup_create, Q, "t", "$"),
        "ERR": outcome(r.execute_command, "NOSUCH"),
    }
    ask("freeze")
    found |= {"MAYBESTORED": outcome(r.lpush, "away", "x"), "UNAVAILABLE": outcome(r.lpush, "away", "x")}
    ask("thaw")
    return found | {word: entry.result() for word, entry in refused.items()} | {"after": "PONG" if r.ping() else ""}


def unanswered() -> dict[str, Any]:
    cut = client(CUT_PORT)
    return {
        "plain": outcome(cut.lpush, f"{Q}.cut", f"CUT:{Q}:plain"),
        "dedupe": outcome(cut.xadd, f"{Q}.cut", {"body": f"CUT:{Q}:dedupe", "dedupe": f"{Q} cut"}),
    }


def reconnect() -> dict[str, Any]:
    def after(what: str) -> list[Any]:
        ask(what)
        outcomes: list[Any] = []
        while not outcomes or (not isinstance(outcomes[-1], int) and len(outcomes) < 40):
            time.sleep(0.1 if outcomes else 0)
            outcomes.append(outcome(r.lpush, f"{Q}.cut", "back"))
        return outcomes

    r.lpush(f"{Q}.cut", "before")
    return {"closed": after("close"), "restarted": after("restart")}


aside = ThreadPoolExecutor(2)
refused = {
    "NOAUTH": aside.submit(no_entry), "WRONGPASS": aside.submit(no_entry, username=f"{Q}.safe", password="no"),
}
for step in (
    connect, push, push_typed, pipeline, transaction, pool, authenticate, pull, look, ack_elsewhere, nack,
    blocking_pop, errors, unanswered, reconnect,
):
    name = step.__name__.replace("_", "-")
    try:
        say(step=name, got=step())
    except Exception as error:  # noqa: BLE001 - told to the harness, and the next step is tried
        say(step=name, failed=f"{type(error).__name__}: {error}")
