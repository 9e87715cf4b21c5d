"""``pbus topic debug`` of programs: started here, their standard error in this terminal, with one job."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Final

from pbus.cli.attempts import Result, Run
from pbus.clock import SystemClock
from pbus.codec import pepper
from pbus.codec.lines import Encoder, LineReader, Malformed, answer, begins
from pbus.consumer.command import launch_of
from pbus.consumer.launch import LaunchError
from pbus.consumer.running import signal_name
from pbus.errors import PbusError

if TYPE_CHECKING:
    from pbus.cli.output import Output
    from pbus.config.schema import CommandHandler, Topic
    from pbus.core.job import Delivery

READ_BYTES: Final = 64 * 1024
GOODBYE_S: Final = 5.0
NIL_AFTER_S: Final = 0.5


def run_lines(handler: CommandHandler, output: Output) -> Run:
    """One job a line, one answer; what else the program prints is shown as it comes."""
    return lambda job, _: _run_lines(handler, output, job)


def _start(handler: CommandHandler, argv: list[str], talks: bool) -> subprocess.Popen[bytes]:
    try:
        return launch_of(handler, talks=talks).in_terminal(argv).start()
    except LaunchError as error:
        raise PbusError(str(error)) from None


def _run_lines(handler: CommandHandler, output: Output, job: Delivery) -> Result:
    process = _start(handler, list(handler.argv), talks=True)
    line = Encoder(job.queue, job.topic).job(
        job.id, job.attempt, job.redelivered, job.traceparent, job.body, job.replay_of
    )
    assert process.stdin is not None
    try:
        try:
            process.stdin.write(line)
        except BrokenPipeError:
            pass  # it has ended; how, is told below
        result = _hear(process, job, output)
        process.stdin.close()
        if result is not None:
            _goodbye(process)
            return result
        return _ended(process)
    finally:
        _end(process)


def _hear(process: subprocess.Popen[bytes], job: Delivery, output: Output) -> Result | None:
    """Read until the answer; None: there is none."""
    assert process.stdout is not None
    reader = LineReader()
    while data := os.read(process.stdout.fileno(), READ_BYTES):
        for line in reader.feed(data):
            at = begins(line)
            try:
                told = answer(line[at:])
            except Malformed as mistake:
                return Result(verdict="failed", error=f"the program {mistake}")
            if told is None or at:
                output.say((line[:at] if told else line).decode("utf-8", "replace"))
            if told is not None and told.job_id != job.id:
                return Result(verdict="failed", error=f"the program answered the unknown job {told.job_id[:64]!r}")
            if told is not None:
                return Result(verdict=told.verdict, error=told.error, delay_s=told.delay_s)
    return None


def _goodbye(process: subprocess.Popen[bytes]) -> None:
    """Its input has ended: it should finish."""
    try:
        process.wait(GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)


def _ended(process: subprocess.Popen[bytes]) -> Result:
    status = process.wait()
    if status < 0:
        return Result(verdict="crashed", error=f"the program died of {signal_name(-status)}")
    return Result(verdict="failed", error=f"the program exited with status {status} and gave no answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


# -- the old contract -----------------------------------------------------------------------------------


def run_pepper(handler: CommandHandler) -> Run:
    """The program takes its job from a port of this command that knows no other."""
    return lambda job, section: _run_pepper(handler, job, section)


def _run_pepper(handler: CommandHandler, job: Delivery, section: Topic) -> Result:
    path = f"{job.queue}/{job.topic}"
    door = _OneJob(job, section)
    try:
        argv = [
            *handler.argv, "-q", path, "-h", "127.0.0.1", "-p", str(door.port), "-a", door.token, "-t", "1",
            "-H", handler.entry,
        ]
        process = _start(handler, argv, talks=False)
        try:
            status = process.wait()
        finally:
            _end(process)
    finally:
        door.close()
    if door.pushed_back:
        return Result(verdict="failed", error="the program pushed it back")
    if not door.taken:
        return Result(verdict="failed", error=f"the program exited with status {status} without having taken the job")
    return Result(verdict="done") if status == 0 else _ended(process)


class _OneJob:
    """A port that hands out one job, to whoever knows the token; threads of its own."""

    def __init__(self, job: Delivery, section: Topic) -> None:
        self.taken = self.pushed_back = False
        made = pepper.job_object(job, section.retry.policy, SystemClock().wall_s())
        self._reply = pepper.popped_json([made])
        self._id = job.id
        self.token = secrets.token_hex(16)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        import hiredis

        reader: Any = hiredis.Reader()
        known = False
        with sock:
            try:
                while data := sock.recv(READ_BYTES):
                    reader.feed(data)
                    while (command := reader.gets()) is not False:
                        known = known or self._knows(command)
                        sock.sendall(self._answer(command) if known else b"-NOAUTH by the token in your arguments\r\n")
            except (OSError, hiredis.ProtocolError):
                return  # whoever that was, it does not speak as a program does

    def _knows(self, command: Any) -> bool:
        """``AUTH name:TOKEN``, as the old programs say it, or in two arguments."""
        said = command[-1] if isinstance(command, list) and command and command[0].upper() == b"AUTH" else b""
        return bool(said) and secrets.compare_digest(said.rpartition(b":")[2], self.token.encode())

    def _answer(self, command: Any) -> bytes:
        from pbus.codec.resp_reply import NULL, OK, bulk, error

        word = command[0].upper() if isinstance(command, list) and command else b""
        if word in (b"RPOP", b"LPOP"):
            if self.taken:
                SystemClock().sleep(NIL_AFTER_S)
                return NULL[2]
            self.taken = True
            return bulk(self._reply)
        if word == b"LPUSH":
            self.pushed_back = True
            return bulk(pepper.pushed_json([self._id], ""))
        return error("ERR not in this terminal") if word == b"HELLO" else OK
