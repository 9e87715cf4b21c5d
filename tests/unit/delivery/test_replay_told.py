"""Every kind of handler hears of which job a delivery is the replay; of other deliveries nothing is said."""

from __future__ import annotations

import json
from dataclasses import replace

from pbus.clock import FakeClock
from pbus.codec import frames, lines
from pbus.config import schema
from pbus.consumer import attach
from pbus.core.job import Delivery
from pbus.core.retry import RetryPolicy
from pbus.delivery.consumer_hand import frames_of
from pbus.delivery.fastcgi_client import FastcgiClient
from pbus.delivery.http_client import HttpClient

PLAIN = Delivery("2000-0", "gift", "credit", b"x", 1, 0, False, "", "", 0, "n/b/1.1")
REPLAY = replace(PLAIN, replay_of="1000-0")


def sent_by_http(delivery: Delivery, contract: str) -> bytes:
    handler = schema.HttpHandler(url="http://127.0.0.1/x", contract=contract)
    client = HttpClient("gift", "credit", handler, retry=RetryPolicy(), max_post_bytes=1 << 20, clock=FakeClock())
    return client.encode(delivery)[0]


def test_http_handlers_get_a_header() -> None:
    for contract in ("plain", "pepper"):
        assert b"\r\nX-Pbus-Replay-Of: 1000-0\r\n" in sent_by_http(REPLAY, contract)
        assert b"Replay" not in sent_by_http(PLAIN, contract)


def test_php_fpm_gets_a_parameter() -> None:
    handler = schema.FastcgiHandler(script="/srv/credit.php")
    client = FastcgiClient(
        "gift", "credit", handler, retry=RetryPolicy(), max_post_bytes=1 << 20, address="unix:x", clock=FakeClock()
    )

    assert b"HTTP_X_PBUS_REPLAY_OF1000-0" in client.encode(REPLAY)[0]
    assert b"REPLAY" not in client.encode(PLAIN)[0]


def test_consumers_get_it_with_the_job() -> None:
    (frame,) = frames.FrameReader().feed(b"".join(frames_of([REPLAY, PLAIN])))

    assert [attach.replay_of(job) for job in frame["jobs"]] == ["1000-0", ""]


def test_programs_that_read_lines_get_a_field() -> None:
    encoder = lines.Encoder("gift", "credit")

    replay = json.loads(encoder.job("2000-0", 1, False, "", b"x", "1000-0"))
    plain = json.loads(encoder.job("2000-0", 1, False, "", b"x"))
    assert (replay["replay_of"], replay["body"]) == ("1000-0", "x")
    assert "replay_of" not in plain
