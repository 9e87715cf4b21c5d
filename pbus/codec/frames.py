"""
Frames between pbus' own processes: control sockets, consumers.

    +----------------+---------------------------+
    | length, uint32 | msgpack map {"kind": ..}  |
    | big endian     | at most MAX_FRAME bytes   |
    +----------------+---------------------------+

    +----------------+---------+-----------------+
    | length, uint32 | run_s   | id of the job   |    brief: a result ``done`` without anything else to say
    | + 2 ** 31      | float64 | at most 255 B   |    (written and read in a third of the time)
    +----------------+---------+-----------------+

Between a consumer process and its delivery child these kinds are spoken (a *job* is the list
``[id, attempt, redelivered, body, traceparent, content_type, crashes, first_ms, forgiven]``, of a replay
with ``replay_of`` behind it; a *ticket* is what of it outlives a delivery child:
``[id, attempt, redelivered, crashes, first_ms, forgiven]``):

    consumer -> delivery   attach     owner, queue, topic, pid, holds [ticket], results [[ticket, result]]
                           result     id, verdict (done|failed|retry|permanent|busy|crashed|timeout), error,
                                      delay, run_s
                           unstarted  ids, leaving (it takes nothing more)
                           stuck      id, place, stack: where that job is, which is out of time
                           trouble    id, text: what the handler did to its own process
    delivery -> consumer   attached   link (serial number of the delivery child), brief: it reads brief frames
                           jobs       jobs [job]
                           settled    ids: the store has what became of these
                           finish     take nothing more: hand back what has not begun, and go

Rule: bytes in, events out; no I/O. The peer is a process of the same user on the same machine, yet
its lengths are checked before anything is kept.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

MAX_FRAME: Final = 512 * 1024 * 1024
_HEAD: Final = struct.Struct(">I")
_BRIEF: Final = 1 << 31
_BRIEF_HEAD: Final = struct.Struct(">Id")
_BRIEF_REST: Final = _BRIEF_HEAD.size - _HEAD.size
BRIEF_ID_BYTES: Final = 255


class FrameError(ValueError):
    """The peer does not speak frames; the connection is of no further use."""


def encode(kind: str, /, **fields: Any) -> bytes:
    """One frame. Values: None, bool, int, float, str, bytes, lists and maps of these."""
    fields["kind"] = kind
    payload: bytes = msgpack.packb(fields, use_bin_type=True)
    return _HEAD.pack(len(payload)) + payload


def encode_done(job_id: str, run_s: float) -> bytes:
    """The brief frame of a job of that id (at most BRIEF_ID_BYTES) that ended well after *run_s* seconds."""
    text = job_id.encode()
    return _BRIEF_HEAD.pack(_BRIEF + _BRIEF_REST + len(text), run_s) + text


class FrameReader:
    """
    Turns a stream of bytes into frames. One owner: whoever reads the socket.

    Args:
        brief: Read brief frames as well: each run of them becomes one ``done`` with ``ended``, a list of (id, run_s).
    """

    def __init__(self, *, brief: bool = False) -> None:
        self._buffer = bytearray()
        self._brief = brief

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """
        The frames that *data* completes, in order.

        Raises:
            FrameError: a length above MAX_FRAME, or a payload that is not a frame.
        """
        if not self._buffer:  # nearly always: nothing is copied
            frames, rest = self._parsed(data)
            self._buffer += data[rest:]
            return frames
        self._buffer += data
        frames, rest = self._parsed(self._buffer)
        del self._buffer[:rest]
        return frames

    def _parsed(self, data: bytes | bytearray) -> tuple[list[dict[str, Any]], int]:
        """The complete frames of *data*, and where the first incomplete one begins."""
        frames: list[dict[str, Any]] = []
        ended: list[tuple[str, float]] | None = None
        start, size = 0, len(data)
        while size - start >= _HEAD.size:
            (length,) = _HEAD.unpack_from(data, start)
            if self._brief and length >= _BRIEF:
                end = start + length - _BRIEF + _HEAD.size
                if not _BRIEF_REST <= length - _BRIEF <= _BRIEF_REST + BRIEF_ID_BYTES:
                    raise FrameError(f"a brief frame of {length - _BRIEF} bytes is announced")
                if size < end:
                    break
                if ended is None:
                    ended = []
                    frames.append({"kind": "done", "ended": ended})
                ended.append(_done(data, start, end))
                start = end
                continue
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is announced, {MAX_FRAME} is the most")
            end = start + _HEAD.size + length
            if size < end:
                break
            frames.append(self._decode(bytes(data[start + _HEAD.size : end])))
            start, ended = end, None
        return frames, start

    @staticmethod
    def _decode(payload: bytes) -> dict[str, Any]:
        try:
            frame = msgpack.unpackb(payload, raw=False, strict_map_key=True)
        except (ValueError, msgpack.UnpackException) as error:
            raise FrameError(f"not a frame: {error}") from error
        if not isinstance(frame, dict) or not isinstance(frame.get("kind"), str):
            raise FrameError("a frame is a map with a 'kind'")
        return frame

    @property
    def pending(self) -> bytes:
        """The beginning of a frame that is not complete yet; another reader that is fed it goes on from there."""
        return bytes(self._buffer)

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)


def _done(data: bytes | bytearray, start: int, end: int) -> tuple[str, float]:
    try:
        return data[start + _BRIEF_HEAD.size : end].decode(), _BRIEF_HEAD.unpack_from(data, start)[1]
    except UnicodeDecodeError as error:
        raise FrameError(f"not a brief frame: {error}") from error
