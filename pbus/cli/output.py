"""
How commands print: data on stdout in the form that ``-o`` asks for, talk on stderr.

Rule: job data is attacker-controlled. What could move a cursor, hide text or start a spreadsheet
formula is shown, never obeyed. Not a terminal: no colour, no truncation.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO, TypeVar

import click

FORMS: Final = ("table", "json", "jsonl", "csv")
VERSION: Final = 1
"""``"v"`` of every JSON document; keys are only ever added."""

# C0 and C1 controls, DEL, zero-width and bidirectional marks, line and paragraph separators, BOM,
# lone surrogates, tags: everything a terminal would obey or not show.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?\Z")
_STYLE: Final = re.compile("\x1b\\[[0-9;]*m")

_TRACEBACK: Final = "Traceback (most recent call last):"

F = TypeVar("F", bound=Callable[..., Any])


def escape(text: str) -> str:
    """*text* on one line, with whatever a terminal would obey written out (``\\x1b``, ``\\u202e``)."""
    return _UNSAFE.sub(lambda match: _SHORT.get(match[0]) or _written_out(match[0]), text)


def _written_out(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns_of(text: str) -> int:
    """Columns of a terminal that *text* takes: Chinese, Japanese and Korean characters take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def cut(text: str, width: int) -> str:
    """*text* in at most *width* columns (at least the ``…`` that stands for the rest)."""
    if columns_of(text) <= width:
        return text
    left = width - 1
    for place, each in enumerate(text):
        left -= columns_of(each)
        if left < 0:
            return text[:place] + "…"
    return text


def cut_inside(text: str, width: int) -> str:
    """*text* in at most *width* columns, with its begin and its end: names of one family differ there."""
    if columns_of(text) <= width or not text.isascii():
        return cut(text, width)
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def pad(text: str, width: int) -> str:
    """*text*, filled up with blanks to *width* columns."""
    return text + " " * (width - columns_of(text))


def to_json(value: Any) -> str:
    """*value* as JSON on one line: readable where printable, ``\\uXXXX`` where a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def csv_cell(value: Any) -> str:
    """*value* as one CSV cell; text that a spreadsheet would run as a formula gets a leading ``'``."""
    text = cell(value)
    if isinstance(value, str) and text.startswith(_FORMULA) and not _NUMBER.match(text):
        return "'" + text
    return text


def cell(value: Any) -> str:
    """*value* as people read it in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return " ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return to_json(value)
    return str(_plain(value)) if isinstance(value, bytes) else str(value)


class Output:
    """
    Where a command's data and talk go.

    Attributes:
        form: ``table``, ``json``, ``jsonl`` or ``csv``.
        terminal: stdout is a terminal (colour, truncation to its width).
    """

    def __init__(self, form: str = "table", stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.form = form
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> TextIO:
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        return self._stderr or sys.stderr

    @property
    def terminal(self) -> bool:
        return self.stdout.isatty()

    def rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], **head: Any) -> None:
        """
        Print *rows*.

        Args:
            name: Key of the list in JSON: ``{"v": 1, **head, name: [..]}``.
            columns: Keys shown in a table and in CSV, in order; JSON has every key of a row.
            rows: The data.
            head: Further keys of the JSON document; people see them by other means.
        """
        if self.form == "json":
            self.document({**head, name: [dict(row) for row in rows]})
        elif self.form == "jsonl":
            for row in rows:
                self.line(to_json({"v": VERSION, **row}))
        elif self.form == "csv":
            self._csv(columns, rows)
        else:
            self._table(columns, rows)

    def document(self, data: Mapping[str, Any]) -> None:
        """Print one JSON document on one line, whatever the form: ``{"v": 1, **data}``."""
        self.line(to_json({"v": VERSION, **data}))

    def line(self, text: str) -> None:
        """One line of data, already safe to print; flushed, because somebody may follow."""
        try:
            self.stdout.write(text + "\n")
        except UnicodeEncodeError:
            encoding = self.stdout.encoding or "ascii"
            self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self.stdout.flush()

    def text(self, text: str) -> None:
        """One line of data that may hold anything: escaped on a terminal, as it is elsewhere."""
        self.line(escape(text) if self.terminal else text)

    def say(self, text: str) -> None:
        """Talk to the person at the terminal (stderr); control characters are shown, not obeyed."""
        print("\n".join(escape(line) for line in text.split("\n")), file=self.stderr, flush=True)

    def style(self, text: str, colour: str) -> str:
        """*text* in *colour* where stdout is a terminal."""
        return click.style(text, fg=colour) if self.terminal else text

    def _csv(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([csv_cell(row.get(column)) for column in columns])
        for line in buffer.getvalue().split("\n")[:-1]:
            self.text(line)

    def _table(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        width = shutil.get_terminal_size().columns if self.terminal else None
        for line in table_lines(columns, rows, width):
            self.line(line)


def table_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], width: int | None) -> list[str]:
    """
    A table as lines: headings in capitals, columns padded to their widest cell.

    Args:
        columns: Keys of the rows, in order.
        rows: The data; every cell is escaped.
        width: Columns of the terminal, longer lines are cut with ``…``; None: nothing is cut.
    """
    body = [[escape(cell(row.get(column))) for column in columns] for row in rows]
    grid = [[column.upper() for column in columns], *body]
    widths = [max(columns_of(line[index]) for line in grid) for index in range(len(columns))]
    lines = ["  ".join(pad(text, size) for text, size in zip(line, widths, strict=True)).rstrip() for line in grid]
    if width is None:
        return lines
    return [cut(line, width) for line in lines]


def brief(error: str) -> str:
    """The line of *error* that says most: of a Python traceback the last, else the first."""
    first, newline, rest = error.strip().partition("\n")
    before, traceback, _ = first.partition(_TRACEBACK)
    return before + rest.rsplit("\n", 1)[-1].strip() if newline and traceback else first


def output_option(function: F) -> F:
    """``-o table|json|jsonl|csv`` for a command that prints data; sets ``Context.output.form``."""

    def choose(click_context: click.Context, _: click.Parameter, value: str) -> None:
        from pbus.cli.context import Context

        context = click_context.find_object(Context)
        if context is not None:
            context.output.form = value

    return click.option(
        "-o", "--output", type=click.Choice(FORMS), default="table", show_default=True,
        expose_value=False, callback=choose, help="Form of the data on stdout.",
    )(function)
