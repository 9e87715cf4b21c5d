"""When certificates expire: those that openssl makes, and whatever bytes there are."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec.x509 import expiries, expiry
from tests.support.certificates import authority
from tests.support.programs import requires


def told(path: Path) -> float:
    """The same, as openssl says."""
    command = [requires("openssl"), "x509", "-in", str(path), "-noout", "-enddate"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    date = text.strip().removeprefix("notAfter=").removesuffix(" GMT")
    return datetime.strptime(date, "%b %d %H:%M:%S %Y").replace(tzinfo=UTC).timestamp()


def test_expiry_is_what_openssl_says(tmp_path: Path) -> None:
    ours = authority(tmp_path)
    pair = ours.issue("door")
    both = tmp_path / "both.pem"
    both.write_text(f"Subject: door\n{pair.cert.read_text()}{ours.cert.read_text()}")

    assert expiries(both.read_text()) == [told(pair.cert), told(ours.cert)]
    assert expiries(pair.key.read_text()) == []


def test_year_above_2049_is_read(tmp_path: Path) -> None:
    cert = tmp_path / "long.pem"
    subprocess.run(
        [requires("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(tmp_path / "long.key"), "-out", str(cert), "-subj", "/CN=long", "-days", "20000"],
        capture_output=True, check=True, timeout=20,
    )  # fmt: skip

    assert expiries(cert.read_text()) == [told(cert)]
    assert datetime.fromtimestamp(told(cert), UTC).year > 2050


@pytest.mark.parametrize(("digits", "year"), [("49", 2049), ("50", 1950)])
def test_two_digits_of_a_year_are_of_a_hundred_years(tmp_path: Path, digits: str, year: int) -> None:
    der = base64.b64decode(authority(tmp_path).cert.read_text().partition("-----\n")[2].partition("-----END")[0])
    begin = der.index(b"Z\x17\x0d") + 3
    changed = der[:begin] + f"{digits}0102030405Z".encode() + der[begin + 13 :]

    assert expiry(changed) == datetime(year, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


def test_every_cut_of_a_certificate_is_refused(tmp_path: Path) -> None:
    pem = authority(tmp_path).cert.read_text()
    der = base64.b64decode(pem.partition("-----\n")[2].partition("-----END")[0])

    for length in range(0, len(der), 7):
        with pytest.raises(ValueError, match="cut off"):
            expiry(der[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every text will do
        expiry(data)
