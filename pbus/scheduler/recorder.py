"""
Keeps samples for ``pbus autoscale simulate``: files of data_dir/samples, the oldest ones are removed.

Rule: lossy. A disk that is full or a folder that is not ours ends the recording for a while, never a plan.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, TextIO

import structlog

from pbus.clock import Clock
from pbus.core.autoscale_record import FOLDER, SUFFIX, line_of
from pbus.core.autoscale_terms import NodeSample, Plan

FILE_BYTES: Final = 4 * 1024 * 1024
FILES: Final = 8
"""32 MiB in all: a day of ten busy topics, an hour of two hundred."""
AGAIN_S: Final = 60.0


class Recorder:
    """One owner: the planner."""

    def __init__(self, data_dir: str, clock: Clock, log: structlog.typing.FilteringBoundLogger) -> None:
        self._folder = os.path.join(data_dir, FOLDER)
        self._clock = clock
        self._log = log
        self._file: TextIO | None = None
        self._bytes = 0
        self._not_before_s = 0.0

    def write(self, sample: NodeSample, plan: Plan) -> None:
        """Keep them. Never raises."""
        line = line_of(sample, plan)
        if not line or sample.at_s < self._not_before_s:
            return
        try:
            if self._file is None or self._bytes >= FILE_BYTES:
                self._begin()
            assert self._file is not None
            self._file.write(line + "\n")
            self._bytes += len(line) + 1
        except OSError as error:
            self._log.warning("samples.not_kept", folder=self._folder, error=str(error), again_s=AGAIN_S)
            self._not_before_s = sample.at_s + AGAIN_S
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _begin(self) -> None:
        """The next file, in the order of their names; the oldest go."""
        self.close()
        os.makedirs(self._folder, 0o700, exist_ok=True)
        names = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        for name in names[: max(0, len(names) - FILES + 1)]:
            os.unlink(os.path.join(self._folder, name))
        name = f"{self._clock.wall_s():017.6f}{SUFFIX}"
        self._file = open(os.path.join(self._folder, name), "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - kept
        self._bytes = 0
