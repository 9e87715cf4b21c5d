"""Job events: from the moment a follower is answered, and never at the expense of the bus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pbus.clock import FakeClock
from pbus.supervisor.follow import Followers
from pbus.supervisor.handle import Handle
from pbus.supervisor.scoreboard import Scoreboard
from tests.unit.supervisor.fakes import Wire, caller, handle


class Scene:
    """Two publishers, one follower."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wires = [Wire(), Wire()]
        self.person = Wire(send_bytes=16 << 20)
        board = Scoreboard(8)
        self.children: list[Handle] = [handle(board, wire, n) for n, wire in enumerate(self.wires, start=1)]
        self.followers = Followers(lambda: self.children, self.clock)
        self.caller = caller(self.person)

    def kinds(self) -> list[str]:
        return [frame["kind"] for frame in self.person.told()]

    def all_answer(self) -> None:
        for child in self.children:
            self.followers.watching(child)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    for wire in [*scene.wires, scene.person]:
        wire.close()


def test_follower_is_answered_when_every_publisher_has_begun(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {"queues": ["gift"]})
    assert [wire.told()[0]["queues"] for wire in scene.wires] == [["gift"], ["gift"]]
    assert scene.kinds() == []
    scene.followers.watching(scene.children[0])
    assert scene.kinds() == []
    scene.followers.watching(scene.children[1])
    assert scene.kinds() == ["ok"]
    scene.all_answer()
    assert scene.kinds() == []


def test_follower_is_answered_after_a_second_of_silence(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {})
    assert scene.followers.next_s == pytest.approx(scene.clock.monotonic_s() + 1.0)
    scene.clock.advance(1.0)
    scene.followers.settle()
    assert scene.kinds() == ["ok"]
    assert scene.followers.next_s == float("inf")


def test_publisher_that_dies_is_not_waited_for(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {})
    scene.followers.watching(scene.children[0])
    del scene.children[1]
    scene.followers.settle()
    assert scene.kinds() == ["ok"]


def test_bus_without_publishers_answers_at_once(scene: Scene) -> None:
    scene.children.clear()
    scene.followers.begin(scene.caller, {})
    assert scene.kinds() == ["ok"]


def test_events_reach_who_follows_their_queue(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {"queues": ["gift"]})
    scene.all_answer()
    scene.followers.spread({"queue": "gift", "id": "1-1"})
    scene.followers.spread({"queue": "mail", "id": "1-2"})
    told = scene.person.told()
    assert [frame["kind"] for frame in told] == ["ok", "event"]
    assert told[1]["event"]["id"] == "1-1"


def test_publisher_that_comes_later_is_told_who_follows(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {"queues": ["gift"]})
    scene.wires[0].told()
    scene.followers.introduce(scene.children[0])
    assert scene.wires[0].told()[0]["queues"] == ["gift"]


def test_publishers_fall_silent_when_the_last_follower_leaves(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {"queues": ["gift"]})
    scene.wires[0].told()
    scene.caller.gone()
    assert scene.wires[0].told()[0]["queues"] == []
    scene.followers.introduce(scene.children[0])
    assert scene.wires[0].told() == []


def test_slow_follower_loses_events_and_learns_how_many(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {})
    scene.all_answer()
    for number in range(5000):
        scene.followers.spread({"queue": "gift", "id": f"1-{number}", "output": "x" * 1000})
    assert scene.person.channel.waiting_bytes <= 1 << 20
    got = scene.person.told()
    seen = len([frame for frame in got if frame["kind"] == "event"])
    assert 0 < seen < 5000
    scene.followers.spread({"queue": "gift", "id": "last"})
    lost, last = scene.person.told()
    assert (lost["kind"], lost["count"]) == ("lost", 5000 - seen)
    assert last["event"]["id"] == "last"


@pytest.mark.parametrize("queues", [[1, "gift"], ["gift", None], "gift", {"gift": 1}, [["gift"]], ["q"] * 1001])
def test_request_that_makes_no_sense_leaves_no_trace(scene: Scene, queues: object) -> None:
    with pytest.raises(ValueError, match="names"):
        scene.followers.begin(scene.caller, {"queues": queues})
    assert scene.followers.next_s == float("inf")
    assert [wire.told() for wire in scene.wires] == [[], []]


def test_follower_that_asks_again_follows_once_and_is_gone_when_it_leaves(scene: Scene) -> None:
    scene.followers.begin(scene.caller, {"queues": ["gift"]})
    scene.followers.begin(scene.caller, {"queues": ["mail"]})
    scene.all_answer()
    assert scene.kinds() == ["ok"]
    scene.caller.gone()
    assert scene.wires[0].told()[-1]["queues"] == []
