"""
From the merged tables to typed sections: unknown keys, types, bounds, choices, keys of later versions.

Rule: driven by the metadata of schema.py alone; one parser a kind. A key that is wrong is reported
and takes its default (or an empty value), so that the walk goes on and finds everything else. What
needs two keys at once is checked in check.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar, cast

from pbus.config import values
from pbus.config.schema import Concurrency
from pbus.config.tree import KeyPath, Tree
from pbus.core.names import is_name

S = TypeVar("S")

NAME_RULE: Final = 'a name such as "gift" (letters, digits, "_", "." and "-", at most 64, not starting with "." or "-")'


class Wrong(Exception):
    """A value is not what its kind asks for; the text says what was expected."""


class Notation(NamedTuple):
    """How a kind is written in TOML: the type it must have, its parser, what to say otherwise."""

    type: type | tuple[type, ...]
    parse: Callable[[Any], Any]
    expected: str


def _same(value: Any) -> Any:
    return value


def _name(text: str) -> str:
    if text and not is_name(text):
        raise ValueError(NAME_RULE)
    return text


def _texts(items: list[Any]) -> list[str]:
    if not all(isinstance(item, str) for item in items):
        raise ValueError('a list of texts such as ["a", "b"]')
    return items


def _address(text: str) -> str:
    return _place_of(text) if text else ""


def _addresses(items: list[Any]) -> list[str]:
    return [_place_of(item) for item in _texts(items)]


def _doors(items: list[Any]) -> list[str]:
    return [_place_of(item, values.door) for item in _texts(items)]


def _place_of(text: str, read: Callable[[str], object] = values.address) -> str:
    """One address as it is written; a bare path is the commonest slip."""
    try:
        return str(read(text))
    except ValueError as error:
        hint = f'; did you mean "unix:{text}"?' if text.startswith("/") else ""
        raise Wrong(f"expected {error}, not {_found(text)}{hint}") from error


def _params(table: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(item, str) for item in table.values()):
        raise ValueError('a table of texts such as { KEY = "value" }')
    return table


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("a path without NUL")
    return text


NOTATIONS: Final[dict[str, Notation]] = {
    "str": Notation(str, _same, 'a text such as "abc"'),
    "text": Notation(str, _same, 'a text such as "abc"'),
    "name": Notation(str, _name, NAME_RULE),
    "int": Notation(int, _same, "a whole number such as 8"),
    "float": Notation((int, float), float, "a number such as 2.0"),
    "bool": Notation(bool, _same, "true or false"),
    "duration": Notation(str, values.duration_s, 'a duration such as "10s"'),
    "size": Notation(str, values.size_bytes, 'a size such as "64KiB"'),
    "rate": Notation(str, values.rate_per_s, 'a rate such as "100/s"'),
    "share": Notation((int, float), values.share, "a share between 0 and 1 such as 0.5"),
    "percent": Notation(str, values.percent, 'a percentage such as "1%"'),
    "strings": Notation(list, _texts, 'a list of texts such as ["a", "b"]'),
    "address": Notation(str, _address, 'an address such as "127.0.0.1:12018"'),
    "addresses": Notation(list, _addresses, 'a list of addresses such as ["127.0.0.1:12018"]'),
    "doors": Notation(list, _doors, 'a list of addresses such as ["127.0.0.1:12018"]'),
    "path": Notation(str, _path, 'a path such as "var"'),
    "params": Notation(dict, _params, 'a table of texts such as { KEY = "value" }'),
    "json": Notation(dict, _same, "a table"),
}

_TOML_NAMES: Final[dict[type, str]] = {
    str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table",
}


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key of *field* in TOML (attribute names carry the unit, keys do not)."""
    return field.metadata["key"] or field.name


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of *field*; ``dataclasses.MISSING`` where the key is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is(value: Any, wanted: type | tuple[type, ...]) -> bool:
    """isinstance, but true and false are no numbers."""
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted)


