"""Orders of people: checked, kept on the disk, dropped when their time is over; a bad file stops nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import structlog

from pbus.clock import FakeClock
from pbus.core.autoscale_terms import Kind, TopicRules
from pbus.core.orders import FILE
from pbus.scheduler.orders import Orders

RULES = {
    "gift/credit": TopicRules(most=8), "gift/mail": TopicRules(most=8), "pay/book": TopicRules(most=1),
    "web/call": TopicRules(most=8, kind=Kind.CALLS),
}


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.problems: dict[str, str] = {}
        self.orders = self.started()

    def started(self) -> Orders:
        """Another scheduler in the same folder."""
        orders = Orders(str(self.folder), RULES, self.clock, self.problems.__setitem__, structlog.get_logger())
        orders.load()
        return orders

    def take(self, glob: str, **fields: Any) -> dict[str, Any]:
        return self.orders.take({"glob": glob, **fields})

    def bounds(self, path: str) -> tuple[int | None, int | None] | None:
        override = self.orders.in_force(self.clock.wall_s()).get(path)
        return None if override is None else (override.least, override.most)


def test_an_order_is_in_force_at_once_and_after_a_restart(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    answer = scene.take("gift/credit", min=12, max=12)
    assert answer["topics"] == ["gift/credit"]
    assert answer["orders"]["gift/credit"] == ["12 at once, until it is reset"]
    assert scene.bounds("gift/credit") == (12, 12)
    scene.orders = scene.started()
    assert scene.bounds("gift/credit") == (12, 12)


def test_a_glob_is_an_order_for_each_topic_and_a_queue_is_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.take("gift/*", max=3)["topics"] == ["gift/credit", "gift/mail"]
    assert scene.take("gift", max=4)["topics"] == ["gift/credit", "gift/mail"]
    assert scene.bounds("gift/mail") == (None, 4)


def test_an_order_for_later_waits_for_its_time_and_is_dropped_after_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    now_s = scene.clock.wall_s()
    scene.take("gift/credit", min=4, max=6, from_s=now_s + 60, until_s=now_s + 120)
    assert scene.bounds("gift/credit") is None
    scene.clock.sleep(61)
    assert scene.bounds("gift/credit") == (4, 6)
    scene.clock.sleep(60)
    assert scene.bounds("gift/credit") is None
    assert json.loads((tmp_path / FILE).read_text())["orders"] == []


def test_the_one_made_last_holds_and_the_earlier_one_again_after_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.take("gift/credit", min=2, max=2)
    scene.clock.sleep(1)
    scene.take("gift/credit", min=6, max=6, until_s=scene.clock.wall_s() + 10)
    assert scene.bounds("gift/credit") == (6, 6)
    scene.clock.sleep(11)
    assert scene.bounds("gift/credit") == (2, 2)


def test_reset_takes_all_orders_about_a_topic_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.take("gift/*", min=2, max=2)
    assert scene.take("gift/credit", reset=True) == {"topics": ["gift/credit"], "orders": {"gift/credit": []}}
    assert scene.bounds("gift/credit") is None
    assert scene.bounds("gift/mail") == (2, 2)


@pytest.mark.parametrize(("fields", "status", "words"), [
    ({"glob": "nix", "min": 1, "max": 1}, 5, "no topic"),
    ({"glob": "gift/credit", "min": 9, "max": 3}, 2, "max (3) is less than min (9)"),
    ({"glob": "gift/credit"}, 2, "neither min nor max"),
    ({"glob": "gift/credit", "min": 10_001}, 2, "it may be 0 to 10,000"),
    ({"glob": "gift/credit", "min": -1}, 2, "it may be 0 to 10,000"),
    ({"glob": "gift/credit", "min": 1, "until_s": 0.0}, 2, "end in the past"),
    ({"glob": "gift/credit", "min": 1, "from_s": 0.0}, 2, "begin in the past"),
    ({"glob": "gift/credit", "min": 1, "from_s": 9e9, "until_s": 8e9}, 2, "before it begins"),
    ({"glob": "pay/book", "min": 2, "max": 2}, 2, "one job at a time"),
    ({"glob": "web/call", "min": 0, "max": 0}, 2, "no calls at all"),
    ({"glob": "nix", "reset": True}, 5, "no topic"),
])
def test_what_makes_no_sense_is_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], status: int, words: str
) -> None:
    scene = Scene(tmp_path)
    answer = scene.orders.take(fields)
    assert answer["exit_status"] == status
    assert words in answer["error"]
    assert not (tmp_path / FILE).exists()


def order(**fields: object) -> str:
    """A file with one order that is sound but for *fields*."""
    sound = {"path": "gift/credit", "least": 2, "most": 2, "from_s": 0.0, "until_s": None, "made_s": 0.0}
    return json.dumps({"v": 1, "orders": [sound | fields]})


@pytest.mark.parametrize("text", [
    "", "{", "[]", '{"v": 2, "orders": []}', '{"v": 1, "orders": [{"path": "a/b"}]}', order(least=math.inf),
    order(from_s=1e30), order(made_s=-1e30), order(until_s=1e15), order(from_s=math.nan),
])
def test_a_file_that_makes_no_sense_is_said_and_put_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    scene = Scene(tmp_path)
    assert "orders of 'pbus topic scale' are lost" in scene.problems["orders"]
    assert (tmp_path / f"{FILE}.bad").read_text() == text
    scene.take("gift/credit", min=2, max=2)
    assert scene.problems["orders"] == ""
    assert scene.bounds("gift/credit") == (2, 2)


def test_an_order_that_cannot_be_written_is_refused_and_does_not_hold(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "gone")
    answer = scene.take("gift/credit", min=2, max=2)
    assert "cannot write" in answer["error"]
    assert scene.bounds("gift/credit") is None
