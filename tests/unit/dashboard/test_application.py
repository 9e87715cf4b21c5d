"""What the health endpoints answer, without a socket."""

from __future__ import annotations

import json
from typing import Any

from pbus.dashboard.main import application


def ask(path: str, reasons: list[str], **environ: str) -> tuple[str, dict[str, str], Any]:
    told: list[Any] = []
    app = application({"/-/livez": lambda: reasons})
    body = b"".join(
        app(
            {"PATH_INFO": path, "REQUEST_METHOD": "GET", "REMOTE_ADDR": "127.0.0.1", **environ},
            lambda status, headers: told.extend((status, dict(headers))),
        )
    )
    return told[0], told[1], json.loads(body) if body else None


def test_no_reasons_is_ok() -> None:
    status, headers, body = ask("/-/livez", [])
    assert (status, body) == ("200 OK", {"status": "ok"})
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"


def test_reasons_make_it_503_and_are_told() -> None:
    status, _, body = ask("/-/livez", ["storage main: away"])
    assert status.startswith("503 ")
    assert body == {"status": "unavailable", "reasons": ["storage main: away"]}


def test_stranger_is_told_the_status_only() -> None:
    status, _, body = ask("/-/livez", ["storage main: away"], REMOTE_ADDR="10.0.0.9")
    assert status.startswith("503 ")
    assert body == {"status": "unavailable"}


def test_loopback_is_loopback_on_a_listener_for_both_protocols_too() -> None:
    for host in ("::1", "::ffff:127.0.0.1"):
        assert ask("/-/livez", ["why"], REMOTE_ADDR=host)[2]["reasons"] == ["why"]
    assert "reasons" not in ask("/-/livez", ["why"], REMOTE_ADDR="::ffff:10.0.0.9")[2]


def test_everything_else_is_404() -> None:
    for path in ("/", "/-/", "/-/livez/", "/metrics", "/-/LIVEZ"):
        assert ask(path, [])[0] == "404 Not Found"


def test_nothing_can_be_posted() -> None:
    status, headers, _ = ask("/-/livez", [], REQUEST_METHOD="POST", CONTENT_LENGTH="9")
    assert status.startswith("405 ")
    assert headers["Allow"] == "GET, HEAD"
    assert headers["Connection"] == "close"


def test_head_has_no_body() -> None:
    assert ask("/-/livez", [], REQUEST_METHOD="HEAD")[2] is None


def show(remote: str, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    told: list[Any] = []
    app = application({}, {"/metrics": lambda accept: (f"text/{accept}", b"pbus_degraded 0\n")})
    environ = {"PATH_INFO": "/metrics", "REQUEST_METHOD": method, "REMOTE_ADDR": remote, "HTTP_ACCEPT": "x"}
    body = b"".join(app(environ, lambda status, headers: told.extend((status, dict(headers)))))
    return told[0], told[1], body


def test_pages_are_for_loopback_and_for_unix_sockets() -> None:
    for remote in ("127.0.0.1", "::1", ""):
        status, headers, body = show(remote)
        assert (status, headers["Content-Type"], body) == ("200 OK", "text/x", b"pbus_degraded 0\n")
    status, _, body = show("10.0.0.9")
    assert status == "403 Forbidden"
    assert b"pbus_" not in body


def test_pages_are_read_only() -> None:
    assert show("127.0.0.1", "POST")[0] == "405 Method Not Allowed"
    assert show("127.0.0.1", "HEAD")[::2] == ("200 OK", b"")
