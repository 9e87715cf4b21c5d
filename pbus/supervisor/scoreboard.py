"""
The scoreboard: what every child does at this moment, in memory that all of them share.

    +--------+--------+--------+--   --+
    | header | slot 0 | slot 1 |  ...  |     a memfd; every field is a word of 8 bytes
    +--------+--------+--------+--   --+

    header   magic, layout version, slots, bytes a slot, slots ever used, deaths so far
    slot     sequence, integers, floats, texts (see ``_INTEGERS``, ``_FLOATS``, ``_TEXTS``)

Rule: a slot has one writer, the process that lives in it; the master writes only before its birth
and after its death. A write is framed by an odd and an even sequence number, so a reader in another
process sees all of it or tries again. Nothing here blocks, allocates descriptors or costs more than
about a microsecond, because consumers write twice a job.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from typing import Any, Final

from pbus.clock import Clock, SystemClock

VERSION: Final = 2
_MAGIC: Final = int.from_bytes(b"pbusrows", "little")
_WORD: Final = 8
_HEADER_WORDS: Final = 8
_SLOT_WORDS: Final = 64
_SLOT_BYTES: Final = _SLOT_WORDS * _WORD
_TRIES: Final = 1000
_SPINS: Final = 10

STATES: Final = ("free", "boot", "ready", "draining", "dead")
"""What a slot may say about its process; the number in the slot is the place in this tuple."""

COUNTERS: Final = 8
_KEPT: Final = 128
"""So many rows of the dead stay readable at least, while there is room for others."""

_MAGIC_AT, _VERSION_AT, _SLOTS_AT, _SLOT_BYTES_AT, _USED_AT, _DEATHS_AT = range(6)
_SEQUENCE: Final = 0
_INTEGERS: Final = {
    "n": 1, "pid": 2, "state": 3, "index": 4, "generation": 5, "stage": 6, "own_group": 7, "birth": 8,
    "running": 9, "done": 10, "failed": 11, "connections": 12, "link": 13, "exit_status": 14,
}
_FLOATS: Final = {"beat_s": 16, "since_s": 17, "started_s": 18}
_TEXTS: Final = {"current": (19, 5), "role": (25, 2), "path": (28, 17)}
"""Name -> (word of its length, words of its bytes, which follow)."""
_LAST: Final = 15
"""Length of the id in ``current``, kept when the job is over."""
_COUNTERS_AT: Final = 48

_N, _STATE, _RUNNING, _DONE, _FAILED = (_INTEGERS[name] for name in ("n", "state", "running", "done", "failed"))
_SINCE: Final = _FLOATS["since_s"]
_CURRENT: Final = _TEXTS["current"][0]
_CURRENT_BYTES: Final = _TEXTS["current"][1] * _WORD


@dataclass(frozen=True, slots=True)
class SlotView:
    """
    A slot as it was at one moment.

    Attributes:
        slot: Its index in the scoreboard.
        n: Serial number of the process within the boot, from 1; with ``slot`` it makes the owner.
        pid: Process id, 0 before the process has written it.
        role, index, path: Which child it is (path is ``queue/topic`` of a consumer).
        state: ``boot``, ``ready``, ``draining`` or ``dead``.
        generation: Children of one configuration and one boot share it.
        stage: Its drain stage.
        own_group: It leads a process group of its own.
        birth: Start time of the process as the kernel counts it (tells a reused pid).
        running: Jobs or commands in hand.
        done, failed: Attempts that ended well or badly in this life.
        connections: Open connections.
        link: Serial number of the delivery child that a consumer is attached to, 0 for none.
        exit_status: Of a dead one: its status, or minus the signal that ended it; None before.
        beat_s: Monotonic seconds of its last sign of life.
        since_s: Monotonic seconds at which the current job began (one clock for all processes of a machine).
        started_s: Monotonic seconds of its birth.
        current: Id of the job it runs, empty for none.
        last: Id of the job it began last, running or not; empty for none.
        counters: What the role counts there.
        torn: Its writer was in the middle of a write the whole time (it died or stands still there).
    """

    slot: int
    n: int
    pid: int
    role: str
    index: int
    path: str
    state: str
    generation: int
    stage: int
    own_group: bool
    birth: int
    running: int
    done: int
    failed: int
    connections: int
    link: int
    exit_status: int | None
    beat_s: float
    since_s: float
    started_s: float
    current: str
    last: str
    counters: tuple[int, ...]
    torn: bool

    @property
    def alive(self) -> bool:
        """Whether a process lives in this slot, as far as the master knows."""
        return self.state not in ("free", "dead")


class Slot:
    """
    One row. Threads of the process that lives in it may share it; other processes only read.

    The order of the words matters for a process that dies in the middle of a write: the length of
    ``current`` is written last by ``begin`` and first by ``end``, so the id that a dead process
    leaves behind is the job it ran, or nothing.
    """

    def __init__(self, row: memoryview, slot: int, clock: Clock) -> None:
        self.slot = slot
        self._clock = clock
        self._words = row.cast("q")
        self._floats = row.cast("d")
        self._bytes = row
        start = (_CURRENT + 1) * _WORD
        self._current = row[start : start + _CURRENT_BYTES]
        # Made before anything is patched: two threads of a consumer write here, greenlets never overlap.
        self._lock = threading.Lock()

    def begin(self, job_id: str) -> None:
        """*job_id* starts now. Call before the handler is called."""
        text = job_id.encode()[:_CURRENT_BYTES]
        words = self._words
        with self._lock:
            sequence = words[_SEQUENCE] | 1
            words[_SEQUENCE] = sequence
            self._current[: len(text)] = text
            self._floats[_SINCE] = self._clock.monotonic_s()
            words[_RUNNING] = 1
            words[_LAST] = len(text)
            words[_CURRENT] = len(text)
            words[_SEQUENCE] = sequence + 1

    def end(self, ok: bool) -> None:
        """The current job is over. Call after its result has been handed on."""
        words = self._words
        with self._lock:
            sequence = words[_SEQUENCE] | 1
            words[_SEQUENCE] = sequence
            words[_CURRENT] = 0
            words[_RUNNING] = 0
            words[_DONE if ok else _FAILED] += 1
            words[_SEQUENCE] = sequence + 1

    def beat(self) -> None:
        """A sign of life."""
        self.update(beat_s=self._clock.monotonic_s())

    def update(self, **fields: Any) -> None:
        """Write fields of SlotView by name; ``counters`` takes up to eight integers."""
        words = self._words
        with self._lock:
            sequence = words[_SEQUENCE] | 1
            words[_SEQUENCE] = sequence
            try:
                for name, value in fields.items():
                    self._write(name, value)
            finally:
                words[_SEQUENCE] = sequence + 1

    def count(self, counter: int, by: int = 1) -> None:
        """Add to one of the role's counters."""
        words = self._words
        with self._lock:
            sequence = words[_SEQUENCE] | 1
            words[_SEQUENCE] = sequence
            words[_COUNTERS_AT + counter] += by
            words[_SEQUENCE] = sequence + 1

    def clear(self) -> None:
        """Make room for another process. The sequence goes on, so that a reader notices."""
        nothing: dict[str, Any] = dict.fromkeys(_INTEGERS, 0) | dict.fromkeys(_FLOATS, 0.0) | dict.fromkeys(_TEXTS, "")
        self.update(**nothing | {"state": STATES[0], "counters": (0,) * COUNTERS})
        self._words[_LAST] = 0

    @property
    def state(self) -> str:
        """The state alone, without a copy of the row."""
        return STATES[self._words[_STATE]]

    def lives(self, n: int) -> bool:
        """Whether the process with that serial number lives here, without a copy of the row."""
        words = self._words
        return words[_N] == n and STATES[words[_STATE]] not in ("free", "dead") and words[_N] == n

    @property
    def in_job(self) -> bool:
        """A job has begun and is not over, without a copy of the row."""
        return self._words[_CURRENT] != 0

    @property
    def running(self) -> int:
        """Jobs or commands in hand, without a copy of the row."""
        count: int = self._words[_RUNNING]
        return count

    @property
    def attempts(self) -> tuple[int, int]:
        """Attempts that ended well and badly in this life, without a copy of the row."""
        return self._words[_DONE], self._words[_FAILED]

    def read(self) -> SlotView:
        """
        The row as it was at one moment.

        Tries again while a write is in progress, a thousand times at most; then the writer is dead
        or stopped in the middle of one, and the view says ``torn``.
        """
        words = self._words
        for number in range(_TRIES):
            sequence = words[_SEQUENCE]
            copy = bytes(self._bytes)
            if not sequence & 1 and words[_SEQUENCE] == sequence:
                return self._view(copy, torn=False)
            if number >= _SPINS:  # the writer is not on a processor now; ours may be the one it waits for
                os.sched_yield()
        return self._view(bytes(self._bytes), torn=True)

    def _write(self, name: str, value: Any) -> None:
        if name == "state":
            self._words[_STATE] = STATES.index(value)
        elif name in _INTEGERS:
            self._words[_INTEGERS[name]] = int(value)
        elif name in _FLOATS:
            self._floats[_FLOATS[name]] = value
        elif name in _TEXTS:
            self._write_text(name, value)
        elif name == "counters":
            for place, count in enumerate(value[:COUNTERS]):
                self._words[_COUNTERS_AT + place] = count
        else:
            raise KeyError(f"the scoreboard has no field {name!r}")

    def _write_text(self, name: str, value: str) -> None:
        at, size = _TEXTS[name]
        text = value.encode()[: size * _WORD]
        self._words[at] = 0
        start = (at + 1) * _WORD
        self._bytes[start : start + len(text)] = text
        self._words[at] = len(text)

    def _view(self, copy: bytes, torn: bool) -> SlotView:
        row = memoryview(copy)
        words, floats = row.cast("q"), row.cast("d")
        integers: dict[str, Any] = {name: words[at] for name, at in _INTEGERS.items()}
        integers["state"] = STATES[words[_STATE]]
        integers["own_group"] = bool(integers["own_group"])
        integers["exit_status"] = integers["exit_status"] if integers["state"] == "dead" else None
        fields: dict[str, Any] = integers
        fields |= {name: floats[at] for name, at in _FLOATS.items()}
        fields |= {name: self._text(copy, name, words[at]) for name, (at, _) in _TEXTS.items()}
        counters = tuple(words[_COUNTERS_AT : _COUNTERS_AT + COUNTERS])
        last = self._text(copy, "current", words[_LAST])
        return SlotView(slot=self.slot, torn=torn, counters=counters, last=last, **fields)

    @staticmethod
    def _text(copy: bytes, name: str, length: int) -> str:
        at, size = _TEXTS[name]
        start = (at + 1) * _WORD
        return copy[start : start + min(length, size * _WORD)].decode(errors="replace")


