"""What every rival runs for a job, and pbus too: the function of ``pbus.bench.handlers`` that $HANDLER names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pbus.bench import handlers

work: Callable[[Any], None] = getattr(handlers, os.environ["HANDLER"])
