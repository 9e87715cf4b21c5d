"""
A block: what one writer has to tell of the jobs of one queue and one second (of their ids), in a few bytes.

Records (shelves RECENT and KEPT), compressed text::

    {"v": 1, "by": "n1/delivery.0", "names": [..], "tail": n}      whose, every text that repeats, length of the tail
    a, id, kind, attempt, ended_ms, wait_ms, pool_ms, run_us [, more]    tabs between
    r, first id, last id, peer
    s, first id, peer[*jobs], peer[*jobs] ..    what one append stored: ids that follow one another
    d, kind, base_ms, id, id ..                 done at the first attempt, nothing more to say; times are in the tail

kind (topic, verdict, move, target) and peer are places in ``names``; *more* is JSON, which has no raw tab or newline.
The tail has, for each line d, three columns of 32-bit floats without their lowest byte (three parts in ten thousand
less exact), byte by byte: seconds since base, seconds since the claim, seconds that it ran.
Eight bytes an attempt and 0.5 us to write one (a row or a hash field of its own: 33 to 109 bytes).

Marks (shelf INDEX): so that a look-up is a search for four bytes, the numbers are not compressed::

    "X1", fields u16, jobs u32 | path mark u32 x fields | (mark u32 x jobs) x fields | compressed runs of ids

A run is a line: its first id, TAB, how many.

Source: ours. Rule: bytes <-> records, no I/O. Blocks are repeated, so readers may meet a record twice.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from pbus.core.trace import NOTHING, Attempt, Done, Received, Record, Run, Stored

MOST_BYTES: Final = 16 * 1024 * 1024
"""No block is larger, unpacked."""

_LEVEL: Final = 1    # 10.3 bytes an attempt; level 6 makes 9.0 of it for four times the time
_HEAD: Final = struct.Struct("<2sHI")
_MAGIC: Final = b"X1"
_MARK_BYTES: Final = 4
_COLUMNS: Final = 3
_PLANES: Final = 3
"""Bytes that are kept of a float."""


class Told(NamedTuple):
    """
    Attributes:
        by: The writer: node and process.
        record: What it tells.
    """

    by: str
    record: Record


def pack(by: str, records: Iterable[Record | Stored | Done]) -> bytes:
    """One block of *records*, written by *by*."""
    places: dict[tuple[str, ...], int] = {}
    place = places.setdefault
    lines = [""]
    tails: list[bytes] = []
    add = lines.append
    for record in records:
        if isinstance(record, Received):
            first, last, peer = record
            add(f"r\t{first}\t{last}\t{place(peer, len(places))}")
            continue
        if isinstance(record, Stored):
            add(f"s\t{record.first}\t{_parts(record.parts, places)}")
            continue
        if isinstance(record, Done):
            topic, target, rows = record
            add(f"d\t{place((topic, 'done', 'ack', target), len(places))}\t{_times(rows, tails)}")
            continue
        job, topic, attempt, ended_ms, wait_ms, pool_ms, run_us, verdict, move, target, more = record
        kind = place((topic, verdict, move, target), len(places))
        text = "\t" + json.dumps(dict(more), separators=(",", ":")) if more else ""
        add(f"a\t{job}\t{kind}\t{attempt}\t{ended_ms}\t{wait_ms}\t{pool_ms}\t{run_us}{text}")
    tail = b"".join(tails)
    head = {"v": 1, "by": by, "names": list(places), "tail": len(tail)}
    lines[0] = json.dumps(head, separators=(",", ":"))
    return zlib.compress("\n".join(lines).encode("utf-8", "surrogatepass") + tail, _LEVEL)


def unpack(block: bytes, id: str = "") -> list[Told]:
    """
    The records of a block, in their order; with *id* those of that job only, and nothing else is parsed.

    Raises:
        ValueError: it is none, or damaged.
    """
    head, _, rest = _inflated(block).partition(b"\n")
    known = json.loads(head)
    if not isinstance(known, dict) or known.get("v") != 1:
        raise ValueError("a block of another version")
    try:
        by, names, size = known["by"], known["names"], len(rest) - known.get("tail", 0)
        text, tail, told = rest[:size].decode("utf-8", "surrogatepass"), rest[size:], list[Record]()
        for line in text.split("\n"):
            if line.startswith("d"):
                rows = line.split("\t")[1:]
                width = _COLUMNS * _PLANES * (len(rows) - 2)
                told += _done(rows, tail[:width], names, id)
                tail = tail[width:]
            elif line:
                told += _record(line, names, id)
    except (LookupError, TypeError, struct.error) as error:
        raise ValueError(f"a damaged block: {error}") from error
    return [Told(by, record) for record in told]


def pack_marks(paths: Sequence[int], runs: Sequence[Run], columns: Sequence[Sequence[int]]) -> bytes:
    """
    One block of the marks of jobs.

    Args:
        paths: The mark of each path (``core.index.mark``).
        runs: The jobs.
        columns: Per path the mark of each job.
    """
    jobs = sum([run.jobs for run in runs])
    parts = [_HEAD.pack(_MAGIC, len(paths), jobs), _words(paths), *map(_words, columns)]
    lines = "\n".join([f"{first}\t{count}" for first, count in runs])
    return b"".join([*parts, zlib.compress(lines.encode(), _LEVEL)])


def marked(block: bytes) -> tuple[tuple[int, ...], int]:
    """
    The marks of the paths of a block of marks, and how many jobs it is of. A block without jobs is a note: with paths,
    that they are indexed at that second; without, that jobs of that second were left out.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        magic, fields, jobs = _HEAD.unpack_from(block)
        paths = struct.unpack_from(f"<{fields}I", block, _HEAD.size)
    except struct.error as error:
        raise ValueError(f"a damaged block: {error}") from error
    if magic != _MAGIC:
        raise ValueError("not a block of marks")
    return paths, jobs


