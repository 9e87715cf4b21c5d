"""
What a row of the command table is.

Rule: data. A row says everything that is said about its command: who answers it, what COMMAND shows of it,
what redis-cli hints while it is typed, and its line in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

Multi = Literal["later", "checked", "own", "now", "never"]
Act = Callable[["Connection", list[bytes]], bytes | None]


@dataclass(frozen=True, slots=True)
class Doc:
    """
    What people read about a command. Rows that share one are one line of the page.

    Attributes:
        group: What it is for: ``push``, ``pull``, ``look``, ``cancel``, ``transactions``, ``connection``, ``server``.
        syntax: What follows the name: words are values, words in capitals are said as they are and belong to what
            follows them; ``[optional]``, ``<one | other>``, ``body [body ...]`` for once or more.
        reply: In a few words.
        summary: One sentence without markup, for COMMAND DOCS and the page.
        more: What the page says beyond that, Markdown.
        complexity: Where the cost is not plain.
        since: Version of pbus.
    """

    group: str
    syntax: str
    reply: str
    summary: str
    more: str = ""
    complexity: str = ""
    since: str = "0.1.0"


class Later(Exception):
    """Between MULTI and EXEC: a command that is in order is about to be done, which is EXEC's business."""


@dataclass(frozen=True, slots=True)
class Row:
    """
    One command, or one subcommand of it.

    Attributes:
        name: Lower case, as COMMAND shows it; of a subcommand ``xinfo|stream``.
        act: Its function; of a subcommand it gets all arguments, too.
        arity: Number of elements with the name (and the subcommand's); negative: at least so many.
        doc: What people read.
        push: Stores jobs. Several in a row are one append; every other command waits for those before it.
        ack: Settles claims by ``Connection.join``. Several in a row are done together.
        anonymous: Answered before AUTH too (what connects, and nothing that shows anything).
        flags: As COMMAND shows them.
        keys: First key, last key, step, as COMMAND shows them.
        subs: Subcommands. Those that are not listed here are the business of *act*.
        multi: What becomes of it between MULTI and EXEC: ``later``: EXEC does it; ``checked``: the same, but *act*
            is called at once, too, as far as it needs no store (``Connection.wait``, ``join``), and what it refuses
            then is refused; ``own``: *act* does what it does there by itself, as all pushes do; ``now``: it is done;
            ``never``: it is refused, as whatever has the flag ``blocking`` is (XREADGROUP only with BLOCK).
    """

    name: str
    act: Act
    arity: int
    doc: Doc
    push: bool = False
    ack: bool = False
    anonymous: bool = False
    flags: tuple[str, ...] = ("fast",)
    keys: tuple[int, int, int] = (0, 0, 0)
    subs: tuple[Row, ...] = ()
    multi: Multi = "later"

    def sub(self, name: bytes) -> Row | None:
        """The subcommand of that name, however it is written."""
        wanted = f"{self.name}|{name.decode('latin-1').lower()}"
        return next((row for row in self.subs if row.name == wanted), None)
