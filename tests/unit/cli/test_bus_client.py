"""The way from a command to the bus: which address, which password, which certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbus.cli.bus_client import Pusher, Unreachable
from tests.support.certificates import authority
from tests.unit.config import files

QUEUE = '[queue.safe]\npassword_file = "pw"\n'


def pusher(tmp_path: Path, listen: str, tls: str = "") -> Pusher:
    (tmp_path / "pw").write_text("first\nsecond\n")
    ingest = f"[ingest]\nlisten = [{listen}]\n" + (f"tls = {tls}\n" if tls else "")
    return Pusher(files.load(tmp_path, ingest + QUEUE).settings, "safe")


def test_first_of_two_passwords_is_used(tmp_path: Path) -> None:
    known = pusher(tmp_path, '"127.0.0.1:12018"')._redis.connection_pool.connection_kwargs

    assert (known["host"], known["port"], known["username"], known["password"]) == ("127.0.0.1", 12018, "safe", "first")
    assert "ssl_ca_data" not in known


def test_door_without_tls_is_used_first(tmp_path: Path) -> None:
    pair = authority(tmp_path / "c").issue("door")
    tls = f'{{ cert = "{pair.cert}", key = "{pair.key}" }}'

    plain = pusher(tmp_path, '"0.0.0.0:12018", "plain:127.0.0.1:12019"', tls)
    assert plain._redis.connection_pool.connection_kwargs["port"] == 12019
    near = pusher(tmp_path, '"0.0.0.0:12018", "unix:bus.sock"', tls)
    assert near._redis.connection_pool.connection_kwargs["path"] == str(tmp_path / "bus.sock")
    sealed = pusher(tmp_path, '"0.0.0.0:12018"', tls)._redis.connection_pool.connection_kwargs
    assert (sealed["host"], sealed["port"]) == ("127.0.0.1", 12018)
    assert sealed["ssl_ca_data"].strip() == pair.cert.read_text().strip()


def test_door_that_asks_for_certificates_cannot_be_reached_and_what_helps_is_said(tmp_path: Path) -> None:
    ours = authority(tmp_path / "c")
    pair = ours.issue("door")
    tls = f'{{ cert = "{pair.cert}", key = "{pair.key}", client_ca = "{ours.cert}" }}'

    with pytest.raises(Unreachable, match=r'add "unix:PATH" or "plain:127\.0\.0\.1:PORT" to ingest'):
        pusher(tmp_path, '"0.0.0.0:12018"', tls)