def closest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """`` ; did you mean 'x'?`` for the known word that is nearest to *word*, else empty."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class Builder:
    """
    Builds sections out of a Tree; what is wrong goes into the tree's problems.

    Args:
        tree: The merged files.
        base: Relative paths are relative to this folder.
    """

    def __init__(self, tree: Tree, base: str) -> None:
        self._tree = tree
        self._base = base

    def section(self, section: type[S], raw: Mapping[str, Any], path: KeyPath, later: bool = False) -> S:
        """
        An instance of *section* out of the table *raw* that stands at *path*.

        Args:
            later: The whole section is of a later version: only defaults may stand in it.
        """
        if section is Concurrency:
            raw = _with_max(raw)
        fields = {key_of(field): field for field in dataclasses.fields(cast(Any, section))}
        for key in raw:
            if key not in fields:
                self._tree.add((*path, key), f"unknown key{closest(key, fields)}")
        built = {
            field.name: self._field(field, raw, (*path, key), later) for key, field in fields.items()
        }
        if "password_file" in built:
            built["password"] = self._password(built["password"], built["password_file"], path)
        return section(**built)

    def _field(self, field: dataclasses.Field[Any], raw: Mapping[str, Any], path: KeyPath, later: bool) -> Any:
        key, default = path[-1], default_of(field)
        meta = field.metadata
        later = later or meta["later"]
        if key not in raw:
            if default is dataclasses.MISSING:
                self._tree.add(path, f"is missing: {meta['help']}")
                return _stand_in(meta["kind"])
            if meta["kind"] == "table" and default is not None:
                return self.section(meta["of"], {}, path, later)
            return self._absolute(meta["kind"], default)
        try:
            value = self._value(meta, raw[key], path, later, default)
        except Wrong as wrong:
            self._tree.add(path, str(wrong))
            return _stand_in(meta["kind"]) if default is dataclasses.MISSING else default
        if later and meta["kind"] not in ("table", "tables") and value != default:
            self._later(meta, value, path)
        return self._absolute(meta["kind"], value)

    def _later(self, meta: Mapping[str, Any], value: Any, path: KeyPath) -> None:
        """The key's feature has not come; say so at each of its tables, where it holds tables."""
        for name in value if meta["kind"] == "json" else [""]:
            where = (*path, name) if name else path
            self._tree.add(where, f"({meta['help']}) is not part of this version of pbus; remove the key")

    def _value(self, meta: Mapping[str, Any], raw: Any, path: KeyPath, later: bool, default: Any) -> Any:
        kind, of = meta["kind"], meta["of"]
        if kind == "table":
            return self._table(meta, raw, path, later, default)
        if kind == "tables":
            return self._tables(of, raw, path, later)
        if meta["one_of"] and kind == "int" and isinstance(raw, str):
            return _one_of(meta["one_of"], raw, f"{NOTATIONS['int'].expected} or")
        value = _parsed(NOTATIONS[kind], raw, meta["secret"])
        if meta["one_of"] and kind == "str":
            _one_of(meta["one_of"], value, "one of")
        if kind == "name" and not value and default != "":
            raise Wrong(f"expected {NAME_RULE}")
        _check_bounds(meta, value)
        return value

    def _table(self, meta: Mapping[str, Any], raw: Any, path: KeyPath, later: bool, default: Any) -> Any:
        of = meta["of"]
        if of is Concurrency and _is(raw, int):
            raw = {"min": raw, "max": raw}
        if not isinstance(raw, dict):
            number = "a number or " if of is Concurrency else ""
            raise Wrong(f"expected {number}a table such as {_example(of)}, not {_found(raw)}")
        if later and default is None:
            self._later(meta, raw, path)
            return None
        return self.section(of, raw, path, later)

    def _tables(self, of: type, raw: Any, path: KeyPath, later: bool) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise Wrong(f"expected tables such as [{path[-1]}.NAME], not {_found(raw)}")
        built: dict[str, Any] = {}
        for name, table in raw.items():
            here = (*path, name)
            if not is_name(name):
                self._tree.add(here, f"expected {NAME_RULE}")
            if isinstance(table, dict):
                built[name] = self.section(of, table, here, later)
            else:
                self._tree.add(here, f"expected a table, not {_found(table)}")
        return built

    def _absolute(self, kind: str, value: Any) -> Any:
        """Paths relative to DIR's parent made absolute, those of unix sockets too."""
        if kind == "path":
            return self._absolute_path(value)
        if kind == "address":
            return self._absolute_address(value)
        if kind in ("addresses", "doors"):
            return [self._absolute_address(item) for item in value]
        return value

    def _absolute_path(self, text: str) -> str:
        return text if text in ("", "-") else os.path.normpath(os.path.join(self._base, text))

    def _absolute_address(self, text: str) -> str:
        head, unix, path = text.partition("unix:")
        return f"unix:{self._absolute_path(path)}" if unix and not head else text

    def _password(self, password: str, file: str, path: KeyPath) -> str:
        """The password itself, or what *file* holds: a line, or two while one replaces the other."""
        where = (*path, "password_file")
        if not file or not self._tree.is_sound(where):
            return password
        if password:
            self._tree.add(where, "password is set too; remove one of them")
            return password
        try:
            with open(file, encoding="utf-8") as stream:
                lines = [line for line in stream.read(65_536).splitlines() if line]
        except OSError as error:
            self._tree.add(where, f"{file} cannot be read: {error.strerror}")
            return ""
        except UnicodeDecodeError:
            self._tree.add(where, f"{file} is not UTF-8 text")
            return ""
        most = 1 if path[0] == "storage" else 2
        if not 1 <= len(lines) <= most:
            what = "one line" if most == 1 else "one line, or two while one password replaces the other"
            self._tree.add(where, f"{file} should hold {what}, not {len(lines)}")
        return "\n".join(lines)


