"""
Pushes of one queue that are nothing but bodies, without an object each: what producers send all day.

Rule: a ``Sequence[Push]`` like any other, so nobody has to know of it; who does saves a microsecond a push.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from pbus.core.job import Push


class Plain(Sequence[Push]):
    """
    Read-only by agreement. Each push is a span of its own, in no group, without options and metadata.

    Attributes:
        queue: A declared name.
        bodies: One a push, in order.
    """

    __slots__ = ("bodies", "queue")

    def __init__(self, queue: str, bodies: list[bytes]) -> None:
        self.queue = queue
        self.bodies = bodies

    def __len__(self) -> int:
        return len(self.bodies)

    def __iter__(self) -> Iterator[Push]:
        queue = self.queue
        return iter([Push(queue, body) for body in self.bodies])

    @overload
    def __getitem__(self, index: int) -> Push: ...
    @overload
    def __getitem__(self, index: slice) -> Plain: ...
    def __getitem__(self, index: int | slice) -> Push | Plain:
        if isinstance(index, slice):
            return Plain(self.queue, self.bodies[index])
        return Push(self.queue, self.bodies[index])

    def __repr__(self) -> str:
        return f"Plain({self.queue!r}, {len(self.bodies)} bodies)"


def bodies_of(pushes: Sequence[Push]) -> list[bytes]:
    """The bodies of any pushes, in order; not to be changed."""
    return pushes.bodies if type(pushes) is Plain else [push.body for push in pushes]
