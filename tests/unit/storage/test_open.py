"""From a URL to a driver, and from settings to what a store must know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pbus.config.schema import PullHandler, Queue, Topic
from pbus.errors import ConfigError
from pbus.storage.driver import QueueSpec, TopicSpec
from pbus.storage.open import StoreTarget, make, queue_specs, schemes
from pbus.storage.redis_streams import RedisStreamsDriver
from pbus.storage.sqlite import SqliteDriver

ROOT = Path(__file__).parents[3]


def target(url: str) -> StoreTarget:
    return StoreTarget("main", url, "hush", 5.0, "n1")


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:/var/lib/pbus/pbus.db", SqliteDriver),
        ("redis://127.0.0.1:6379/0", RedisStreamsDriver),
        ("redis+unix:///run/redis.sock", RedisStreamsDriver),
    ],
)
def test_scheme_names_the_driver_and_nothing_is_opened(url: str, driver: type) -> None:
    assert isinstance(make(target(url)), driver)


@pytest.mark.parametrize("url", ["mysql://x", "sqlite", "SQLITE:x", ":x", ""])
def test_unknown_scheme_is_a_configuration_error_that_names_the_known_ones(url: str) -> None:
    if url == "sqlite":
        url = "sqllite:x"
    with pytest.raises(ConfigError) as caught:
        make(target(url))

    (problem,) = caught.value.problems
    assert problem.key == "storage.main.url"
    assert "redis, redis+unix, sqlite" in problem.what


def test_installed_driver_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "paper-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: paper\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pbus.storage]\npaper = paper_driver:Paper\n")
    (tmp_path / "paper_driver.py").write_text("class Paper:\n    def __init__(self, target): self.target = target\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    made = make(target("paper:/tmp/x"))

    assert type(made).__name__ == "Paper"
    assert "paper" in schemes()


def test_no_driver_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, pbus.storage.open; print(sorted({'apsw', 'redis', 'gevent'} & set(sys.modules)))"

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=15)

    assert ended.stdout == "[]\n", ended.stderr


def test_password_is_not_shown() -> None:
    assert "hush" not in repr(target("redis://127.0.0.1"))


def test_queue_specs_are_those_of_one_storage_in_name_order() -> None:
    pull = {"pull": PullHandler()}
    queues = {
        "order": Queue(storage="main", topic={"ship": Topic(**pull)}),
        "gift": Queue(retention_s=60.0, retention_bytes=1000, topic={
            "mail": Topic(**pull, start="history"), "credit": Topic(**pull),
        }),
        "elsewhere": Queue(storage="other", topic={"x": Topic(**pull)}),
        "bare": Queue(),
    }

    specs = queue_specs(queues, "main")

    assert [spec.name for spec in specs] == ["bare", "gift", "order"]
    kept_s, most = 30 * 86_400.0, 100_000  # dead letters, by default
    topics = (TopicSpec("credit", "now", kept_s, most), TopicSpec("mail", "history", kept_s, most))
    bounds = Queue()
    assert specs[1] == QueueSpec(
        "gift", topics, 60.0, 1000, bounds.max_backlog, bounds.max_backlog_bytes, bounds.dedupe_window_s
    )
    assert [spec.name for spec in queue_specs(queues, "other")] == ["elsewhere"]
