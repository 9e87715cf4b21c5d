"""
How long jobs waited and ran, and how they ended: counted by the children in memory that all of them share.

    +--------+-------+------+----------+----------+--   --+
    | header | names | used | column 0 | column 1 |  ...  |     a memfd; every field is a word of 8 bytes
    +--------+-------+------+----------+----------+--   --+
                                 |
                     cell of row 0, of row 1, ..        a cell: counts, sums, classes of waits, classes of runs

    header   magic, layout version, rows, columns, words a name, words a cell, classes, rows in use, columns ever lent
    names    a row a topic: length, ``queue/topic``
    used     columns x rows: 1 when that cell was written; reading any other would make pages of nothing
    cell     8 counts (``_COUNTS``), 2 spare, 2 sums of seconds (doubles), 4 spare, the classes of waits, of runs

Rule: a column has one writer, the child that the master lent it to, so nothing is locked; a successor goes on with what
is there, and nobody ever clears it: totals grow for as long as the master lives. Lossy: a reader may find a job in one
word and not yet in another, and what a dying child had in hand is lost. There is room for topics that a later
configuration names; a row is never given to another topic.
"""

from __future__ import annotations

import collections
import itertools
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pbus.core.job import Delivery, Move, Settlement
from pbus.supervisor.scoreboard import LayoutError
from pbus.telemetry.metrics import BOUNDS

VERSION: Final = 2
CLASSES: Final = len(BOUNDS) + 1
CELL_WORDS: Final = 16 + 2 * CLASSES
_MAGIC: Final = int.from_bytes(b"pbushist", "little")
_WORD: Final = 8
_HEADER_WORDS: Final = 16
_USED_ROWS_AT, _LENT_AT = 7, 8
_NAME_WORDS: Final = 18
_COUNTS: Final = ("done", "failed", "retried", "dead", "released", "busy", "redelivered", "bytes")
_DONE, _FAILED, _RETRIED, _DEAD, _RELEASED, _BUSY, _REDELIVERED, _BYTES = range(len(_COUNTS))
_WAIT_S, _RUN_S = 10, 11
_WAITS_AT, _RUNS_AT = 16, 16 + CLASSES
_CELL: Final = struct.Struct(f"=10q2d4q{2 * CLASSES}q")


Ended = tuple[str, float, float, int]
"""
An attempt that is over: id of the job (empty: not its first attempt), seconds that it took (0.0: nobody knows), when it
ended (Unix time), bytes of the body.
"""

MANY: Final = 256
EACH: Final = 4
"""Who has so many at once looks at the times of each so manieth: where there are most, they are known best."""

_SHORTER: Final = 20
TIMES: Final = (*(bound / 100 for bound in BOUNDS[:_SHORTER]), *BOUNDS)
"""Bounds of finer classes: from a microsecond on. The first class of a histogram holds the first of these together."""


@dataclass(frozen=True, slots=True)
class Totals:
    """
    What became of the jobs of a topic on this node since the master began.

    Attributes:
        done: Attempts that ended well.
        failed: Attempts that failed, whatever came of that.
        retried: Those of them that are tried again.
        dead: Deliveries that became dead letters.
        released: Deliveries that went back as they were.
        busy: Answers that the handler is busy.
        redelivered: Attempts at what somebody may have run before.
        bytes: Of the bodies of attempts.
        wait_s, run_s: Seconds, summed.
        wait, run: Counts by class (``telemetry.metrics.BOUNDS``, and one more for what is longer).
    """

    done: int
    failed: int
    retried: int
    dead: int
    released: int
    busy: int
    redelivered: int
    bytes: int
    wait_s: float
    run_s: float
    wait: tuple[int, ...]
    run: tuple[int, ...]


