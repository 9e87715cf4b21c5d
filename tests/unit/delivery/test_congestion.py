"""The window of an address: a pure controller, judged against simulated servers."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.delivery.congestion import CALM_S, PAUSE_MAX_S, RETRY_AFTER_MAX_S, UNLIMITED, Gauge, Pool, Window, pool_of

RUN_S = 0.05


class Server:
    """Serves *capacity* calls at once, each for RUN_S; more than that are refused at once as busy."""

    def __init__(self, capacity: Callable[[float], int]) -> None:
        self.capacity = capacity
        self.serving = 0
        self.served = 0
        self.refused = 0


class Client:
    """A delivery child that always has more to do than it may: *most* calls at once."""

    def __init__(self, most: int) -> None:
        self.window = Window()
        self.most = most
        self.in_use = 0
        self.served = 0
        self.sizes: list[int] = []


def run(server: Server, clients: list[Client], seconds: float, start_s: float = 0.0) -> float:
    """Let them work; answers the time at the end."""
    events: list[tuple[float, int, Client, float, bool]] = []
    number, now_s = 0, start_s

    def fill(client: Client) -> None:
        nonlocal number
        while client.in_use < min(client.window.limit, client.most) and now_s >= client.window.paused_until_s:
            client.in_use += 1
            accepted = server.serving < server.capacity(now_s)
            server.serving += accepted
            number += 1
            heapq.heappush(events, (now_s + (RUN_S if accepted else 0.001), number, client, now_s, accepted))

    def tick(client: Client) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (max(now_s + 0.05, client.window.paused_until_s), number, client, -1.0, False))

    for client in clients:
        fill(client)
        tick(client)
    while now_s < start_s + seconds:
        now_s, _, client, begun_s, accepted = heapq.heappop(events)
        if begun_s < 0.0:
            tick(client)
        elif accepted:
            client.window.served(now_s, RUN_S, client.in_use, client.most)
            server.serving, server.served = server.serving - 1, server.served + 1
            client.in_use, client.served = client.in_use - 1, client.served + 1
        else:
            client.window.busy(now_s, begun_s, client.in_use)
            server.refused += 1
            client.in_use -= 1
        client.sizes.append(min(client.window.limit, client.most))
        fill(client)
    for _, _, client, begun_s, accepted in events:
        if begun_s >= 0.0:
            client.in_use -= 1
            server.serving -= accepted
    return now_s


def test_window_without_trouble_is_no_bound():
    server, client = Server(lambda _: 100), Client(32)
    run(server, [client], 5.0)
    assert (client.window.limit, client.window.is_cut, server.refused) == (UNLIMITED, False, 0)


def test_window_converges_to_what_the_server_takes():
    server, client = Server(lambda _: 10), Client(64)
    end_s = run(server, [client], 10.0)
    server.served = server.refused = 0
    client.sizes.clear()
    run(server, [client], 30.0, end_s)
    assert server.served > 0.75 * 10 / RUN_S * 30.0
    assert server.refused < server.served * 0.05
    assert max(client.sizes) <= 10 * 2


def test_two_children_share_a_server_and_neither_starves():
    server, clients = Server(lambda _: 10), [Client(64), Client(64)]
    run(server, clients[:1], 5.0)  # the second one comes late
    for client in clients:
        client.served = 0
    run(server, clients, 60.0, 5.0)
    assert min(client.served for client in clients) > 0.6 * max(client.served for client in clients)
    assert sum(client.served for client in clients) > 0.7 * 10 / RUN_S * 60.0


def test_window_recovers_when_the_server_has_room_again():
    server, client = Server(lambda now_s: 2 if now_s < 10.0 else 100), Client(64)
    run(server, [client], 10.0)
    assert client.window.limit <= 4
    run(server, [client], CALM_S + 10.0, 10.0)
    assert (client.window.limit, client.window.is_cut) == (UNLIMITED, False)


def test_server_that_takes_nothing_is_asked_less_and_less():
    server, client = Server(lambda _: 0), Client(64)
    end_s = run(server, [client], 20.0)
    server.refused = 0
    run(server, [client], 50.0, end_s)
    assert 50.0 / PAUSE_MAX_S - 2 <= server.refused <= 2 * 50.0 / PAUSE_MAX_S
    assert client.window.limit == 1


def test_many_refusals_of_one_round_trip_cut_once():
    window = Window()
    for _ in range(30):
        window.busy(1.0, 0.5, 30)
    assert window.limit == 21


def test_retry_after_is_waited_for_where_nothing_is_taken():
    window = Window()
    window.busy(1.0, 0.5, 1)
    window.busy(2.0, 1.5, 1, 3.0)
    assert window.paused_until_s == 5.0
    window.busy(6.0, 5.5, 1, 3600.0)
    assert window.paused_until_s == 6.0 + RETRY_AFTER_MAX_S


def test_queue_in_php_fpm_alone_is_no_trouble():
    window = Window()
    for now_s in range(10):
        window.served(now_s, RUN_S, 8, 8)
        window.measured(now_s, 8, True)
    assert not window.is_cut


def test_slower_calls_behind_a_queue_in_php_fpm_shrink_the_window():
    window = Window()
    for now_s in range(100):
        window.served(now_s, RUN_S, 10, 10)
        window.measured(now_s, 10, False)
    for _ in range(50):
        window.served(100.0, RUN_S * 3, 10, 10)
    window.measured(100.0, 10, False)
    assert not window.is_cut, "slow, but nobody waits for a process"
    window.measured(101.0, 10, True)
    assert window.limit == 8


@given(
    st.lists(st.tuples(
        st.sampled_from(["busy", "served", "measured"]), st.floats(0.0, 20.0), st.integers(1, 64),
        st.one_of(st.none(), st.floats(0.0, 1e6)),
    ), max_size=60)
)
def test_window_never_closes_for_ever(steps):
    window, now_s = Window(), 0.0
    for step, pause_s, in_use, retry_after_s in steps:
        begun_s, now_s = now_s, now_s + pause_s
        match step:
            case "busy":
                window.busy(now_s, begun_s, in_use, retry_after_s)
            case "served":
                window.served(now_s, pause_s, in_use, 64)
            case "measured":
                window.measured(now_s, in_use, True)
        assert window.limit >= 1
        assert window.is_cut == (window.limit < UNLIMITED)
        assert window.paused_until_s <= now_s + RETRY_AFTER_MAX_S


def page(manager: str, states: list[str], reached: int = 0, started: int = 7, queue: int = 0) -> bytes:
    """As php-fpm 8.2 writes it, with sums that are wrong."""
    processes = ",".join(
        f'{{"pid":{number},"state":"{state}","start time":9,"requests":3}}' for number, state in enumerate(states)
    )
    return (
        f'{{"pool":"www","process manager":"{manager}","start time":{started},"start since":4,"listen queue":{queue},'
        f'"max listen queue":9,"idle processes":0,"active processes":85,"total processes":85,'
        f'"max children reached":{reached},"slow requests":0, "processes":[{processes}]}}'
    ).encode()


def read(gauge: Gauge, text: bytes) -> Pool:
    return gauge.read(pool_of(text, len(text)))


def test_pool_is_counted_not_believed():
    pool = read(Gauge(), page("static", ["Idle", "Running", "Reading headers"], queue=3))
    assert (pool.total, pool.idle, pool.size, pool.listen_queue) == (3, 1, 3, 3)
    assert Pool(**pool.fields()) == pool


def test_size_of_a_dynamic_pool_is_known_when_it_wanted_more():
    gauge = Gauge()
    assert read(gauge, page("dynamic", ["Idle"] * 2, reached=5)).size == 0, "reached long ago, by more than there are"
    assert read(gauge, page("dynamic", ["Running"] * 4, reached=5)).size == 0
    assert read(gauge, page("dynamic", ["Running"] * 8, reached=6)).size == 8
    assert read(gauge, page("dynamic", ["Idle"] * 3, reached=6)).size == 8
    assert read(gauge, page("dynamic", ["Idle"] * 3, reached=0, started=8)).size == 0, "another configuration"


def test_page_that_is_too_long_is_estimated_by_its_beginning():
    whole = page("static", ["Idle", "Running"] * 300)
    pool = pool_of(whole[: len(whole) // 4], len(whole))
    assert pool.total == pytest.approx(600, rel=0.05)
    assert pool.idle == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("broken", [b"", b"File not found.", page("static", [])])
def test_other_pages_are_no_status_pages(broken):
    with pytest.raises(ValueError, match="not a status page"):
        pool_of(broken, len(broken))


@pytest.mark.parametrize(
    ("pool", "short"),
    [
        (Pool(total=2, idle=1, size=2), False), (Pool(total=2, idle=0, size=2), True),
        (Pool(total=2, idle=0, size=0), False), (Pool(total=2, idle=1, size=2, listen_queue=1), True),
    ],
)
def test_pool_is_short_when_who_comes_waits(pool, short):
    assert pool.is_short is short


def test_window_after_a_deploy_begins_with_one_call_and_doubles() -> None:
    window, now_s, rounds = Window(), 0.0, []
    window.begin_small(now_s)
    while window.is_cut:
        rounds.append(window.limit)
        now_s += RUN_S
        for _ in range(window.limit):
            window.served(now_s, RUN_S, window.limit, 16)
    assert rounds == [1, 2, 4, 8]
