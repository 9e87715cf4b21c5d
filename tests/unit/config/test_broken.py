"""
Broken configurations: each names every problem at once, with its file and its key.

A case is a folder of broken/: its conf.d, and problems.txt with the lines that must come, no more
and no fewer, as ``file: key: part of the text``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.config.load import load_with_origins
from pbus.errors import ConfigError
from tests.unit.config.files import problems, problems_of, write

BROKEN = Path(__file__).parent / "broken"


@pytest.mark.parametrize("case", sorted(folder.name for folder in BROKEN.iterdir()))
def test_broken_configuration_names_every_problem(case: str) -> None:
    found = [f"{problem.file}: {problem.key}: {problem.what}" for problem in problems_of(BROKEN / case / "conf.d")]
    surplus = list(found)
    for line in (BROKEN / case / "problems.txt").read_text().splitlines():
        file, key, text = line.split(": ", 2)
        hits = [one for one in surplus if one.startswith(f"{file}: {key}: ") and text in one]
        assert hits, f"missing: {line}\nfound:\n" + "\n".join(found)
        surplus.remove(hits[0])
    assert not surplus, "not expected:\n" + "\n".join(surplus)


def test_problem_of_a_secret_does_not_show_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"a.toml": "[queue.gift]\npassword = 424242\n"})
    assert "424242" not in str(problem)


def test_missing_folder_is_a_clear_problem(tmp_path: Path) -> None:
    directory = write(tmp_path, {"a.toml": ""})
    for path, what in ((tmp_path / "none", "does not exist"), (directory / "a.toml", "is not a folder")):
        with pytest.raises(ConfigError) as caught:
            load_with_origins(str(path))
        assert [(problem.file, what in problem.what) for problem in caught.value.problems] == [(str(path), True)]


def test_folder_without_files_is_a_clear_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"a.conf": "", ".hidden.toml": "x ="})
    assert problem.what == "holds no *.toml file"


def test_unreadable_file_is_a_clear_problem(tmp_path: Path) -> None:
    (write(tmp_path, {"a.toml": ""}) / "b.toml").symlink_to("nowhere")
    (problem,) = problems(tmp_path, {})
    assert (problem.file, problem.what) == ("b.toml", "cannot be read: No such file or directory")


def test_file_that_is_not_text_is_a_clear_problem(tmp_path: Path) -> None:
    (write(tmp_path, {}) / "b.toml").write_bytes(b'x = "\xff"')
    (problem,) = problems(tmp_path, {})
    assert (problem.file, problem.what) == ("b.toml", "is not UTF-8 text (byte 5)")
