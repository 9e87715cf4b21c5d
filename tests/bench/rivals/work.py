"""The function that every rival runs for a job, and pbus too: the one of ``bench_jobs`` that $HANDLER names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.support.handlers import bench_jobs

work: Callable[[Any], None] = getattr(bench_jobs, os.environ["HANDLER"])
