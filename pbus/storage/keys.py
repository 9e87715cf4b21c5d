"""
Every Redis key of the streams driver. No other file spells one: a script has the key of its queue in
KEYS and makes the others from it, with the endings below (``$log`` in its text; see redis_scripts).

All keys of a queue Q carry its hash tag, so that one script may use them on a cluster. T is a topic,
OWNER is ``node/boot/slot.n``. A job id is ``<ms>-<seq>``; *padded* is the same with leading zeros,
so that members sort as ids do (a two-part id does not fit the double of a score).

For the whole store::

    pbus:topics                    set     Q/T of every declared topic; Q/ of a queue without one
    pbus:beats                     hash    boot -> counter; stands still when its node is dead
    pbus:fenced                    set     boots declared dead
    pbus:check                     string  written by check()
    pbus:events                    stream  events of all nodes, the last 5,000: node, line (bulletin)
    pbus:traces                    hash    SHELF:n -> bytes of traces that were written in the n-th sixteenth of the
                                           shelf's keep since 1970 (traces_redis)
    pbus:documents:{KIND}          hash    name -> version:word of the call that wrote it:text; '' -> the last version

Of a queue (``pbus:{Q}`` and then)::

    :queue                         hash    see below
    :log                           stream  id -> j: envelope (redis_codec); before it, where the push had any
                                           that outlive it, o: options ``delay_ms:ttl_ms:key``; of one for topic T only
                                           ``delay_ms@T:ttl_ms:key``
    :sizes                         stream  first id of an unbroken run of pushes -> z: bytes pushed before it
    :cursors                       hash    T -> id of the last entry that T has passed in the log; ``:side``: some
                                           topic ever had one of the facts from ``paused`` on, or somebody who
                                           waits for a key (a claim looks at them only then)
    :taken                         hash    T -> pushed jobs that T has taken; backlog = pushed - min(taken)
    :fenced                        set     boots whose scripts are refused in this queue
    :batch:OWNER                   string  answer to the owner's last append; expires
    :settled:SESSION               string  answer to the last settle of one connection; expires
    :dedupe:KEY                    string  id of the job that was pushed with it; expires with its window
    :counted                       hash    T//NAME -> how far a total is in the statistics (T empty: of the queue)
    :bucket:SPAN:AT                hash    statistics of SPAN seconds from then on; expires. T/NODE -> a row
                                           (statistics.py), T//NAME -> what a total grew by
    :bell                          channel rung when deliveries of the queue become ready
    :trace:SHELF:MINUTE            hash    second of the minute.WRITER.n -> block (codec.trace_block) of jobs with ids
                                           of that second; expires with the last one written; MINUTE since 1970
    :refused                       list    pushes that were refused, newest first; expires with the last one

    fields of :queue               pushed: jobs ever; bytes: of their bodies; ms, seq: the last id;
                                   retention_ms, retention_bytes, max_jobs, max_bytes, dedupe_ms: its spec;
                                   low: bytes that every topic has taken at least (a bound, seldom renewed);
                                   only: 1 once a push was for one topic only;
                                   shadows: names of topics that hold nothing up, as ,A,B, (none: empty or absent);
                                   format: of states and letters, none in what pbus wrote before it kept that

Of a topic (``pbus:{Q}:topic:T`` and then)::

    :claims:OWNER                  hash    id -> state; HDEL is the compare-and-set
    :owners                        set     owners that have a claims hash
    :again                         zset    0 -> padded|state: what came back; read before the log
    :delayed                       zset    due (ms) -> padded
    :waiting                       zset    0 -> key NUL padded|state: what met a held key, in order
    :holders                       hash    key -> id of the delivery that holds it: running, in again or delayed
    :rests                         zset    until (ms) -> key: it is not handed out before
    :cancelled                     set     ids in the log before the cursor that are passed over
    :dead                          zset    since (ms) -> padded
    :grouped                       zset    0 -> fingerprint:since (14 digits):padded of every dead letter
    :groups                        hash    fingerprint -> letters now:letters ever:since the first (ms)
    :notes                         hash    padded -> state while delayed, letter while dead
    :bodies                        hash    id -> what may outlive the log: of everything in again, delayed,
                                           waiting and dead, and of claims that trim overtook. The envelope;
                                           with options ``o`` length ``:`` options envelope
    :facts                         hash    dead_keep, dead_max: its spec; start: the id it started after; born: the
                                           last id when it was made; dropped: there is no such topic any more;
                                           paused: since when (ms); fresh: deliveries not taken that are not in
                                           the log before it; cancelled: those in the log before it that are;
                                           bytes: of bodies, those of the former less those of the latter;
                                           sample: it is a shadow with that one (core.sample)
    :totals                        hash    done, failed, dead, redelivered, cancelled, expired, forgotten
    :halves                        hash    id/1 (of the shadow; 0: of its topic) -> half of a comparison; expires
    :since                         zset    the same by when they came (ms); expires

A *state* is ``attempts:crashes:redelivered:first_ms:forgiven:expires_ms:where:key``. *where* is empty,
``l`` (the body is in the log only), or the bytes of the body of one that is not taken yet. The state of one
with a key, an expiry or a *where* starts with ``s``. An empty state is a plain job on its first claim: all zeros,
its body in the log only. A *letter* is ``length of state:length of reason:length of fingerprint:state reason
fingerprint text``.
"""

