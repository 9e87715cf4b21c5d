"""
The door for people and programs on this machine: two unix sockets that speak frames.

    run_dir/control.sock   0600                 every request
    run_dir/status.sock    0660, status_group   requests that only read

    -> {"kind": "status", ..}     <- {"kind": "ok", ..} | {"kind": "error", "text", "exit_status"}
    -> {"kind": "watch", ..}      <- {"kind": "ok"}, {"kind": "event", ..}, ..

The master answers inside its own loop, so nothing here waits on the server's side; ``call`` and
``stream`` are the client's side, for commands.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pbus.codec import frames
from pbus.errors import Exit, NotRunning, PbusError
from pbus.supervisor import listeners
from pbus.supervisor.channel import Channel, Switchboard

CONTROL: Final = "control.sock"
STATUS: Final = "status.sock"
CALLERS: Final = 128
"""Connections to each socket at once; one more is hung up on. Readers never take the place of who may stop the bus."""

REQUESTS_A_TURN: Final = 4
"""Of one caller; a status takes about a millisecond, and the master has other things to do."""

_ASK_BYTES: Final = 64 * 1024
_ANSWER_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024


class Caller:
    """One connection to the door, from the master's side."""

    def __init__(self, channel: Channel, may_change: bool) -> None:
        self.channel = channel
        self.may_change = may_change
        self.gone: Callable[[], None] = lambda: None
        """Called once when the connection is over; whoever keeps the caller sets it."""

    def answer(self, **fields: Any) -> None:
        """The request went well."""
        self.send("ok", **fields)

    def refuse(self, text: str, exit_status: int = Exit.FAILED) -> None:
        """The request did not."""
        self.send("error", text=text, exit_status=int(exit_status))

    def send(self, kind: str, /, **fields: Any) -> None:
        """Any frame; a caller that does not read is hung up on."""
        if not self.channel.send(frames.encode(kind, **fields)):
            self.channel.close()


@dataclass(frozen=True, slots=True)
class Request:
    """A row of the table of requests: who does it, and whether it only reads."""

    act: Callable[[Caller, dict[str, Any]], None]
    reads: bool = False


class Door:
    """Both sockets, and who stands there. One owner: the master."""

    def __init__(self, run_dir: str, switchboard: Switchboard, requests: Mapping[str, Request]) -> None:
        """*requests*: the table; the kind of a request -> what is done."""
        self._paths = {CONTROL: os.path.join(run_dir, CONTROL), STATUS: os.path.join(run_dir, STATUS)}
        self._switchboard = switchboard
        self._requests = requests
        self._socks: list[socket.socket] = []
        self._callers: set[Caller] = set()

    def open(self, uid: int, gid: int) -> None:
        """
        Bind both; *uid* owns them, *gid* may read (-1: as the process).

        Raises:
            OSError: no permission, or somebody else serves there.
        """
        for name, mode, group in ((CONTROL, 0o600, -1), (STATUS, 0o660, gid)):
            sock = listeners.bind_unix(self._paths[name], mode, uid, group)
            self._socks.append(sock)
            self._switchboard.listen(sock, functools.partial(self._come_in, name == CONTROL))

    @property
    def descriptors(self) -> list[int]:
        """Of control.sock and status.sock."""
        return [sock.fileno() for sock in self._socks]

    def adopt(self, descriptors: Sequence[int]) -> None:
        """They have been bound by who was here before an upgrade; who knocked meanwhile is let in now."""
        for name, descriptor in zip((CONTROL, STATUS), descriptors, strict=True):
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            self._socks.append(sock)
            self._switchboard.listen(sock, functools.partial(self._come_in, name == CONTROL))

    def close(self) -> None:
        """Remove the sockets; who is connected is hung up on."""
        for path in self._paths.values():
            listeners.remove(path)
        self.forget()

    def forget(self) -> None:
        """Close the descriptors and leave the files (in a forked child)."""
        for sock in self._socks:
            sock.close()

    def _come_in(self, may_change: bool, connection: socket.socket) -> None:
        if sum(caller.may_change is may_change for caller in self._callers) >= CALLERS:
            connection.close()
            return
        channel = Channel(connection, send_bytes=_ANSWER_BYTES, receive_bytes=_ASK_BYTES)
        caller = Caller(channel, may_change)
        self._callers.add(caller)
        self._switchboard.connect(
            channel, lambda frame: self._hear(caller, frame), lambda: self._leave(caller), REQUESTS_A_TURN
        )

    def _hear(self, caller: Caller, frame: dict[str, Any]) -> None:
        request = self._requests.get(frame["kind"])
        if request is None:
            caller.refuse(f"this version does not know the request {frame['kind']!r}", Exit.USAGE)
        elif not request.reads and not caller.may_change:
            caller.refuse("this socket is for reading", Exit.NO_PERMISSION)
        else:
            try:
                request.act(caller, frame)
            except (LookupError, TypeError, ValueError) as error:
                caller.refuse(f"the request {frame['kind']!r} makes no sense: {error}", Exit.USAGE)

    def _leave(self, caller: Caller) -> None:
        self._callers.discard(caller)
        caller.gone()


