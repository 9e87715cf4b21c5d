"""
What a master carries through an exec, so that the one that it becomes goes on where it was. Pure.

    old code: State --encode--> memfd --exec--> decode --> State: new code (``adoption``)

    b"pbus-upgrade 1\n" + JSON

Rule: numbers, texts and lists of them; no object of one version is ever read by another. Bytes travel as base64.
Descriptors are named by their numbers, which an exec keeps. It holds secrets, so it is never in an argument, an
environment or a file.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pbus.supervisor.roles import RoleSpec

VERSION: Final = 1
"""Of the layout. Another one is not understood: then a rehearsal says so, and nothing is touched."""
MOST_BYTES: Final = 256 << 20
_MAGIC: Final = b"pbus-upgrade "

T = TypeVar("T")


class StateError(ValueError):
    """It is no state of ours, or one of another layout."""


@dataclass(slots=True, kw_only=True)
class ChildState:
    """
    One child, see ``Handle``.

    Attributes:
        spec: Fields of its RoleSpec, without ``args``.
        digest: Of its RoleSpec with ``args``, see ``digest_of``.
        fd: Our end of its control socket; ``unread`` and ``unsent``: what of it was on its way.
        lanes, backends: ``[name, name, fields]``.
    """

    spec: dict[str, Any]
    digest: str
    index: int
    n: int
    boot: str
    generation: int
    slot: int
    pid: int
    fd: int
    born_s: float
    ready_s: float | None = None
    draining_since: float | None = None
    killed: bool = False
    condemned: bool = False
    overdue_since: float | None = None
    dumped: bool = False
    busy_s: float = 0.0
    leaving: str = ""
    code: int = 0
    trial: bool = False
    too_big: str = ""
    failure: str = ""
    stale: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    lanes: list[list[Any]] = field(default_factory=list)
    backends: list[list[Any]] = field(default_factory=list)
    column: int = -1
    waits: bool = False
    patient: bool = False
    unread: bytes = b""
    unsent: bytes = b""


@dataclass(slots=True, kw_only=True)
class State:
    """
    One master between two turns of its loop.

    Attributes:
        code: Version of pbus that wrote it.
        upgrades: How many there have been, this one included.
        boot, boot_fd, pid_fd: Its boot and its two locks.
        generation, generations: The newest one, and ``[role, path, generation]`` of what was renewed.
        born_s: When the bus began (monotonic).
        born: Serial number of the last child.
        files: Open files that user code may have, see ``allow_descriptors``.
        token_key: What the tokens of consumers are made with.
        doors: ``[name, descriptor, path, host, port]``.
        passed: Socket files that are the service manager's.
        control: Descriptors of control.sock and status.sock.
        scoreboard, histograms: Descriptors.
        indexes: ``[role, path, [index, ..]]``: places that are wanted.
        restarts, not_before: ``[role, path, index, number]``.
        histories: ``[role, path, fields]``.
        past: Fields of ``Past``.
        rollouts: ``[role, path, fields]``; watchers: ``[role, path, n]``.
        decisions: The scaling plan.
        relay: What the relay keeps.
        reloads: How many there have been; ``since_s``: see ``Reloads.view``.
        signals: Names of those that came and were not yet done.
        mask: Numbers of those that are held back otherwise, too.
        settings: What the rehearsal has read (of the new code, for the new code).
    """

    code: str
    upgrades: int
    boot: str
    boot_fd: int
    pid_fd: int
    generation: int
    born_s: float
    born: int
    files: int
    token_key: bytes
    scoreboard: int
    histograms: int
    generations: list[list[Any]] = field(default_factory=list)
    children: list[ChildState] = field(default_factory=list)
    doors: list[list[Any]] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    control: list[int] = field(default_factory=list)
    indexes: list[list[Any]] = field(default_factory=list)
    restarts: list[list[Any]] = field(default_factory=list)
    not_before: list[list[Any]] = field(default_factory=list)
    histories: list[list[Any]] = field(default_factory=list)
    past: dict[str, Any] = field(default_factory=dict)
    rollouts: list[list[Any]] = field(default_factory=list)
    watchers: list[list[Any]] = field(default_factory=list)
    decisions: dict[str, Any] = field(default_factory=dict)
    relay: dict[str, Any] = field(default_factory=dict)
    reloads: int = 0
    since_s: float = 0.0
    signals: list[str] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    settings: bytes = b""

    @property
    def descriptors(self) -> list[int]:
        """All that have to survive the exec."""
        named = [self.boot_fd, self.pid_fd, self.scoreboard, self.histograms, *self.control]
        return [*named, *(int(door[1]) for door in self.doors), *(child.fd for child in self.children)]


def encode(state: State) -> bytes:
    """
    The bytes of *state*.

    Raises:
        StateError: it is larger than MOST_BYTES (children do not read what they are sent).
    """
    fields = _fields(state) | {"children": [_fields(child) for child in state.children]}
    data = _MAGIC + b"%d\n" % VERSION + json.dumps(fields, default=_base64).encode()
    if len(data) > MOST_BYTES:
        raise StateError(f"there are {len(data) >> 20} MiB to be carried, {MOST_BYTES >> 20} MiB is the most")
    return data


def decode(data: bytes) -> State:
    """
    The state that *data* is of.

    Raises:
        StateError: none that this version knows.
    """
    head, newline, body = data[:MOST_BYTES].partition(b"\n")
    if not newline or not head.startswith(_MAGIC):
        raise StateError("not the state of a bus")
    version = head.removeprefix(_MAGIC)
    if version != b"%d" % VERSION:
        raise StateError(f"the state of a bus in layout {version[:20]!r}, this version knows {VERSION}")
    try:
        fields = json.loads(body)
        children = [_made(ChildState, child) for child in fields.pop("children")]
        return _made(State, fields | {"children": children})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise StateError(f"a state of a bus that makes no sense: {type(error).__name__}: {error}") from error


def digest_of(spec: RoleSpec) -> str:
    """
    The same for two specs whose processes are the same, in any process: of every field and argument but their number.

    Secrets may be among these, so it is as secret as they are.
    """
    same = dataclasses.replace(spec, count=0, most=0)
    return hashlib.sha256(json.dumps(plain(same), sort_keys=True, default=repr).encode()).hexdigest()


def plain(value: Any) -> Any:
    """*value* in terms of JSON, the same in every process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        usual = {each.name: each.default for each in dataclasses.fields(value)}
        said = {name: plain(member) for name, member in members.items() if member != usual[name]}
        return {"": type(value).__name__, **said}  # what is as always may be unknown to another version
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(plain(each), sort_keys=True, default=repr) for each in value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _fields(state: State | ChildState) -> dict[str, Any]:
    return {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}


def _base64(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} cannot be carried")


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "bytes": (bytes,), "list": (list,),
    "dict": (dict,), "None": (type(None),),
}


def _made(kind: type[T], fields: Mapping[str, Any]) -> T:
    """One of *kind*, each field of the type that it says (annotations are texts here)."""
    known = {each.name: str(each.type) for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for name, value in fields.items():
        allowed = tuple(
            each for word in known[name].split(" | ") for each in _TYPES[word.partition("[")[0]]
        )
        made[name] = base64.b64decode(value, validate=True) if allowed == (bytes,) else value
        if not isinstance(made[name], allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ValueError(f"{name} is a {type(value).__name__}")
    return kind(**made)
