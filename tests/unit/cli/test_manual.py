"""The man pages are those of this code, and roff prints them as they are meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pbus.cli import manual
from pbus.cli.main import COMMANDS
from pbus.config.reference import tables
from pbus.errors import Exit
from pbus.supervisor.signals import CAUGHT

MAN = Path(__file__).parents[3] / "man"
KNOWN = re.compile(r"\.(TH|SH|SS|TP|PP|B|BR|br|nf|fi|nh|ad|\\\") ?")


def test_pages_are_those_of_this_code() -> None:
    written = {str(path.relative_to(MAN)): path.read_text("utf-8") for path in MAN.glob("man*/*")}
    assert written == manual.pages(), "run: python -m pbus.cli.manual man"


def test_every_command_exit_status_and_signal_has_its_place() -> None:
    overview = manual.overview().replace("\\-", "-")
    assert [name for name in COMMANDS if f"pbus-{name}(1)" not in overview] == []
    assert sorted(manual.MEANINGS) == sorted(Exit)
    told = {word for words in manual._SIGNALS for word in words.split(", ")}
    assert {signum.name.removeprefix("SIG") for signum in CAUGHT} - {"CHLD"} <= told


def test_every_key_of_the_configuration_is_told() -> None:
    page = manual.configuration().replace("\\-", "-")
    sections = dict(part.split("]\n", 1) for part in page.split(".SH [")[1:])
    missing = [
        f"{table.name}.{key.key}" for table in tables() for key in table.keys
        if f"\\fB{key.key}\\fR" not in sections[table.name]
    ]
    assert missing == []


@pytest.mark.parametrize("path", sorted(manual.pages()))
def test_no_text_is_taken_for_a_macro(path: str) -> None:
    for line in manual.pages()[path].splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or KNOWN.match(line), line
        assert not re.search(r"\\[^&e\-f\"]", line), line


@pytest.mark.parametrize(("text", "roff"), [
    (".SH", "\\&.SH"), ("'x", "\\&'x"), ("a-b", "a\\-b"), ("C:\\d", "C:\\ed"), ("plain", "plain"),
])
def test_text_stays_text(text: str, roff: str) -> None:
    assert manual._text(text) == roff


def test_pages_of_commands_that_are_gone_are_removed(tmp_path: Path) -> None:
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1" / "pbus-gone.1").write_text("x")
    manual.write(tmp_path)
    assert not (tmp_path / "man1" / "pbus-gone.1").exists()
    assert (tmp_path / "man5" / "pbus.conf.5").exists()
