"""
The dashboard role: for now the health endpoints, ``/-/livez`` and ``/-/readyz``, and ``/metrics``.

    200 {"status": "ok"}      503 {"status": "unavailable", "reasons": [..]}

Reasons and metrics are told to loopback only; others see the status.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import gevent

from pbus.config.schema import Dashboard, Node, Queue, System
from pbus.dashboard.facts import Inquiry
from pbus.dashboard.health import Stores, alive_problems
from pbus.dashboard.server import Server
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make
from pbus.storage.threaded import Threaded
from pbus.supervisor.child import Child

LISTENER: Final = "dashboard"

Reasons = Callable[[], list[str]]
Page = Callable[[str], tuple[str, bytes]]
"""Content type and body for an ``Accept`` header."""

_JSON: Final = "application/json"
_FORBIDDEN: Final = {"error": "from loopback only"}


def run(child: Child) -> None:
    """The whole life of the dashboard child."""
    import gevent.monkey

    gevent.monkey.patch_all()
    child.start()
    settings: Dashboard = child.spec.args["dashboard"]
    drivers = {name: _driver(target) for name, target in child.spec.args["stores"].items()}
    stores = Stores(drivers, child.clock)
    parent = os.getppid()

    def livez() -> list[str]:
        return alive_problems(child.scoreboard.rows(), child.clock.monotonic_s(), os.getppid() == parent)

    def readyz() -> list[str]:
        return ["the node is draining"] if child.draining else stores.problems()

    serve = application({"/-/livez": livez, "/-/readyz": readyz}, {"/metrics": _metrics(child)})
    server = Server(child.listeners[LISTENER], serve, child.log)
    server.start()
    child.ready()
    child.log.info("dashboard.ready", listen=settings.listen)
    child.wait_drain()
    server.drain()
    for driver in drivers.values():
        driver.close()


def _metrics(child: Child) -> Page:
    """What ``/metrics`` answers."""
    queues: Mapping[str, Queue] = child.spec.args["queues"]
    systems: Mapping[str, System] = child.spec.args["systems"]
    node: Node = child.spec.args["node"]
    owners = {name: (queue.system, systems[queue.system].owner if queue.system in systems else "")
              for name, queue in queues.items()}
    topics = [(name, topic) for name, queue in queues.items() for topic in queue.topic]
    shadows = {(name, topic): section.shadow_of for name, queue in queues.items()
               for topic, section in queue.topic.items() if section.shadow_of}
    inquiry = Inquiry(child.tell, child.on_frame, child.clock)

    def answer(accept: str) -> tuple[str, bytes]:
        from pbus.dashboard.metrics import Known, page  # 5 MiB that a bus needs when it is scraped

        facts = inquiry.fresh()
        known = Known(
            node=node.name, queues=owners, topics=topics, facts=facts, totals=child.histograms.read(), shadows=shadows
        )
        return page(known, accept, lambda: gevent.sleep(0))

    return answer


def application(
    endpoints: Mapping[str, Reasons], pages: Mapping[str, Page] | None = None
) -> Callable[..., Iterable[bytes]]:
    """
    A WSGI application.

    Args:
        endpoints: Path -> reasons; it answers 200, or 503 with them.
        pages: Path -> what loopback is shown.
    """

    def serve(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, content_type, body = _answer(environ, endpoints, pages or {})
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if status.startswith("405"):
            headers.append(("Allow", "GET, HEAD"))
        if environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING"):
            headers.append(("Connection", "close"))  # nothing here reads a body
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return serve


def _answer(
    environ: Mapping[str, Any], endpoints: Mapping[str, Reasons], pages: Mapping[str, Page]
) -> tuple[str, str, bytes]:
    """Status, content type, body."""
    path = environ["PATH_INFO"]
    if path not in endpoints and path not in pages:
        return "404 Not Found", _JSON, _json({"error": "not found"})
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return "405 Method Not Allowed", _JSON, _json({"error": "method not allowed"})
    is_here = _is_loopback(environ.get("REMOTE_ADDR", ""))
    if path in pages:
        if not is_here:
            return "403 Forbidden", _JSON, _json(_FORBIDDEN)
        return "200 OK", *pages[path](environ.get("HTTP_ACCEPT", ""))
    reasons = endpoints[path]()
    if not reasons:
        return "200 OK", _JSON, _json({"status": "ok"})
    told = {"reasons": reasons} if is_here else {}
    return "503 Service Unavailable", _JSON, _json({"status": "unavailable", **told})


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _is_loopback(address: str) -> bool:
    """Whether the client sits on this machine; a unix socket has no address."""
    if not address:
        return True
    try:
        here = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = here.ipv4_mapped if isinstance(here, ipaddress.IPv6Address) else None  # on a listener for both
    return (mapped or here).is_loopback


def _driver(target: StoreTarget) -> Driver:
    """The driver as a gevent child uses it: one that blocks gets a thread of its own."""
    import gevent.threadpool

    driver = make(target)
    if not driver.capabilities.blocking:
        return driver
    pool = gevent.threadpool.ThreadPool(1)
    return Threaded(driver, pool.apply)
