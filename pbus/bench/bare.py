"""The programs that do the same work without a bus, run beside it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pbus.bench.machine import cpu_s
from pbus.bench.private import BenchError, end, popen


class Bare:
    """
    *count* processes of ``python -m pbus.bench.MODULE ARGUMENTS`` that share the work; a context manager.

    Each reads numbers of jobs and answers the seconds they took. They are in sessions of their own, as daemons are: the
    kernel schedules by sessions, and who shares one with the server that it calls (redis-server, php-fpm) is woken up
    in half of the time.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], count: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self._argv = [sys.executable, "-m", f"pbus.bench.{module}", *arguments]
        self._count = count
        self._environment = dict(environment or {})
        self._stack = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Bare:
        try:
            for _ in range(self._count):
                self._processes.append(
                    popen(self._argv, self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                )
                self._stack.callback(_end, self._processes[-1])
            self.rate(self._count * 100)  # imports and first connections are not measured
        except BaseException:
            self._stack.close()
            raise
        return self

    def rate(self, jobs: int) -> float:
        """
        Have *jobs* done; how many a second.

        Raises:
            BenchError: one of them has ended.
        """
        share = jobs // self._count
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{share}\n")
            process.stdin.flush()
        took_s = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BenchError(f"{' '.join(self._argv)} ended with {process.wait(5)}")
            took_s.append(float(line))
        return share * self._count / max(took_s)

    def cpu_s(self) -> float:
        """Processor seconds of all of them so far."""
        return cpu_s([process.pid for process in self._processes])

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _end(process: subprocess.Popen[Any]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    end(process)
