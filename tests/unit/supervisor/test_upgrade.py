"""What an upgrade carries: round trips, garbage, another layout, and what is made of it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.clock import SystemClock
from pbus.config.schema import Backoff
from pbus.supervisor import adoption, own_code, upgrade
from pbus.supervisor.channel import Switchboard
from pbus.supervisor.children import Children
from pbus.supervisor.difference import between
from pbus.supervisor.histograms import Histograms
from pbus.supervisor.plan import Plan
from pbus.supervisor.roles import RoleSpec
from pbus.supervisor.scoreboard import LayoutError, Scoreboard
from pbus.supervisor.upgrade import ChildState, State, StateError, decode, digest_of, encode

NUMBERS = st.integers(-(2**40), 2**40)
TIMES = st.floats(0, 1e9)


def spec(path: str = "gift/credit", **fields: Any) -> RoleSpec:
    return RoleSpec(role="consumer", module="m", path=path, own_group=True, **fields)


def child(of: RoleSpec, n: int = 1, **fields: Any) -> ChildState:
    said = {each.name: getattr(of, each.name) for each in dataclasses.fields(of) if each.name != "args"}
    usual = {"index": 0, "boot": "b", "generation": 1, "slot": 0, "pid": 7, "fd": 9, "born_s": 1.0}
    return ChildState(spec=said, digest=digest_of(of), n=n, **(usual | fields))


def state(*children: ChildState, **fields: Any) -> State:
    usual: dict[str, Any] = {
        "code": "1", "upgrades": 1, "boot": "b", "boot_fd": 3, "pid_fd": 4, "generation": 2, "born_s": 1.5, "born": 9,
        "files": 1024, "token_key": b"\0\xff", "scoreboard": 5, "histograms": 6,
        "indexes": [[each.spec["role"], each.spec["path"], [0]] for each in children],
    }
    return State(children=list(children), **(usual | fields))


def plan(*roles: RoleSpec) -> Plan:
    return Plan(node="n", run_dir="r", data_dir="d", log_dir="-", grace_s=1.0, roles=roles, doors={})


@given(
    st.lists(st.tuples(NUMBERS, TIMES, st.none() | TIMES, st.booleans(), st.text(), st.binary(), st.binary())),
    st.binary(), st.lists(st.text()), st.dictionaries(st.text(), st.integers()),
)
def test_what_is_carried_arrives_as_it_was(
    children: list[Any], key: bytes, signals: list[str], decisions: dict[str, Any]
) -> None:
    carried = [
        child(spec(), number, born_s=born_s, ready_s=ready_s, killed=killed, leaving=why, unread=unread, unsent=unsent)
        for number, born_s, ready_s, killed, why, unread, unsent in children
    ]
    before = state(*carried, token_key=key, signals=signals, decisions=decisions, settings=key)
    after = decode(encode(before))
    for each in (*before.children, *after.children):
        each.spec = {name: list(value) if isinstance(value, tuple) else value for name, value in each.spec.items()}
    assert after == before


@given(st.binary())
def test_garbage_is_no_state(data: bytes) -> None:
    for garbage in (data, b"pbus-upgrade 1\n" + data, b"pbus-upgrade 1\n{}" + data):
        with pytest.raises(StateError):
            decode(garbage)


@given(st.data())
def test_a_state_that_was_cut_off_or_has_other_fields_is_none(data: st.DataObject) -> None:
    whole = encode(state(child(spec())))
    with pytest.raises(StateError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    others = ((b'"boot_fd": 3', b'"boot_fd": "3"'), (b'"boot_fd"', b'"boat_fd"'), (b'"born": 9', b'"born": true'))
    for old, new in others:
        assert old in whole
        with pytest.raises(StateError, match="makes no sense"):
            decode(whole.replace(old, new))


def test_another_layout_is_told_by_its_number() -> None:
    with pytest.raises(StateError, match="layout b'2', this version knows 1"):
        decode(encode(state()).replace(b"pbus-upgrade 1", b"pbus-upgrade 2"))


def test_what_is_too_large_is_refused_before_anything_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "MOST_BYTES", 100)
    with pytest.raises(StateError, match="is the most"):
        encode(state())


@dataclass(frozen=True)
class _Old:
    command: str


@dataclass(frozen=True)
class _New:
    command: str
    shell: bool = False


def test_a_digest_is_of_what_was_said_not_of_what_a_version_has_besides() -> None:
    _New.__name__ = _Old.__name__
    old, new = (digest_of(spec(args={"handler": made("x"), "on": frozenset("abc")})) for made in (_Old, _New))
    assert old == new == digest_of(spec(count=3, most=9, args={"handler": _Old("x"), "on": frozenset("cab")}))
    assert old != digest_of(spec(args={"handler": _New("x", shell=True), "on": frozenset("abc")}))


def test_only_consumers_that_are_not_the_same_are_replaced_after_it() -> None:
    same, changed, gone, new = (spec(f"q/{name}", args={"a": name}) for name in ("same", "changed", "gone", "new"))
    ingest = RoleSpec(role="ingest", module="i")
    wanted = plan(ingest, same, dataclasses.replace(changed, args={"a": "other"}), new)
    adopted = decode(encode(state(*(child(each, n) for n, each in enumerate((ingest, same, changed, gone))))))
    found = between(adoption.plan_of(wanted, adopted), wanted)
    assert [each.path for each in found.changed] == ["q/changed"]
    assert [each.path for each in found.added] == ["q/new"]
    assert found.removed == (("consumer", "q/gone"),)
    assert [each.role for each in found.renewed] == ["ingest"]
    assert found.resized == ()


def test_where_memory_has_another_layout_every_consumer_is_replaced() -> None:
    wanted = plan(spec(args={"a": 1}))
    adopted = decode(encode(state(child(wanted.roles[0]))))
    found = between(adoption.plan_of(wanted, adopted, same_memory=False), wanted)
    assert [each.path for each in found.changed] == ["gift/credit"]


def test_memory_is_gone_on_with() -> None:
    wanted = dataclasses.replace(plan(spec()), least_slots=8)
    board, sums = Scoreboard(8), Histograms([("q", "t")], 2, 4)
    slot = board.take()
    assert slot is not None
    slot.update(n=3, pid=7, role="consumer", state="ready")
    sums.lend(0)
    sums.row(0, "q", "t").done(5)
    memory = adoption.Memory(wanted, state(scoreboard=os.dup(board.fd), histograms=os.dup(sums.fd)), SystemClock())
    assert memory.is_same
    assert adoption.fits(state(scoreboard=board.fd, histograms=sums.fd))
    assert [(row.n, row.pid) for row in memory.scoreboard.living()] == [(3, 7)]
    assert memory.histograms.read()["q", "t"].done == 5
    assert memory.scoreboard.take() is not None
    assert len(board.rows()) == 1, "a slot that was only taken is free"
    memory.histograms.name([("q", "u")])
    assert memory.histograms.row(1, "q", "u") is not None


def test_memory_of_another_layout_is_made_anew_and_nobody_is_missing() -> None:
    wanted = dataclasses.replace(plan(spec()), least_slots=8)
    board, sums = Scoreboard(8), Histograms([("q", "t")], 2, 4)
    os.pwrite(board.fd, (99).to_bytes(8, "little"), 8)
    with pytest.raises(LayoutError, match="layout 99"):
        Scoreboard(0, fd=os.dup(board.fd))
    lives = child(spec(), 3, slot=2, ready_s=1.0, column=1)
    memory = adoption.Memory(
        wanted, state(lives, scoreboard=os.dup(board.fd), histograms=os.dup(sums.fd)), SystemClock()
    )
    assert not memory.is_same
    assert not adoption.fits(state(scoreboard=board.fd, histograms=sums.fd))
    assert [(row.slot, row.n, row.pid, row.state) for row in memory.scoreboard.living()] == [(2, 3, 7, "ready")]
    assert lives.column == -1


def test_a_mark_of_the_code_is_another_one_when_a_file_is(tmp_path: Any) -> None:
    (tmp_path / "a.py").write_text("1")
    before = own_code.mark(str(tmp_path))
    (tmp_path / "a.pyc").write_text("not looked at")
    assert own_code.mark(str(tmp_path)) == before
    (tmp_path / "b.py").write_text("1")
    assert own_code.mark(str(tmp_path)) != before


def test_topic_that_was_given_up_and_is_gone_is_forgotten_the_other_is_not() -> None:
    here = spec("q/here")
    children = Children([here], Backoff(), Scoreboard(4), Switchboard(), lambda *_: None, SystemClock())
    dead = {"fatal": "why", "in_a_row": 3}
    histories = [["consumer", path, dead] for path in ("q/here", "q/gone")]
    indexes = [["consumer", path, [0, 1]] for path in ("q/here", "q/gone")]
    children.resume(state(histories=histories, indexes=indexes, restarts=[["consumer", "q/here", 0, 7]]))
    wanted = children.wanted(1, 1.0, None)
    assert set(wanted.fatal) == {("consumer", "q/here")}
    assert wanted.places == (("consumer", "q/here", 0), ("consumer", "q/here", 1))
    assert children.given_up() == {("consumer", "q/here"): "why"}
    assert children.restarts(("consumer", "q/here", 0)) == 7
