"""New code on disk is told once, when it stands still."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.consumer import watch
from pbus.consumer.watch import CodeWatch, LoadedModules


class Watched:
    """A folder with a release behind a symlink, and what was told."""

    def __init__(self, folder: Path) -> None:
        self.release = folder / "release-1"
        self.release.mkdir()
        self.link = folder / "current"
        self.link.symlink_to(self.release)
        self.files = {str(self.write("jobs.py", "one"))}
        self.told: list[list[str]] = []
        self.watch = CodeWatch(lambda: self.files, [str(self.link)], self.told.append)

    def write(self, name: str, text: str) -> Path:
        path = self.release / name
        path.with_suffix(".new").write_text(text)
        os.replace(path.with_suffix(".new"), path)
        return path


@pytest.fixture
def here(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_nothing_new_is_nothing_told(here: Watched) -> None:
    assert all(here.watch.look() for _ in range(5))
    assert here.told == []


def test_a_changed_file_is_told_once_when_it_has_settled(here: Watched) -> None:
    path = here.write("jobs.py", "two")
    assert not here.watch.look()
    assert here.told == []
    assert all(here.watch.look() for _ in range(3))
    assert here.told == [[str(path)]]


def test_a_deploy_that_is_being_copied_is_waited_for(here: Watched) -> None:
    for number in range(5):
        here.write("jobs.py", f"part {number}")
        assert not here.watch.look()
    assert here.told == []
    assert here.watch.look()
    assert len(here.told) == 1


def test_the_next_change_is_told_again_and_the_way_back_too(here: Watched) -> None:
    path = here.release / "jobs.py"
    before = path.with_suffix(".kept")
    os.link(path, before)
    for text in ("two", "three"):
        here.write("jobs.py", text)
        here.watch.look()
        here.watch.look()
    os.replace(before, path)
    here.watch.look()
    here.watch.look()
    assert here.told == [[str(path)], [str(path)], []]


def test_a_switched_symlink_is_new_code(here: Watched, tmp_path: Path) -> None:
    (tmp_path / "release-2").mkdir()
    (tmp_path / "next").symlink_to(tmp_path / "release-2")
    os.replace(tmp_path / "next", here.link)
    here.watch.look()
    here.watch.look()
    assert here.told == [[str(here.link)]]


def test_a_file_that_is_gone_is_a_change(here: Watched) -> None:
    path = here.release / "jobs.py"
    path.unlink()
    here.watch.look()
    here.watch.look()
    assert here.told == [[str(path)]]


def test_what_is_loaded_later_is_watched_from_then_on(here: Watched) -> None:
    path = here.write("later.py", "one")
    here.files.add(str(path))
    assert here.watch.look()
    here.write("later.py", "two")
    here.watch.look()
    here.watch.look()
    assert here.told == [[str(path)]]


def test_compiled_code_that_would_be_taken_for_the_new_source_is_removed(here: Watched) -> None:
    import importlib.util

    path = here.release / "jobs.py"
    compiled = Path(importlib.util.cache_from_source(str(path)))
    compiled.parent.mkdir()
    compiled.write_bytes(b"old")
    stat = path.stat()
    here.write("jobs.py", "two")  # as long as "one"
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    here.watch.look()
    here.watch.look()
    assert not compiled.exists()


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[LoadedModules]:
    before = set(sys.modules)
    yield LoadedModules(os.path.realpath(tmp_path))
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded(name: str, file: object) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = file  # type: ignore[assignment]
    sys.modules[name] = module
    return module


def test_only_modules_of_the_users_own_folder_count(modules: LoadedModules, tmp_path: Path) -> None:
    loaded("mine_1", str(tmp_path / "pkg" / "jobs.py"))
    loaded("other_1", str(tmp_path / "venv" / "lib" / "site-packages" / "other.py"))
    loaded("broken_1", None)
    sys.modules["odd_1"] = 3  # type: ignore[assignment]
    assert modules() == {os.path.realpath(tmp_path / "pkg" / "jobs.py")}
    loaded("mine_2", str(tmp_path / "more.py"))
    assert len(modules()) == 2


def test_neither_python_nor_pbus_is_user_code() -> None:
    assert not any("/pbus/" in path or "/lib/python" in path for path in LoadedModules("/")())


def test_a_lazy_module_is_not_loaded_by_looking_at_it(modules: LoadedModules) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for")

    sys.modules["lazy_1"] = Lazy("lazy_1")
    assert modules() == set()


def test_it_looks_by_itself_while_it_is_told_to(here: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.waiting import until

    monkeypatch.setattr(watch, "EVERY_S", 0.01)
    monkeypatch.setattr(watch, "SETTLED_S", 0.01)
    here.watch.follow(True)
    here.watch.follow(True)
    here.write("jobs.py", "two")
    until(lambda: here.told, 5, "it is told")
    here.watch.follow(False)
