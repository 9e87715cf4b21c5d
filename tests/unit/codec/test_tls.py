"""One side of a TLS connection: what goes in comes out, in any cut, and what is no TLS is said to be none."""

from __future__ import annotations

import os
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbus.codec.tls import RECORD_BYTES, Tls, TlsError
from pbus.config.schema import Tls as Settings
from pbus.config.tls import client_context, server_context
from tests.support.certificates import Authority, authority


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def settings(ours: Authority) -> Settings:
    return Settings(**ours.issue("door").setting)


def shaken(settings: Settings, client: ssl.SSLContext | None = None) -> tuple[Tls, Tls]:
    """Server and client after the handshake."""
    theirs, ours = Tls(server_context(settings), server=True), Tls(client or client_context(settings), server=False)
    ours.begin()
    for _ in range(4):
        _carry(ours, theirs)
        _carry(theirs, ours)
    return theirs, ours


def _carry(source: Tls, target: Tls) -> bytes:
    data = source.outgoing()
    return target.received(data) if data else b""


def test_both_are_ready_after_the_handshake(settings: Settings) -> None:
    server, client = shaken(settings)

    assert (server.ready, client.ready) == (True, True)


@given(pieces=st.lists(st.integers(1, 40_000), max_size=4), cut=st.integers(1, 9000))
def test_plaintext_comes_out_as_it_went_in_however_it_is_cut(settings: Settings, pieces: list[int], cut: int) -> None:
    server, client = shaken(settings)
    said, heard = b"", b""
    for size in pieces:
        said += (piece := os.urandom(size))
        client.seal(piece)
    data = client.outgoing()
    for begin in range(0, len(data), cut):
        heard += server.received(data[begin:begin + cut])

    assert heard == said


def test_chunk_is_used_up_as_far_as_records_are_whole(settings: Settings) -> None:
    server, client = shaken(settings)
    client.seal(b"x" * (3 * RECORD_BYTES))
    data = client.outgoing()

    assert len(server.received(data[:-1])) == 2 * RECORD_BYTES
    assert len(server.received(data[-1:])) == RECORD_BYTES


def test_end_is_seen_behind_what_came_before(settings: Settings) -> None:
    server, client = shaken(settings)
    client.seal(b"last")
    client.end()

    assert server.received(client.outgoing()) == b"last"
    assert server.ended or (server.received(b""), server.ended) == (b"", True)


def test_stream_that_is_cut_ends_too(settings: Settings) -> None:
    server, _ = shaken(settings)

    assert (server.received(b""), server.ended) == (b"", True)


@pytest.mark.parametrize("data", [b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n", b""])
def test_greeting_that_is_none_is_an_error(settings: Settings, data: bytes) -> None:
    with pytest.raises(TlsError):
        Tls(server_context(settings), server=True).received(data)


def test_record_that_was_tampered_with_is_an_error(settings: Settings) -> None:
    server, client = shaken(settings)
    client.seal(b"LPUSH gift a")
    data = bytearray(client.outgoing())
    data[-1] ^= 1

    with pytest.raises(TlsError):
        server.received(bytes(data))


def test_nothing_older_than_tls_1_2_is_spoken(settings: Settings) -> None:
    old = client_context(settings)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_2
    _, client = shaken(settings, old)
    assert client.ready

    context = server_context(settings)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_our_own_clients_trust_the_certificate_of_the_door_and_no_other(ours: Authority, settings: Settings) -> None:
    other = Settings(**ours.issue("other").setting)

    assert shaken(settings, client_context(settings))[1].ready
    with pytest.raises(TlsError, match="certificate verify failed"):
        shaken(settings, client_context(other))


def test_client_without_a_certificate_of_the_authority_is_refused(ours: Authority, settings: Settings) -> None:
    asks = Settings(cert=settings.cert, key=settings.key, client_ca=str(ours.cert))
    known, stranger = client_context(settings), client_context(settings)
    pair = ours.issue("client")
    known.load_cert_chain(pair.cert, pair.key)

    assert shaken(asks, known)[0].ready
    with pytest.raises(TlsError):
        shaken(asks, stranger)
