"""Durations, sizes, rates, shares, percentages and addresses, by example and by property."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.config import values


@pytest.mark.parametrize(("text", "seconds"), [
    ("250ms", 0.25), ("10s", 10.0), ("5m", 300.0), ("2h", 7_200.0), ("30d", 2_592_000.0), ("0s", 0.0), ("1.5s", 1.5),
    ("100ms", 0.1), ("1 s", 1.0),
])
def test_duration_is_seconds(text: str, seconds: float) -> None:
    assert values.duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1e3s", "1h30m", "10 sec", "10S", "1s\n", "٣s", "1..5s", "9" * 16 + "s"]
)
def test_duration_refuses_what_has_no_plain_meaning(text: str) -> None:
    with pytest.raises(ValueError, match='"10s"'):
        values.duration_s(text)


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_duration_written_back_means_the_same(number: int, unit: str) -> None:
    seconds = values.duration_s(f"{number}{unit}")
    assert values.duration_s(values.written_duration(seconds)) == pytest.approx(seconds, rel=1e-9)


@given(st.text(max_size=12))
def test_duration_of_any_text_is_seconds_or_a_value_error(text: str) -> None:
    seconds = 0.0
    with contextlib.suppress(ValueError):
        seconds = values.duration_s(text)
    assert seconds >= 0


@pytest.mark.parametrize(("text", "size"), [
    ("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("4GiB", 4 * 1024**3), ("1TiB", 1024**4),
    ("1.5KiB", 1_536), ("10KB", 10_000), ("1MB", 1_000_000),
])
def test_size_is_bytes(text: str, size: int) -> None:
    assert values.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "64", "64K", "64kib", "-1B", "1MiB ", "0x10B"])
def test_size_refuses_what_has_no_plain_meaning(text: str) -> None:
    with pytest.raises(ValueError, match='"64KiB"'):
        values.size_bytes(text)


def test_size_is_a_whole_number_of_bytes() -> None:
    with pytest.raises(ValueError, match="whole number"):
        values.size_bytes("0.3B")


@given(st.integers(0, 2**60))
def test_size_written_back_means_the_same(size: int) -> None:
    assert size >= 10**15 or values.size_bytes(values.written_size(size)) == size


@given(st.text(max_size=12))
def test_size_of_any_text_is_bytes_or_a_value_error(text: str) -> None:
    size = 0
    with contextlib.suppress(ValueError):
        size = values.size_bytes(text)
    assert size >= 0


@pytest.mark.parametrize(
    ("text", "per_s"), [("", 0.0), ("100/s", 100.0), ("90/m", 1.5), ("36/h", 0.01), ("0.5/s", 0.5)]
)
def test_rate_is_per_second(text: str, per_s: float) -> None:
    assert values.rate_per_s(text) == per_s


@pytest.mark.parametrize("text", ["100", "/s", "100/d", "-1/s", "100 per s"])
def test_rate_refuses_what_has_no_plain_meaning(text: str) -> None:
    with pytest.raises(ValueError, match='"100/s"'):
        values.rate_per_s(text)


@given(st.integers(1, 10**6))
def test_rate_written_back_means_the_same(number: int) -> None:
    assert values.rate_per_s(values.written_rate(float(number))) == number
    assert values.written_rate(0.0) == ""


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_share_is_between_nought_and_one(value: float) -> None:
    assert values.share(0.5) == 0.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        values.share(value)


def test_percent_is_a_share() -> None:
    assert values.percent("1%") == 0.01
    assert values.percent(values.written_percent(0.25)) == 0.25
    for text in ("", "1", "101%", "-1%", "%"):
        with pytest.raises(ValueError, match="percentage"):
            values.percent(text)


@pytest.mark.parametrize(("text", "path", "host", "port"), [
    ("127.0.0.1:12018", "", "127.0.0.1", 12_018), ("[::1]:80", "", "::1", 80),
    ("bus.example:65535", "", "bus.example", 65_535),
    ("unix:/run/x.sock", "/run/x.sock", "", 0), ("unix:var/x", "var/x", "", 0),
])
def test_address_is_a_socket_path_or_host_and_port(text: str, path: str, host: str, port: int) -> None:
    assert values.address(text) == values.Address(path, host, port)
    assert str(values.address(text)) == text


@pytest.mark.parametrize("text", [
    "", "12018", ":12018", "host:", "host:0", "host:65536", "host:²", "::1:80", "unix:", "a b:1", "http://x:1",
])
def test_address_refuses_what_cannot_be_bound(text: str) -> None:
    with pytest.raises(ValueError, match="an address such as"):
        values.address(text)


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGINT", 2), ("usr1", 10), ("quit", 3)])
def test_a_signal_is_known_by_its_name(text: str, number: int) -> None:
    assert values.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "TREM", "15", "SIG", "_DFL", "SIG_DFL"])
def test_what_names_no_signal_is_told_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="TERM"):
        values.signal_number(text)


@pytest.mark.parametrize(("text", "address", "plain"), [
    ("127.0.0.1:12018", "127.0.0.1:12018", False), ("plain:127.0.0.1:12018", "127.0.0.1:12018", True),
    ("plain:[::1]:7", "[::1]:7", True), ("unix:a", "unix:a", False),
])
def test_door_is_an_address_and_whether_it_is_plain(text: str, address: str, plain: bool) -> None:
    door = values.door(text)

    assert (str(door.address), door.plain, str(door)) == (address, plain, text)


@pytest.mark.parametrize("text", ["plain:unix:a", "plain:", "plain:7", "plain:plain:a:7", "plan:a:7", "", "PLAIN:a:7"])
def test_door_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"12018|unix socket"):
        values.door(text)
