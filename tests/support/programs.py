"""Foreign programs that tests run: missing at home means skip, missing in CI means failure."""

from __future__ import annotations

import os
import subprocess

import pytest

from pbus.bench import private


def find(program: str) -> str | None:
    """
    Absolute path of *program*, or None.

    Looks in PATH and the sbin folders; versioned names count (Debian calls php-fpm ``php-fpm8.2``).
    """
    try:
        return private.find(program)
    except private.Missing:
        return None


def missing(text: str) -> None:
    """Skip this test at home; fail it when CI=true, where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{text} (CI=true: nothing may be missing)", pytrace=False)
    pytest.skip(text)


def requires(program: str) -> str:
    """Absolute path of *program*; without it the test is skipped at home and fails in CI."""
    path = find(program)
    if path is None:
        missing(f"{program} is not installed")
    assert path is not None
    return path


def requires_php_redis() -> str:
    """Absolute path of a php (command line) that has the Redis extension."""
    php = requires("php")
    modules = subprocess.run([php, "-m"], capture_output=True, text=True, timeout=20, check=False).stdout
    if "redis" not in modules.split():
        missing("php has no redis extension (Debian: php-redis)")
    return php
