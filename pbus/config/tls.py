"""
Certificates: from files to what a connection is made with, and what is wrong with such files.

    server_context    the door: TLS 1.2 or later, with ``client_ca`` only for who shows a certificate of it
    client_context    our own processes on their way to that door: they trust its certificate and no other

Rule: files only, nothing connects here. A private key with a passphrase is refused: nobody is there to type it.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pbus.config.schema import Tls

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_PRIVATE: Final = "PRIVATE KEY-----"
_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "is not the key of the certificate in cert",
    "KEY_TYPE_MISMATCH": "is not the key of the certificate in cert",
    "NO_CERTIFICATE_ASSIGNED": "is not the key of the certificate in cert",
    "EE_KEY_TOO_SMALL": "is too weak a key",
    "CA_MD_TOO_WEAK": "is signed in too weak a way",
}


class Unfit(Exception):
    """
    A file cannot be used.

    Attributes:
        key: Which of ``cert``, ``key``, ``client_ca`` it is.
        text: Why not.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key, self.text = key, text
        super().__init__(f"{key} {text}")


def problems(tls: Tls) -> dict[str, str]:
    """What is wrong with the files of *tls*, by key; empty when clients can be served with them."""
    found: dict[str, str] = {}
    for key in ("cert", "key", "client_ca"):
        path = getattr(tls, key)
        try:
            if path:
                _read(key, path)
        except Unfit as unfit:
            found[key] = unfit.text
    if not found:
        try:
            server_context(tls)
        except Unfit as unfit:
            found[unfit.key] = unfit.text
    return found


def server_context(tls: Tls) -> ssl.SSLContext:
    """
    What the door shakes hands with.

    Raises:
        Unfit: a file cannot be read, or cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(context, tls)
    if tls.client_ca:
        _read("client_ca", tls.client_ca)
        try:
            context.load_verify_locations(cafile=tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise Unfit("client_ca", f"{tls.client_ca} cannot be used: {_said(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    _read("cert", tls.cert)
    _read("key", tls.key)
    try:
        context.load_cert_chain(tls.cert, tls.key, password=b"")
    except ssl.SSLError as error:
        text = _REASONS.get(error.reason or "")
        where, path = ("cert", tls.cert) if text is None or "too weak" in text else ("key", tls.key)
        raise Unfit(where, f"{path} {text or 'and its key cannot be used: ' + _said(error)}") from error


def client_context(tls: Tls) -> ssl.SSLContext:
    """
    What our own processes reach the door with: whoever shows its certificate (by whatever name it is reached).

    Raises:
        Unfit: the certificate cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=own_certificate(tls))
    except ssl.SSLError as error:
        raise Unfit("cert", f"{tls.cert} cannot be used: {_said(error)}") from error
    return context


def client_options(tls: Tls) -> dict[str, Any]:
    """
    The same, as redis-py wants to be told.

    Raises:
        Unfit: the certificate cannot be read.
    """
    strict = getattr(ssl, "VERIFY_X509_STRICT", 0)
    return {
        "ssl": True, "ssl_check_hostname": False, "ssl_ca_data": own_certificate(tls),
        "ssl_include_verify_flags": [ssl.VERIFY_X509_PARTIAL_CHAIN], "ssl_exclude_verify_flags": [strict],
    }


def own_certificate(tls: Tls) -> str:
    """
    The first certificate of ``cert``, PEM: those after it vouch for others, too.

    Raises:
        Unfit: there is none.
    """
    _, begin, rest = _read("cert", tls.cert).partition(_BEGIN)
    return f"{begin}{rest.partition(_END)[0]}{_END}\n"


def _read(key: str, path: str) -> str:
    """The text of a file that holds what *key* is to name."""
    try:
        with open(path, encoding="latin-1") as file:
            text = file.read()
    except OSError as error:
        raise Unfit(key, f"{path} cannot be read: {error.strerror}") from error
    if key != "key":
        if _BEGIN not in text:
            raise Unfit(key, f"{path} holds no certificate in PEM form ({_BEGIN} ..)")
    elif _PRIVATE not in text:
        raise Unfit(key, f"{path} holds no private key in PEM form (-----BEGIN {_PRIVATE} ..)")
    elif "ENCRYPTED" in text:
        raise Unfit(key, f"{path} asks for a passphrase; nobody is there to type it")
    return text


def signature(tls: Tls) -> tuple[object, ...]:
    """Changes when one of the files does; a file that is not there is a state, too."""
    seen: list[object] = []
    for path in (tls.cert, tls.key, tls.client_ca):
        try:
            facts = os.stat(path) if path else None
        except OSError as error:
            seen.append(error.errno)
        else:
            seen.append((facts.st_mtime_ns, facts.st_ino, facts.st_size) if facts else None)
    return tuple(seen)


def _said(error: Exception) -> str:
    """The words of OpenSSL without its file and line."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(getattr(error, "strerror", None) or error)
