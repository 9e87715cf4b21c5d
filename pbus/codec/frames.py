"""
Frames between pbus' own processes: control sockets, consumers.

    +----------------+---------------------------+
    | length, uint32 | msgpack map {"kind": ..}  |
    | big endian     | at most MAX_FRAME bytes   |
    +----------------+---------------------------+

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
    delivery -> consumer   attached   link (serial number of the delivery child)
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


class FrameError(ValueError):
    """The peer does not speak frames; the connection is of no further use."""


def encode(kind: str, /, **fields: Any) -> bytes:
    """One frame. Values: None, bool, int, float, str, bytes, lists and maps of these."""
    fields["kind"] = kind
    payload: bytes = msgpack.packb(fields, use_bin_type=True)
    return _HEAD.pack(len(payload)) + payload


class FrameReader:
    """Turns a stream of bytes into frames. One owner: whoever reads the socket."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """
        The frames that *data* completes, in order.

        Raises:
            FrameError: a length above MAX_FRAME, or a payload that is not a frame.
        """
        self._buffer += data
        frames: list[dict[str, Any]] = []
        start = 0
        while len(self._buffer) - start >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is announced, {MAX_FRAME} is the most")
            end = start + _HEAD.size + length
            if len(self._buffer) < end:
                break
            frames.append(self._decode(bytes(self._buffer[start + _HEAD.size : end])))
            start = end
        del self._buffer[:start]
        return frames

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
