"""Writes configuration folders and reads the problems they cause."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pbus.config.load import Loaded, load_with_origins
from pbus.errors import ConfigError, Problem

PYTHON_TOPIC = '[queue.gift.topic.credit]\npython = { call = "gift.jobs:credit" }\n'


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """*files* below ``folder/conf.d``; answers that path."""
    directory = folder / "conf.d"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def load(folder: Path, text: str, **environment: str) -> Loaded:
    """The settings of one file holding *text*."""
    return load_with_origins(str(write(folder, {"a.toml": text})), environment)


def problems(folder: Path, files: Mapping[str, str], **environment: str) -> tuple[Problem, ...]:
    """What is wrong with *files*, the file names relative to the configuration folder."""
    return problems_of(write(folder, files), **environment)


def problems_of(directory: Path, **environment: str) -> tuple[Problem, ...]:
    """What is wrong with the folder *directory*."""
    with pytest.raises(ConfigError) as caught:
        load_with_origins(str(directory), environment)
    prefix = f"{directory}/"
    return tuple(Problem(found.file.removeprefix(prefix), found.key, found.what) for found in caught.value.problems)
