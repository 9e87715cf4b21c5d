"""Calls of greenlets on a storage thread."""

from __future__ import annotations

import threading
import time

import gevent
import pytest

from pbus.ingest.hop import Hop


def test_calls_run_on_one_other_thread_in_their_order() -> None:
    hop, ran = Hop(), list[tuple[int, int]]()

    gevent.joinall([gevent.spawn(hop.apply, lambda n=n: ran.append((n, threading.get_ident())), ()) for n in range(9)])

    assert [number for number, _ in ran] == list(range(9))
    assert len({thread for _, thread in ran}) == 1
    assert ran[0][1] != threading.get_ident()


def test_error_is_raised_where_the_call_was_made() -> None:
    hop = Hop()

    with pytest.raises(ZeroDivisionError):
        hop.apply(lambda: 1 // 0, ())
    assert hop.apply(max, (1, 2)) == 2


def test_others_run_while_a_call_takes_its_time() -> None:
    hop, turns = Hop(), list[int]()
    ticker = gevent.spawn(lambda: [(turns.append(n), gevent.sleep(0.001)) for n in range(5)])

    hop.apply(time.sleep, (0.05,))

    assert turns == [0, 1, 2, 3, 4]
    ticker.kill()


def test_answer_that_nobody_waits_for_any_more_is_dropped() -> None:
    hop = Hop()
    with gevent.Timeout(0.01, False):
        hop.apply(time.sleep, (0.05,))

    assert hop.apply(max, (3, 4)) == 4