def find_marks(block: bytes, path: int, wanted: int) -> list[str]:
    """
    Ids of the jobs of *block* whose value at the path of that mark may be the one of mark *wanted*.

    Raises:
        ValueError: it is none, or damaged.
    """
    paths, jobs = marked(block)
    end = _HEAD.size + _MARK_BYTES * len(paths) * (1 + jobs)
    if len(block) < end:
        raise ValueError("a block that is cut off")
    if path not in paths:
        return []
    begin = _HEAD.size + _MARK_BYTES * (len(paths) + paths.index(path) * jobs)
    places = list(_places(block, begin, begin + _MARK_BYTES * jobs, wanted))
    if not places:
        return []
    ids = [job for line in _inflated(block[end:]).decode().split("\n") for job in _run(line, jobs).ids()]
    if len(ids) != jobs:
        raise ValueError(f"a damaged block: {len(ids)} ids of {jobs}")
    return [ids[place] for place in places]


def needle(wanted: int) -> bytes:
    """What every block has in it that ``find_marks`` finds something in."""
    return struct.pack("<I", wanted)


def _places(block: bytes, begin: int, end: int, wanted: int) -> Iterator[int]:
    looked_for = needle(wanted)
    at = block.find(looked_for, begin, end)
    while at >= 0:
        place, rest = divmod(at - begin, _MARK_BYTES)
        if not rest:
            yield place
        at = block.find(looked_for, at + 1, end)


def _run(line: str, most: int) -> Run:
    first, _, count = line.partition("\t")
    return Run(first, min(int(count), most))


def _words(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _parts(parts: Sequence[tuple[tuple[str, ...], int]], places: dict[tuple[str, ...], int]) -> str:
    place = places.setdefault
    return "\t".join([
        f"{place(peer, len(places))}" if jobs == 1 else f"{place(peer, len(places))}*{jobs}" for peer, jobs in parts
    ])


def _times(rows: Sequence[tuple[str, float, float, float]], tails: list[bytes]) -> str:
    """The rest of a line d; its columns are added to *tails*."""
    ids, ended, claimed, ran = zip(*rows, strict=True)
    base_ms = int(ended[0] * 1000)
    base_s, form = base_ms / 1000, f"<{len(ids)}f"
    since = [each - base_s for each in ended]
    held = [end - begin for end, begin in zip(ended, claimed, strict=True)]
    for column in (since, held, ran):
        data = struct.pack(form, *column)
        tails += data[1::4], data[2::4], data[3::4]
    return f"{base_ms}\t" + "\t".join(ids)


def _done(fields: Sequence[str], tail: bytes, names: Sequence[Any], id: str) -> Iterator[Attempt]:
    """Attempts of a line d with these *fields* and this part of the tail."""
    kind, base_ms, *ids = fields
    if id and id not in ids:
        return
    count = len(ids)
    planes = [tail[at : at + count] for at in range(0, len(tail), count)]
    columns = [
        struct.unpack(f"<{count}f", bytes([byte for low in zip(bytes(count), *three, strict=True) for byte in low]))
        for three in (planes[at : at + _PLANES] for at in range(0, _COLUMNS * _PLANES, _PLANES))
    ]
    topic, verdict, move, target = names[int(kind)]
    for job, since_s, held_s, run_s in zip(ids, *columns, strict=True):
        if not id or job == id:
            ended_ms = int(base_ms) + round(since_s * 1000)
            wait_ms = ended_ms - round(held_s * 1000) - _number(job)[0]
            pool_ms = round((held_s - run_s) * 1000)
            yield Attempt(
                job, topic, 1, ended_ms, max(0, wait_ms), max(0, pool_ms), round(run_s * 1e6), verdict, move, target
            )


def _stored(fields: Sequence[str], names: Sequence[Any], id: str) -> Iterator[Received]:
    """Of a line s: who pushed what."""
    first, *parts = fields
    split = [part.partition("*") for part in parts]
    whole = Stored(first, [(tuple(names[int(place)]), int(jobs or 1)) for place, _, jobs in split])
    for one in whole.received():
        if not id or _number(one.first) <= _number(id) <= _number(one.last):
            yield one


def _record(line: str, names: Sequence[Any], id: str) -> Iterator[Record]:
    kind, *fields = line.split("\t")
    if kind == "a":
        if not id or fields[0] == id:
            yield _attempt(fields, names)
    elif kind == "s":
        yield from _stored(fields, names, id)
    elif kind == "r":
        first, last, peer = fields
        if not id or _number(first) <= _number(id) <= _number(last):
            address, identity, client, library = names[int(peer)]
            yield Received(first, last, (address, identity, client, library))
    # Kinds that a later version writes are left out.


def _attempt(fields: Sequence[str], names: Sequence[Any]) -> Attempt:
    job, kind, *numbers = fields[:7]
    attempt, ended_ms, wait_ms, pool_ms, run_us = map(int, numbers)
    topic, verdict, move, target = names[int(kind)]
    more = json.loads(fields[7]) if len(fields) > 7 else NOTHING
    return Attempt(job, topic, attempt, ended_ms, wait_ms, pool_ms, run_us, verdict, move, target, more)


def _number(id: str) -> tuple[int, int]:
    ms, _, sequence = id.partition("-")
    return int(ms), int(sequence or 0)


def _inflated(data: bytes) -> bytes:
    """*data* unpacked, never more than ``MOST_BYTES`` of it."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a damaged block: {error}") from error
    if not inflater.eof:
        raise ValueError("a block that is cut off, or too large")
    return text
