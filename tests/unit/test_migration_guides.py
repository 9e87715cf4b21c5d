"""The guides for movers: their configuration is real, and both languages show the same."""

from __future__ import annotations

import json
import os
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pbus.cli.pepperbus_config import convert, to_toml
from pbus.config.load import load

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ["migrate-from-pepperbus", "migrate-from-processworker"]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in that language, as a reader would copy them."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [textwrap.dedent(text) for _, kind, text in found if kind == language]


@pytest.mark.parametrize("page", [f"{guide}{suffix}.md" for guide in GUIDES for suffix in ("", ".zh-CN")])
def test_configuration_of_a_guide_is_valid(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    for folder in (programs, tmp_path / "srv" / "gift", tmp_path / "conf.d"):
        folder.mkdir(parents=True)
    (programs / "php").write_text("#!/bin/sh\n")
    (programs / "php").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    found = blocks(DOCS / page, "toml")
    for number, text in enumerate(found):
        (tmp_path / "conf.d" / f"{number}.toml").write_text(text.replace('"/srv/', f'"{tmp_path}/srv/'), "utf-8")

    settings = load(str(tmp_path / "conf.d"))

    assert len(found) >= 2
    assert sum(len(queue.topic) for queue in settings.queue.values()) >= 4


@pytest.mark.parametrize("guide", GUIDES)
def test_both_languages_show_the_same(guide: str) -> None:
    english, chinese = DOCS / f"{guide}.md", DOCS / f"{guide}.zh-CN.md"

    assert blocks(english, "php") == blocks(chinese, "php")
    for ours, theirs in zip(blocks(english, "toml"), blocks(chinese, "toml"), strict=True):
        assert without_texts(tomllib.loads(ours)) == without_texts(tomllib.loads(theirs))
    shape = [line[0] if line.startswith(("|", "#")) else "" for line in english.read_text("utf-8").splitlines()]
    other = [line[0] if line.startswith(("|", "#")) else "" for line in chinese.read_text("utf-8").splitlines()]
    assert (shape.count("|"), shape.count("#")) == (other.count("|"), other.count("#"))


def without_texts(tree: dict[str, Any]) -> dict[str, Any]:
    """*tree* without what is written for people."""
    return {
        key: without_texts(value) if isinstance(value, dict) else value
        for key, value in tree.items() if key != "description"
    }


def test_what_the_guide_shows_is_what_the_command_makes() -> None:
    old = {"queue_config": {"queue1": {"password": "783ab0ce", "topic": {
        "default": {
            "password": "783ab0ce", "run_type": 0, "num_of_workers": 5, "cgi_config_key": "local", "is_retry": True,
            "script_entry": "/data/example/php/consume.php", "retry_time": 3600,
        },
        "topic2": {"run_type": 1, "num_of_workers": 10, "script_entry": "http://127.0.0.1:18080/addJobs"},
        "worker": {
            "run_type": 2, "script": "/data/example/php/worker.php", "entry": "Gift,credit", "max_task": 500,
            "max_children": 4,
        },
    }}}, "cgi_config": {"local": {
        "address": "127.0.0.1:9000", "connect_timeout": 3 * 10**9, "read_timeout": 3 * 10**9, "max_conn_num": 15,
    }}}

    made = tomllib.loads(to_toml(convert(json.dumps(old), "queue.conf"), "queue.conf"))

    assert made == tomllib.loads(blocks(DOCS / "migrate-from-pepperbus.md", "toml")[0])
