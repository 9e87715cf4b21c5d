"""
The reference of the configuration, written from the schema:

    python -m pbus.config.reference > docs/configuration.md

Rule: nothing about a key is said twice. Words that belong to no single key stand in ``INTRODUCTION``.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, Final, cast

from pbus.config.build import default_of, key_of, written
from pbus.config.schema import Settings

INTRODUCTION: Final = """\
# Configuration

<!-- Written by `python -m pbus.config.reference > docs/configuration.md`; change pbus/config/schema.py instead. -->

pbus reads a folder of TOML files. It is the folder after `-c` (anywhere on the line of any command), else
`$PBUS_CONFIG`, else `./conf.d`, else `/etc/pbus/conf.d`.

`pbus config check` prints everything that is wrong, one line a problem, as `file: key: what is wrong`, and exits 78;
or it says what is defined and exits 0. `pbus config show [KEY]` prints what is in effect and which file says so;
secrets are shown as `***`; `pbus config diff` prints what a reload would change. A bus does not start on a
configuration that has a problem. `pbus config schema` prints a JSON Schema of the files: with `#:schema
./pbus.schema.json` as its first line editors check and complete a file (taplo, Even Better TOML). The same page for a
terminal: `man pbus.conf`.

## How files become one tree

- All `*.toml` files of the folder and of the folders below it are read, in name order, into one tree. Hidden files and
  folders (`.name`) are left out.
- Tables may be spread over files. A key may be set in one file only.
- A folder below it belongs to the business system of its name: a file in `conf.d/live/` may define queues only, and
  these belong to system `live`. A queue that other files define for somebody else cannot be touched from there.
- `${VAR}` in a text is taken from the environment; it must be set. `$${VAR}` stays `${VAR}`.
- Relative paths are relative to the parent of the folder. When the folder is below `/etc`, `run_dir`, `data_dir` and
  `log_dir` are `/run/pbus`, `/var/lib/pbus` and `/var/log/pbus` unless they are set.

## How values are written

| kind | written | means |
|---|---|---|
| duration | `"250ms"` `"10s"` `"5m"` `"2h"` `"7d"` | `"0s"` is none, where none makes sense |
| size | `"512B"` `"64KiB"` `"1MiB"` `"4GiB"` | bytes; `KB`, `MB`, `GB` are powers of 1000 |
| rate | `"100/s"` `"90/m"` | `""` is no limit |
| share, percentage | `0.5`, `"50%"` | part of a whole |
| address | `"127.0.0.1:12018"` `"[::1]:12018"` `"unix:PATH"` | |
| name | `"gift"` | letters, digits, `_`, `.`, `-`; at most 64; not starting with `.` or `-` |

Passwords are better kept in files of their own: `password_file` names a file whose line is the password. Those of
queues, topics and systems may have two lines: both are valid, so that one can replace the other client by client.

With `[ingest] tls = { cert = "..", key = ".." }` every `HOST:PORT` of `listen` speaks TLS 1.2 or later and nothing
else; `"plain:HOST:PORT"` is an address without, unix sockets never speak it. What pbus itself connects with (`pbus
push`, `job.push`) goes by the first address without TLS, else by TLS, trusting the certificate in `cert` and no
other. With `client_ca` every client has to show a certificate of one of these authorities; pbus has none to show, so
it needs an address without TLS then, as programs of the pepper protocol always do. Renewed files count for new
connections within about five seconds, without a restart. Files that do not fit are a problem in `pbus status`, and
the old ones go on; so is a certificate that ends within a week (or a tenth of its life, where that is less), or has
ended.

Keys marked **later** are read and checked, but their features are not part of this version: setting them to anything
but the default is an error that says so. *Takes effect* says what a change needs: `live` keys are read at once,
`respawn` keys by new processes (both with the next `pbus reload` or HUP), `restart` keys only by `pbus restart`: a
reload takes over everything else and says which of them wait.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyText:
    """A key as it is told to people: its name, its default as TOML writes it or ``required``, and words."""

    key: str
    default: str
    kind: str
    effect: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class TableText:
    """A table: ``queue.NAME``, what it is for, and its own keys (those of the tables within it stand there)."""

    name: str
    text: str
    keys: tuple[KeyText, ...]


def tables() -> Iterator[TableText]:
    """Every table of the configuration, in the order of the schema."""
    for field in dataclasses.fields(Settings):
        yield from _tables(field, "")


def reference() -> str:
    """The whole page, Markdown."""
    parts = [INTRODUCTION]
    for table in tables():
        parts.append(f"## `[{table.name}]`\n\n{table.text}\n")
        if table.keys:
            parts.append("| key | default | kind | takes effect | |\n|---|---|---|---|---|")
            parts.append("".join(_row(key) for key in table.keys))
    return "\n".join(parts)


def _tables(field: dataclasses.Field[Any], above: str) -> Iterator[TableText]:
    """The table that *field* is, and the tables within it."""
    meta, of = field.metadata, field.metadata["of"]
    name, text = above + key_of(field), f"{_sentence(meta['help'])}{_later(meta, ' ')}"
    if of is None:
        yield TableText(f"{name}.NAME", text, ())
        return
    if meta["kind"] == "tables":
        name += f".{'TOPIC' if name.endswith('topic') else 'NAME'}"
    nested = [inner for inner in dataclasses.fields(of) if inner.metadata["kind"] in ("table", "tables")]
    plain = [inner for inner in dataclasses.fields(of) if inner not in nested]
    yield TableText(name, text, tuple(_key(inner) for inner in plain))
    for inner in nested:
        yield from _tables(inner, f"{name}.")


def _key(field: dataclasses.Field[Any]) -> KeyText:
    meta, default = field.metadata, default_of(field)
    shown = "required" if default is dataclasses.MISSING else _toml(written(meta["kind"], default))
    return KeyText(key_of(field), shown, _kind(meta), meta["effect"], meta["help"] + _bounds(meta) + _later(meta, "; "))


def _row(key: KeyText) -> str:
    default = key.default if key.default == "required" else f"`{key.default}`"
    return f"| `{key.key}` | {default} | {key.kind} | {key.effect} | {key.text} |\n"


def _kind(meta: Any) -> str:
    """``duration``, or the choices where there is a choice."""
    kinds = {"str": "text", "strings": "list of texts", "params": "table of texts", "int": "number", "float": "number",
             "bool": "true or false", "json": "table", "percent": "percentage", "addresses": "list of addresses",
             "doors": "list of addresses"}
    choices = ", ".join(f"`\"{choice}\"`" for choice in meta["one_of"])
    if meta["one_of"] and meta["kind"] == "str":
        return choices
    kind = kinds.get(meta["kind"], cast(str, meta["kind"]))
    return f"{kind} or {choices}" if choices else kind


def _bounds(meta: Any) -> str:
    words = {"at least": meta["least"], "at most": meta["most"]}
    said = [f"{word} {_plain(meta['kind'], bound)}" for word, bound in words.items() if bound]
    return f" ({', '.join(said)})" if said else ""


def _plain(kind: str, bound: float) -> str:
    return f"{bound:g}" if kind == "float" else str(written(kind, bound))


def _later(meta: Any, before: str) -> str:
    return f"{before}**later**" if meta["later"] else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _toml(value: Any) -> str:
    """*value* as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return "{}" if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
