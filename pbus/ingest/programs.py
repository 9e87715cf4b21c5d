"""
What programs say that run under a token: RPOP, LPUSH of what they popped, PBUS.SETTLE.

    RPOP queue/topic              the one it held is done; the next one as {"jobs":[{job}]}, nil after ten seconds
    LPUSH queue/topic REPLY       the job of that reply failed: tried again by the topic's ``retry``
    PBUS.SETTLE how [reason]      by the process that runs the program, when it has ended

Rule: a token is for one topic; the forms are those of the old contract, whatever the queue's ``pepper`` says.
Source: docs/handlers.md, section Pepperbus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import gevent

from pbus.codec import pepper
from pbus.codec.resp_reply import bulk, error, integer
from pbus.core.job import Delivery
from pbus.core.names import JOB_ID
from pbus.core.outcome import Verdict
from pbus.errors import StorageError
from pbus.ingest.access import TopicEntry
from pbus.ingest.holder import NIL_AFTER_S, TokenPop
from pbus.ingest.sent import HandedOver
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.committer import Ticket
    from pbus.ingest.connection import Connection

HOW: Final = {
    b"done": Verdict.DONE, b"failed": Verdict.FAILED, b"crashed": Verdict.CRASHED, b"timeout": Verdict.TIMEOUT,
    b"stopped": Verdict.UNSURE,
}
"""How a program may have ended, as PBUS.SETTLE says it; ``stopped``: by pbus itself, in the middle of a job."""
PUSHED_BACK: Final = "the program pushed it back"


def pop(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``RPOP queue/topic`` under a token."""
    topic = topic_of(connection, arguments[1])
    if isinstance(topic, str):
        return error(f"{topic}: nothing taken")
    if len(arguments) > 2:
        return error("BADVALUE a program takes one job at a time, without a count: nothing taken")
    server, owner = connection.server, connection.access.owner
    if owner is None:
        return error("NOPERM no token, no job: nothing taken")
    connection.wait()
    wanted = TokenPop(connection, topic, owner, server.clock.monotonic_s() + NIL_AFTER_S)
    connection.pop = wanted
    server.holder(topic).add(wanted)
    return None


def hand_over(connection: Connection, over: TokenPop) -> None:
    """The reply with its job; what never reaches the program goes back."""
    topic, delivery = over.topics[0], over.got[0]
    handed = HandedOver(connection.server.holder(topic), delivery, topic)
    connection.reply(bulk(popped(connection, over.got)), handed, handed)


def popped(connection: Connection, got: Sequence[Delivery]) -> bytes:
    """Jobs as the old contract hands them out."""
    topics = connection.server.directory.queues[got[0].queue].topics
    now_s = connection.server.clock.wall_s()
    return pepper.popped_json([pepper.job_object(each, topics[each.topic].retry, now_s) for each in got])


def is_push_back(connection: Connection, arguments: list[bytes]) -> bool:
    """Whether a push is one of what a program popped."""
    access = connection.access
    return access.kind == "pepper" and arguments[1] == access.name.encode()


def push_back(connection: Connection, arguments: list[bytes]) -> None:
    """``LPUSH queue/topic`` of what was popped."""
    access = connection.access
    trace = os.urandom(16).hex()
    topic = topic_of(connection, arguments[1])
    job_id = _job_id(arguments[2]) if len(arguments) == 3 else ""
    if isinstance(topic, str) or not job_id or access.owner is None:
        what = topic if isinstance(topic, str) else f"BADVALUE {shown(arguments[1])} takes back what it handed out"
        connection.refuse(bulk(pepper.pushed_json(None, trace, f"{what}: not stored")))
        return
    gevent.spawn(_give_back, connection, connection.promise(), topic, job_id, trace)


def _give_back(connection: Connection, ticket: Ticket, topic: TopicEntry, job_id: str, trace: str) -> None:
    owner = connection.access.owner
    try:
        ours = owner is not None and connection.server.holder(topic).again(owner, topic, job_id, PUSHED_BACK)
        text = "" if ours else f"BADVALUE this program does not hold job {job_id} (any more): not stored"
    except StorageError as failure:
        text = f"UNAVAILABLE {failure}: not stored, try again in 1 s"
    except Exception:                                 # one command, one reply, whatever it is; the log has it
        connection.server.log.exception("client.failed", peer=connection.peer)
        text = "ERR internal error, the log of the bus says more: nothing is known"
    connection.fulfil(ticket, bulk(pepper.pushed_json(None if text else [job_id], trace, text)))


def settle(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``PBUS.SETTLE done|failed|crashed|timeout|stopped [reason]``: the program has ended, and what it held with it."""
    access = connection.access
    if access.kind != "pepper" or access.owner is None:
        return error("NOPERM PBUS.SETTLE is for the process of a program, by its token: nothing settled")
    verdict = HOW.get(arguments[1].lower())
    if verdict is None or len(arguments) > 3:
        known = ", ".join(how.decode() for how in HOW)
        return error(f"BADVALUE PBUS.SETTLE takes one of {known}, and a reason: nothing settled")
    topic, owner = topic_of(connection, access.name.encode()), access.owner
    if isinstance(topic, str):
        return error(f"{topic}: nothing settled")
    reason = arguments[2].decode("utf-8", "replace") if len(arguments) == 3 else ""
    holder = connection.server.holder(topic)
    connection.server.ask(connection, lambda: integer(holder.settle(owner, topic, verdict, reason)))
    return None


def topic_of(connection: Connection, key: bytes) -> TopicEntry | str:
    """The topic that the connection's token is for; or why *key* is not it."""
    _, topic = connection.server.directory.topic(key)
    if topic is None:
        return f"NOTOPIC there is no topic '{shown(key)}'"
    if not connection.access.takes_for(topic):
        return f"NOPERM the token of {connection.access.name} is not for {topic.path}"
    if not topic.by_token:
        return f"NOPERM the handler of {topic.path} is no program that takes jobs by a token"
    return topic


def _job_id(body: bytes) -> str:
    """The id of the one job of a popped reply; empty: it is none."""
    try:
        reply: Any = json.loads(body)
        jobs = reply["jobs"]
        job_id = jobs[0]["id"] if len(jobs) == 1 else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return job_id if isinstance(job_id, str) and JOB_ID.match(job_id) else ""