class Row:
    """A topic's cell in the column of this process."""

    __slots__ = ("_floats", "_words")

    def __init__(self, cell: memoryview) -> None:
        self._words = cell.cast("q")
        self._floats = cell.cast("d")

    def attempts(
        self, ended: Sequence[Ended], done: int, redelivered: int = 0
    ) -> tuple[collections.Counter[int], float]:
        """
        These attempts are over: many at once, because that costs a third of one at a time.

        Of MANY, each fourth stands for four in the classes; counts, bytes and the sum of runs are of all.

        Args:
            ended: At least one.
            done: How many of them ended well.
            redelivered: How many of them were at what somebody may have run before.

        Returns:
            How many took how long, by class of ``TIMES``; and the sum of these seconds.
        """
        words, floats = self._words, self._floats
        _, runs, _, sizes = zip(*ended, strict=True)
        words[_DONE] += done
        words[_REDELIVERED] += redelivered
        words[_BYTES] += sum(sizes)
        took_s = sum(runs)
        floats[_RUN_S] += took_s
        step = EACH if len(ended) >= MANY else 1
        classes = _classes(TIMES, filter(None, runs[::step]), step)
        for place, count in classes.items():
            words[_RUNS_AT + max(0, place - _SHORTER)] += count
        try:
            waits = [end_s - run_s - int(job.partition("-")[0]) / 1000 for job, run_s, end_s, _ in ended[::step] if job]
        except ValueError:                           # somebody's own driver has other ids; no job fails by that
            waits = []
        floats[_WAIT_S] += max(0.0, sum(waits) * step)   # the clocks of two machines may differ
        for place, count in _classes(BOUNDS, waits, step).items():
            words[_WAITS_AT + place] += count
        return classes, took_s

    def popped(self, deliveries: Sequence[Delivery], now_s: float) -> None:
        """These were handed out at *now_s* (Unix time) and are done by that: what they took nobody knows."""
        words = self._words
        words[_DONE] += len(deliveries)
        words[_BYTES] += sum(map(len, [delivery.body for delivery in deliveries]))
        first = [delivery.id.partition("-")[0] for delivery in deliveries if not delivery.redelivered]
        words[_REDELIVERED] += len(deliveries) - len(first)
        sum_s = 0.0
        for pushed_ms, count in collections.Counter(first).items():    # many of them came in the same millisecond
            try:
                wait_s = now_s - int(pushed_ms) / 1000
            except ValueError:                       # as above
                continue
            words[_WAITS_AT + bisect_left(BOUNDS, wait_s)] += count
            sum_s += wait_s * count
        self._floats[_WAIT_S] += max(0.0, sum_s)

    def done(self, count: int = 1) -> None:
        """So many attempts ended well, and that is all that is known."""
        self._words[_DONE] += count

    def settled(self, settlement: Settlement, busy: bool) -> None:
        """A delivery did not end well, and the store has it; *busy*: its handler only said that it is."""
        words, move = self._words, settlement.move
        if move is Move.RELEASE:
            words[_RELEASED] += 1
        elif busy:
            words[_BUSY] += 1
        elif move is Move.RETRY:
            words[_FAILED] += 1
            words[_RETRIED] += 1
        elif move is Move.BURY:
            words[_FAILED] += 1
        if move is Move.BURY:
            words[_DEAD] += 1


