"""
The Redis protocol from the server's side: bytes to commands. Replies are in ``resp_reply``.

    *3\\r\\n              an array of 3 elements          PING\\r\\n   or a line (inline command),
    $5\\r\\nLPUSH\\r\\n     a bulk of 5 bytes                          split at blanks, '..' and ".."
    $4\\r\\ngift\\r\\n
    $2\\r\\nhi\\r\\n

Rule: no I/O, and no length is believed before it is checked: what is over a limit is either skipped
without being kept (``TooBig``: framing holds, the connection lives) or ends the connection
(``ProtocolError``). The state between two calls is nothing but bytes that were not used yet
(``unread``), so a connection can be carried on elsewhere.

Cost decides the shape: a chunk is parsed in one pass, and commands in a row that differ in their last
argument only (what a pipeline of pushes is) are recognised by their first bytes and come as one ``Run``.
Source: RESP specification, redis.io/docs/reference/protocol-spec; wording of errors: Redis 7 networking.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pbus.errors import ProtocolError

CRLF: Final = b"\r\n"
HEADER_BYTES: Final = 32
"""Longest ``*N`` or ``$N`` line: 20 digits and some room; anything longer is no length."""
SKIP_BYTES: Final = 64 * 1024 * 1024
"""A refused command up to this size is read to its end, so that its sender sees the error."""
SKIP_ELEMENTS: Final = 1024 * 1024
"""Redis' own bound; a command that announces more is garbage."""
RUN_BYTES: Final = 16 * 1024
"""More than that seldom ends where a command does."""
HEAD_BYTES: Final = 512
"""Longest beginning of a command that is remembered."""

_TLS_HELLO: Final = 0x16
_STAR: Final = 0x2A
_DOLLAR: Final = 0x24
_COUNTS: Final = {b"*%d\r\n" % count: count for count in range(1, 65)}
_BULK_SIZES: Final = {b"$%d\r\n" % size: size for size in range(1025)}
_BLANKS: Final = re.compile(rb"(?:[ \t]*\r?\n)+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HTTP: Final = re.compile(rb"(?:[A-Z]{3,8} \S+ HTTP/\d|POST |Host:)")
_PROXY: Final = re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)")
"""What some load balancers say first. Its reply would be taken for that of the first command, and so on."""


@dataclass(slots=True)
class Limits:
    """
    What one command may be.

    Attributes:
        elements: Arguments, the name included.
        bulk_bytes: Longest argument.
        command_bytes: All arguments together.
        inline_bytes: Longest inline command.
    """

    elements: int
    bulk_bytes: int
    command_bytes: int
    inline_bytes: int


class Run:
    """
    Commands in a row that share all arguments but the last.

    Attributes:
        head: The arguments they share, the name first; runs in a row may share this list.
        lasts: The last argument of each, in order.
    """

    __slots__ = ("head", "lasts")

    def __init__(self, head: list[bytes], lasts: list[bytes]) -> None:
        self.head = head
        self.lasts = lasts


@dataclass(slots=True)
class TooBig:
    """
    A whole command that was over a limit; it was read to its end and not kept.

    Attributes:
        kept: Its first arguments, as far as they came before the limit (name and key as a rule).
        what: ``bulk``, ``elements`` or ``command``: which limit.
        size: What it announced.
        limit: What is allowed.
    """

    kept: list[bytes]
    what: str
    size: int
    limit: int


Event = list[bytes] | Run | TooBig | ProtocolError


