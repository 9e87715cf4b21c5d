"""One real bus for all foreign clients; every test has a queue of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bus import Bus, write_config

QUEUES = ("py2", "py3", "pipe", "pop", "cli", "php", "phppipe", "opt", "mylist")


@pytest.fixture(scope="package")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """
    Queues of QUEUES with one pull topic ``t`` each, ``safe`` with a password, ``old`` with the old contract.

    ``mylist`` is the key that redis-benchmark uses by itself.
    """
    folder = tmp_path_factory.mktemp("clients")
    bus = Bus(folder)
    queues: dict[str, object] = {name: {"topic": {"t": {"pull": {}}}} for name in QUEUES}
    queues["safe"] = {"password": "pw", "topic": {"t": {"pull": {}}}}
    queues["old"] = {"password": "pw", "pepper": True, "topic": {"t": {"pull": {}}}}
    write_config(folder, {"queue": queues})
    try:
        yield bus.start()
    finally:
        bus.clean_up()
