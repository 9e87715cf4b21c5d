"""A coroutine that waits for ever in something that it awaits."""

from __future__ import annotations

import asyncio
from typing import Any


async def act(job: Any) -> None:
    """Wait."""
    await _inner()


async def _inner() -> None:
    await asyncio.sleep(60)