def encode_command(arguments: list[bytes]) -> bytes:
    """The bytes a client would send for a command."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


class RequestParser:
    """
    One connection's input: ``feed`` bytes, then take commands with ``parse``.

    Any division of the same bytes into chunks gives the same commands (a Run may be cut in two).
    Memory: at most the limits of one command, plus the chunk fed last. One owner: the connection.

    Attributes:
        limits: May be replaced between two commands.
        partial: After ``parse``: a command has begun and is not complete, more bytes are owed.
        unparsed_bytes: Fed and not looked at yet (``parse`` left them, or was not called).
    """

    __slots__ = (
        "_args",
        "_between",
        "_data",
        "_dead",
        "_head",
        "_head_args",
        "_kept_bytes",
        "_left",
        "_need",
        "_pos",
        "_refusal",
        "_short",
        "_skip",
        "_width",
        "limits",
        "partial",
        "unparsed_bytes",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.partial = False
        self.unparsed_bytes = 0
        self._data = b""                            # fed and not parsed, from _pos
        self._pos = 0
        self._short: bytearray | None = None        # an incomplete element; instead of _data
        self._need = 0                              # bytes _short must have before anything moves on
        self._args: list[bytes] = []                # of the command that is being read
        self._left = 0                              # its elements to come; 0: between two commands
        self._kept_bytes = 0
        self._refusal: TooBig | None = None         # it is over a limit: keep nothing of the rest
        self._skip = 0                              # bytes of a refused argument still to come
        self._head = b""                            # how the last command began, up to its last '$'
        self._head_args: list[bytes] = []           # that command, without its last argument
        self._width = b"", 0                        # the line "N" of the last body of a run, and that number
        self._between = True                        # everything that was fed is used up, by whole commands
        self._dead = False

    @property
    def held_bytes(self) -> int:
        """What it keeps: bytes that were not parsed, and arguments of a command that is not complete."""
        waiting = len(self._data) - self._pos if self._short is None else len(self._short)
        return waiting + (self._kept_bytes if self._left else 0)

    @property
    def skipping(self) -> bool:
        """A refused command is being read to its end: ``unread`` cannot say where."""
        return self._refusal is not None

    def unread(self) -> bytes | None:
        """
        What a new parser must be fed to carry on exactly here; None while a refused command is
        being skipped (it has to end here first).
        """
        if self._refusal is not None:
            return None
        rest = self._data[self._pos:] if self._short is None else bytes(self._short)
        if not self._left:
            return rest
        begun = encode_command(self._args)
        return b"*%d\r\n" % (len(self._args) + self._left) + begun[begun.index(CRLF) + 2:] + rest

    def feed(self, data: bytes) -> None:
        """Take what the socket gave; nothing is parsed yet. After a ProtocolError it is dropped."""
        if self._dead:
            return
        self._between = False
        short = self._short
        if short is not None:
            short += data
            if len(short) < self._need:
                return
            self._data = bytes(short)
            self._short = None
        elif self._pos < len(self._data):
            self._data = self._data[self._pos:] + data
        else:
            self._data = data
        self._pos = 0
        self.unparsed_bytes = len(self._data)

    def parse(self, most: int) -> list[Event]:
        """
        The next complete commands, at most *most*, in order.

        A ``ProtocolError`` is always the last event: framing is lost and nothing follows it.
        Commands beyond *most* stay unread; call again (with nothing fed) to get them. What is no
        command (empty lines, empty arrays) counts as one: with *most* of those there may be no event
        although ``unparsed_bytes`` is not 0.
        """
        events: list[Event] = []
        if self._short is not None:
            return events
        try:
            while most > 0 and self._pos < len(self._data):
                if self._left or self._refusal is not None:
                    most -= self._elements(events)
                else:
                    most -= self._run(events, most) or self._plain(events, most) or self._command(events) or 1
        except _Incomplete as incomplete:
            self._keep(incomplete.need)
        except ProtocolError as error:
            self._dead, self._left, self._refusal = True, 0, None
            self._data, self._pos = b"", 0
            events.append(error)
        self.partial = self._short is not None or self._left > 0 or self._refusal is not None
        self.unparsed_bytes = len(self._data) - self._pos
        if not self.unparsed_bytes:
            self._data, self._pos = b"", 0          # who says nothing more costs nothing more
            self._between = not (self.partial or self._dead)
        return events

    def run_of(self, data: bytes, most: int) -> Run | None:
        """
        What ``feed`` and ``parse`` would make of *data*, when all of it is complete commands that begin like the last
        one; None, and nothing has changed: it is anything else, or more than *most*.
        """
        if not self._between or len(data) > RUN_BYTES:
            return None
        lasts, end = self._lasts(data, 0, most)
        return Run(self._head_args, lasts) if lasts and end == len(data) else None

    def _keep(self, need: int) -> None:
        """What is left is part of an element: collect at least *need* bytes before the next try."""
        rest = self._data[self._pos:]
        self._short = bytearray(rest) if rest else None
        self._need = need
        self._data, self._pos = b"", 0

    def _run(self, events: list[Event], most: int) -> int:
        """Complete commands that begin like the last one; how many (0: somebody else's case)."""
        lasts, pos = self._lasts(self._data, self._pos, most)
        if not lasts:
            return 0
        self._pos = pos
        events.append(Run(self._head_args, lasts))
        return len(lasts)

    def _lasts(self, data: bytes, pos: int, most: int) -> tuple[list[bytes], int]:
        """Last arguments of complete commands from *pos* on that begin like the last one, and where they end."""
        head, limits = self._head, self.limits
        find, startswith, size = data.find, data.startswith, len(head)
        longest = min(limits.bulk_bytes, limits.command_bytes - size)
        lasts: list[bytes] = []
        keep = lasts.append
        width, length = self._width
        if length > longest:
            width = b""
        while most and size and startswith(head, pos):
            at = pos + size
            if width and startswith(width, at):       # mostly as long as the one before
                begin = at + len(width)
            else:
                line = find(CRLF, at, at + HEADER_BYTES)
                digits = data[at:line]
                if line < 0 or not digits.isdigit() or int(digits) > longest:
                    break
                begin = line + 2
                length, width = int(digits), data[at:begin]
                self._width = width, length
            end = begin + length
            if data[end:end + 2] != CRLF:
                break
            keep(data[begin:end])
            pos = end + 2
            most -= 1
        return lasts, pos

    def _plain(self, events: list[Event], most: int) -> int:
        """
        Complete commands within every limit; how many. It stops without a trace at the first that
        is anything else (that one is for ``_command``), or that begins like the one before.
        """
        data, pos, limits = self._data, self._pos, self.limits
        find, startswith, size_of = data.find, data.startswith, _BULK_SIZES.get
        elements, bulk_bytes = limits.elements, limits.bulk_bytes
        done = mark = 0
        args: list[bytes] = []
        while done < most:
            line = find(CRLF, pos, pos + HEADER_BYTES)
            count = _COUNTS.get(data[pos:line + 2], 0)    # line < 0: no such key
            if not 0 < count <= elements:
                break
            at, args = line + 2, []
            for _ in range(count):
                mark = at
                line = find(CRLF, at, at + HEADER_BYTES)
                if line < 0:
                    return done
                begin = line + 2
                length = size_of(data[at:begin])
                if length is None:
                    digits = data[at + 1:line]
                    length = int(digits) if data[at:at + 1] == b"$" and digits.isdigit() else bulk_bytes + 1
                at = begin + length + 2
                if length > bulk_bytes or data[at - 2:at] != CRLF:
                    return done
                args.append(data[begin:at - 2])
            if at - pos > limits.command_bytes:
                break
            events.append(args)
            done += 1
            start, self._pos = pos, at
            pos = at
            if count > 1 and mark - start < HEAD_BYTES:
                self._head, self._head_args = data[start:mark + 1], args[:-1]
                if startswith(self._head, pos):
                    break
        return done

    def _command(self, events: list[Event]) -> int:
        """One command from its first byte; 1 when it was complete and is an event."""
        data = self._data
        if data[self._pos] != _STAR:
            return self._inline(events)
        count, self._pos = _number(data, self._pos + 1, "multibulk")
        if not count:
            return 0
        if count > SKIP_ELEMENTS:
            raise ProtocolError("ERR Protocol error: invalid multibulk length", fatal=True)
        if count > self.limits.elements:
            self._refusal = TooBig([], "elements", count, self.limits.elements)
        self._args, self._left, self._kept_bytes = [], count, 0
        return self._elements(events)

    def _elements(self, events: list[Event]) -> int:
        """Elements of a command that arrives in pieces; 1 when it is complete."""
        while self._left and self._refusal is None:
            if self._pos >= len(self._data):
                return 0
            self._element()
        if self._refusal is not None:
            return self._discard(events)
        events.append(self._args)
        self._args = []
        return 1

    def _element(self) -> None:
        """One bulk: kept when it is within the limits, else the whole command is refused."""
        length, begin = self._bulk_length()
        limits, end = self.limits, begin + length
        if length > limits.bulk_bytes:
            self._refusal = TooBig(self._args, "bulk", length, limits.bulk_bytes)
        elif self._kept_bytes + length > limits.command_bytes:
            self._refusal = TooBig(self._args, "command", self._kept_bytes + length, limits.command_bytes)
        elif end + 2 > len(self._data):
            raise _Incomplete(end + 2 - self._pos)
        elif self._data[end:end + 2] != CRLF:
            raise ProtocolError("ERR Protocol error: a bulk is not as long as announced", fatal=True)
        else:
            self._args.append(self._data[begin:end])
            self._kept_bytes += length
            self._pos = end + 2
            self._left -= 1

    def _bulk_length(self) -> tuple[int, int]:
        """Length of the bulk at hand, and where its bytes begin."""
        data, pos = self._data, self._pos
        if data[pos] != _DOLLAR:
            raise ProtocolError(f"ERR Protocol error: expected '$', got {chr(data[pos])!a}", fatal=True)
        return _number(data, pos + 1, "bulk")

    def _discard(self, events: list[Event]) -> int:
        """Read on in a refused command without keeping anything; 1 when its end is reached."""
        while True:
            step = min(self._skip, len(self._data) - self._pos)
            self._pos += step
            self._skip -= step
            if not self._left and not self._skip:
                break
            if self._pos >= len(self._data):
                return 0
            length, self._pos = self._bulk_length()
            self._kept_bytes += length
            if self._kept_bytes > SKIP_BYTES:
                raise ProtocolError("ERR Protocol error: invalid bulk length", fatal=True)
            self._skip = length + 2
            self._left -= 1
        if self._refusal is not None:
            events.append(self._refusal)
        self._refusal, self._args = None, []
        return 1

    def _inline(self, events: list[Event]) -> int:
        """A command on a line of its own (a person with nc); 1 when it is one, 0 for an empty line."""
        blanks = _BLANKS.match(self._data, self._pos)
        if blanks is not None:
            self._pos = blanks.end()
            return 0
        data, start, most = self._data, self._pos, self.limits.inline_bytes
        if data[start] == _TLS_HELLO:
            raise ProtocolError("ERR this port does not speak TLS", fatal=True)
        end = data.find(b"\n", start, start + most + 2)
        line = data[start:end] if end >= 0 else data[start:start + most + 2]
        if _HTTP.match(line):
            raise ProtocolError("ERR this port speaks the Redis protocol, not HTTP", fatal=True)
        if _PROXY.match(line):
            raise ProtocolError("ERR this port takes no PROXY header, leave it out at the load balancer", fatal=True)
        if _CONTROL.search(line):
            raise ProtocolError("ERR Protocol error: control characters in an inline command", fatal=True)
        if len(line) > most:
            raise ProtocolError("ERR Protocol error: too big inline request", fatal=True)
        if end < 0:
            raise _Incomplete(len(line) + 1)
        self._pos = end + 1
        arguments = split_inline(line)
        if not arguments:
            return 0
        events.append(arguments)
        return 1


class _Incomplete(Exception):
    """The element at hand needs *need* bytes from its first one on."""

    def __init__(self, need: int) -> None:
        self.need = need


def _number(data: bytes, pos: int, kind: str) -> tuple[int, int]:
    """
    The length that begins at *pos*, and where the line after it begins.

    Raises:
        _Incomplete: the line is not complete.
        ProtocolError: it is no length.
    """
    line = data.find(CRLF, pos, pos + HEADER_BYTES)
    digits = data[pos:line] if line >= 0 else data[pos:pos + HEADER_BYTES].removesuffix(b"\r")
    if (digits and not digits.isdigit()) or len(digits) > HEADER_BYTES - 8:
        raise ProtocolError(f"ERR Protocol error: invalid {kind} length", fatal=True)
    if line < 0:
        raise _Incomplete(len(data) - pos + 2)
    if not digits:
        raise ProtocolError(f"ERR Protocol error: invalid {kind} length", fatal=True)
    return int(digits), line + 2


_WORD: Final = re.compile(
    rb"""[ \t\r]*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^ \t\r"']+))(?=[ \t\r]|$)"""
)
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_inline(line: bytes) -> list[bytes]:
    """
    The arguments of an inline command: words, ``"with \\\\x41 escapes"``, ``'verbatim'``.

    Raises:
        ProtocolError: quotes that do not close or stand inside a word (fatal, as in Redis).
    """
    if b'"' not in line and b"'" not in line:
        return line.split()
    arguments, pos = [], 0
    line = line.rstrip(b" \t\r")
    while pos < len(line):
        word = _WORD.match(line, pos)
        if word is None:
            raise ProtocolError("ERR Protocol error: unbalanced quotes in request", fatal=True)
        double, single, bare = word.groups()
        if double is not None:
            arguments.append(_ESCAPE.sub(_unescape, double))
        elif single is not None:
            arguments.append(single.replace(b"\\'", b"'"))
        else:
            arguments.append(bare)
        pos = word.end()
    return arguments


def _unescape(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return bytes.fromhex(escape[1].decode("ascii"))
    return _ESCAPES.get(escape[2], escape[2])
