"""Handlers that keep the ledger, as tests put them into a configuration: PHP (php-fpm, a program), Python, HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.ledger import Ledger

_ROOT = Path(__file__).parents[2]
_HANDLERS = Path(__file__).parent / "handlers"

PHP_SCRIPT = _HANDLERS / "ledger.php"
PHP_PROGRAM = _HANDLERS / "ledger_lines.php"
PEPPER_PROGRAM = _HANDLERS / "ledger_pepper.py"


def fastcgi_handler(ledger: Ledger, address: str) -> str:
    """TOML of a php-fpm script; *address* as ``unix:PATH`` or ``HOST:PORT``."""
    return f'{{ address = "{address}", script = "{PHP_SCRIPT}", params = {{ LEDGER_DIR = "{ledger.ran_dir}" }} }}'


def python_handler() -> str:
    """TOML of a Python function; start the bus with ``python_environment``."""
    return f'{{ call = "ledger_jobs:record", path = "{_HANDLERS}" }}'


def command_handler() -> str:
    """TOML of a PHP program; start the bus with ``python_environment``."""
    return f'{{ argv = ["php", "{PHP_PROGRAM}"] }}'


def program_handler() -> str:
    """TOML of a program that takes its jobs by its token; start the bus with ``python_environment``."""
    return f'{{ argv = ["{sys.executable}", "{PEPPER_PROGRAM}"], protocol = "pepper", stop_signal = "INT" }}'


def python_environment(ledger: Ledger) -> dict[str, str]:
    """What the bus must have in its environment, so that its consumers find the ledger."""
    return {"LEDGER_DIR": str(ledger.ran_dir)}


class HttpHandler:
    """The HTTP handler in a process of its own; a context manager."""

    def __init__(self, ledger: Ledger, port: int = 0) -> None:
        self._ledger = ledger
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jobs"

    def toml(self) -> str:
        """TOML of the endpoint."""
        return f'{{ url = "{self.url}" }}'

    def __enter__(self) -> HttpHandler:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.handlers.ledger_http"], cwd=_ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LEDGER_DIR": str(self._ledger.ran_dir), "LEDGER_PORT": str(self.port)},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
