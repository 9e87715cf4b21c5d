"""Pushes without an object each: whoever does not know them sees pushes."""

from __future__ import annotations

from pbus.core.job import Push
from pbus.core.plain import Plain, bodies_of

BODIES = [b"a", b"b", b"c"]


def test_plain_is_a_sequence_of_pushes() -> None:
    plain = Plain("gift", BODIES)

    assert list(plain) == [plain[0], plain[1], plain[-1]] == [Push("gift", body) for body in BODIES]
    assert len(plain) == 3
    assert repr(plain) == "Plain('gift', 3 bodies)"


def test_part_of_plain_is_plain() -> None:
    part = Plain("gift", BODIES)[1:]

    assert type(part) is Plain
    assert (part.queue, part.bodies) == ("gift", [b"b", b"c"])


def test_bodies_are_those_of_the_pushes_either_way() -> None:
    plain = Plain("gift", BODIES)

    assert bodies_of(plain) == bodies_of(list(plain)) == BODIES
