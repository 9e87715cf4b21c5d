"""
Pauses with an end of their own: ``pbus deploy`` holds a topic, and a note beside the pause says for how long.

    taken --renewed every few seconds by who holds it--> released
       |
       +-- not renewed for lease_s: the scheduler of any node resumes the topic

Rule: no clock is compared with another machine's. Who looks counts from the moment at which it saw the note's version
first. Whoever pauses or resumes the topic by hand takes the note away: from then on that word holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pbus.storage.documents import KeepsDocuments

KIND: Final = "deploy"


@dataclass(frozen=True, slots=True)
class Lease:
    """
    Who holds a topic.

    Attributes:
        by: For people: ``root on bus-1``.
        token: Of one deploy; nobody else's.
        lease_s: It ends so long after the last renewal.
    """

    by: str
    token: str
    lease_s: float

    def text(self, turn: int = 0) -> str:
        """As it is stored; *turn* makes each renewal another text."""
        return json.dumps({"by": self.by, "token": self.token, "lease_s": self.lease_s, "turn": turn})


def parse(text: str) -> Lease:
    """
    Raises:
        ValueError: that is none.
    """
    try:
        told = json.loads(text)
        return Lease(str(told["by"]), str(told["token"]), float(told["lease_s"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no lease: {text[:80]!r}") from error


def forget(store: KeepsDocuments, path: str) -> None:
    """A person's word about ``queue/topic`` holds from now on, whoever had leased it."""
    for note in store.documents(KIND, [path]):
        store.drop_document(KIND, path, note.version)
