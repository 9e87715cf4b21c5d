"""The JSON Schema of the files agrees with the reader, key by key."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbus.config.build import Builder, key_of
from pbus.config.json_schema import json_schema
from pbus.config.schema import Settings
from pbus.config.tree import Tree

ROOT = Path(__file__).parents[3]
SCHEMA = json_schema()
KINDS_BOUNDED_ELSEWHERE = {"duration", "size", "rate", "percent"}
"""Their bounds are in seconds and bytes, which a pattern does not see."""

SAMPLES: list[Any] = [
    "", "abc", "a b", "10s", "1.5m", "10", "64KiB", "1MB", "100/s", "9/d", "1%", "101%", "127.0.0.1:80", "host:99",
    "[::1]:80", "unix:/run/x", "/run/x", "127.0.0.1", "plain:127.0.0.1:80", "-x", "auto", "json",
    0, 1, -1, 10**9, 0.5, 2.5, -0.5, True, False, [], ["a"], [1], ["127.0.0.1:80"], ["unix:/x", "plain:h:1"],
    ["nowhere"], {}, {"a": "b"}, {"a": 1}, {"unheard-of": True},
]
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether *value* is valid, by the keywords that the schema uses."""
    unknown = set(schema) - {
        "$schema", "title", "description", "default", "type", "additionalProperties", "properties", "propertyNames",
        "pattern", "enum", "anyOf", "items", "minimum", "maximum",
    }
    assert not unknown
    if "type" in schema and (
        not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean")
    ):
        return False
    checks = [
        "enum" not in schema or (not isinstance(value, bool) and value in schema["enum"]),
        "anyOf" not in schema or any(accepts(option, value) for option in schema["anyOf"]),
        "pattern" not in schema or re.search(schema["pattern"], value),
        "minimum" not in schema or value >= schema["minimum"],
        "maximum" not in schema or value <= schema["maximum"],
        "items" not in schema or all(accepts(schema["items"], item) for item in value),
    ]
    return all(checks) and (not isinstance(value, dict) or _members(schema, value))


def _members(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    names = schema.get("propertyNames", {})
    return all(accepts(names, name) for name in value) and all(
        accepts(properties[name], inner) if name in properties
        else others is True or (others is not False and accepts(others, inner))
        for name, inner in value.items()
    )


Key = tuple[str, dataclasses.Field[Any], dict[str, Any]]


def keys(section: type, schema: dict[str, Any], path: str) -> Iterator[Key]:
    """Every key with its field and its schema."""
    for field in dataclasses.fields(section):
        of, here = field.metadata["of"], schema["properties"][key_of(field)]
        yield f"{path}{key_of(field)}", field, here
        if of is not None:
            nested = here["additionalProperties"] if field.metadata["kind"] == "tables" else here
            yield from keys(of, nested["anyOf"][1] if "anyOf" in nested else nested, f"{path}{key_of(field)}.")


KEYS = {path: (field, schema) for path, field, schema in keys(Settings, SCHEMA, "")}


def reader_accepts(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether the reader takes *value* for that one key; keys that are missing below it are another matter."""
    tree = Tree("/nowhere")
    Builder(tree, "/")._field(field, {key_of(field): value}, (key_of(field),), False)
    aside = ("is missing", "this version")
    return not [problem for problem in tree.problems if not any(words in problem.what for words in aside)]


@pytest.mark.parametrize("path", list(KEYS))
def test_key_is_refused_where_the_reader_refuses_it(path: str) -> None:
    field, schema = KEYS[path]
    for value in SAMPLES:
        by_schema, by_reader = accepts(schema, value), reader_accepts(field, value)
        if field.metadata["kind"] in KINDS_BOUNDED_ELSEWHERE and by_schema:
            continue
        assert by_schema == by_reader, f"{value!r}: the reader says {by_reader}"
    assert "default" not in schema or accepts(schema, schema["default"])


@pytest.mark.parametrize("file", sorted(
    [*ROOT.glob("conf.d/**/*.toml"), *ROOT.glob("contrib/**/*.toml"), *ROOT.glob("examples/**/*.toml")]
), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_come_with_pbus_are_valid(file: Path) -> None:
    assert accepts(SCHEMA, tomllib.loads(file.read_text("utf-8")))


def test_variables_may_stand_in_texts_of_every_kind() -> None:
    assert accepts(SCHEMA, {
        "node": {"grace": "${GRACE}", "name": "${HOST}"}, "ingest": {"listen": ["${HOST}:12018"]},
        "log": {"format": "${FORMAT}"},
    })


def test_unknown_keys_are_refused_everywhere() -> None:
    assert not accepts(SCHEMA, {"nod": {}})
    assert not accepts(SCHEMA, {"queue": {"gift": {"topic": {"credit": {"pul": {}}}}}})
    assert not accepts(SCHEMA, {"queue": {"-gift": {}}})


def test_document_is_json_with_a_dialect() -> None:
    assert json.loads(json.dumps(SCHEMA))["$schema"].startswith("https://json-schema.org/")