def _with_max(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``{ min = 4 }`` alone means four, not more than its own default maximum."""
    if "min" in raw and "max" not in raw and _is(raw["min"], int):
        return {**raw, "max": max(1, raw["min"])}
    return raw


def _parsed(notation: Notation, raw: Any, secret: bool) -> Any:
    found = "something else" if secret else _found(raw)
    if not _is(raw, notation.type):
        raise Wrong(f"expected {notation.expected}, not {found}")
    try:
        return notation.parse(raw)
    except ValueError as error:
        raise Wrong(f"expected {error}, not {found}") from error
    except OverflowError as error:
        raise Wrong(f"expected {notation.expected}, this is too large") from error


def _one_of(allowed: tuple[str, ...], value: str, before: str) -> str:
    if value not in allowed:
        choices = ", ".join(f'"{choice}"' for choice in allowed)
        raise Wrong(f"expected {before} {choices}, not {_found(value)}{closest(value, list(allowed))}")
    return value


def _check_bounds(meta: Mapping[str, Any], value: Any) -> None:
    least, most = meta["least"], meta["most"]
    if isinstance(value, float) and not abs(value) < 1e18:
        raise Wrong("is not a number, or too large a one")
    if least is not None and value < least:
        raise Wrong(f"is {written(meta['kind'], value)}, at least {written(meta['kind'], least)} is possible")
    if most is not None and value > most:
        raise Wrong(f"is {written(meta['kind'], value)}, at most {written(meta['kind'], most)} is possible")


def written(kind: str, value: Any) -> Any:
    """*value* as a person would write it in TOML: durations, sizes, rates and percentages as text."""
    if kind == "duration":
        return values.written_duration(value)
    if kind == "size":
        return values.written_size(int(value))
    if kind == "rate":
        return values.written_rate(value)
    if kind == "percent":
        return values.written_percent(value)
    return value


def _found(raw: Any) -> str:
    """What stands there instead, short."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, str):
        return f'"{raw}"' if len(raw) <= 60 else f'"{raw[:57]}.."'
    if isinstance(raw, int | float):
        return str(raw)
    return _TOML_NAMES.get(type(raw), "a date or time")


def _example(of: type) -> str:
    """A short table of *of*: its first keys with their defaults, or with texts."""
    parts = []
    for field in dataclasses.fields(cast(Any, of))[:2]:
        default = default_of(field)
        if default is dataclasses.MISSING:
            parts.append(f'{key_of(field)} = ".."')
        else:
            value = written(field.metadata["kind"], default)
            parts.append(f"{key_of(field)} = {_toml(value)}")
    return "{ " + ", ".join(parts) + " }"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _stand_in(kind: str) -> Any:
    """What a required key that is missing or wrong counts as, so that the walk goes on."""
    notation = NOTATIONS.get(kind)
    wanted = notation.type if notation else dict
    return (wanted if isinstance(wanted, type) else wanted[0])()
