"""
The answer for pushes of one queue that were all stored: most callers look at one entry of many, so none is made before.

Rule: read-only by agreement, as ``Appended`` is; parts of it are cut for every client of a batch.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Self, overload

from pbus.storage.driver import Appended


class StoredRun(Sequence[Appended]):  # noqa: PLW1641 - a list of its kind, no key
    """
    A driver says how its ids follow one another.

    Attributes:
        size: How many pushes.
        backlog, topics: As ``Appended`` says them, the same for all.
    """

    __slots__ = ("backlog", "size", "topics")

    all_stored: ClassVar[bool] = True
    """None of them is refused or a duplicate: nobody has to look."""

    def __init__(self, size: int, backlog: int, topics: int) -> None:
        self.size = size
        self.backlog = backlog
        self.topics = topics

    @abc.abstractmethod
    def _id(self, place: int) -> str:
        """Of the push at *place*."""

    @abc.abstractmethod
    def _part(self, start: int, size: int) -> Self:
        """Those from *start* on."""

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    @overload
    def __getitem__(self, index: int) -> Appended: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Appended]: ...
    def __getitem__(self, index: int | slice) -> Appended | Sequence[Appended]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                return [self[place] for place in range(start, stop, step)]
            return self._part(start, max(0, stop - start))
        place = index + self.size if index < 0 else index
        if not 0 <= place < self.size:
            raise IndexError(index)
        return Appended(self._id(place), self.backlog, self.topics)