# -- the client's side ----------------------------------------------------------------------------


def call(run_dir: str, kind: str, timeout_s: float, *, reads: bool = False, **fields: Any) -> dict[str, Any]:
    """
    One request and its answer.

    Args:
        run_dir: Of the bus.
        kind: Request.
        timeout_s: Longest wait for each step.
        reads: It only reads, so status.sock will do for who may not use control.sock.
        fields: Of the request.

    Raises:
        NotRunning: nobody answers there.
        Refused: by the master, for want of permission (77), or no answer in time (75).
    """
    with _reach(run_dir, timeout_s, reads) as sock:
        answers = _frames(sock, kind, fields)
        try:
            return next(answers)
        except StopIteration:
            raise NotRunning("the bus hung up; it is stopping") from None


def stream(
    run_dir: str, kind: str, timeout_s: float, *, reads: bool = False, **fields: Any
) -> Iterator[dict[str, Any]]:
    """
    One request, its answer, and every frame after it until the master hangs up.

    *timeout_s* bounds the way to the first answer; then the wait is as long as it takes. Raises as
    ``call`` does.
    """
    with _reach(run_dir, timeout_s, reads) as sock:
        for number, frame in enumerate(_frames(sock, kind, fields)):
            if number == 0:
                sock.settimeout(None)
            yield frame


def _reach(run_dir: str, timeout_s: float, reads: bool) -> socket.socket:
    names = (CONTROL, STATUS) if reads else (CONTROL,)
    for name in names:
        try:
            return listeners.connect_unix(os.path.join(run_dir, name), timeout_s)
        except PermissionError:
            continue
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(f"not running: nobody answers in {run_dir}") from None
        except (TimeoutError, BlockingIOError):
            raise Refused(f"the bus in {run_dir} does not answer", Exit.TEMPORARY) from None
    raise Refused(f"no permission to use {os.path.join(run_dir, names[-1])}", Exit.NO_PERMISSION)


class Refused(PbusError):
    """The master, or the file system in front of it, said no."""

    def __init__(self, text: str, exit_status: int) -> None:
        self.exit_status = Exit(exit_status)
        super().__init__(text)


def _frames(sock: socket.socket, kind: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    reader = frames.FrameReader()
    try:
        sock.sendall(frames.encode(kind, **fields))
        while data := sock.recv(_READ_BYTES):
            for frame in reader.feed(data):
                if frame["kind"] == "error":
                    raise Refused(frame["text"], frame["exit_status"])
                yield frame
    except TimeoutError:
        raise Refused("the bus does not answer in time", Exit.TEMPORARY) from None
    except ConnectionError:
        return
