from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from pbus.config.effective import rows
from pbus.config.extras import OTEL, missing
from pbus.config.load import load_with_origins
from pbus.errors import ConfigError
from pbus.telemetry.redact import secrets_of
from tests.unit.config.files import PYTHON_TOPIC, load


def nothing(name: str) -> object:
    raise metadata.PackageNotFoundError(name)


def test_extra_that_is_missing_is_a_command() -> None:
    assert missing(OTEL, nothing) == "pip install 'pbus[otel]'"
    assert missing(OTEL) == ""


def test_without_a_section_nothing_is_exported(tmp_path: Path) -> None:
    assert load(tmp_path, PYTHON_TOPIC).settings.otel is None


def test_empty_section_is_all_defaults(tmp_path: Path) -> None:
    otel = load(tmp_path, PYTHON_TOPIC + "[otel]\n").settings.otel
    assert otel is not None
    assert (otel.endpoint, otel.sample, otel.timeout_s) == ("", 1.0, 0.0)


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://otel:4317", "http://", "http://otel:port", "http://[1/"])
def test_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"otel\.endpoint: is no address of a receiver"):
        load(tmp_path, f'{PYTHON_TOPIC}[otel]\nendpoint = "{url}"\n')


def test_headers_are_secrets(tmp_path: Path) -> None:
    found = load(tmp_path, f'{PYTHON_TOPIC}[otel]\nheaders = {{ x-tenant = "shop-and-key" }}\n')
    assert "shop-and-key" in secrets_of(found.settings)
    assert all("shop-and-key" not in str(row) for row in rows(load_with_origins(str(tmp_path / "conf.d"))))
