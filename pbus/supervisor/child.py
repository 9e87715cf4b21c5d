"""
A child from inside: what a role may ask of its process.

One signature ``run(child)``, one life: boot -> ready -> drain -> exit. The role imports what it
needs (gevent patches first) inside its own module; this file works patched and unpatched alike
because it says ``import socket`` and looks names up at call time.

    master --drain, logs, watch, ..--> control socket --> listener --> acts of the role
    TERM, PDEATHSIG ---------------> wake-up pipe ------^   |
    tell, publish --> bounded buffer --> control socket     beat (once a second)

The listener is a thread; where gevent is patched in, a greenlet. End of file on the control socket
means that the master is dead: then the children take each other down in the order of their drain
stages, and nothing survives the grace by more than five seconds.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import functools
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import structlog

from pbus.clock import Clock
from pbus.codec import frames
from pbus.core.names import Owner
from pbus.errors import Exit
from pbus.supervisor import process
from pbus.supervisor.histograms import Histograms, Row
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import Scoreboard, Slot, SlotView
from pbus.telemetry import log as logs

Act = Callable[[dict[str, Any]], None]

ALL_QUEUES: Final = "*"
_BEAT_S: Final = 1.0
_ORPHAN_NAP_S: Final = 0.1
_LAST_WORDS_S: Final = 1.0
_AFTER_GRACE_S: Final = 4.0
_EVENT_BYTES: Final = 1024 * 1024
_FRAME_BYTES: Final = 8 * 1024 * 1024
_UNHEARD: Final = 64
_READ_BYTES: Final = 256 * 1024
_WAKE: Final = b"\0"


class Child:
    """
    What the master hands to ``run``.

    Attributes:
        spec: The role; ``spec.args`` holds its settings.
        index: 0-based number among the children of the role.
        owner: Its identity as a holder of claims; ``str(owner)`` goes to the store.
        slot: Its own row of the scoreboard (one writer: this process).
        scoreboard: All rows, for reading.
        histograms: What all children counted, for reading.
        log: Structured logger bound to role, index and pid.
        clock: The clock to use.
        run_dir: Directory of sockets and locks.
        grace_s: How long what runs may take once draining has begun.
        tokens: Of a consumer: its tokens by kind (core/tokens.py).
        token_key: Of a role that checks tokens: what they are made with; else empty.
        patient: Once draining: what runs may take as long as it takes; it may be told otherwise later.
        waits: Older ones have the duties until ``wait_turn`` comes back.
        dropped: Frames that did not go out because the master did not read.
    """

    def __init__(
        self, *, spec: RoleSpec, index: int, owner: Owner, slot: Slot, scoreboard: Scoreboard,
        listener_fds: Mapping[str, int], control_fd: int, master_pid: int,
        log: structlog.typing.FilteringBoundLogger, clock: Clock, run_dir: str, grace_s: float,
        tokens: Mapping[str, str] | None = None, token_key: bytes = b"", doors: Mapping[str, str] | None = None,
        histograms: Histograms | None = None, column: int = -1, waits: bool = False,
    ) -> None:
        self.spec = spec
        self.index = index
        self.owner = owner
        self.slot = slot
        self.scoreboard = scoreboard
        self.histograms = histograms if histograms is not None else Histograms((), 0)
        self._column = column
        self.log = log
        self.clock = clock
        self.run_dir = run_dir
        self.grace_s = grace_s
        self.tokens = dict(tokens or {})
        self.token_key = token_key
        self._doors = dict(doors or {})
        self.patient = False
        self.dropped = 0
        self.waits = waits
        self._listener_fds = dict(listener_fds)
        self._control_fd = control_fd
        self._master_pid = master_pid
        self._known_fds: dict[int, int] = {}
        self._reader = frames.FrameReader()
        self._draining = False
        self._drain_acts: list[Callable[[], None]] = []
        self._acts: dict[str, list[Act]] = {
            "drain": [self._on_drain_frame], "begin": [self._on_begin], "logs": [self._on_logs],
            "watch": [self._on_watch],
        }
        self._unheard: collections.deque[dict[str, Any]] = collections.deque(maxlen=_UNHEARD)
        self._queues: frozenset[str] = frozenset()
        self._problems: dict[str, str] = {}
        self._out: collections.deque[bytes] = collections.deque()
        self._out_bytes = 0
        self._orphan_since: float | None = None
        self._hung_up = False
        self._look_at_log_s = 0.0
        # Native whatever is patched later: nothing that holds it ever waits, so greenlets never meet here.
        self._lock = threading.Lock()

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Begin to listen to the master and to TERM (a thread; a greenlet once gevent is patched in).

        Call it first thing in ``run``, after patching, from the main thread.
        """
        self._drain_event = threading.Event()
        self._turn_event = threading.Event()
        if not self.waits:
            self._turn_event.set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._known_fds = {fd: os.fstat(fd).st_ino for fd in (self._control_fd, self._wake_read, self._wake_write)}
        os.set_blocking(self._control_fd, False)
        # The byte that the C-level handler writes is the signal; it arrives even while user code holds the main thread.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _noted)
        if not self.spec.own_group:
            self.slot.beat()
        if self.spec.own_group:
            # Unknown to ``threading``: user code that patches its modules for gevent must find no threads.
            _thread.start_new_thread(self._listen, ())
        else:
            threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def ready(self) -> None:
        """Boot is over: the master may count on this child."""
        with self._lock:
            draining = self._draining
        if not draining:
            self.slot.update(state="ready")
        self.tell("ready")

    def wait_turn(self) -> bool:
        """
        Wait until nobody of an older generation does what this child is for; mostly that is at once.

        Call it after ``ready``, before the first thing that two may not do at a time.

        Returns:
            False: it is not going to be: draining has begun.
        """
        self._turn_event.wait()
        return not self._draining

    def problem(self, name: str, text: str) -> None:
        """Raise (or, with an empty *text*, lift) a problem that ``pbus status`` shows."""
        if self._problems.get(name, "") != text:
            self._problems[name] = text
            self.tell("problem", name=name, text=text)

    def fail(self, text: str, exit_status: int = Exit.FAILED) -> NoReturn:
        """Boot failure: tell the master why and exit with *exit_status*. Does not return."""
        self.log.error("child.failed", reason=text, exit_status=int(exit_status))
        self.tell("fail", text=text, exit_status=int(exit_status))
        self.last_words()
        os._exit(exit_status)

    @property
    def is_deaf(self) -> bool:
        """User code has closed what the master speaks through: this process will not hear it again."""
        try:
            return any(os.fstat(fd).st_ino != inode for fd, inode in self._known_fds.items())
        except OSError:
            return True

    @functools.cached_property
    def listeners(self) -> Mapping[str, Any]:
        """
        Name -> listening socket that the spec keeps.

        Made at the first look, so that they are gevent's sockets where gevent is patched in.
        """
        return {name: socket.socket(fileno=fd) for name, fd in self._listener_fds.items()}

    def row_of(self, queue: str, topic: str) -> Row:
        """Where this child counts what becomes of that topic's jobs; keep it."""
        return self.histograms.row(self._column, queue, topic)

    def door(self, name: str) -> str:
        """Path of one of our own children's sockets (``delivery.0``), as this process reaches it."""
        return self._doors.get(name) or os.path.join(self.run_dir, f"{name}.sock")

    # -- drain --------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """The master wants this child to finish what runs and to exit."""
        return self._draining

    def on_drain(self, act: Callable[[], None]) -> None:
        """
        Call *act* once when draining begins (at once if it has begun).

        It is called by the listener: in a process without gevent that is another thread.
        """
        with self._lock:
            if not self._draining:
                self._drain_acts.append(act)
                return
        self._guarded(act)

    def wait_drain(self, timeout_s: float | None = None) -> bool:
        """Wait until draining has begun and its acts have been called; True when it has."""
        return self._drain_event.wait(timeout_s)

    def _drain(self) -> None:
        with self._lock:
            if self._draining:
                return
            self._draining = True
            acts, self._drain_acts = self._drain_acts, []
        self.slot.update(state="draining")
        for act in acts:
            self._guarded(act)
        self._drain_event.set()
        self._turn_event.set()

    # -- frames -------------------------------------------------------------------------------

    def on_frame(self, kind: str, act: Act) -> None:
        """
        Call *act* with each frame of that kind that the master sends.

        Those that came before somebody wanted them are kept (a few) and handed over now. Called
        by the listener, which must not be held up.
        """
        self._acts.setdefault(kind, []).append(act)
        early = [frame for frame in self._unheard if frame["kind"] == kind]
        for frame in early:
            self._unheard.remove(frame)
            self._guarded(functools.partial(act, frame))

    def tell(self, kind: str, /, **fields: Any) -> None:
        """Send a frame to the master; bounded, dropped (and counted) when the master does not read."""
        if self.spec.own_group and self.is_deaf:
            self.dropped += 1  # whatever has the number now is not ours to write into
            return
        data = frames.encode(kind, **fields)
        limit = _EVENT_BYTES if kind == "event" else _FRAME_BYTES
        with self._lock:
            if self._out_bytes + len(data) > limit:
                self.dropped += 1
                return
            self._out.append(data)
            self._out_bytes += len(data)
            self._flush()
            waiting = bool(self._out)
        if waiting:
            self._wake()

    def last_words(self) -> None:
        """Wait a moment until what was told has left; for a process that is about to exit."""
        deadline = self.clock.monotonic_s() + _LAST_WORDS_S
        with self._lock:
            self._flush()
        while self._out and self.clock.monotonic_s() < deadline:
            self.clock.sleep(0.01)
            with self._lock:
                self._flush()

    # -- job events ---------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Somebody follows job events (``pbus tail jobs``, ``pbus push --wait``)."""
        return bool(self._queues)

    def publish(self, event: Mapping[str, Any]) -> None:
        """Send a job event to whoever follows; free when nobody does, lossy when they are slow."""
        if self._queues and (ALL_QUEUES in self._queues or event.get("queue") in self._queues):
            self.tell("event", event=dict(event))

    # -- the listener -------------------------------------------------------------------------

    def _listen(self) -> None:
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        poller.register(self._control_fd, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._nap_ms()))
            if not self.spec.own_group:
                self.slot.beat()
                self._tell_losses()
            if ready and not self._hung_up and not self._talk():  # what was said before a signal is heard before it
                self._hung_up = True
                poller.unregister(self._control_fd)
                self._orphaned()
            if self._wake_read in ready:
                self._take_signals()
            if self._orphan_since is not None:
                self._take_down(self.clock.monotonic_s() - self._orphan_since)
            else:
                poller.modify(self._control_fd, select.POLLIN | (select.POLLOUT if self._out else 0))

    def _tell_losses(self) -> None:
        """Once a second: lines that the log does not take are a problem."""
        now_s = self.clock.monotonic_s()
        if now_s >= self._look_at_log_s:
            self._look_at_log_s = now_s + _BEAT_S
            losses = logs.losses()
            self.problem("log", f"{self.spec.role} {self.index}: {losses}" if losses else "")

    def _nap_ms(self) -> int | None:
        """A consumer sleeps until it is spoken to: its liveness is its process, and there may be hundreds."""
        if self._orphan_since is not None:
            return int(_ORPHAN_NAP_S * 1000)
        return None if self.spec.own_group else int(_BEAT_S * 1000)

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self._wake_read, 4096):
                if os.getppid() != self._master_pid:
                    self._orphaned()
                else:
                    self._drain()

    def _talk(self) -> bool:
        """Read and write the control socket; False when the master is gone."""
        with self._lock:
            self._flush()
        try:
            data = os.read(self._control_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for frame in self._reader.feed(data):
            self._dispatch(frame)
        return bool(data)

    def _dispatch(self, frame: dict[str, Any]) -> None:
        acts = self._acts.get(frame["kind"])
        if acts is None:
            self._unheard.append(frame)
            return
        for act in acts:
            self._guarded(functools.partial(act, frame))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # the role's code; the listener must outlive it, and the log has it
            self.log.exception("child.act_failed")

    def _on_drain_frame(self, frame: dict[str, Any]) -> None:
        self.patient = bool(frame.get("patient"))
        self._drain()

    def _on_begin(self, _: dict[str, Any]) -> None:
        self.waits = False
        self._turn_event.set()

    def _on_logs(self, _: dict[str, Any]) -> None:
        logs.reopen()

    def _on_watch(self, frame: dict[str, Any]) -> None:
        self._queues = frozenset(frame["queues"])
        self.tell("watching", id=frame["id"])

    def _flush(self) -> None:
        """Write what the socket takes. The caller holds the lock."""
        while self._out:
            data = self._out[0]
            try:
                sent = os.write(self._control_fd, data)
            except BlockingIOError:
                return
            except OSError:  # the master is gone; the listener will see the end of file
                self._out.clear()
                self._out_bytes = 0
                return
            self._out_bytes -= sent
            if sent < len(data):
                self._out[0] = data[sent:]
                return
            self._out.popleft()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, AttributeError):  # full is awake; before start() nobody sleeps
            os.write(self._wake_write, _WAKE)

    # -- the master is dead -------------------------------------------------------------------

    def _orphaned(self) -> None:
        if self._orphan_since is None:
            self._orphan_since = self.clock.monotonic_s()
            self.log.warning("child.orphaned", stage=self.spec.drain_stage)

    def _take_down(self, since_s: float) -> None:
        """
        Drain when the lower stages are gone, as the master would have told us to.

        The children of the last stage wait the whole grace, then kill whoever is left below them
        (user code that cannot even run its own listener). Everybody leaves by force in the end.
        """
        last = self.spec.drain_stage >= max(row.stage for row in self.scoreboard.living())
        patience_s = self.grace_s if last else self.grace_s / 2
        if not self._draining:
            below = self._living_below()
            if last and (not below or since_s >= self.grace_s):
                self._kill_groups()
            if not below or since_s >= patience_s:
                self._drain()
        if since_s >= self.grace_s + (_AFTER_GRACE_S if last else 0.0):
            self.log.error("child.grace_over")
            process.kill(os.getpid(), signal.SIGKILL, self.spec.own_group)

    def _living_below(self) -> list[SlotView]:
        return [row for row in self._below() if process.is_same(row.pid, row.birth)]

    def _below(self) -> list[SlotView]:
        return [row for row in self.scoreboard.living() if row.stage < self.spec.drain_stage]

    def _kill_groups(self) -> None:
        """End who is left below us, and what their user code started, even where they themselves are gone."""
        for row in self._below():
            # The number of a leader that is gone is not given out again while its group has members.
            gone = row.pid > 0 and process.birth(row.pid) == 0
            if process.is_same(row.pid, row.birth) or (gone and row.own_group):
                process.kill(row.pid, signal.SIGKILL, row.own_group)

    def leave_nothing(self) -> None:
        """What this process started ends with it; the master sees to that while it lives."""
        if self._orphan_since is not None and self.spec.own_group:
            process.kill(os.getpid(), signal.SIGKILL, group=True)


def _noted(signum: int, frame: object) -> None:
    """The wake-up pipe has it. A handler, not SIG_IGN: programs that a handler starts get the default back."""
