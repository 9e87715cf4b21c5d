"""
Names: what may be called what, and how queues, topics, owners and jobs are written.

Rule: a name from the network becomes a key, a path or a label only after it passed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
JOB_ID = re.compile(r"([0-9]{1,14})-([0-9]{1,20})\Z")


def is_name(text: str) -> bool:
    """Whether *text* may name a queue, topic, system, storage, backend or node."""
    return NAME.match(text) is not None


def topic_path(queue: str, topic: str) -> str:
    """``gift`` and ``credit`` as people write them: ``gift/credit``."""
    return f"{queue}/{topic}"


def split_topic_path(path: str) -> tuple[str, str]:
    """
    The queue and topic of ``gift/credit``.

    Raises:
        ValueError: not two names joined by one slash.
    """
    queue, slash, topic = path.partition("/")
    if not slash or not is_name(queue) or not is_name(topic):
        raise ValueError(f"{path!r} is not written QUEUE/TOPIC")
    return queue, topic


def job_id_ms(job_id: str) -> int:
    """
    When the job of that id was stored, milliseconds since 1970 UTC (ids carry it).

    Raises:
        ValueError: not a job id.
    """
    match = JOB_ID.match(job_id)
    if match is None:
        raise ValueError(f"{job_id!r} is not a job id (<unix ms>-<sequence>)")
    return int(match[1])


@dataclass(frozen=True, slots=True)
class Owner:
    """
    One life of one process that may hold claims; written ``node/boot/slot.n``, never reused.

    Attributes:
        node: Name of the node.
        boot: One life of that node; a fenced boot settles nothing any more.
        slot: Index of the process in the scoreboard.
        n: Serial number of the process within the boot, from 1.
    """

    node: str
    boot: str
    slot: int
    n: int

    def __str__(self) -> str:
        return f"{self.node}/{self.boot}/{self.slot}.{self.n}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        """
        The owner that ``str()`` wrote.

        Raises:
            ValueError: *text* is something else.
        """
        node, boot, life = text.split("/")
        slot, n = life.split(".")
        return cls(node, boot, int(slot), int(n))
