"""
A private php-fpm for one test: a real one, on a unix socket of its own, run as whoever runs the test.

Missing at home means skip, missing in CI means failure. The socket lies in a short temporary folder
(a socket path has at most 107 bytes, pytest's folders are longer); scripts and logs lie in *folder*.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil

from pbus.codec import fastcgi
from tests.support.programs import requires
from tests.support.waiting import until

_STARTS_WITHIN_S = 15.0
_PING_PATH = "/php-fpm-answers"


class PhpFpm:
    """
    A php-fpm that this test starts, reloads, starves and kills.

    Args:
        folder: Where its configuration, scripts (``scripts``) and logs go.
        pool: Directives of the pool; ``pm = static`` with 4 children unless said otherwise.
        ini: php.ini values of the pool, as ``php_admin_value``.
        control_timeout_s: ``process_control_timeout``: how long a reload lets running requests finish.
        machine_ini: With the settings and the extensions that the machine's own php-fpm has, such as phpredis.
    """

    def __init__(
        self, folder: Path, *, pool: dict[str, str] | None = None, ini: dict[str, str] | None = None,
        control_timeout_s: int = 0, machine_ini: bool = False,
    ) -> None:
        self._program = requires("php-fpm")
        self._folder = folder
        self._options = [] if machine_ini else ["-n"]
        self._sockets = tempfile.mkdtemp(prefix="pbus-fpm-")
        self._process: subprocess.Popen[bytes] | None = None
        self.path = os.path.join(self._sockets, "fpm.sock")
        self.scripts = folder / "scripts"
        self.scripts.mkdir(exist_ok=True)
        self._write_configuration(pool or {}, ini or {}, control_timeout_s)

    @property
    def address(self) -> str:
        """As a backend's configuration names it."""
        return f"unix:{self.path}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "php-fpm was not started"
        return self._process.pid

    def _write_configuration(self, pool: dict[str, str], ini: dict[str, str], control_timeout_s: int) -> None:
        directives = {
            "listen": self.path, "pm": "static", "pm.max_children": "4", "ping.path": _PING_PATH,
            "catch_workers_output": "yes", "clear_env": "no",
        } | pool
        lines = [
            "[global]", f"error_log = {self._folder}/php-fpm.log", "daemonize = no",
            f"process_control_timeout = {control_timeout_s}s", "[pbus]",
            *(f"{name} = {value}" for name, value in directives.items()),
            *(f"php_admin_value[{name}] = {value}" for name, value in ini.items()),
        ]
        (self._folder / "php-fpm.conf").write_text("\n".join(lines) + "\n")

    def script(self, name: str, code: str) -> str:
        """Write ``<?php code`` below ``scripts``; answers its path."""
        path = self.scripts / name
        path.write_text(f"<?php\n{code}\n")
        return str(path)

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "php-fpm runs already"
        command = [self._program, *self._options, "-F", "-y", str(self._folder / "php-fpm.conf")]
        if os.geteuid() == 0:
            command.append("-R")
        with open(self._folder / "php-fpm.out", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self.answers(_STARTS_WITHIN_S), _STARTS_WITHIN_S, lambda: f"php-fpm answers:\n{self.log()}")

    def answers(self, within_s: float = 2.0) -> bool:
        """Whether a process of the pool answers php-fpm's own ping (in its turn, when all are busy)."""
        request = b"".join((
            fastcgi.begin(keep=False),
            fastcgi.params({
                "SCRIPT_NAME": _PING_PATH, "SCRIPT_FILENAME": _PING_PATH, "REQUEST_METHOD": "GET", "QUERY_STRING": "",
                "REQUEST_URI": _PING_PATH,
            }),
            fastcgi.PARAMS_END, fastcgi.STDIN_END,
        ))
        reader = fastcgi.ReplyReader()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(within_s)
            client.connect(self.path)
            client.sendall(request)
            while not reader.complete and (data := client.recv(65_536)):
                reader.feed(data)
        return reader.complete and b"pong" in reader.stdout

    def children(self) -> list[int]:
        """Pids of the pool's processes."""
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def kill_children(self) -> None:
        """SIGKILL every process of the pool; the master starts new ones."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def reload(self) -> None:
        """SIGUSR2 as ``systemctl reload`` does, and wait until new processes answer."""
        before = set(self.children())
        os.kill(self.pid, signal.SIGUSR2)
        until(
            lambda: self.children() and not before & set(self.children()) and self.answers(_STARTS_WITHIN_S),
            _STARTS_WITHIN_S, lambda: f"php-fpm has reloaded:\n{self.log()}",
        )

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop it (TERM at once, QUIT after running requests); it may be started again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(10)

    def close(self) -> None:
        """Stop it and remove its socket's folder; idempotent."""
        self.stop()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def log(self) -> str:
        """What it wrote about itself."""
        texts = (self._folder / name for name in ("php-fpm.log", "php-fpm.out"))
        return "".join(text.read_text(errors="replace") for text in texts if text.exists())[-4000:]