class Histograms:
    """All cells. The master makes it; children inherit the mapping by the fork."""

    def __init__(self, topics: Iterable[tuple[str, str]], columns: int, rows: int = 0, fd: int = -1) -> None:
        """
        A fresh one for these (queue, topic) and so many writers (``fd`` survives an exec if it is let).

        *rows*: topics that there may be in all, some time (0: those of now); then columns are read that were lent.
        *fd*: the one that is there already, instead.

        Raises:
            LayoutError: what is in *fd* has another layout.
        """
        named = list(dict.fromkeys(topics))
        self._rows: dict[tuple[str, str], int] = {}
        if fd >= 0:
            self._adopt(fd)
            self.name(named)
            return
        self._most = max(rows, len(named))
        self.columns = columns
        self._used_at = _HEADER_WORDS + self._most * _NAME_WORDS
        self._cells_at = self._used_at + columns * self._most
        size = (self._cells_at + columns * self._most * CELL_WORDS) * _WORD
        self.fd = os.memfd_create("pbus-histograms", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._bytes = memoryview(mmap.mmap(self.fd, size))
        self._words = self._bytes.cast("q")
        for place, word in enumerate((_MAGIC, VERSION, self._most, columns, _NAME_WORDS, CELL_WORDS, CLASSES)):
            self._words[place] = word
        self._words[_LENT_AT] = 0 if rows else columns
        self.name(named)

    def _adopt(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        data = memoryview(mmap.mmap(fd, size))
        words = data.cast("q")
        magic, version, most, columns, *sizes = words[:7].tolist()
        if (magic, version, sizes) != (_MAGIC, VERSION, [_NAME_WORDS, CELL_WORDS, CLASSES]):
            raise LayoutError(f"the histograms have layout {version}, this version has {VERSION}")
        self.fd, self._bytes, self._words, self._most, self.columns = fd, data, words, most, columns
        self._used_at = _HEADER_WORDS + most * _NAME_WORDS
        self._cells_at = self._used_at + columns * most
        for row in range(words[_USED_ROWS_AT]):
            at = (_HEADER_WORDS + row * _NAME_WORDS) * _WORD
            length = words[at // _WORD]
            queue, _, topic = bytes(data[at + _WORD : at + _WORD + length]).decode().partition("/")
            self._rows[queue, topic] = row

    def name(self, topics: Iterable[tuple[str, str]]) -> int:
        """
        Master only: these are counted too by children that are born from now on.

        Returns:
            How many are not, because there is no room for them.
        """
        new = [path for path in dict.fromkeys(topics) if path not in self._rows]
        for queue, topic in new[: self._most - len(self._rows)]:
            row = len(self._rows)
            self._name(row, f"{queue}/{topic}".encode())
            self._rows[queue, topic] = row
        self._words[_USED_ROWS_AT] = len(self._rows)
        return sum(path not in self._rows for path in new)

    def lend(self, column: int) -> None:
        """Master only: somebody counts in that column from now on."""
        self._words[_LENT_AT] = max(self._words[_LENT_AT], column + 1)

    def row(self, column: int, queue: str, topic: str) -> Row:
        """
        Where this process counts that topic.

        Without a column (-1), and for a topic that the configuration does not have, it counts for nobody.
        """
        place = self._rows.get((queue, topic))
        if place is None or column < 0:
            return row_of_nobody(queue, topic)
        self._words[self._used_at + column * self._most + place] = 1
        return Row(self._cell(column, place))

    def read(self) -> dict[tuple[str, str], Totals]:
        """Every topic that anything was counted for: the sums over all columns."""
        totals = {}
        lent = range(self._words[_LENT_AT])
        for path, place in self._rows.items():
            cells = [
                _CELL.unpack(self._cell(column, place)) for column in lent
                if self._words[self._used_at + column * self._most + place]
            ]
            if cells:
                totals[path] = _totals([sum(words) for words in zip(*cells, strict=True)])
        return totals

    def _name(self, row: int, name: bytes) -> None:
        at = _HEADER_WORDS + row * _NAME_WORDS
        self._words[at] = len(name)
        self._bytes[(at + 1) * _WORD : (at + 1) * _WORD + len(name)] = name

    def _cell(self, column: int, row: int) -> memoryview:
        start = (self._cells_at + (column * self._most + row) * CELL_WORDS) * _WORD
        return self._bytes[start : start + CELL_WORDS * _WORD]


def row_of_nobody(_queue: str, _topic: str) -> Row:
    """A row that no reader finds."""
    return Row(memoryview(bytearray(CELL_WORDS * _WORD)))


def _classes(bounds: Sequence[float], times: Iterable[float], step: int) -> collections.Counter[int]:
    """How many of *times* are in each class of *bounds*; each stands for *step* of them."""
    classes = collections.Counter(map(bisect_left, itertools.repeat(bounds), times))
    if step > 1:
        for place in classes:
            classes[place] *= step
    return classes


def _totals(words: Sequence[int | float]) -> Totals:
    counts = dict(zip(_COUNTS, map(int, words), strict=False))
    return Totals(
        **counts, wait_s=words[_WAIT_S], run_s=words[_RUN_S],
        wait=tuple(map(int, words[_WAITS_AT:_RUNS_AT])), run=tuple(map(int, words[_RUNS_AT:])),
    )
