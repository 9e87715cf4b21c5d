"""
Connections on their way from one ingest child to another: what is said on the link, and what a connection is made of.

    old child                                   new child
      hello {version, index} -------------------->           may refuse: another version, or it drains itself
      <------------------------------- welcome / refused {text}
      pass {n, record} + its descriptor --------->           claims change their owner
      <------------------ took {ns, lost: {n: [place]}} / back {ns: {n: text}}
      yours {ns} -------------------------------->           from here on it is served there, and only there

``lost`` are places in ``claims`` of a record whose topics are gone there. A link that ends takes back whatever was not
said to be ``yours``.

Rule: no I/O. A record is checked to its last field before anything is made of it: the other side may be another version
of this program. Names that clients chose are bytes; moments are monotonic seconds, which all processes of a machine
share.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

VERSION: Final = 1
"""Of the link and of its records; both sides have to speak the same."""
_ODD: Final = "surrogateescape"
"""Keys are any bytes, kept as text."""
POPPED: Final = "popped"
READ: Final = "read"
HANDED: Final = "handed"
POP: Final = "pop"
TOKEN: Final = "token"

COMMAND: Final = "command"
RUN: Final = "run"
TOO_BIG: Final = "too_big"
GARBAGE: Final = "garbage"


class HandoverError(ValueError):
    """The other side does not say what this page says."""


@dataclass(slots=True, kw_only=True)
class Identity:
    """
    Who a connection is.

    Attributes:
        kind, name, local: As in ``access.Access``.
        proofs: Digests of the passwords that it may have come in with; none: it needed none, or bears a token.
        owner: Of a token: the process it was made for.
    """

    kind: str
    name: str
    local: bool
    proofs: list[bytes] = field(default_factory=list)
    owner: str = ""


@dataclass(slots=True, kw_only=True)
class ClaimState:
    """One open claim: what its delivery carries (without its body), since when it is held, and who reads it."""

    id: str
    queue: str
    topic: str
    attempt: int
    crashes: int
    redelivered: bool
    traceparent: str
    content_type: str
    first_ms: int
    owner: str
    key: str
    forgiven: int
    replay_of: str
    span: str
    since_s: float
    consumer: bytes = b""


@dataclass(slots=True, kw_only=True)
class Blocked:
    """
    The command that a connection waits in.

    Attributes:
        kind: ``pop``, ``read`` or ``token``.
        keys: As the client wrote them.
        topics: (queue, topic) of each.
        count, many, deadline_s: As in ``pops.Pop``.
        consumer, keeps: Of a read.
        prepared: Of a program's: what it held before is done, and it holds nothing.
    """

    kind: str
    keys: list[bytes]
    topics: list[tuple[str, str]]
    count: int
    many: bool
    deadline_s: float
    consumer: bytes = b""
    keeps: bool = True
    acked: bool = False
    prepared: bool = False


@dataclass(slots=True, kw_only=True)
class Sending:
    """
    Jobs in a reply that the kernel does not have yet.

    Attributes:
        kind: ``popped`` (done when it has left), ``read`` (open from then on) or ``handed`` (to a program).
        claims: The jobs.
    """

    kind: str
    claims: list[ClaimState]


@dataclass(slots=True, kw_only=True)
class Said:
    """
    One command that was parsed and not executed.

    Attributes:
        kind: ``command``, ``run`` (of commands that differ in their last word), ``too_big`` or ``garbage``.
        words: All of it; what the commands share; what was kept; nothing.
        lasts: Of a run.
        text: Which limit was broken; what is wrong.
        size, limit: Of what was too big.
    """

    kind: str
    words: list[bytes] = field(default_factory=list)
    lasts: list[bytes] = field(default_factory=list)
    text: str = ""
    size: int = 0
    limit: int = 0


@dataclass(slots=True, kw_only=True)
class Queued:
    """What waits for EXEC: the commands in order; ``refused``: one was, EXEC does nothing."""

    commands: list[list[bytes]]
    refused: bool


@dataclass(slots=True, kw_only=True)
class Record:
    """
    Everything that makes up a connection, beside its descriptor.

    Attributes:
        id, peer, protocol, name, library, began_s: As in ``connection.Connection``.
        identity: Who it is.
        queued: Since MULTI; None: there was none.
        parent: Id and traceparent of the job whose children it pushes; None: nobody's.
        said: Parsed and not executed.
        unread: Not parsed.
        started_s: Since when a command is incomplete.
        ended: The client sends nothing more.
        unsent: Replies that the kernel did not take.
        stuck_s: Since when.
        sendings: What hangs on their being sent.
        unsure: Jobs in the last reply to a program, of which nobody knows yet whether it was read.
        blocked: What it waits in; None: nothing.
        claims: What it has read and nobody has settled, oldest first.
        oldest_s: Since when the first of them is the first.
    """

    id: int
    peer: str
    protocol: int
    name: bytes
    library: dict[str, str] | None
    began_s: float
    identity: Identity
    queued: Queued | None = None
    parent: tuple[str, str] | None = None
    said: list[Said] = field(default_factory=list)
    unread: bytes = b""
    started_s: float | None = None
    ended: bool = False
    unsent: bytes = b""
    stuck_s: float = 0.0
    sendings: list[Sending] = field(default_factory=list)
    unsure: list[Sending] = field(default_factory=list)
    blocked: Blocked | None = None
    claims: list[ClaimState] = field(default_factory=list)
    oldest_s: float = 0.0


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    data: bytes = msgpack.packb([VERSION, _plain(record)], use_bin_type=True, unicode_errors=_ODD)
    return data


def decode(data: bytes) -> Record:
    """
    The record of these bytes.

    Raises:
        HandoverError: they are none, or one of another version.
    """
    try:
        said: Any = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True, unicode_errors=_ODD)
    except Exception as error:  # noqa: BLE001 - whatever a library makes of garbage
        raise HandoverError(f"no record of a connection: {error!r}") from None
    if not isinstance(said, list) or len(said) != 2:
        raise HandoverError("no record of a connection")
    version, fields = said
    if version != VERSION:
        raise HandoverError(f"a record of version {version!r}, this is version {VERSION}")
    record = _checked(fields, Record, "record")
    assert isinstance(record, Record)
    return record


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return [_plain(getattr(value, name)) for name in _FIELDS[type(value)]]
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _checked(value: Any, kind: Any, path: str) -> Any:
    """
    *value* as *kind* says it.

    Raises:
        HandoverError: it is something else.
    """
    if dataclasses.is_dataclass(kind):
        return _checked_fields(value, kind, path)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:                     # something, or None
        return None if value is None else _checked(value, parts[0], path)
    if origin is None and type(value) is kind:
        return value
    if origin is list and type(value) is list:
        return [_checked(one, parts[0], path) for one in value]
    if origin is tuple and type(value) is list and len(value) == len(parts):
        return tuple([_checked(one, part, path) for one, part in zip(value, parts, strict=True)])
    if origin is dict and type(value) is dict:
        return {_checked(key, parts[0], path): _checked(one, parts[1], path) for key, one in value.items()}
    raise HandoverError(f"{path}: {type(value).__name__} where {kind} is expected")


def _checked_fields(value: Any, kind: Any, path: str) -> Any:
    names = _FIELDS[kind]
    if type(value) is not list or len(value) != len(names):
        raise HandoverError(f"{path}: no {kind.__name__}")
    return kind(**{
        name: _checked(one, expected, f"{path}.{name}")
        for (name, expected), one in zip(names.items(), value, strict=True)
    })


_FIELDS: Final[dict[Any, dict[str, Any]]] = {
    kind: typing.get_type_hints(kind) for kind in (Identity, ClaimState, Blocked, Sending, Said, Queued, Record)
}
"""Of each kind of record its fields, in the order in which they are written, and what they are."""
