"""
The Redis driver's part for people and producers: what they do to deliveries, and what they look at.

None of it needs an owner, all of it works for whatever the store knows; a script a call, but for
``jobs``, which merges the log with what was put aside.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

from pbus.storage import keys, redis_codec
from pbus.storage.driver import DeadGroup, DeadLetter, Entry, JobRecord
from pbus.storage.redis_link import Words
from pbus.storage.redis_store import RedisStore

IDS_A_CALL: Final = 1_000
"""So many ids go into one script: Redis does nothing else meanwhile."""
MOST_JOBS: Final = 1_000
"""Most records of a page."""


class RedisPeople(RedisStore):
    """See ``driver.Driver``."""

    # Ids put aside of one queue, in order, and after which id the next page begins: pages are read in a row.
    _aside: tuple[str, str, list[str]] = ("", "", [])

    def cancel(self, queue: str, topic: str, ids: Sequence[str]) -> list[int]:
        """One write for up to 1,000 ids."""
        found: list[int] = []
        for at in range(0, max(1, len(ids)), IDS_A_CALL):
            part = ids[at : at + IDS_A_CALL]
            found += self._of_queue(self._scripts.cancel(self._queue(queue), topic, part))
        return found

    def purge(self, queue: str, topic: str) -> int:
        """The log at once, since its cursor jumps to the end."""
        count: int = self._of_queue(self._scripts.purge(self._queue(queue), topic))
        return count

    def revive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        return self._dead(queue, topic, "revive", ids)

    def accept(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        return self._dead(queue, topic, "accept", ids)

    def forget_dead(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        return self._dead(queue, topic, "forget", ids)

    def forgive(self, queue: str, topic: str, ids: Sequence[str]) -> list[bool]:
        return self._dead(queue, topic, "forgive", ids)

    def _dead(self, queue: str, topic: str, what: str, ids: Sequence[str]) -> list[bool]:
        found: list[bool] = []
        for at in range(0, max(1, len(ids)), IDS_A_CALL):
            part = ids[at : at + IDS_A_CALL]
            found += map(bool, self._of_queue(self._scripts.dead(self._queue(queue), topic, what, part)))
        return found

    def dead_letters(
        self, queue: str, topic: str, limit: int = 100, *, fingerprint: str = "", before: DeadLetter | None = None
    ) -> list[DeadLetter]:
        """Each group is kept in its order, so a page of one is as cheap as any."""
        if limit <= 0:
            return []
        flat = self._of_queue(self._scripts.dead_page(self._queue(queue), topic, limit, fingerprint, before))
        return [
            redis_codec.dead_letter(queue, topic, flat[at], int(flat[at + 1]), flat[at + 2])
            for at in range(0, len(flat), 3)
        ]

    def dead_groups(self, queue: str, topic: str) -> list[DeadGroup]:
        rows = self._of_queue(self._scripts.dead_groups(self._queue(queue), topic))
        return [redis_codec.dead_group(queue, topic, row) for row in rows]

    def job(self, queue: str, id: str) -> JobRecord | None:
        records = self._records(queue, [id])
        return records[0] if records else None

    def jobs(self, queue: str, after: str = "", limit: int = 100) -> list[JobRecord]:
        """What was put aside lies before the log, but for entries that were deleted by hand."""
        limit = min(limit, MOST_JOBS)
        if limit <= 0:
            return []
        aside = self._aside_after(queue, after)
        start = f"({after}" if after else "-"
        in_log = [
            entry[0].decode()
            for entry in self._calls.one(("XRANGE", self._queue(queue).log, start, "+", "COUNT", 1))
        ]
        first = redis_codec.id_order(in_log[0]) if in_log else None
        before_log = [one for one in aside[:limit] if first is None or redis_codec.id_order(one) < first]
        records = self._records(queue, before_log) if before_log else []
        full = before_log and (len(records) < len(before_log) or len(records) >= limit)
        if not full and in_log:
            records += self._records(queue, self._log_ids(queue, start, limit - len(records)))
        elif not records and in_log:
            records = self._records(queue, in_log)
        if records:
            self._aside = (queue, records[-1].id, aside)
        return records

    def records(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        return self._records(queue, ids[:MOST_JOBS])

    def entries(self, queue: str, first: str, last: str, limit: int = 100, *, newest: bool = False) -> list[Entry]:
        """Without a script: what XRANGE answers is all there is to know. That of nothing may be one of no queue."""
        command, start, end = ("XREVRANGE", last, first) if newest else ("XRANGE", first, last)
        found = self._of_log(queue, command, start, end, min(limit, MOST_JOBS))
        if not found:
            self._of_queue(self._scripts.records(self._queue(queue), ()))
        return [redis_codec.entry(*each) for each in found]

    def _log_ids(self, queue: str, start: str, count: int) -> list[str]:
        """Ids of the log from *start* on: as many as one answer of bodies may hold."""
        return [job_id.decode() for job_id, _ in self._of_log(queue, "XRANGE", start, "+", count)]

    def _of_log(self, queue: str, command: str, start: str, end: str, count: int) -> list[tuple[bytes, list[bytes]]]:
        """Entries of the log, as many as one answer of bodies may hold; each page is twice the last."""
        found: list[tuple[bytes, list[bytes]]] = []
        page, size = 1, 0
        while len(found) < count and size < redis_codec.PAGE_BYTES:
            words: Words = (command, self._queue(queue).log, start, end, "COUNT", min(page, count - len(found)))
            entries = self._calls.one(words)
            found += entries
            size += sum(len(fields[-1]) for _, fields in entries)
            if len(entries) < page:
                break
            page, start = page * 2, f"({found[-1][0].decode()}"
        return found[:count]

    def _aside_after(self, queue: str, after: str) -> list[str]:
        """Ids above *after* that some topic has put aside, in order; read once for pages in a row."""
        known_queue, known_after, known = self._aside
        if after and (queue, after) == (known_queue, known_after):
            return known[bisect.bisect_right(known, redis_codec.id_order(after), key=redis_codec.id_order) :]
        found = self._queue(queue)
        topics = self._calls.one(("HKEYS", found.taken))
        named = [("HKEYS", found.topic(topic.decode()).bodies) for topic in topics]
        ids = {one.decode() for flat in (self._calls.all(named) if named else ()) for one in flat}
        least = redis_codec.id_order(after) if after else (-1, -1)
        return sorted((one for one in ids if redis_codec.id_order(one) > least), key=redis_codec.id_order)

    def _records(self, queue: str, ids: Sequence[str]) -> list[JobRecord]:
        rows = self._of_queue(self._scripts.records(self._queue(queue), ids))
        return [redis_codec.job_record(queue, row) for row in rows]

    def pause(self, queue: str, topic: str, paused: bool) -> None:
        self._of_queue(self._scripts.pause(self._queue(queue), topic, paused))

    def drop_topic(self, queue: str, topic: str) -> bool:
        """Unlisted first: if we die here it is not counted any more, and can be dropped again."""
        member = f"{queue}/{topic}"
        listed = self._calls.one(("SISMEMBER", keys.TOPICS, member))
        if listed:
            self._calls.all([("SADD", keys.TOPICS, f"{queue}/"), ("SREM", keys.TOPICS, member)])
        dropped = bool(self._calls.one(self._scripts.drop(self._queue(queue), topic)))
        self._seen.pop((queue, topic), None)
        return dropped or bool(listed)
