"""100,000 dead letters of 20 errors: their groups are listed from what was counted when they died, not from them."""

from __future__ import annotations

import contextlib
import json
import os
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pbus.config.load import load
from tests.support.bus import ROOT, write_config
from tests.support.graves import bury, opened
from tests.support.redis_server import running

EACH = 5_000
GROUPS = string.ascii_lowercase[:20]
TRIES = 5
MOST_S = 0.2


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_groups_of_dead_letters_are_listed_without_reading_them(store: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        url = "sqlite:pbus.db" if store == "sqlite" else stack.enter_context(running(tmp_path)).url
        conf = tmp_path / "conf.d"
        queues = {"gift": {"topic": {"credit": {"pull": {}}}}}
        write_config(tmp_path, {"storage": {"main": {"url": url}}, "queue": queues})
        settings = load(str(conf))
        for group in GROUPS:
            bury(settings, EACH, group)
        with opened(settings) as driver:
            engine_s = min(_took_s(lambda: driver.dead_groups("gift", "credit")) for _ in range(TRIES))
        words = [sys.executable, "-m", "pbus", "dead", "ls", "-o", "json", "-c", str(conf)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        answers: list[bytes] = []

        def ask() -> None:
            answers.append(subprocess.run(words, env=environment, capture_output=True, check=True).stdout)

        command_s = min(_took_s(ask) for _ in range(TRIES))
    print(f"{store}: {len(GROUPS) * EACH} letters: the store answers in {engine_s * 1000:.1f} ms, "
          f"pbus dead ls is over in {command_s * 1000:.0f} ms, load {os.getloadavg()[0]:.1f}")
    assert [group["count"] for group in json.loads(answers[0])["groups"]] == [EACH] * len(GROUPS)
    assert engine_s <= MOST_S


def _took_s(act: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    act()
    return time.perf_counter() - begin_s
