"""A store that is away: told by each node out of its memory, and that it is back."""

from __future__ import annotations

from pbus.config.schema import Notify
from pbus.core import notices
from pbus.core.alarms import Policy
from pbus.scheduler.notify import Post
from pbus.scheduler.outages import Outages
from tests.unit.scheduler.store import Bench


class Told(Post):
    """Takes nothing before the third try."""

    def __init__(self, bench: Bench) -> None:
        super().__init__({"all": Notify(command=["x"])}, bench.clock)
        self.sent: list[str] = []
        self.causes: set[str] = set()

    def send(self, message: notices.Message, ended: list[tuple[notices.Message, str]]) -> None:
        self.sent.append(message.title)
        self.causes |= {str(alarm.get("cause")) for alarm in message.alarms}
        ended.append((message, "refused" if len(self.sent) < 3 else ""))


def test_store_that_is_away_is_told_until_somebody_hears_it_and_that_it_is_back() -> None:
    bench, wrong = Bench(), ""
    post = Told(bench)
    outages = Outages({"main": lambda: wrong}, Policy(default=("all",)), "n1", post, bench.clock)

    def seconds(count: int) -> None:
        for _ in range(count):
            outages.tick()
            bench.clock.advance(1.0)

    seconds(10)
    wrong = "is away"
    seconds(1)
    wrong = ""
    seconds(10)
    assert post.sent == []                  # not for a second
    wrong = "is away"
    seconds(60)
    assert post.sent == ["ALARM storage main does not answer, or is not fit to keep jobs"] * 3
    wrong = ""
    seconds(60)

    assert post.sent[3:] == ["OVER storage main does not answer, or is not fit to keep jobs"]
    assert post.causes == {"on node n1: is away"}
