"""
The pushes of a transaction on their way into the store: one group of one write, and one answer.

    tickets of the commands -> Whole -> the committer's batch -+-> replies, one a command
                                                               +-> one refusal

Rule: what the store refuses of it, it has refused altogether, so one reason is the answer for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pbus.ingest.committer import Submitter, Ticket
from pbus.storage.driver import Appended

NOT_STORED: Final = ": not stored"
NOTHING: Final = ": nothing of the transaction is stored"
_WHOLE: Final = "whole"
"""What the store says of the spans of a group of which another one was refused."""


class Whole(Ticket):
    """
    The pushes of a transaction, which are answered by EXEC.

    Attributes:
        parts: A ticket a command, in order.
        replies: Theirs, once they are stored.
        refusal: Why they are not; empty: they are, or nothing is known yet.
    """

    __slots__ = ("parts", "refusal", "replies")

    def __init__(self, submitter: Submitter, parts: Sequence[Ticket]) -> None:
        super().__init__(submitter, [push for part in parts for push in part.pushes])
        self.size += sum([len(push.body) for push in self.pushes])
        if len(parts) > 1:
            self.pushes[0].whole = len(self.pushes)
        self.parts = parts
        self.replies: list[bytes] = []
        self.refusal = ""

    def store(self, appended: Sequence[Appended]) -> None:
        at = 0
        for part in self.parts:
            end = at + len(part.pushes)
            part.store(appended[at:end])
            self.replies.append(part.reply or b"")
            at = end

    def store_some(self, appended: Sequence[Appended], full: Callable[[str, Appended, int], str]) -> None:
        at, refused = 0, False
        for part in self.parts:
            answer = appended[at]
            refused = refused or bool(answer.refused)
            if answer.refused and answer.refused != _WHOLE:
                self.refuse(full(part.pushes[0].queue, answer, len(part.pushes)))
                return
            at += len(part.pushes)
        if refused:                                   # a driver that names no reason
            self.refuse(f"UNAVAILABLE the store has refused it{NOT_STORED}")
            return
        self.store(appended)

    def refuse(self, text: str) -> None:
        self.refusal = aborted(text)

    @property
    def commands(self) -> int:
        """What EXEC passes on word for word is counted where EXEC is answered."""
        return int(self.refusal.startswith("EXECABORT"))


def aborted(text: str) -> str:
    """What EXEC answers when its pushes were refused with *text*."""
    if text.startswith("MAYBESTORED "):
        return text
    return "EXECABORT " + text.replace(NOT_STORED, NOTHING, 1)
