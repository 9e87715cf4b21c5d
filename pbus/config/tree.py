"""
From a folder of TOML files to one tree that remembers which file each key came from.

Rule: nothing here knows what a key means; merging, ``${VAR}`` and the law of system folders only.
Hidden files and folders are left out (editors' locks; ``..data`` of a mounted ConfigMap, which
would set every key twice).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.core.names import is_name
from pbus.errors import Problem

KeyPath = tuple[str, ...]

SYSTEM_TABLES: Final = ("queue", "cron", "program")
"""Top-level tables that a file in DIR/SYSTEM/ may define."""
OWNED_TABLES: Final = ("queue", "program")
"""Those of them whose members belong to a system."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_VARIABLE: Final = re.compile(r"(\$?)\$\{([^}]*)\}")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACE: Final = re.compile(r"(.*) \(at (line \d+, column \d+|end of document)\)\Z", re.DOTALL)


def dotted(path: KeyPath) -> str:
    """*path* as TOML writes it: ``queue."live.gift".topic``."""
    return ".".join(part if _BARE.match(part) else f'"{part}"' for part in path)


@dataclass(slots=True)
class Tree:
    """
    What the files say, before anybody asked what it means. One owner: the load.

    Attributes:
        directory: The configuration folder, absolute.
        values: The merged tables.
        origin: File of each key and of the first mention of each table.
        problems: What was wrong so far.
        complete: Every file was read; else a name that is not found may be in the unread one.
        from_environment: Keys of which a part came from ``${VAR}``.
        systems: System folders met, and one file of each.
        bad_items: Lists of which only items are wrong.
    """

    directory: str
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True
    from_environment: set[KeyPath] = field(default_factory=set)
    systems: dict[str, str] = field(default_factory=dict)
    bad_items: set[KeyPath] = field(default_factory=set)

    def file_of(self, path: KeyPath) -> str:
        """The file that says *path*, or the nearest table around it; the folder when none does."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origin:
                return self.origin[path[:end]]
        return self.directory

    def add(self, path: KeyPath, what: str, *, of_an_item: bool = False) -> None:
        """
        *what* is wrong with *path*.

        A key has one problem, the first that was found; or, when it is sound as a whole, one for
        each of its items (*of_an_item*).
        """
        problem = Problem(self.file_of(path), dotted(path), what)
        known = [other for other in self.problems if (other.file, other.key) == (problem.file, problem.key)]
        if not known or (of_an_item and path in self.bad_items and problem not in known):
            self.problems.append(problem)
            if of_an_item:
                self.bad_items.add(path)

    def is_sound(self, *paths: KeyPath) -> bool:
        """Whether no problem was found so far with any of *paths* as a whole."""
        bad = {problem.key for problem in self.problems}
        return not any(dotted(path) in bad and path not in self.bad_items for path in paths)


@dataclass(frozen=True, slots=True)
class Mention:
    """The queues and programs that one file mentions; *system* is that of its folder, empty directly in DIR."""

    file: str
    system: str
    owned: Mapping[KeyPath, Mapping[str, Any]]


def read(directory: str, environment: Mapping[str, str]) -> Tree:
    """
    Merge every ``DIR/**/*.toml``, in name order.

    Args:
        directory: The configuration folder.
        environment: Where ``${VAR}`` is looked up.

    Returns:
        The tree; what is wrong is in its ``problems``, so that everything else is found as well.
    """
    tree = Tree(os.path.abspath(directory))
    mentions: list[Mention] = []
    for file in _files(tree):
        table = _parse(tree, file)
        if table is not None:
            system = _system_of(tree, file)
            _merge(tree, tree.values, _allowed(tree, file, system, table), (), file)
            mentions.append(Mention(file, system, _owned(table)))
    if not mentions and not tree.problems:
        tree.problems.append(Problem(tree.directory, "", "holds no *.toml file"))
    _give_systems(tree, mentions)
    _expand(tree, tree.values, (), environment)
    return tree


def _files(tree: Tree) -> list[str]:
    """Files in name order of their paths; folders that cannot be read are problems."""

    def unreadable(error: OSError) -> None:
        tree.complete = False
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        if isinstance(error, NotADirectoryError):
            what = "is not a folder; -c takes the folder that holds the *.toml files"
        tree.problems.append(Problem(error.filename or tree.directory, "", what))

    found: list[str] = []
    met: set[str] = set()
    for folder, folders, names in os.walk(tree.directory, onerror=unreadable, followlinks=True):
        met.add(os.path.realpath(folder))  # a link that leads back up would otherwise never end
        folders[:] = [
            name for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) not in met
        ]
        found += [os.path.join(folder, name) for name in names if name.endswith(".toml") and not name.startswith(".")]
    return sorted(found, key=lambda file: os.path.relpath(file, tree.directory).split(os.sep))


def _parse(tree: Tree, file: str) -> dict[str, Any] | None:
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.match(str(error))
        what = f"{match[2]}: {match[1]}" if match else str(error)
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start})"
    except RecursionError:
        what = "is nested too deeply"
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    tree.complete = False
    tree.problems.append(Problem(file, "", what))
    return None


def _system_of(tree: Tree, file: str) -> str:
    """The system whose folder *file* is in; empty for a file directly in DIR."""
    head, *rest = os.path.relpath(file, tree.directory).split(os.sep)
    if not rest:
        return ""
    if head not in tree.systems:
        tree.systems[head] = file
        if not is_name(head):
            tree.problems.append(Problem(file, "", f"its folder {head!r} cannot name a business system"))
    return head


def _allowed(tree: Tree, file: str, system: str, table: dict[str, Any]) -> dict[str, Any]:
    """What *file* may say: in a system's folder only that system's queues, crons and programs."""
    if not system:
        return table
    for key in table.keys() - set(SYSTEM_TABLES):
        what = f"a file in the folder of system {system!r} may define queues, crons and programs only"
        tree.problems.append(Problem(file, dotted((key,)), what))
    return {key: value for key, value in table.items() if key in SYSTEM_TABLES}


def _merge(tree: Tree, into: dict[str, Any], table: Mapping[str, Any], path: KeyPath, file: str) -> None:
    for key, value in table.items():
        here = (*path, key)
        if key not in into:
            into[key] = {} if isinstance(value, dict) else value
            tree.origin[here] = file
        elif not (isinstance(value, dict) and isinstance(into[key], dict)):
            what = f"is set twice, in {tree.origin[here]} too"
            tree.problems.append(Problem(file, dotted(here), what))
            continue
        if isinstance(value, dict):
            _merge(tree, into[key], value, here, file)


def _owned(table: Mapping[str, Any]) -> dict[KeyPath, Mapping[str, Any]]:
    """Everything in *table* that belongs to a system, by its path."""
    kinds = {kind: _table(table, kind) for kind in OWNED_TABLES}
    return {(kind, name): _table(named, name) for kind, named in kinds.items() for name in named}


def _give_systems(tree: Tree, mentions: list[Mention]) -> None:
    """A queue or program that a system's folder mentions belongs to that system, and to nobody else."""
    for mention in mentions:
        if not is_name(mention.system):
            continue
        for path, table in mention.owned.items():
            foreign = _foreign(mention, path, mentions)
            own = table.get("system", mention.system)
            if own != mention.system:
                what = f"is in the folder of system {mention.system!r}, it cannot be of {own!r}"
                tree.problems.append(Problem(mention.file, dotted((*path, "system")), what))
            elif foreign:
                what = f"is not of system {mention.system!r} whose folder this file is in, see {foreign}"
                tree.problems.append(Problem(mention.file, dotted(path), what))
            elif isinstance(one := _table(tree.values, path[0]).get(path[1]), dict) and "system" not in one:
                one["system"] = mention.system
                tree.origin[(*path, "system")] = mention.file