class LayoutError(ValueError):
    """That memory was laid out by another version."""


class Scoreboard:
    """
    All rows. The master makes it; children inherit the mapping by the fork.

    The rows of the dead stay readable until their slot is needed again, oldest death first.
    """

    def __init__(self, slots: int, clock: Clock | None = None, fd: int = -1) -> None:
        """
        A fresh one of *slots* rows, in memory of its own (``fd`` survives an exec if it is let), or the one in *fd*.

        Raises:
            LayoutError: what is in *fd* has another layout.
        """
        self._clock = clock if clock is not None else SystemClock()
        self._slots: list[Slot] = []  # as far as anybody has asked
        self._dead: list[int] = []  # slots of the dead, oldest first; the master's
        if fd >= 0:
            self._adopt(fd)
            return
        size = _HEADER_WORDS * _WORD + slots * _SLOT_BYTES
        self.fd = os.memfd_create("pbus-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        self._head = memoryview(self._memory)[: _HEADER_WORDS * _WORD].cast("q")
        self._head[_MAGIC_AT], self._head[_VERSION_AT] = _MAGIC, VERSION
        self._head[_SLOTS_AT], self._head[_SLOT_BYTES_AT] = slots, _SLOT_BYTES
        self._most = slots

    def _adopt(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        memory = mmap.mmap(fd, size)
        head = memoryview(memory)[: _HEADER_WORDS * _WORD].cast("q")
        said = tuple(head[at] for at in (_MAGIC_AT, _VERSION_AT, _SLOT_BYTES_AT))
        if said != (_MAGIC, VERSION, _SLOT_BYTES) or size < _HEADER_WORDS * _WORD + head[_SLOTS_AT] * _SLOT_BYTES:
            raise LayoutError(f"the scoreboard has layout {said[1]}, this version has {VERSION}")
        self.fd, self._memory, self._head, self._most = fd, memory, head, head[_SLOTS_AT]
        self._dead = [slot.slot for slot in self._upto(head[_USED_AT]) if slot.state in ("dead", "free")]

    def occupy(self, place: int, **fields: Any) -> None:
        """Master only: somebody lives in that slot who cannot write there himself."""
        used = self._head[_USED_AT]
        self._dead = [each for each in (*self._dead, *range(used, place)) if each != place]
        self._head[_USED_AT] = max(used, place + 1)
        self.slot(place).update(**fields)

    def _upto(self, count: int) -> list[Slot]:
        """The first *count* slots."""
        self._slots += [self._slot(index) for index in range(len(self._slots), count)]
        return self._slots[:count]

    def _slot(self, index: int) -> Slot:
        start = _HEADER_WORDS * _WORD + index * _SLOT_BYTES
        return Slot(memoryview(self._memory)[start : start + _SLOT_BYTES], index, self._clock)

    @property
    def deaths(self) -> int:
        """Children that died so far: a cheap way to ask whether there is news."""
        count: int = self._head[_DEATHS_AT]
        return count

    def slot(self, index: int) -> Slot:
        """The slot of that index."""
        if index >= len(self._slots):
            self._upto(index + 1)
        return self._slots[index]

    def rows(self) -> list[SlotView]:
        """Every row that holds a process, living or dead, in the order of slots."""
        used = self._head[_USED_AT]
        return [slot.read() for slot in self._upto(used) if slot.state != "free"]

    def living(self) -> list[SlotView]:
        """The rows of living processes."""
        used = self._head[_USED_AT]
        rows = [slot.read() for slot in self._upto(used) if slot.state not in ("free", "dead")]
        return [row for row in rows if row.alive]

    def take(self) -> Slot | None:
        """
        Master only: an empty slot for a new process; None when every slot is lived in.

        A fresh one while few are dead, and else the oldest dead one's: who gives claims back reads the rows of the
        dead, and reads them all.
        """
        used = self._head[_USED_AT]
        if used < self._most and len(self._dead) <= max(_KEPT, used - len(self._dead)):
            self._head[_USED_AT] = used + 1
            return self.slot(used)
        if not self._dead:
            return None
        slot = self.slot(self._dead.pop(0))
        slot.clear()
        return slot

    def bury(self, slot: Slot, exit_status: int) -> SlotView:
        """Master only: the process of *slot* is dead. Answers what it leaves behind."""
        slot.update(state="dead", exit_status=exit_status)
        self._dead.append(slot.slot)
        self._head[_DEATHS_AT] += 1
        return slot.read()
