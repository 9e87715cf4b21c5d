"""
A JSON Schema (draft 2020-12) of one file of the configuration, for editors that check and complete TOML.

Rule: driven by the metadata of schema.py, as the reader is. What it refuses the reader refuses, too; the other way
round only where a file shows it: a table may be spread over files, so nothing is required here, and what needs two
keys at once, or a look at the machine, is for ``pbus config check``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, cast

from pbus.config.build import default_of, key_of, written
from pbus.config.schema import Concurrency, Settings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_VARIABLE: Final = r"\$\{"
_NUMBER: Final = r"[0-9]{1,15}(\.[0-9]{1,9})? ?"
_NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
_PLACE: Final = r"unix:.+|[^:/]+:[0-9]{1,5}|\[[0-9A-Fa-f:.%]+\]:[0-9]{1,5}"
_PATTERNS: Final[dict[str, str]] = {
    "name": rf"{_NAME}|{_VARIABLE}",
    "duration": rf"^{_NUMBER}(ms|s|m|h|d)$|{_VARIABLE}",
    "size": rf"^{_NUMBER}(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)$|{_VARIABLE}",
    "rate": rf"^({_NUMBER}/ ?(s|m|h))?$|{_VARIABLE}",
    "percent": rf"^[0-9]{{1,3}}(\.[0-9]{{1,9}})? ?%$|{_VARIABLE}",
    "address": rf"^({_PLACE})?$|{_VARIABLE}",
}
_ITEMS: Final[dict[str, str]] = {
    "strings": "", "addresses": rf"^({_PLACE})$|{_VARIABLE}", "doors": rf"^(plain:)?({_PLACE})$|{_VARIABLE}",
}
_PLAIN: Final[dict[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"}, "json": {"type": "object"}, "share": {"type": "number", "minimum": 0, "maximum": 1},
    "params": {"type": "object", "additionalProperties": {"type": "string"}},
}


def json_schema() -> dict[str, Any]:
    """The whole document."""
    return {
        "$schema": DIALECT,
        "title": "pbus configuration",
        "description": "One TOML file of a configuration folder; tables may be spread over files.",
        **_section(Settings),
    }


def _section(section: type) -> dict[str, Any]:
    """A table whose keys are the fields of *section*, and no others."""
    fields = dataclasses.fields(cast(Any, section))
    return {
        "type": "object", "additionalProperties": False,
        "properties": {key_of(field): _told(field) | _value(field) for field in fields},
    }


def _told(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What an editor shows of a key."""
    meta, default = field.metadata, default_of(field)
    if meta["kind"] in ("table", "tables"):
        return {"description": meta["help"]}
    effect = "not part of this version" if meta["later"] else f"takes effect: {meta['effect']}"
    told: dict[str, Any] = {"description": f"{meta['help']} ({effect})"}
    if default is not dataclasses.MISSING and default is not None:
        told["default"] = written(meta["kind"], default)
    return told


def _value(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What may stand there."""
    meta = field.metadata
    kind, of = meta["kind"], meta["of"]
    if kind == "table":
        section = _section(of)
        if of is not Concurrency:
            return section
        most = next(inner for inner in dataclasses.fields(Concurrency) if inner.name == "max")
        return {"anyOf": [_number("integer", most.metadata), section]}  # a number is both, min and max
    if kind == "tables":
        inner = {"type": "object"} if of is None else _section(of)
        return {"type": "object", "propertyNames": {"pattern": _NAME}, "additionalProperties": inner}
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if kind in _ITEMS:
        return {"type": "array", "items": {"type": "string"} | ({"pattern": _ITEMS[kind]} if _ITEMS[kind] else {})}
    if kind in ("int", "float"):
        number = _number("integer" if kind == "int" else "number", meta)
        return {"anyOf": [number, {"enum": list(meta["one_of"])}]} if meta["one_of"] else number
    if meta["one_of"] and kind == "str":
        return {"anyOf": [{"enum": list(meta["one_of"])}, {"type": "string", "pattern": _VARIABLE}]}
    pattern = _PATTERNS.get(kind, "")
    if kind == "name" and default_of(field) == "":
        pattern += "|^$"
    return {"type": "string"} | ({"pattern": pattern} if pattern else {})


def _number(type_name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    bounds = {"minimum": meta["least"], "maximum": meta["most"]}
    return {"type": type_name, **{name: bound for name, bound in bounds.items() if bound is not None}}