def _foreign(mention: Mention, path: KeyPath, mentions: list[Mention]) -> str:
    """A file that defines *path* for somebody else than the system of *mention*; empty if none does."""
    others = [other for other in mentions if other.system != mention.system and path in other.owned]
    said = {other.owned[path].get("system") for other in others if not other.system}
    for other in others:
        if other.system or mention.system not in said:
            return other.file
    return ""


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = values.get(key)
    return table if isinstance(table, dict) else {}


def _expand(tree: Tree, node: Any, path: KeyPath, environment: Mapping[str, str]) -> Any:
    """*node* with ``${VAR}`` replaced in every text; ``$${VAR}`` stays ``${VAR}``."""
    if isinstance(node, dict):
        for key in node:
            node[key] = _expand(tree, node[key], (*path, key), environment)
        return node
    if isinstance(node, list):
        return [_expand(tree, item, path, environment) for item in node]
    return _expand_text(tree, node, path, environment) if isinstance(node, str) else node


def _expand_text(tree: Tree, text: str, path: KeyPath, environment: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            return match[0][1:]
        if not _VARIABLE_NAME.match(name):
            tree.add(path, f"{match[0]} does not name an environment variable; a literal one is written $${{..}}")
            return ""
        if name not in environment:
            tree.add(path, f"environment variable {name} is not set")
            return ""
        tree.from_environment.add(path)
        return environment[name]

    return _VARIABLE.sub(replace, text)
