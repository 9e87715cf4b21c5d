"""A topic that does not run is seen: in the log at once, in the status when it lasts, and no longer than it lasts."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

from pbus.errors import Exit
from tests.support.bus import BusFactory, free_port
from tests.support.waiting import until

HANDLERS = """
def take(job):
    pass
"""


class Fine(http.server.BaseHTTPRequestHandler):
    """Takes every job."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_backend_that_is_down_is_a_problem_until_it_is_back(bus_factory: BusFactory) -> None:
    port = free_port()
    bus = bus_factory({"queue": {"gift": {"topic": {"web": {"http": {"url": f"http://127.0.0.1:{port}/"}}}}}})
    assert bus.cli("push", "gift", "x").returncode == Exit.DONE
    until(lambda: bus.events("topic.down"), 5, "the log says so")
    seen = bus.wait(("degraded",), 6)
    [problem] = seen["problems"]
    assert problem.startswith("gift/web down: ")
    shown = bus.cli("status")
    assert (shown.returncode, shown.stdout.count("gift/web down: ")) == (Exit.DEGRADED, 1)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Fine) as server:
        threading.Thread(target=server.serve_forever).start()
        until(lambda: bus.topic("gift", "web")["done_total"] == 1, 15, "the job is done")
        assert bus.wait(("running",), 3)["problems"] == []
        server.shutdown()
    assert [event["reason"] for event in bus.events("topic.down")] == [problem.removeprefix("gift/web down: ")]
    assert len(bus.events("topic.running")) == 1


def test_wait_for_the_next_process_of_a_topic_is_told(bus_factory: BusFactory, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS)
    python = {"call": "jobs:take", "path": str(tmp_path)}
    bus = bus_factory({
        "queue": {"gift": {"topic": {"mail": {"python": python}}}},
        "supervise": {"backoff": {"first": "8s", "fatal": 100}},
    })
    bus.kill("consumer")  # while it is idle: who dies of a job is not waited for
    [problem] = bus.wait(("degraded",), 5)["problems"]
    assert problem.startswith("consumer gift/mail: ended: killed by SIGKILL; next start in ")
    until(lambda: "; next start in " in bus.topic("gift", "mail")["reason"], 3, "the topic's row says so")
    assert bus.cli("status").returncode == Exit.DEGRADED
