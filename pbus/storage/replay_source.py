"""
What a replay goes through, a page at a time: dead letters, newest first, or the jobs that a queue keeps, oldest first.

Rule: reads only. A page is bounded, whatever the filter leaves of it; where it ended is where the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pbus.core.names import job_id_ms
from pbus.core.replay import Replay
from pbus.core.replay_filter import Filter, Job, needs_body, parse
from pbus.storage.driver import DeadLetter, Driver, JobRecord

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Picked:
    """A job that is meant; *at_ms* and its id are where a page after it begins. ``record``: None when not looked at."""

    id: str
    at_ms: int
    record: JobRecord | None


@dataclass(slots=True)
class Page:
    """
    What is meant of the jobs that were looked at.

    Attributes:
        at_ms, id: The last one that was looked at.
        is_last: There are no more.
        looked: How many were looked at.
        lost: Of those, whose body is not in the store any more.
    """

    picked: list[Picked] = field(default_factory=list)
    at_ms: int = 0
    id: str = ""
    is_last: bool = False
    looked: int = 0
    lost: int = 0


class Source:
    """
    The jobs that *replay* means, of one topic after the other.

    Raises:
        FilterError: its filter cannot be understood.
    """

    def __init__(self, driver: Driver, replay: Replay, now_ms: int) -> None:
        self._driver = driver
        self._replay = replay
        self._now_ms = now_ms
        self._is_meant: Filter = parse(replay.filter)
        self._by_body = needs_body(replay.filter)

    def page(self, path: str, at_ms: int, job_id: str, count: int, *, bodies: bool = True) -> Page:
        """Up to *count* of topic *path* behind a job (empty: from the first); *bodies*: with their records."""
        queue, _, topic = path.rpartition("/")
        if self._replay.source == "dead":
            return self._dead(queue, topic, (at_ms, job_id), count, bodies or self._by_body)
        return self._kept(queue, topic, job_id, count)

    def count(self, path: str) -> int:
        """How many of topic *path* are meant now; reads all of it, the bodies only where the filter asks for them."""
        return sum(len(page.picked) for page in self.pages(path))

    def pages(self, path: str) -> Iterator[Page]:
        """All of topic *path*; without bodies where that will do."""
        page = Page()
        while not page.is_last:
            page = self.page(path, page.at_ms, page.id, PAGE, bodies=False)
            yield page

    def _dead(self, queue: str, topic: str, after: tuple[int, str], count: int, with_record: bool) -> Page:
        replay, (at_ms, job_id) = self._replay, after
        page = Page(at_ms=at_ms, id=job_id)
        # Nothing is called so: all that died until then come after it.
        before = DeadLetter(queue, topic, job_id or "0-0", at_ms if job_id else replay.until_ms + 1, 0, 0, "", "")
        letters = self._driver.dead_letters(queue, topic, min(count, PAGE), fingerprint=replay.group, before=before)
        page.is_last = not letters
        for letter in letters:
            if letter.at_ms < replay.since_ms:
                page.is_last = True
                break
            page.at_ms, page.id, page.looked = letter.at_ms, letter.id, page.looked + 1
            job = Job(
                letter.id, queue, topic, error=letter.error, reason=letter.reason, fingerprint=letter.fingerprint,
                attempts=letter.attempts, crashes=letter.crashes, age_s=self._age_s(letter.id),
            )
            if not self._by_body and not self._is_meant(job):
                continue
            record = self._driver.job(queue, letter.id) if with_record else None
            if with_record and record is None:
                page.lost += 1
                continue
            if record is not None and self._by_body:
                job.body, job.key, job.content_type = record.body, record.key, record.content_type
                if not self._is_meant(job):
                    continue
            page.picked.append(Picked(letter.id, letter.at_ms, record))
        return page

    def _kept(self, queue: str, topic: str, job_id: str, count: int) -> Page:
        """Those that have ended for the topic, or never were on their way there; replays are no history."""
        replay = self._replay
        page = Page(id=job_id)
        start = job_id or f"{max(0, replay.since_ms - 1)}-1048575"
        records = self._driver.jobs(queue, start, min(count, PAGE))
        page.is_last = not records
        for record in records:
            if job_id_ms(record.id) > replay.until_ms:
                page.is_last = True
                break
            page.id, page.looked = record.id, page.looked + 1
            place = record.topics.get(topic)
            if record.replay_of or (place is not None and place.state != "ended"):
                continue
            job = Job(
                record.id, queue, topic, record.body, key=record.key, content_type=record.content_type,
                age_s=self._age_s(record.id),
            )
            if self._is_meant(job):
                page.picked.append(Picked(record.id, 0, record))
        return page

    def _age_s(self, job_id: str) -> float:
        return max(0.0, (self._now_ms - job_id_ms(job_id)) / 1000)
