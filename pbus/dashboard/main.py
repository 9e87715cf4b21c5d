"""
The dashboard role: for now the health endpoints, ``/-/livez`` and ``/-/readyz``.

    200 {"status": "ok"}      503 {"status": "unavailable", "reasons": [..]}

Reasons are told to loopback only; others see the status.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pbus.config.schema import Dashboard
from pbus.dashboard.health import Stores, alive_problems
from pbus.dashboard.server import Server
from pbus.storage.driver import Driver
from pbus.storage.open import StoreTarget, make
from pbus.storage.threaded import Threaded
from pbus.supervisor.child import Child

LISTENER: Final = "dashboard"

Reasons = Callable[[], list[str]]


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

    server = Server(child.listeners[LISTENER], application({"/-/livez": livez, "/-/readyz": readyz}), child.log)
    server.start()
    child.ready()
    child.log.info("dashboard.ready", listen=settings.listen)
    child.wait_drain()
    server.drain()
    for driver in drivers.values():
        driver.close()


def application(endpoints: Mapping[str, Reasons]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application: each path answers 200, or 503 with the reasons of its function."""

    def serve(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, document = _answer(environ, endpoints)
        body = json.dumps(document).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
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


def _answer(environ: Mapping[str, Any], endpoints: Mapping[str, Reasons]) -> tuple[str, dict[str, Any]]:
    reasons_of = endpoints.get(environ["PATH_INFO"])
    if reasons_of is None:
        return "404 Not Found", {"error": "not found"}
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return "405 Method Not Allowed", {"error": "method not allowed"}
    reasons = reasons_of()
    if not reasons:
        return "200 OK", {"status": "ok"}
    told = {"reasons": reasons} if _is_loopback(environ.get("REMOTE_ADDR", "")) else {}
    return "503 Service Unavailable", {"status": "unavailable", **told}


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
