"""
A consumer's link against a delivery child that is the other end of a socket pair.

Everything is in one thread: what the delivery child says is in the socket before the consumer looks.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest

from pbus.clock import SystemClock
from pbus.codec.frames import FrameReader, encode
from pbus.consumer.attach import Attachment

IDENTITY = {"owner": "n/b/5.9", "queue": "gift", "topic": "credit", "pid": 77}


class DeliverySide:
    """Makes connections on demand and speaks for the delivery child."""

    def __init__(self) -> None:
        self.links: list[int] = []
        self.refuse = False
        self.connects = 0
        self.peer: socket.socket | None = None
        self._next: list[bytes] = []
        self._reader = FrameReader()

    def connect(self) -> socket.socket:
        self.connects += 1
        if self.refuse:
            raise ConnectionRefusedError
        if self.peer is not None:
            self.peer.close()
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(2)
        self._reader = FrameReader()
        for data in self._next:
            self.peer.sendall(data)
        self._next = []
        return ours

    def say(self, *frames: bytes) -> None:
        """Now, or as soon as somebody connects."""
        if self.peer is None:
            self._next += frames
        else:
            self.peer.sendall(b"".join(frames))

    def reads_brief(self) -> None:
        self._reader = FrameReader(brief=True)

    def hear(self) -> list[dict[str, Any]]:
        """What the consumer has said since."""
        assert self.peer is not None
        self.peer.setblocking(False)
        frames: list[dict[str, Any]] = []
        try:
            while data := self.peer.recv(1 << 20):
                frames += self._reader.feed(data)
        except BlockingIOError:
            pass
        self.peer.settimeout(2)
        return frames

    def die(self) -> None:
        assert self.peer is not None
        self.peer.close()
        self.peer = None


def jobs(*ids: str) -> bytes:
    return encode("jobs", jobs=[[job_id, 1, False, b"body " + job_id.encode(), "", "", 0, 0, 0] for job_id in ids])


@pytest.fixture
def delivery() -> Any:
    made = DeliverySide()
    yield made
    if made.peer is not None:
        made.peer.close()


@pytest.fixture
def consumer(delivery: DeliverySide) -> Any:
    made = Attachment(delivery.connect, IDENTITY, delivery.links.append, SystemClock())
    yield made
    made.leave(0.0)
    made._close()
    os.close(made._waker)


def begin(consumer: Attachment) -> str:
    job = consumer.next_job()
    assert job is not None
    return str(job[0])


def work(consumer: Attachment) -> str:
    job_id = begin(consumer)
    consumer.answer("done", "", None, 0.001)
    return job_id


def ids(tickets: list[list[Any]]) -> list[str]:
    return [ticket[0] for ticket in tickets]


def test_a_consumer_says_who_it_is_then_gets_jobs_in_order(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(encode("attached", link=3), jobs("1-0", "2-0"))
    assert [work(consumer), work(consumer)] == ["1-0", "2-0"]
    attach, *results = delivery.hear()
    assert attach == {"kind": "attach", **IDENTITY, "holds": [], "results": []}
    assert [(each["kind"], each["id"], each["verdict"]) for each in results] == [
        ("result", "1-0", "done"), ("result", "2-0", "done"),
    ]
    assert delivery.links == [3]


def test_a_delivery_child_that_reads_brief_frames_gets_them_for_what_ended_well(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(encode("attached", link=3, brief=True), jobs("1-0", "2-0", "3-0"))
    work(consumer)
    begin(consumer)
    consumer.answer("retry", "", 2.0, 0.25)
    work(consumer)
    delivery.reads_brief()
    _, first, second, third = delivery.hear()
    assert first == {"kind": "done", "ended": [("1-0", 0.001)]}
    assert (second["kind"], second["id"], second["verdict"], second["delay"]) == ("result", "2-0", "retry", 2.0)
    assert third == {"kind": "done", "ended": [("3-0", 0.001)]}


def test_results_are_told_in_full_until_the_next_delivery_child_says_what_it_reads(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(encode("attached", link=3, brief=True), jobs("1-0", "2-0"))
    work(consumer)
    delivery.die()
    work(consumer)
    delivery.say(jobs("3-0"))
    work(consumer)
    attach, *results = delivery.hear()
    assert attach["results"][0][1] == {"id": "1-0", "verdict": "done", "error": "", "delay": None, "run_s": 0.001}
    assert [frame["kind"] for frame in results] == ["result"] * len(results)


def test_a_result_goes_out_at_once(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0"))
    work(consumer)
    assert delivery.hear()[-1]["id"] == "1-0"


def test_the_next_delivery_child_is_told_what_is_held_and_what_was_not_receipted(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0", "2-0", "3-0", "4-0"))
    work(consumer)
    delivery.say(encode("settled", ids=["1-0"]))
    work(consumer)
    begin(consumer)
    delivery.die()
    consumer.answer("failed", "oh", None, 0.001)
    delivery.say(encode("attached", link=4), jobs("5-0"))
    assert work(consumer) == "4-0"
    assert work(consumer) == "5-0"
    attach = delivery.hear()[0]
    assert ids(attach["holds"]) == []
    assert [(ticket[0], result["verdict"]) for ticket, result in attach["results"]] == [
        ("2-0", "done"), ("3-0", "failed"), ("4-0", "done"),
    ]


def test_what_waits_is_run_while_no_delivery_child_listens(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0", "3-0"))
    work(consumer)
    delivery.die()
    delivery.refuse = True
    assert [work(consumer), work(consumer)] == ["2-0", "3-0"]
    delivery.refuse = False
    delivery.say(encode("finish"))
    assert consumer.next_job() is None
    assert [ticket[0] for ticket, _ in delivery.hear()[0]["results"]] == ["1-0", "2-0", "3-0"]


def test_jobs_that_were_sent_before_the_delivery_child_died_are_held(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0"))
    begin(consumer)
    delivery.say(jobs("2-0", "3-0"))
    delivery.die()
    consumer.answer("done", "", None, 0.0)
    assert begin(consumer) == "2-0"


def test_receipts_end_the_wait_of_a_leaving_consumer(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0", "3-0"))
    work(consumer)
    consumer.stop()
    assert consumer.next_job() is None
    delivery.say(encode("settled", ids=["1-0", "2-0", "3-0"]))
    assert consumer.leave(5.0)
    assert delivery.hear()[-1] == {"kind": "unstarted", "ids": ["2-0", "3-0"], "leaving": True}


def test_jobs_that_cross_the_good_bye_are_handed_back_too(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0"))
    work(consumer)
    delivery.say(jobs("2-0"), encode("settled", ids=["1-0"]), encode("finish"), encode("settled", ids=["2-0"]))
    consumer.stop()
    consumer.leave(0.2)
    assert {"kind": "unstarted", "ids": ["2-0"], "leaving": True} in delivery.hear()


def test_a_leaving_consumer_waits_no_longer_than_it_may(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0"))
    work(consumer)
    assert not consumer.leave(0.05)


def test_finish_is_noticed_before_the_next_job(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(encode("finish"), jobs("1-0"))
    assert consumer.next_job() is None


def test_a_delivery_child_that_is_away_is_not_asked_without_pause(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.refuse = True
    for _ in range(50):
        consumer._look(0.001)
    assert delivery.connects <= 4


def test_a_handler_that_closes_our_socket_breaks_only_that_connection(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0", "2-0"))
    begin(consumer)
    assert consumer._sock is not None
    os.close(consumer._sock.fileno())
    consumer.answer("done", "", None, 0.0)
    delivery.die()
    assert work(consumer) == "2-0"
    while delivery.connects < 2:
        consumer._look(0.01)
    assert [ticket[0] for ticket, _ in delivery.hear()[0]["results"]] == ["1-0", "2-0"]


def test_a_file_that_got_the_number_of_our_socket_is_not_closed(
    consumer: Attachment, delivery: DeliverySide, tmp_path: Any
) -> None:
    delivery.say(jobs("1-0"))
    begin(consumer)
    assert consumer._sock is not None
    number = consumer._sock.fileno()
    file = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
    consumer.answer("done", "", None, 0.0)
    os.write(number, b"still theirs")
    os.close(number)
    assert (tmp_path / "theirs").read_bytes() == b"still theirs"


def test_descriptors_that_handlers_like_to_close_are_not_ours(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0"))
    begin(consumer)
    assert consumer._sock is not None
    assert consumer._sock.fileno() >= 256


# -- jobs back while one runs ---------------------------------------------------------------------------


def unstarted(delivery: DeliverySide) -> list[dict[str, Any]]:
    return [frame for frame in delivery.hear() if frame["kind"] == "unstarted"]


def test_what_waits_behind_a_slow_job_is_handed_back_without_leaving(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0", "2-0"))
    begin(consumer)
    delivery.say(jobs("3-0"))  # not read by the main thread yet
    assert consumer.recall("1-0")
    assert unstarted(delivery) == [{"kind": "unstarted", "ids": ["2-0", "3-0"], "leaving": False}]
    consumer.answer("done", "", None, 3.0)
    delivery.say(jobs("4-0"))
    assert work(consumer) == "4-0"


def test_a_recall_that_comes_after_the_slow_job_takes_nothing(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0", "3-0"))
    work(consumer)
    assert not consumer.recall("1-0")
    begin(consumer)
    assert not consumer.recall("1-0")
    assert unstarted(delivery) == []


def test_what_was_handed_back_may_be_given_again(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0"))
    begin(consumer)
    consumer.recall("1-0")
    consumer.answer("done", "", None, 1.0)
    delivery.say(encode("settled", ids=["1-0", "2-0"]), jobs("2-0"))
    assert work(consumer) == "2-0"


def test_a_stop_hands_back_at_once_while_the_job_goes_on(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0", "2-0"))
    begin(consumer)
    consumer.stop()
    assert unstarted(delivery) == [{"kind": "unstarted", "ids": ["2-0"], "leaving": True}]
    consumer.answer("done", "", None, 1.0)
    assert consumer.next_job() is None


def test_a_peer_that_reads_nothing_holds_nobody_up_and_gets_whole_frames_later(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0", *(f"{number}-1" for number in range(2_000))))
    begin(consumer)
    assert consumer._sock is not None
    consumer._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    assert consumer.recall("1-0")
    assert consumer._unsent
    heard: list[dict[str, Any]] = []
    thread = threading.Thread(target=consumer.answer, args=("done", "", None, 1.0))
    thread.start()
    while not heard or heard[-1]["kind"] != "result":
        heard += delivery.hear()
    thread.join()
    assert [frame["kind"] for frame in heard] == ["attach", "unstarted", "result"]
    assert len(heard[1]["ids"]) == 2_000


def test_without_a_delivery_child_nothing_is_handed_back_and_the_next_is_told_of_it(
    consumer: Attachment, delivery: DeliverySide
) -> None:
    delivery.say(jobs("1-0", "2-0"))
    begin(consumer)
    delivery.die()
    consumer.recall("1-0")
    consumer.answer("done", "", None, 1.0)
    while consumer._sock is None or not delivery.peer:
        consumer._look(0.01)
    attach = delivery.hear()[0]
    told = ids(attach["holds"]) + [ticket[0] for ticket, _ in attach["results"]]
    assert told in (["1-0"], ["2-0", "1-0"])  # what was sent into the dead link comes back by comparison


def test_where_a_job_is_stuck_goes_out_while_it_runs(consumer: Attachment, delivery: DeliverySide) -> None:
    delivery.say(jobs("1-0"))
    consumer.stuck("nowhere", "")
    begin(consumer)
    consumer.stuck("act (a.py:3)", "line 3")
    assert delivery.hear()[-1] == {"kind": "stuck", "id": "1-0", "place": "act (a.py:3)", "stack": "line 3"}


def test_a_complaint_waits_for_a_delivery_child(consumer: Attachment, delivery: DeliverySide) -> None:
    consumer.trouble("1-0", "closed everything")
    delivery.say(jobs("2-0"))
    work(consumer)
    assert {"kind": "trouble", "id": "1-0", "text": "closed everything"} in delivery.hear()


def test_the_idle_are_asked_how_long_they_may_wait_and_may_leave(delivery: DeliverySide) -> None:
    asked: list[Attachment] = []

    def idle() -> float:
        asked.append(consumer)
        if len(asked) == 3:
            consumer.stop()
        return 0.001

    consumer = Attachment(delivery.connect, IDENTITY, delivery.links.append, SystemClock(), idle)
    assert consumer.next_job() is None
    assert len(asked) == 3
    consumer.leave(0.0)
    os.close(consumer._waker)
