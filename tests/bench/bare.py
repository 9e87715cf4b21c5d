"""The programs that do the same work without a bus, run beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.machine import cpu_s

_ROOT = Path(__file__).parents[2]


class Bare:
    """
    *count* processes of ``python -m MODULE ARGUMENTS`` that share the work; a context manager.

    Each reads numbers of jobs and answers the seconds they took.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], count: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._argv = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        self._count = count
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Bare:
        self._processes = [
            # In sessions of their own, as daemons are: the kernel schedules by sessions, and who shares one with the
            # server that it calls (redis-server, php-fpm) is woken up in half of the time.
            subprocess.Popen(
                self._argv, cwd=_ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True,
            )
            for _ in range(self._count)
        ]
        self.rate(self._count * 100)  # imports and first connections are not measured
        return self

    def rate(self, jobs: int) -> float:
        """Have *jobs* done; how many a second."""
        share = jobs // self._count
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{share}\n")
            process.stdin.flush()
        took_s = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"{self._argv} ended with {process.wait(5)}"
            took_s.append(float(line))
        return share * self._count / max(took_s)

    def cpu_s(self) -> float:
        """Processor seconds of all of them so far."""
        return cpu_s([process.pid for process in self._processes])

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(10)
            process.stdout.close()
