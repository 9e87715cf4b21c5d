"""
Upgrades: new code on the disk takes this process over, with everything that it holds.

    USR2, pbus upgrade --> rehearsal (a fresh interpreter, the new code) --> exec in place --> adoption, a reload

Rule: until the exec nothing is touched, and what fails before it, or in it, is told and forgotten. The rehearsal is
the new code's own judgement: it reads the configuration, imports every role and says which states it understands.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pbus import __version__
from pbus.clock import Clock
from pbus.errors import Exit
from pbus.supervisor import adoption, notify, process, upgrade
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.control import Caller
from pbus.supervisor.notify import Notifier
from pbus.supervisor.rehearsal import Failed, Rehearsals
from pbus.supervisor.reloads import Reloads
from pbus.supervisor.signals import Signals
from pbus.supervisor.upgrade import State
from pbus.telemetry import log as logs

ADOPT: Final = "_PBUS_ADOPT"
"""Variable by which ``pbus start`` learns the descriptor of the state that it is to go on with."""
REHEARSE: Final = "_PBUS_REHEARSE"
"""Variable by which it learns that it is to answer whether it could."""

PATIENCE_S: Final = 28.0
"""Less than that of the process that waits for it, so that there is somebody to say so."""
_SAID_LINES: Final = 6
_SAID_BYTES: Final = 16 * 1024
MOST_BYTES: Final = 64 << 20
"""What the new code may write in all, to whatever file."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the new code has answered: its version, and the settings in terms that it understands itself."""

    version: str
    settings: bytes


class Upgrades:
    """
    One owner: the master.

    Attributes:
        count: How many there have been since the bus was started.
    """

    def __init__(
        self, command: Sequence[str], question: Callable[[], dict[str, Any]], carry: Callable[[], dict[str, Any]],
        reloads: Reloads, switchboard: Switchboard, notifier: Notifier, signals: Signals, clock: Clock,
        state: State | None = None,
    ) -> None:
        """
        Args:
            command: What starts this bus again; empty: nobody knows.
            question: What the new code is asked.
            carry: Fields of the State of this moment.
            state: What this process has been handed, when it is the outcome of an upgrade itself.
        """
        self.count = state.upgrades if state is not None else 0
        self._before = state.code if state is not None else ""
        self._number = 0
        self._command = list(command)
        self._question = question
        self._carry = carry
        self._reloads = reloads
        self._rehearsals = Rehearsals(switchboard, clock, "the rehearsal of the new code")
        self._notifier = notifier
        self._signals = signals
        self._log = logs.get()
        self._callers: list[Caller] = []
        self._is_asked = False
        self._rehearsal: Rehearsal | None = None
        self._problem = ""
        self._is_over = False

    # -- who asks -------------------------------------------------------------------------------

    def ask(self, why: str) -> None:
        """As soon as no reload is under way."""
        self._log.info("upgrade.asked", why=why)
        self._is_asked = True

    def asked(self, caller: Caller, _: dict[str, Any]) -> None:
        """``pbus upgrade``: answered when the rehearsal is over, hung up on by the exec."""
        if self._is_over:
            caller.refuse("the bus is stopping", Exit.TEMPORARY)
            return
        self._callers.append(caller)
        self.ask("asked")

    def adopted(self, number: int) -> None:
        """This process is the outcome of an upgrade, and the reload *number* ends it."""
        self._number = number

    def tell(self, caller: Caller, _: dict[str, Any]) -> None:
        """``pbus upgrade --wait``: who we are, and which reload ends the last upgrade."""
        caller.answer(
            version=__version__, before=self._before, pid=os.getpid(), count=self.count, number=self._number,
        )

    # -- duties ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Every turn: the next step, if it is time for one. Does not return from the last one."""
        self._rehearsals.settle()
        if self._rehearsals.is_busy or not self._reloads.is_free:
            return
        if self._rehearsal is not None:
            self._exec(self._rehearsal)
        elif self._is_asked:
            self._rehearse()

    @property
    def next_s(self) -> float:
        """When ``settle`` has something to do by itself (monotonic)."""
        waits = (self._is_asked or self._rehearsal is not None) and self._reloads.is_free
        return 0.0 if waits and not self._rehearsals.is_busy else self._rehearsals.next_s

    @property
    def is_under_way(self) -> bool:
        """A rehearsal is."""
        return self._rehearsals.is_busy or self._rehearsal is not None

    def stop(self) -> None:
        """The bus stops: nothing more comes of it."""
        self._rehearsals.give_up()
        self._is_asked, self._rehearsal, self._is_over = False, None, True
        self._answer_all(lambda caller: caller.refuse("the bus is stopping", Exit.TEMPORARY))

    def problems(self) -> list[str]:
        """The last one that failed."""
        return [f"the last upgrade has failed: {self._problem}; {__version__} goes on"] if self._problem else []

    # -- steps ----------------------------------------------------------------------------------

    def _rehearse(self) -> None:
        self._is_asked = False
        if not self._command:
            self._fail(Failed("this bus was started in a way that cannot be repeated", Exit.FAILED))
            return
        self._log.info("upgrade.started", version=__version__)
        self._notifier.reloading("upgrade: the new code is tried")
        ask = json.dumps(self._question()).encode()
        try:
            self._rehearsals.begin(functools.partial(rehearse, self._command, ask), self._rehearsed)
        except OSError as error:
            self._fail(Failed(f"no process could be started for the rehearsal: {error.strerror}", Exit.TEMPORARY))

    def _rehearsed(self, answer: Rehearsal | Failed) -> None:
        if isinstance(answer, Failed):
            self._fail(answer)
        else:
            self._rehearsal = answer

    def _fail(self, failed: Failed) -> None:
        self._problem = str(failed).replace("\n", "; ")
        self._log.error("upgrade.failed", reason=str(failed), exit_status=int(failed.exit_status))
        self._notifier.ready(f"degraded: {self.problems()[0]}")
        self._answer_all(lambda caller: caller.refuse(str(failed), failed.exit_status))

    def _answer_all(self, answer: Callable[[Caller], None]) -> None:
        callers, self._callers = self._callers, []
        for caller in callers:
            answer(caller)

    def _exec(self, rehearsal: Rehearsal) -> None:
        """Become the new code; returns only when that was not to be."""
        self._rehearsal = None
        mask, seen = self._signals.hold()
        state, memory = None, -1
        try:
            state = State(
                code=__version__, upgrades=self.count + 1, settings=rehearsal.settings, signals=seen, mask=mask,
                **self._carry(),
            )
            memory = _memory(upgrade.encode(state))
            adoption.let_through(state, True)
            self._log.info("upgrade.exec", before=__version__, version=rehearsal.version, children=len(state.children))
            for caller in self._callers:
                caller.answer(count=self.count, before=__version__, version=rehearsal.version, pid=os.getpid())
            os.execve(self._command[0], self._command, {**os.environ, ADOPT: str(memory)})
        except (OSError, ValueError, TypeError) as error:
            if state is not None:
                adoption.let_through(state, False)
            if memory >= 0:
                os.close(memory)
            self._fail(Failed(f"the new code could not be executed: {error}", Exit.FAILED))
        finally:
            self._signals.let(mask, seen)


