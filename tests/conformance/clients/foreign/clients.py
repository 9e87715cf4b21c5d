"""
Which clients there are: a row each.

Rule: a client runs with its defaults. What a row sets is what the row's name says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.clients.foreign.builds import BROUGHT, PROGRAMS, built
from tests.conformance.clients.foreign.steps import STEPS
from tests.support.programs import missing, requires, requires_php_redis

ROOT: Final = Path(__file__).parents[4]

ALL: Final = frozenset(STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """
    One row of the page.

    Attributes:
        name: As the page writes it.
        queue: PBUS_QUEUE of its program.
        command: What starts its program; skips at home and fails in CI when something is missing.
        environment: More variables.
        steps: Those it has; the others are no business of it (``-`` in the page).
    """

    name: str
    queue: str
    command: Callable[[], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    steps: frozenset[str] = ALL


def _python(program: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(PROGRAMS / program)]


def _php(program: str) -> Callable[[], list[str]]:
    return lambda: [requires_php_redis(), str(PROGRAMS / program)]


_NODE_MODULES: Final = BROUGHT / "node" / "node_modules"


def _node(name: str, program: str, package: str, least: int = 18) -> Client:
    """A client for node, of which it needs at least that major version."""

    def command() -> list[str]:
        node = requires("node")
        if not (_NODE_MODULES / package).is_dir():
            missing(f"the node package {package} is not there: bin/test brings it")
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        if int(told.strip("v\n").partition(".")[0]) < least:
            pytest.skip(f"{name} needs node {least}, this is {told.strip()}")  # Debian 12 has 18
        return [node, str(PROGRAMS / "node" / program)]

    environment = {"NODE_PATH": str(_NODE_MODULES), "PBUS_PACKAGE": package}
    return Client(name=name, queue=package, command=command, environment=environment)


def _compiled(kit: str, program: str) -> Callable[[], list[str]]:
    return lambda: [str(built(kit) / program)]


def _java(program: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        out = built("java")
        return [requires("java"), "-XX:TieredStopAtLevel=1", "-cp", f"{out}/steps:{out}/jars/*", program]

    return command


CLIENTS: Final = (
    Client(name="redis-py", queue="py3", command=_python("redis_py.py")),
    Client(name="redis-py, RESP2", queue="py2", command=_python("redis_py.py"), environment={"PBUS_PROTOCOL": "2"}),
    Client(name="redis-py, asyncio", queue="apy3", command=_python("redis_py_asyncio.py")),
    Client(
        name="redis-py, asyncio, RESP2", queue="apy2", command=_python("redis_py_asyncio.py"),
        environment={"PBUS_PROTOCOL": "2"},
    ),
    Client(name="phpredis", queue="php", command=_php("phpredis.php")),
    _node("ioredis 5", "ioredis.cjs", "ioredis-5"),
    _node("ioredis 6", "ioredis.cjs", "ioredis-6", least=20),
    _node("node-redis 5", "node_redis.cjs", "redis-5"),
    _node("node-redis 6", "node_redis.cjs", "redis-6", least=20),
    Client(name="go-redis", queue="go", command=_compiled("go", "steps")),
    Client(name="Jedis", queue="jedis", command=_java("JedisSteps")),
    Client(name="Lettuce", queue="lettuce", command=_java("LettuceSteps")),
    Client(name="redis-rs", queue="rust", command=_compiled("rust", "steps")),
    Client(
        name="redis-cli", queue="cli", command=_python("redis_cli.py"),
        steps=ALL - {"pool", "unanswered", "reconnect"},
    ),
)
