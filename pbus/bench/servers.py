"""Private redis-server and php-fpm: in a temporary folder, on unix sockets there and free ports of the loopback."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pbus.bench.machine import until
from pbus.bench.private import BenchError, end, find, free_ports, popen

_STARTS_WITHIN_S = 15.0


class RedisServer:
    """
    A redis-server; it runs until ``close``.

    Args:
        folder: Where its data, log and socket go.
        settings: Directives of redis.conf, ``_`` for ``-``.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        program = find("redis-server")
        self.path = str(folder / "redis.sock")
        (self.port,) = free_ports(1)
        command = [program, "--port", str(self.port), "--unixsocket", self.path, "--bind", "127.0.0.1"]
        for name, value in {"save": "", "appendonly": "no", "dir": str(folder), **settings}.items():
            command += [f"--{name.replace('_', '-')}", value]
        with (folder / "redis.log").open("ab") as log:
            self._process = popen(command, stdout=log, stderr=log)
        if not until(self._answers, _STARTS_WITHIN_S):
            end(self._process)
            raise BenchError(f"redis-server does not answer:\n{(folder / 'redis.log').read_text('utf-8', 'replace')}")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def url(self) -> str:
        """How pbus reaches it."""
        return f"redis+unix://{self.path}"

    def client(self, **settings: Any) -> redis.Redis:
        """A plain client; use it as a context."""
        return redis.Redis(unix_socket_path=self.path, socket_timeout=60, retry=Retry(NoBackoff(), 0), **settings)

    def close(self) -> None:
        """End it; idempotent."""
        end(self._process)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            return False
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


class PhpFpm:
    """
    A php-fpm with a pool of so many processes; it runs until ``close``.

    Attributes:
        path: Its socket.
        address: The same, as a backend's configuration names it.
    """

    def __init__(self, folder: Path, children: int) -> None:
        program = find("php-fpm")
        self._folder = folder
        self.path = str(folder / "fpm.sock")
        self.address = f"unix:{self.path}"
        (folder / "php-fpm.conf").write_text(
            f"[global]\nerror_log = {folder}/php-fpm.log\ndaemonize = no\n[pbus]\nlisten = {self.path}\n"
            f"pm = static\npm.max_children = {children}\n",
            encoding="utf-8",
        )
        command = [program, "-n", "-F", "-y", str(folder / "php-fpm.conf"), *(["-R"] if os.geteuid() == 0 else [])]
        with (folder / "php-fpm.out").open("ab") as log:
            self._process = popen(command, stdout=log, stderr=log)
        if not until(lambda: len(self.children()) == children, _STARTS_WITHIN_S):
            self.close()
            raise BenchError(f"php-fpm does not run:\n{(folder / 'php-fpm.out').read_text('utf-8', 'replace')}")

    def script(self, name: str, code: str) -> str:
        """Write ``<?php code``; answers its path."""
        path = self._folder / name
        path.write_text(f"<?php\n{code}\n", encoding="utf-8")
        return str(path)

    def children(self) -> list[int]:
        """Pids of the pool's processes."""
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(self._process.pid).children()]
        return []

    def close(self) -> None:
        """End it; idempotent."""
        end(self._process)
