"""
An HTTP handler that keeps the ledger: a process of its own, ``python -m tests.support.handlers.ledger_http``.

It prints its port on the first line of standard output and serves until it is told to stop (TERM).
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import os  # noqa: E402 - patched first
import signal  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent.pywsgi  # noqa: E402
import gevent.socket  # noqa: E402

from tests.support.handlers.ledger_jobs import append, orders, poisoned  # noqa: E402


def serve(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The plain contract: 2xx is done, 500 is a failure."""
    start_s = time.time()
    words = environ["wsgi.input"].read().decode("utf-8", "replace").split(" ")
    told = orders(words)
    gevent.sleep(told["sleep"] / 1000)
    attempt = int(environ["HTTP_X_PBUS_ATTEMPT"])
    ok = attempt > told["fail"] and not poisoned()
    append(
        environ["HTTP_X_PBUS_QUEUE"], environ["HTTP_X_PBUS_TOPIC"],
        f"{words[0]} {attempt} {os.getpid()} {start_s:.6f} {time.time():.6f} {environ['HTTP_X_PBUS_JOB_ID']} "
        f"{'ok' if ok else 'failed'}\n",
    )
    body = b"done\n" if ok else b"failed as ordered\n"
    start_response("200 OK" if ok else "500 Failed", [("Content-Length", str(len(body)))])
    return [body]


def main() -> None:
    listener = gevent.socket.socket()
    listener.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_REUSEADDR, 1)
    # pywsgi writes head and body apart; without this the body waits 40 ms for a delayed ack.
    listener.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    # pywsgi sends head and body apart; without this the body waits for the client's delayed ACK (40 ms).
    listener.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", int(os.environ.get("LEDGER_PORT", "0"))))
    listener.listen(256)
    server = gevent.pywsgi.WSGIServer(listener, serve, log=None, error_log=None)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    print(listener.getsockname()[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
