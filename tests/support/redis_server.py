"""
A private redis-server for one test: a real one, on a unix socket of its own.

Missing at home means skip, missing in CI means failure. The socket lies in a short temporary folder
(a socket path has at most 107 bytes, pytest's folders are longer); data and log lie in *folder*.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.programs import requires
from tests.support.waiting import until

_STARTS_WITHIN_S = 15.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """
    A redis-server that this test starts, kills, freezes and starts again.

    Args:
        folder: Where its data and its log go.
        tcp: Also listen on a free loopback port (``port``); otherwise the unix socket only.
        settings: Directives of redis.conf, ``_`` for ``-``: ``appendonly="yes", appendfsync="always"``.
    """

    def __init__(self, folder: Path, *, tcp: bool = False, **settings: str) -> None:
        self._program = requires("redis-server")
        self._folder = folder
        self._settings = {"save": "", "appendonly": "no", "dir": str(folder)} | {
            name.replace("_", "-"): value for name, value in settings.items()
        }
        self._sockets = tempfile.mkdtemp(prefix="pbus-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.path = os.path.join(self._sockets, "redis.sock")
        self.port = free_port() if tcp else 0

    @property
    def url(self) -> str:
        """How pbus reaches it by its unix socket."""
        return f"redis+unix://{self.path}"

    @property
    def tcp_url(self) -> str:
        """How pbus reaches it by TCP."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "redis-server was not started"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers (also from LOADING)."""
        self.launch()
        until(self.answers, _STARTS_WITHIN_S, lambda: f"redis-server answers:\n{self.log()}")

    def launch(self) -> None:
        """Start it and do not wait."""
        assert self._process is None, "redis-server runs already"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        command = [self._program, "--port", str(self.port), "--unixsocket", self.path, "--bind", "127.0.0.1"]
        for name, value in self._settings.items():
            command += [f"--{name}", value]
        with open(self._folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def answers(self) -> bool:
        """Whether it serves commands now (an error such as NOAUTH is an answer, LOADING is not)."""
        try:
            with self.client() as client:
                client.ping()
        except redis.exceptions.ConnectionError as error:
            return isinstance(error, redis.exceptions.AuthenticationError)
        except redis.exceptions.RedisError:
            return False
        return True

    def client(self, **settings: Any) -> redis.Redis:
        """A plain client for looking behind the driver's back; use it as a context."""
        return redis.Redis(
            unix_socket_path=self.path,
            password=self._settings.get("requirepass"),
            socket_timeout=10,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            **settings,
        )

    def kill(self) -> None:
        """kill -9: what it has not written is lost."""
        self._end(signal.SIGKILL)

    def written_bytes(self) -> int:
        """Size of its append-only file now."""
        return self._append_only_file().stat().st_size

    def forget(self, written_bytes: int) -> None:
        """While it is down: cut its append-only file to a former size, as a machine that lost power may."""
        os.truncate(self._append_only_file(), written_bytes)

    def _append_only_file(self) -> Path:
        """The one that grows; Redis 7 keeps it in a folder, beside what it was rewritten from."""
        found = [*self._folder.glob("appendonlydir/*.incr.aof"), *self._folder.glob("appendonly.aof")]
        return max(found, key=lambda path: path.stat().st_mtime)

    def stop(self) -> None:
        """Ask it to end, and wait; idempotent."""
        if self._process is not None:
            self.resume()
            self._end(signal.SIGTERM)

    def restart(self) -> None:
        """kill -9 and start again on the same data."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections (the kernel does) and never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def cpu_s(self) -> float:
        """Processor seconds it has used so far."""
        with self.client() as client:
            used = client.info("cpu")
        return float(used["used_cpu_sys"]) + float(used["used_cpu_user"])

    def log(self) -> str:
        """What it wrote to its log."""
        return (self._folder / "redis.log").read_text("utf-8", "replace")

    def close(self) -> None:
        """Stop it and remove its socket's folder."""
        self.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None, "redis-server was not started"
        self._process.send_signal(how)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None


@contextlib.contextmanager
def running(folder: Path, *, tcp: bool = False, **settings: str) -> Iterator[RedisServer]:
    """A started RedisServer that is gone afterwards."""
    server = RedisServer(folder, tcp=tcp, **settings)
    try:
        server.start()
        yield server
    finally:
        server.close()
