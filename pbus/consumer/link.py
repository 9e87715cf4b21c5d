"""How a consumer process finds its delivery child: one place for every kind of consumer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

from pbus.consumer.attach import Attachment
from pbus.supervisor.child import Child
from pbus.supervisor.listeners import connect_unix

RECEIPTS_S: Final = 5.0
"""How long a leaving consumer waits for its receipts; the delivery child has its results anyway."""
CONNECT_S: Final = 2.0


def attachment_of(child: Child, idle: Callable[[], float] | None = None) -> Attachment:
    """The attachment of *child*, a consumer; *idle* as there."""
    args = dict(child.spec.args)
    child.on_frame("deliveries", lambda frame: args.update(deliveries=int(frame["value"])))
    identity = {"owner": str(child.owner), "queue": args["queue"], "topic": args["topic"], "pid": os.getpid()}

    def connect() -> socket.socket:
        return connect_unix(child.door(f"delivery.{child.index % args['deliveries']}"), CONNECT_S)

    def attached(link: int) -> None:
        child.slot.update(link=link)

    return Attachment(connect, identity, attached, child.clock, idle)
