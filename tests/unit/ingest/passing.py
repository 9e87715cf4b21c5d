"""Passes a connection from one child to another without a link: a record, read from its bytes, and a descriptor."""

from __future__ import annotations

import os
import socket

import gevent

from pbus.codec import handover
from pbus.codec.handover import Record
from pbus.ingest.carried import cargo_of
from pbus.ingest.portable import Portable
from pbus.ingest.settling import Arrival
from tests.unit.ingest.door import Door


class Gate:
    """Takes connections elsewhere, one at a time."""

    def __init__(self) -> None:
        self.gone: list[Portable] = []

    def parted(self, connection: Portable) -> None:
        if connection not in self.gone:
            self.gone.append(connection)


def only(door: Door) -> Portable:
    (connection,) = door.server.connections
    return connection


def part(door: Door, *, now: bool = True) -> Gate:
    """Its one connection is to leave; *now*: nothing is in flight."""
    gate = Gate()
    only(door).part(gate)
    if now:
        door.until(lambda: gate.gone, "it has parted")
    return gate


def arrive(old: Door, new: Door) -> Record:
    """The connection that has parted goes on in *new*."""
    (connection,) = old.server.connections
    record = handover.decode(handover.encode(connection.record()))
    sock = socket.socket(fileno=os.dup(connection.descriptor))
    sock.setblocking(False)
    cargo = cargo_of(new.server, record)
    arrival = Arrival(old.server.owner, list(cargo.coming))
    new.store.puller.arrive(arrival)
    assert arrival.done.wait(5)
    cargo.keep(lambda claim: claim.key in (arrival.ours or ()))
    connection.pass_on(cargo.lost)
    new.server.carry_on(sock, record, cargo)
    return record


def move(old: Door, new: Door) -> Record:
    part(old)
    return arrive(old, new)


def settle_down(seconds: float = 0.02) -> None:
    gevent.sleep(seconds)