def _memory(data: bytes) -> int:
    """A descriptor of memory that holds *data*, and survives an exec."""
    descriptor = os.memfd_create("pbus-upgrade", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    return descriptor


def taken(descriptor: int) -> State:
    """
    The state that came through an exec in *descriptor*, which is closed.

    Raises:
        StateError: it is none.
    """
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        state = upgrade.decode(file.read(upgrade.MOST_BYTES + 1))
    adoption.keep_for_us(state)
    return state


# -- the rehearsal: in a throw-away process, which starts another ------------------------------------


def rehearse(command: Sequence[str], question: bytes) -> Rehearsal:
    """
    Have the code on the disk say whether it could take over. For a throw-away process: it waits.

    Raises:
        Failed: it could not, and why.
    """
    with os.fdopen(os.memfd_create("pbus-answer"), "rb") as out, os.fdopen(os.memfd_create("pbus-said"), "rb") as err:
        status = _run(command, question, out.fileno(), err.fileno())
        answer, said = os.pread(out.fileno(), MOST_BYTES, 0), _end_of(err.fileno())
    try:
        told = json.loads(answer.splitlines()[-1])
        if "failed" in told:
            raise Failed(str(told["failed"]), int(told["exit_status"]))
        return Rehearsal(str(told["version"]), base64.b64decode(told["settings"]))
    except (IndexError, KeyError, TypeError, ValueError):
        text = said or f"it said nothing (exit status {status})"
        raise Failed(f"the new code does not start: {text}", Exit.FAILED) from None


def _run(command: Sequence[str], question: bytes, out: int, err: int) -> int:
    """Its exit status; what it writes is in *out* and *err*."""
    environ = {name: value for name, value in os.environ.items() if name not in notify.OURS}
    try:
        return subprocess.run(
            command, input=question, stdout=out, stderr=err, timeout=PATIENCE_S, check=False,
            env=environ | {REHEARSE: "1"}, preexec_fn=_bound,
        ).returncode
    except subprocess.TimeoutExpired:
        raise Failed(f"the new code did not answer within {PATIENCE_S:g} s", Exit.FAILED) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(f"{command[0]} could not be started: {error}", Exit.FAILED) from None


def _end_of(descriptor: int) -> str:
    """Its last lines: of a traceback, those that say what is wrong."""
    last = os.pread(descriptor, _SAID_BYTES, max(0, os.fstat(descriptor).st_size - _SAID_BYTES))
    return "\n".join(last.decode(errors="replace").strip().splitlines()[-_SAID_LINES:])


def _bound() -> None:
    """In the process that becomes the new code: it ends with who waits for it, and cannot fill the memory."""
    process.die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
