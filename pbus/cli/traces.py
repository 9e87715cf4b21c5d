"""How a command reads and writes stories of jobs: in the files and stores themselves, with the bus running or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from pbus.errors import StorageError

if TYPE_CHECKING:
    from pbus.codec.trace_block import Told
    from pbus.config.schema import Settings
    from pbus.core.trace import Record
    from pbus.storage.traces import Traces

_SQLITE: Final = "sqlite:"
_T = TypeVar("_T")


@contextlib.contextmanager
def opened_traces(settings: Settings, storage: str) -> Iterator[Traces | None]:
    """
    Stories beside *storage*; None: none were ever written there.

    Raises:
        StorageError: they cannot be read now.
    """
    from pbus.app import stores, traces
    from pbus.cli.stores import be_its_owner
    from pbus.storage.traces import make

    target = stores(settings)[storage]
    if target.url.startswith(_SQLITE):
        if not os.path.exists(target.url.removeprefix(_SQLITE) + ".traces"):
            yield None
            return
        be_its_owner(settings.node.user)
    kept = make(target, traces(settings).limits)
    try:
        yield kept
    except StorageError as error:
        raise type(error)(f"traces of storage {storage}: {error}") from None
    finally:
        if kept is not None:
            kept.close()


def told_of(settings: Settings, storage: str, queue: str, job_id: str) -> list[Told]:
    """
    Everything that is kept of one job.

    Raises:
        StorageError: it cannot be read now.
    """
    from pbus.codec import trace_block
    from pbus.core.names import job_id_ms
    from pbus.core.trace import Shelf

    second = job_id_ms(job_id) // 1000
    told: list[Told] = []
    with opened_traces(settings, storage) as kept:
        if kept is None:
            return []
        for shelf in (Shelf.RECENT, Shelf.KEPT):
            for block in kept.blocks(queue, shelf, second, second):
                with contextlib.suppress(ValueError):  # of another version, or damaged
                    told += trace_block.unpack(block.data, job_id)
        return told + _notes(kept, queue, job_id, told) if told else []


def _notes(kept: Traces, queue: str, job_id: str, told: Sequence[Told]) -> list[Told]:
    """Purges that met a job of which this much is told."""
    from pbus.codec import trace_block
    from pbus.core.trace import NOTES, Attempt, Shelf, concerns

    attempts = [each.record for each in told if isinstance(each.record, Attempt)]
    notes: list[Told] = []
    for block in kept.blocks(queue, Shelf.KEPT, 0, 0):
        with contextlib.suppress(ValueError):
            notes += trace_block.unpack(block.data, NOTES)
    return [
        note for note in notes if isinstance(note.record, Attempt) and concerns(note.record, job_id, attempts)
    ]


def replays_of(settings: Settings, storage: str, queue: str, job_id: str) -> dict[str, str]:
    """Topic -> as what, and by which replay, it was run again there, as far as that is kept and can be read."""
    from pbus.core.story import run_again
    from pbus.core.trace import REPLAYED, Attempt

    told = tried(lambda: told_of(settings, storage, queue, job_id)) or []
    attempts = (one for _, one in told if isinstance(one, Attempt))
    return {one.topic: run_again(one) for one in attempts if one.verdict == REPLAYED}


def tell(settings: Settings, storage: str, queue: str, records: Sequence[Record]) -> None:
    """Add *records* of jobs of *queue*, to be kept as failures are; what cannot be written is left out."""
    from pbus.codec import trace_block
    from pbus.core.names import job_id_ms
    from pbus.core.trace import Shelf
    from pbus.storage.traces import Block

    by: dict[int, list[Record]] = {}
    for record in records:
        by.setdefault(job_id_ms(record[0]) // 1000, []).append(record)
    blocks = [
        Block(queue, Shelf.KEPT, second, trace_block.pack(f"{settings.node.name}/command line", some))
        for second, some in by.items()
    ]
    with contextlib.suppress(StorageError), opened_traces(settings, storage) as kept:
        if kept is not None and blocks and settings.trace.max_bytes:
            kept.put(blocks)


def who() -> str:
    """The person at this terminal, for people."""
    import pwd

    name = os.environ.get("SUDO_USER", "")
    with contextlib.suppress(KeyError):
        name = name or pwd.getpwuid(os.getuid()).pw_name
    return name or f"uid {os.getuid()}"


def tried(call: Callable[[], _T]) -> _T | None:
    """What *call* answers; None: its store is away."""
    try:
        return call()
    except StorageError:
        return None
