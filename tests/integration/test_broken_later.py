"""A configuration that is broken after the bus has started: what runs can still be seen and stopped."""

from __future__ import annotations

from pbus.errors import Exit
from tests.support.bus import BusFactory

PULL = {"queue": {"gift": {"topic": {"credit": {"pull": {}}}}}}


def test_bus_with_a_broken_configuration_is_seen_and_stopped(bus_factory: BusFactory) -> None:
    bus = bus_factory(PULL)
    (bus.conf / "new.toml").write_text("[queue.gift\n")
    seen = bus.cli("status")
    assert seen.returncode == Exit.DONE, seen.stderr
    assert "gift/credit" in seen.stdout
    assert "1 problem now" in seen.stderr
    assert bus.cli("restart").returncode == Exit.CONFIG
    assert bus.stop() == Exit.DONE
    assert bus.cli("status").returncode == Exit.NOT_RUNNING


def test_broken_node_section_is_told_instead_of_guessed(bus_factory: BusFactory) -> None:
    bus = bus_factory(PULL)
    (bus.conf / "new.toml").write_text("[node]\nrun_dirr = 'x'\n")
    seen = bus.cli("status")
    assert seen.returncode == Exit.CONFIG
    assert "run_dirr" in seen.stderr
