"""The circuit of an address: a pure state machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import FakeClock
from pbus.config import schema
from pbus.delivery.circuit import Circuit, CircuitState

SETTINGS = schema.Circuit(failures=3, window_s=2.0, probe_first_s=0.5, probe_max_s=2.0)


def opened(now_s: float = 0.0) -> Circuit:
    circuit = Circuit(SETTINGS)
    for _ in range(SETTINGS.failures):
        circuit.failed(now_s)
    return circuit


def test_circuit_opens_at_the_failures_within_the_window():
    circuit = Circuit(SETTINGS)
    assert [circuit.failed(now_s) for now_s in (0.0, 1.0, 2.0)] == [False, False, True]
    assert (circuit.is_open, circuit.state) == (True, CircuitState.OPEN)


def test_circuit_stays_closed_when_failures_are_rare():
    circuit = Circuit(SETTINGS)
    assert not any(circuit.failed(now_s) for now_s in (0.0, 1.1, 2.2, 3.3, 4.4))
    assert circuit.state is CircuitState.CLOSED


def test_circuit_tells_once_that_it_opened():
    circuit = Circuit(SETTINGS)
    assert [circuit.failed(0.0) for _ in range(5)] == [False, False, True, False, False]


def test_circuit_that_others_opened_opens_once():
    circuit = Circuit(SETTINGS)
    assert [circuit.open(1.0), circuit.open(1.0), circuit.failed(1.0)] == [True, False, False]
    assert circuit.probe_at_s == 1.5


def test_circuit_probes_after_half_a_second_then_one_then_two():
    clock = FakeClock()
    circuit = opened(clock.monotonic_s())
    waits = []
    for _ in range(5):
        waits.append(circuit.probe_at_s - clock.monotonic_s())
        clock.advance(waits[-1])
        circuit.probe()
        assert circuit.state is CircuitState.PROBING
        circuit.probe_failed(clock.monotonic_s())
    assert waits == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_circuit_forgets_when_it_closes():
    circuit = opened()
    circuit.probe_failed(0.5)
    assert [circuit.close(), circuit.close()] == [True, False]
    assert not circuit.failed(0.1)
    assert [circuit.failed(0.2), circuit.failed(0.3)] == [False, True]
    assert circuit.probe_at_s == 0.8


def test_circuit_that_is_closed_takes_no_probe():
    circuit = Circuit(SETTINGS)
    circuit.probe()
    circuit.probe_failed(1.0)
    assert (circuit.state, circuit.probe_at_s) == (CircuitState.CLOSED, 0.0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["failed", "open", "probe", "probe_failed", "close"]), st.floats(0.0, 3.0)), max_size=40
)


@given(STEPS)
def test_circuit_holds_its_promises_whatever_happens(steps):
    circuit, now_s, failed_at = Circuit(SETTINGS), 0.0, []
    for step, pause_s in steps:
        now_s += pause_s
        before = circuit.is_open
        match step:
            case "failed":
                failed_at = [*failed_at, now_s][-SETTINGS.failures :]
                told = circuit.failed(now_s)
                due = len(failed_at) == SETTINGS.failures and now_s - failed_at[0] <= SETTINGS.window_s
                assert told == (due and not before)
            case "open":
                assert circuit.open(now_s) == (not before)
            case "probe":
                circuit.probe()
            case "probe_failed":
                circuit.probe_failed(now_s)
                assert not before or circuit.probe_at_s == now_s + circuit.wait_s
            case "close":
                assert circuit.close() == before
                failed_at = []
        assert circuit.is_open == (circuit.state is not CircuitState.CLOSED)
        assert SETTINGS.probe_first_s <= circuit.wait_s <= SETTINGS.probe_max_s
        assert not circuit.is_open or circuit.probe_at_s <= now_s + SETTINGS.probe_max_s
