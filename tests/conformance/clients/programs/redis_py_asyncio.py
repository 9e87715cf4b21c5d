"""redis-py's asyncio client. What each step does is said in foreign/steps.py; PBUS_PROTOCOL chooses RESP2."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Iterable
from typing import Any

import redis
import redis.asyncio

HOST, PORT, Q = os.environ["PBUS_HOST"], int(os.environ["PBUS_PORT"]), os.environ["PBUS_QUEUE"]
CUT_PORT = int(os.environ["PBUS_CUT_PORT"])
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VERSION = {"protocol": int(os.environ["PBUS_PROTOCOL"])} if "PBUS_PROTOCOL" in os.environ else {}


def client(port: int = PORT, **identity: str) -> Any:
    return redis.asyncio.Redis(host=HOST, port=port, **VERSION, **identity)  # type: ignore[arg-type]


r = client()
pulled: list[str] = []
refused: asyncio.Task[dict[str, Any]]


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def ask(what: str) -> None:
    say(ask=what)
    await asyncio.to_thread(sys.stdin.readline)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def shown(error: BaseException) -> dict[str, str]:
    return {"class": type(error).__name__, "text": str(error)}


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        reply = await call
    except redis.RedisError as error:
        return shown(error)
    return reply.decode() if isinstance(reply, bytes) else reply


async def connect() -> dict[str, Any]:
    info = await r.client_info()
    return {
        "version": redis.__version__, "ping": "PONG" if await r.ping() else "",
        "info": " ".join(f"{name}={value}" for name, value in info.items()),
    }


async def push() -> dict[str, Any]:
    bodies = [*(f"push {index}" for index in range(97)), "", "花椒 ñ", b"\x00\xff\r\n"]
    return {"reply": await r.lpush(f"{Q}.bulk", *bodies)}


async def push_typed() -> dict[str, Any]:
    options = {"dedupe": f"{Q} order 4711", "delay": 1, "ttl": 60000, "key": "k", "traceparent": TRACEPARENT}
    ids = [text(await r.xadd(f"{Q}.bulk", {"body": "typed", **options})) for _ in range(2)]
    return {"ids": ids, "plain": text(await r.xadd(f"{Q}.bulk", {"body": "plain"}))}


async def pipeline() -> dict[str, Any]:
    async with r.pipeline(transaction=False) as pipe:
        for index in range(100):
            pipe.lpush(f"{Q}.bulk", f"pipe {index}")
        pipe.llen(f"{Q}.bulk")
        replies = await pipe.execute()
        pipe.lpush(f"{Q}.bulk", "good 0").lpush("nope", "bad").lpush(f"{Q}.bulk", "good 1")
        refused = await pipe.execute(raise_on_error=False)
    return {"replies": replies, "refused": [shown(one) if isinstance(one, Exception) else one for one in refused]}


async def transaction() -> dict[str, Any]:
    async with r.pipeline() as pipe:
        replies = await pipe.lpush(f"{Q}.bulk", "both 0").lpush(f"{Q}.bulk", "both 1").llen(f"{Q}.bulk").execute()
        discarded, refused = [
            await outcome(pipe.lpush(f"{Q}.bulk", "never").lpush(queue, "never").execute())
            for queue in ("nope", "full")
        ]
    return {"replies": replies, "discarded": discarded, "refused": refused}


async def pool() -> dict[str, Any]:
    mixed_up: list[str] = []
    pushed: list[int] = []

    async def work(worker: int) -> None:
        for turn in range(25):
            own = f"pool {worker} {turn}"
            if await r.echo(own) != own.encode():
                mixed_up.append(own)
            pushed.append(await r.lpush(f"{Q}.bulk", own))

    await asyncio.gather(*(work(worker) for worker in range(8)))
    return {"mixed_up": len(mixed_up), "pushed": len(pushed)}


async def authenticate() -> dict[str, Any]:
    async with (
        client(username=f"{Q}.safe", password="pw") as user, client(password=f"{Q}.safe:pw") as alone,
        client(username=f"{Q}.safe/t", password="tpw") as topic,
    ):
        first, second = await user.lpush(f"{Q}.safe", "safe 0"), await alone.lpush(f"{Q}.safe", "safe 1")
        return {"user": first, "password": second, "topic": text(await topic.rpop(f"{Q}.safe/t"))}


def entries(reply: Any) -> list[dict[str, str]]:
    """What XREADGROUP answers: pairs with RESP2, a map with RESP3."""
    streams: Iterable[Any] = reply.items() if isinstance(reply, dict) else reply or []
    found = []
    for _, messages in streams:
        for message_id, fields in messages[0] if messages and isinstance(messages[0], list) else messages:
            found.append({"id": text(message_id), **{text(name): text(value) for name, value in fields.items()}})
    return found


async def read(start: str = ">", **options: int) -> list[dict[str, str]]:
    return entries(await r.xreadgroup("t", "me", {Q: start}, **options))


async def pull() -> dict[str, Any]:
    await r.lpush(Q, *(f"pull {index}" for index in range(4)))
    await r.xadd(Q, {"body": "pull 4", "traceparent": TRACEPARENT})
    first, rest = await read(count=3, block=2000), await read()
    pulled.extend(entry["id"] for entry in first + rest)
    nothing, waited, still = await read(), await read(block=50), await read("0")
    return {"first": first, "rest": rest, "nothing": len(nothing), "waited": len(waited), "open": len(still)}


async def look() -> dict[str, Any]:
    listed = await r.xpending_range(Q, "t", "-", "+", 10)
    found = {
        "pending": (await r.xpending(Q, "t"))["pending"],
        "ids": [text(claim["message_id"]) for claim in listed], "consumer": text(listed[0]["consumer"]),
        "groups": [text(group["name"]) for group in await r.xinfo_groups(Q)],
        "consumers": [text(consumer["name"]) for consumer in await r.xinfo_consumers(Q, "t")],
        "last": text((await r.xinfo_stream(Q))["last-entry"][0]),
        "bodies": [text(fields[b"body"]) for _, fields in await r.xrange(Q, "-", "+", count=100)],
        "claimed": len((await r.xautoclaim(Q, "t", "me", 0, "0-0"))[1]),
    }
    return found | {"cancelled": await r.xdel(Q, await r.xadd(Q, {"body": "never", "delay": 60000}))}


async def ack_elsewhere() -> dict[str, Any]:
    async with client() as other:
        acked, again = await other.xack(Q, "t", *pulled), await other.xack(Q, "t", *pulled)
    return {"acked": acked, "again": again, "open": len(await read("0"))}


async def nack() -> dict[str, Any]:
    await r.lpush(Q, "nack")
    (entry,) = await read(block=2000)
    retried = await r.execute_command("PBUS.NACK", Q, "t", entry["id"], "DELAY", 0, "REASON", "not today")
    (again,) = await read(block=5000)
    dead = await r.execute_command("PBUS.NACK", Q, "t", again["id"], "DEAD")
    counted = text((await r.hgetall(f"{Q}/t"))[b"dead"])
    return {"retried": retried, "attempt": again["attempt"], "dead": dead, "counted": counted}


async def blocking_pop() -> dict[str, Any]:
    async def wake() -> None:
        await asyncio.sleep(0.1)
        await r.lpush(Q, "wake")

    got, _ = await asyncio.gather(r.brpop([f"{Q}/t"], timeout=5), wake())
    nothing = await r.brpop([f"{Q}/t"], timeout=0.05)
    return {"got": [text(part) for part in got or ()], "nothing": nothing is None}


async def no_entry() -> dict[str, Any]:
    """redis-py takes both for a lost connection and tries ten times again, so they are asked for meanwhile."""
    async with client() as stranger, client(username=f"{Q}.safe", password="no") as nobody:
        calls = (stranger.lpush(f"{Q}.safe", "x"), nobody.lpush(f"{Q}.safe", "x"))
        first, second = await asyncio.gather(*(outcome(call) for call in calls))
    return {"NOAUTH": first, "WRONGPASS": second}


async def errors() -> dict[str, Any]:
    owner = client(username=f"{Q}.safe", password="pw")
    found = {
        "NOPERM": await outcome(owner.xreadgroup("t", "me", {f"{Q}.safe": ">"})),
        "NOQUEUE": await outcome(r.lpush("nope", "x")),
        "NOTOPIC": await outcome(r.xreadgroup("nope", "me", {Q: ">"})),
        "QUEUEFULL": await outcome(r.lpush("full", "x")),
        "TOOBIG": await outcome(r.lpush(Q, "x" * 1048577)),
        "BADVALUE": await outcome(r.xadd(Q, {"body": "x", "delay": -1})),
        "BUSYGROUP": await outcome(r.xgroup_create(Q, "t", "$")),
        "ERR": await outcome(r.execute_command("NOSUCH")),
    }
    await owner.aclose()
    await ask("freeze")
    found["MAYBESTORED"] = await outcome(r.lpush("away", "x"))
    found["UNAVAILABLE"] = await outcome(r.lpush("away", "x"))
    await ask("thaw")
    return found | await refused | {"after": "PONG" if await r.ping() else ""}


async def unanswered() -> dict[str, Any]:
    async with client(CUT_PORT) as cut:
        return {
            "plain": await outcome(cut.lpush(f"{Q}.cut", f"CUT:{Q}:plain")),
            "dedupe": await outcome(cut.xadd(f"{Q}.cut", {"body": f"CUT:{Q}:dedupe", "dedupe": f"{Q} cut"})),
        }


async def reconnect() -> dict[str, Any]:
    async def after(what: str) -> list[Any]:
        await ask(what)
        outcomes: list[Any] = []
        while not outcomes or (not isinstance(outcomes[-1], int) and len(outcomes) < 40):
            await asyncio.sleep(0.1 if outcomes else 0)
            outcomes.append(await outcome(r.lpush(f"{Q}.cut", "back")))
        return outcomes

    await r.lpush(f"{Q}.cut", "before")
    return {"closed": await after("close"), "restarted": await after("restart")}


async def main() -> None:
    global refused
    refused = asyncio.create_task(no_entry())
    for step in (
        connect, push, push_typed, pipeline, transaction, pool, authenticate, pull, look, ack_elsewhere, nack,
        blocking_pop, errors, unanswered, reconnect,
    ):
        name = step.__name__.replace("_", "-")
        try:
            say(step=name, got=await step())
        except Exception as error:  # noqa: BLE001 - told to the harness, and the next step is tried
            say(step=name, failed=f"{type(error).__name__}: {error}")
    await r.aclose()


asyncio.run(main())
