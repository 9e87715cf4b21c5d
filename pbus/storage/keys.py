"""
Every Redis key of the streams driver. No other file spells one; scripts get theirs in KEYS.

All keys of a queue Q carry its hash tag, so that one script may use them on a cluster. T is a topic,
OWNER is ``node/boot/slot.n``. A job id is ``<ms>-<seq>``; *padded* is the same with leading zeros,
so that members sort as ids do (a two-part id does not fit the double of a score).

For the whole store::

    pbus:topics                    set     Q/T of every declared topic; Q/ of a queue without one
    pbus:beats                     hash    boot -> counter; stands still when its node is dead
    pbus:fenced                    set     boots declared dead
    pbus:check                     string  written by check()

Of a queue::

    pbus:{Q}:queue                 hash    pushed: jobs ever; bytes: of their bodies; ms, seq: the last id;
                                           retention_ms, retention_bytes
    pbus:{Q}:log                   stream  id -> j: offset in its append, body, headers (redis_codec)
    pbus:{Q}:sizes                 stream  first id of an append -> z: bytes pushed before it
    pbus:{Q}:cursors               hash    T -> id of the last entry that T has taken from the log
    pbus:{Q}:taken                 hash    T -> pushed jobs that T has taken; backlog = pushed - min(taken)
    pbus:{Q}:fenced                set     boots whose scripts are refused in this queue
    pbus:{Q}:batch:OWNER           string  answer to the owner's last append; expires
    pbus:{Q}:settled:SESSION       string  answer to the last settle of one connection; expires
    pbus:{Q}:bell                  channel rung when deliveries of the queue become ready

Of a topic (``pbus:{Q}:topic:T:`` and then)::

    claims:OWNER                   hash    id -> state; HDEL is the compare-and-set
    owners                         set     owners that have a claims hash
    again                          zset    0 -> padded|state: what came back; read before the log
    delayed                        zset    due (ms) -> padded|state
    dead                           zset    since (ms) -> padded
    letters                        hash    id -> attempts:crashes:length of reason:reason text
    bodies                         hash    id -> j of what may outlive the log: everything in again, delayed
                                           and dead, and claims that trim overtook
    totals                         hash    done, failed, dead, redelivered

A *state* is ``attempts:crashes:redelivered:first_ms``, or empty for a delivery that was never back:
then, and only then, there is no entry in ``bodies`` to remove.
"""

from __future__ import annotations

from typing import Final

TOPICS: Final = "pbus:topics"
BEATS: Final = "pbus:beats"
FENCED: Final = "pbus:fenced"
CHECK: Final = "pbus:check"


class TopicKeys:
    """The keys of one topic, built once."""

    __slots__ = ("again", "bodies", "claims", "dead", "delayed", "letters", "owners", "totals")

    def __init__(self, queue: str, topic: str) -> None:
        prefix = f"pbus:{{{queue}}}:topic:{topic}:"
        self.claims = prefix + "claims:"
        """Prefix of the claims hashes; an owner follows."""
        self.owners = prefix + "owners"
        self.again = prefix + "again"
        self.delayed = prefix + "delayed"
        self.dead = prefix + "dead"
        self.letters = prefix + "letters"
        self.bodies = prefix + "bodies"
        self.totals = prefix + "totals"


class QueueKeys:
    """The keys of one queue and of its topics, built once."""

    __slots__ = ("_topics", "batch", "bell", "cursors", "fenced", "log", "name", "queue", "settled", "sizes", "taken")

    def __init__(self, queue: str) -> None:
        prefix = f"pbus:{{{queue}}}:"
        self.name = queue
        self.queue = prefix + "queue"
        self.log = prefix + "log"
        self.sizes = prefix + "sizes"
        self.cursors = prefix + "cursors"
        self.taken = prefix + "taken"
        self.fenced = prefix + "fenced"
        self.batch = prefix + "batch:"
        """Prefix of the answers to appends; an owner follows."""
        self.settled = prefix + "settled:"
        """Prefix of the answers to settles; a session follows."""
        self.bell = bell(queue)
        self._topics: dict[str, TopicKeys] = {}

    def topic(self, topic: str) -> TopicKeys:
        """The keys of one of its topics."""
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = TopicKeys(self.name, topic)
        return found


def bell(queue: str) -> str:
    """The channel that is rung when deliveries of *queue* become ready."""
    return f"pbus:{{{queue}}}:bell"