from __future__ import annotations

from typing import Final

TOPICS: Final = "pbus:topics"
BEATS: Final = "pbus:beats"
FENCED: Final = "pbus:fenced"
CHECK: Final = "pbus:check"
TRACES: Final = "pbus:traces"
EVENTS: Final = "pbus:events"

ENDINGS: Final = {
    "queue": ":queue",
    "log": ":log",
    "sizes": ":sizes",
    "cursors": ":cursors",
    "taken": ":taken",
    "fenced": ":fenced",
    "batch": ":batch:",
    "settled": ":settled:",
    "dedupe": ":dedupe:",
    "bell": ":bell",
    "topic": ":topic:",
    "claims": ":claims:",
    "owners": ":owners",
    "again": ":again",
    "delayed": ":delayed",
    "waiting": ":waiting",
    "holders": ":holders",
    "rests": ":rests",
    "cancelled": ":cancelled",
    "dead": ":dead",
    "grouped": ":grouped",
    "groups": ":groups",
    "notes": ":notes",
    "bodies": ":bodies",
    "facts": ":facts",
    "totals": ":totals",
    "halves": ":halves",
    "since": ":since",
    "counted": ":counted",
    "bucket": ":bucket:",
}
"""What the scripts put behind ``pbus:{Q}``, or behind it, ``:topic:`` and the name of a topic."""


class TopicKeys:
    """The keys of one topic that Python names, built once."""

    __slots__ = ("bodies", "claims", "dead", "delayed", "groups", "owners")

    def __init__(self, root: str) -> None:
        self.claims = root + ENDINGS["claims"]
        """Prefix of the claims hashes; an owner follows."""
        self.owners = root + ENDINGS["owners"]
        self.delayed = root + ENDINGS["delayed"]
        self.dead = root + ENDINGS["dead"]
        self.groups = root + ENDINGS["groups"]
        self.bodies = root + ENDINGS["bodies"]


class QueueKeys:
    """The keys of one queue and of its topics that Python names, built once."""

    __slots__ = ("_topics", "bell", "buckets", "fenced", "log", "name", "queue", "taken", "topics")

    def __init__(self, queue: str) -> None:
        root = f"pbus:{{{queue}}}"
        self.name = queue
        self.queue = root + ENDINGS["queue"]
        self.log = root + ENDINGS["log"]
        self.taken = root + ENDINGS["taken"]
        self.fenced = root + ENDINGS["fenced"]
        self.bell = root + ENDINGS["bell"]
        self.topics = root + ENDINGS["topic"]
        """Prefix of everything of a topic; its name follows."""
        self.buckets = root + ENDINGS["bucket"]
        """Prefix of the buckets of its statistics."""
        self._topics: dict[str, TopicKeys] = {}

    def topic(self, topic: str) -> TopicKeys:
        """The keys of one of its topics."""
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = TopicKeys(self.topics + topic)
        return found


def trace(queue: str, shelf: int, minute: int) -> str:
    """The blocks of one shelf of the jobs of *queue* with ids of that minute since 1970."""
    return f"pbus:{{{queue}}}:trace:{shelf}:{minute}"


def refused(queue: str) -> str:
    """The pushes to *queue* that were refused."""
    return f"pbus:{{{queue}}}:refused"


def documents(kind: str) -> str:
    """The documents of that kind."""
    return f"pbus:documents:{{{kind}}}"


def bell(queue: str) -> str:
    """The channel that is rung when deliveries of *queue* become ready."""
    return f"pbus:{{{queue}}}" + ENDINGS["bell"]
