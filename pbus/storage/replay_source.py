"""
What a replay goes through, a page at a time: dead letters, newest first, or the jobs that a queue keeps, oldest first,
or the lines of a file as ``pbus job export`` and ``pbus queue export`` write them.

Rule: reads only. A page is bounded, whatever the filter leaves of it; where it ended is where the next one begins.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.core.names import JOB_ID, job_id_ms
from pbus.core.replay import Replay
from pbus.core.replay_filter import Filter, Job, needs_body, parse
from pbus.storage.driver import DeadLetter, Driver, JobRecord

PAGE: Final = 500
_FOLDER: Final = "replays"
_TEXTS: Final = ("queue", "body", "traceparent", "content_type", "key")


def file_of(data_dir: str, name: str) -> str:
    """Where the node that runs the replay *name* has its jobs, when they are of a file."""
    return os.path.join(data_dir, _FOLDER, f"{name}.jsonl")


def read_line(line: bytes) -> tuple[JobRecord, dict[str, Any]]:
    """
    A job of a file, and what the file tells of its deliveries, by topic. An id that is none is empty.

    Raises:
        ValueError: the line is no job; says why.
    """
    try:
        told = json.loads(line)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("body"), str) or not isinstance(told.get("queue"), str):
        raise ValueError('it is no job: an object with "queue" and "body" was expected')
    texts = {name: told.get(name, "") for name in _TEXTS}
    wrong = [name for name, text in texts.items() if not isinstance(text, str)]
    if wrong or told.get("encoding", "") not in ("", "base64"):
        raise ValueError(f"it is no job: {(wrong or ['encoding'])[0]!r} is not what an export writes")
    body = texts["body"].encode("utf-8", "surrogatepass")
    if told.get("encoding"):
        try:
            body = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError(f"its body is no base64: {error}") from None
    for name, most in (("traceparent", 256), ("content_type", 256), ("key", 256)):
        if len(texts[name]) > most or not texts[name].isprintable():
            raise ValueError(f"it is no job: {name!r} is not printable, or longer than {most} characters")
    job_id = told.get("id", "")
    job_id = job_id if isinstance(job_id, str) and JOB_ID.match(job_id) else ""
    topics = told.get("topics")
    record = JobRecord(
        job_id, texts["queue"], body, texts["traceparent"], texts["content_type"], texts["key"], 0, {}
    )
    return record, topics if isinstance(topics, dict) else {}


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


class _Records:
    """Records of *ids*, read so many *at_once* when the first of them is asked for; ids are asked for in order."""

    def __init__(self, driver: Driver, queue: str, ids: Sequence[str], at_once: int) -> None:
        self._driver = driver
        self._queue = queue
        self._ids = ids
        self._at_once = at_once
        self._places = {job_id: place for place, job_id in enumerate(ids)}
        self._known: dict[str, JobRecord] = {}
        self._looked = 0

    def of(self, job_id: str) -> JobRecord | None:
        """None: its body is not in the store any more."""
        place = self._places[job_id]
        if place >= self._looked:
            part = self._ids[place : place + self._at_once]
            found = self._driver.records(self._queue, part)
            self._known = {record.id: record for record in found}
            # There may be more behind the last one, but nothing between them.
            self._looked = self._places[found[-1].id] + 1 if found else place + len(part)
        return self._known.get(job_id)


class Source:
    """
    The jobs that *replay* means, of one topic after the other.

    Raises:
        FilterError: its filter cannot be understood.
    """

    def __init__(self, driver: Driver, replay: Replay, now_ms: int, path: str = "") -> None:
        """*path*: of the file, where the jobs are of one."""
        self._driver = driver
        self._replay = replay
        self._now_ms = now_ms
        self._path = path
        self._is_meant: Filter = parse(replay.filter)
        self._by_body = needs_body(replay.filter)

    def page(self, path: str, at_ms: int, job_id: str, count: int, *, bodies: bool = True) -> Page:
        """Up to *count* of topic *path* behind a job (empty: from the first); *bodies*: with their records."""
        queue, _, topic = path.rpartition("/")
        if self._replay.source == "dead":
            return self._dead(queue, topic, (at_ms, job_id), count, bodies or self._by_body)
        if self._replay.source == "file":
            return self._of_file(queue, topic, at_ms, count)
        return self._kept(queue, topic, job_id, count)

    def pages(self, path: str) -> Iterator[Page]:
        """All of topic *path*; the bodies are read only where the filter asks for them."""
        page = Page()
        while not page.is_last:
            page = self.page(path, page.at_ms, page.id, PAGE, bodies=False)
            yield page

    def _dead(self, queue: str, topic: str, after: tuple[int, str], count: int, with_record: bool) -> Page:
        replay, (at_ms, job_id) = self._replay, after
        page = Page(at_ms=at_ms, id=job_id)
        # Nothing is called so: all that died until then come after it.
        before = DeadLetter(queue, topic, job_id or "0-0", at_ms if job_id else replay.until_ms + 1, 0, 0, "", "")
        found = self._driver.dead_letters(
            queue, topic, self._page_size(count), fingerprint=replay.group, before=before
        )
        letters = [(letter, self._job_of(letter)) for letter in found]
        ids = [letter.id for letter, job in letters if self._by_body or self._is_meant(job)]
        records = _Records(self._driver, queue, ids, PAGE if self._by_body else count) if with_record else None
        page.is_last = not letters
        for letter, job in letters:
            if letter.at_ms < replay.since_ms:
                page.is_last = True
                break
            if len(page.picked) >= count:
                break
            page.at_ms, page.id, page.looked = letter.at_ms, letter.id, page.looked + 1
            self._take_letter(page, letter, job, records)
        return page

    def _take_letter(self, page: Page, letter: DeadLetter, job: Job, records: _Records | None) -> None:
        if not self._by_body and not self._is_meant(job):
            return
        record = records.of(letter.id) if records else None
        if records and record is None:
            page.lost += 1
            return
        if record is not None and self._by_body:
            job.body, job.key, job.content_type = record.body, record.key, record.content_type
            if not self._is_meant(job):
                return
        page.picked.append(Picked(letter.id, letter.at_ms, record))

    def _job_of(self, letter: DeadLetter) -> Job:
        return Job(
            letter.id, letter.queue, letter.topic, error=letter.error, reason=letter.reason,
            fingerprint=letter.fingerprint, attempts=letter.attempts, crashes=letter.crashes,
            age_s=self._age_s(letter.id),
        )

    def _page_size(self, count: int) -> int:
        """How many to read where *count* are wanted: with a filter it may take many to find them."""
        return PAGE if self._replay.filter.strip() else min(count, PAGE)

    def _kept(self, queue: str, topic: str, job_id: str, count: int) -> Page:
        """Those that have ended for the topic, or never were on their way there; replays are no history."""
        replay = self._replay
        page = Page(id=job_id)
        start = job_id or f"{max(0, replay.since_ms - 1)}-1048575"
        records = self._driver.jobs(queue, start, self._page_size(count))
        page.is_last = not records
        for record in records:
            if job_id_ms(record.id) > replay.until_ms:
                page.is_last = True
                break
            if len(page.picked) >= count:
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

    def _of_file(self, queue: str, topic: str, offset: int, count: int) -> Page:
        """Its lines behind *offset* that are of *queue*. One without an id is called by where it is."""
        page = Page(at_ms=offset)
        with open(self._path, "rb") as file:
            file.seek(offset)
            while page.looked < PAGE and len(page.picked) < min(count, PAGE):
                line = file.readline()
                if not line:
                    page.is_last = True
                    break
                begin, page.at_ms = page.at_ms, page.at_ms + len(line)
                page.id, page.looked = f"line {begin}", page.looked + 1
                self._take_line(page, line, queue, topic)
        return page

    def _take_line(self, page: Page, line: bytes, queue: str, topic: str) -> None:
        try:
            record, topics = read_line(line)
        except ValueError:
            page.lost += bool(line.strip())
            return
        pushed_ms = job_id_ms(record.id) if record.id else None
        if record.queue != queue or (
            pushed_ms is not None and not self._replay.since_ms <= pushed_ms <= self._replay.until_ms
        ):
            return
        told = topics.get(topic)
        place: dict[str, Any] = told if isinstance(told, dict) else {}
        job = Job(
            record.id, queue, topic, record.body, str(place.get("error", "")), str(place.get("reason", "")),
            str(place.get("fingerprint", "")), _count(place.get("attempts")), _count(place.get("crashes")), record.key,
            record.content_type, self._age_s(record.id) if record.id else 0.0,
        )
        if self._is_meant(job):
            page.picked.append(Picked(record.id or page.id, page.at_ms, record))

    def _age_s(self, job_id: str) -> float:
        return max(0.0, (self._now_ms - job_id_ms(job_id)) / 1000)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
