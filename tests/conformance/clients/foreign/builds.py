"""
Builds what is compiled: the programs of the Go, Java and Rust clients, and what docs/clients.md shows in these.

    python -m tests.conformance.clients.foreign.builds      what is not built yet; bin/test does it in the background

Rule: a kit is built once for its content, below .venv-test/clients, from a copy: nothing appears beside the sources. It
is fetched first and compiled then: a language that is not on this machine, or whose packages cannot be had, skips its
tests; what does not compile fails them. Tests never build, they wait for whoever does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.clients.foreign import snippets
from tests.support.programs import find, missing

PROGRAMS: Final = Path(__file__).parents[1] / "programs"
BROUGHT: Final = Path(__file__).parents[4] / ".venv-test" / "clients"
"""Where ``bin/test`` puts what it downloads and builds for the programs."""
HOW: Final = "python -m tests.conformance.clients.foreign.builds"
BUILD_S: Final = 600
"""Longest time for one command; a cold one takes half a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """
    A language.

    Attributes:
        name: Its folder, below PROGRAMS and below BROUGHT.
        tools: Programs that must be on this machine.
        shown: Where its snippets go: name on the page -> path in the copy of its folder.
        fetch: Command that downloads; in the copy, ``{out}`` is where results belong, ``{cache}`` survives.
        build: Commands that compile.
    """

    name: str
    tools: tuple[str, ...]
    shown: Mapping[str, str]
    fetch: str
    build: tuple[str, ...]


def _javac(folder: str, files: str) -> str:
    return f"javac -Xlint:all -Werror -cp {{out}}/jars/* -d {{out}}/{folder} {files}"


KITS: Final[Mapping[str, Kit]] = {
    kit.name: kit for kit in (
        Kit(
            name="go", tools=("go",), shown={"go producer": "producer/main.go", "go consumer": "consumer/main.go"},
            fetch="go mod download", build=(          # not optimized: that takes as long again
                "go build '-gcflags=all=-N -l' '-ldflags=-s -w' -o {out} ./steps ./producer ./consumer",
            ),
        ),
        Kit(
            name="java", tools=("java", "javac", "mvn"), shown={
                "jedis producer": "jedis/Producer.java", "jedis consumer": "jedis/Consumer.java",
                "lettuce producer": "lettuce/Producer.java", "lettuce consumer": "lettuce/Consumer.java",
            },
            fetch="mvn -B -q dependency:copy-dependencies -DoutputDirectory={out}/jars",
            build=(
                _javac("steps", "Steps.java JedisSteps.java LettuceSteps.java"),
                _javac("jedis", "jedis/Producer.java jedis/Consumer.java"),
                _javac("lettuce", "lettuce/Producer.java lettuce/Consumer.java"),
            ),
        ),
        Kit(
            name="rust", tools=("cargo",),
            shown={"rust producer": "src/producer.rs", "rust consumer": "src/consumer.rs"}, fetch="cargo fetch",
            build=(
                "cargo build --offline --target-dir {cache}",
                "cp {cache}/debug/steps {cache}/debug/producer {cache}/debug/consumer {out}",
            ),
        ),
    )
}


def built(name: str) -> Path:
    """Where the results of a kit are; skips or fails the test that asks when there are none."""
    kit = KITS[name]
    for tool in kit.tools:
        if find(tool) is None:
            pytest.skip(f"{tool} is not installed")
    out = _folder(kit)
    if not _is(out, "ready"):
        with _alone():                                # somebody may be building it
            pass
    if _is(out, "unavailable"):
        pytest.skip(f"the packages of {name} cannot be had: {(out / 'unavailable').read_text()[-1000:]}")
    if _is(out, "failed"):
        pytest.fail((out / "failed").read_text()[-8000:], pytrace=False)
    if not _is(out, "ready"):
        missing(f"the programs of {name} are not built: {HOW}")
    return out


def main() -> None:
    """Build what is not built yet, one after the other."""
    with _alone():
        for kit in KITS.values():
            if all(map(find, kit.tools)) and not _is(_folder(kit), "ready"):
                begin_s = time.monotonic()
                end = _build(kit)
                print(f"{kit.name}: {end} after {time.monotonic() - begin_s:.0f} s", flush=True)


def port() -> int:
    """In the snippets that are compiled, with the next one: drawn once, below the ports that the system hands out."""
    file = BROUGHT / "port"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(next(place for place in iter(_draw, 0) if _free(place) and _free(place + 1))))
    return int(file.read_text())


def _draw() -> int:
    return random.randrange(20_000, 30_000)


def _free(place: int) -> bool:
    with socket.socket() as probe:
        return bool(probe.connect_ex(("127.0.0.1", place)))


def _is(out: Path, state: str) -> bool:
    return (out / state).exists()


def _shown(kit: Kit) -> dict[str, str]:
    """Texts by path in the copy."""
    texts = snippets.read()
    return {path: snippets.adapted(name, texts[name], port()) for name, path in kit.shown.items() if name in texts}


def _folder(kit: Kit) -> Path:
    """Named by all that goes into it."""
    content = hashlib.sha256(repr((kit, sorted(_shown(kit).items()))).encode())
    for path in sorted((PROGRAMS / kit.name).rglob("*")):
        if path.is_file():
            content.update(str(path.relative_to(PROGRAMS)).encode() + path.read_bytes())
    return BROUGHT / kit.name / content.hexdigest()[:16]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    BROUGHT.mkdir(parents=True, exist_ok=True)
    with (BROUGHT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(kit: Kit) -> str:
    """``ready``, ``unavailable`` or ``failed``, which is a file with the reason."""
    out, cache = _folder(kit), BROUGHT / kit.name / "cache"
    for old in set(out.parent.glob("*")) - {cache}:
        shutil.rmtree(old)
    copy = out / "copy"
    shutil.copytree(PROGRAMS / kit.name, copy)
    for path, text in _shown(kit).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(text, "utf-8")
    state, said = "ready", ""
    for command in (kit.fetch, *kit.build):
        status, said = _run(command.format(out=out, cache=cache), copy)
        if status:
            state = "unavailable" if command == kit.fetch else "failed"
            break
    shutil.rmtree(copy)
    (out / state).write_text(said)
    return state


def _run(command: str, folder: Path) -> tuple[int, str]:
    """Exit status and what it said."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CARGO_TERM_COLOR": "never"}
    try:
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=BUILD_S,
        )
    except subprocess.TimeoutExpired:
        return 1, f"{command}: not done after {BUILD_S} s"
    return done.returncode, f"{command}\n{done.stdout}"


if __name__ == "__main__":
    main()
