"""Laws of the house that no lint rule knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "pbus").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

LONGEST_FUNCTION = 60
LONGEST_FILE = 600
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc"}


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_file_and_its_functions_can_be_read(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= LONGEST_FILE
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]  # fmt: skip
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_file_says_at_its_head_what_lives_there(path: Path) -> None:
    text = path.read_text("utf-8")
    assert path.stem not in FORBIDDEN_NAMES
    if path.name == "__init__.py" and path.parent.name != "pbus":
        assert text == "", "packages are empty: what is imported is named by its module"
    else:
        assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("module", ["pbus.app", "pbus.supervisor.master", "pbus.supervisor.spawn", "pbus.cli.main"])
def test_master_has_no_gevent_and_no_store_loaded(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{'gevent', 'redis', 'apsw'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_consumers_have_no_gevent_and_no_store_loaded() -> None:
    program = "import sys, pbus.consumer.main; print(*sorted({'gevent', 'redis', 'apsw'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
