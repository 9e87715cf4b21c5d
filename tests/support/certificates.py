"""Certificates of an authority of the test's own, made by openssl: keys on an elliptic curve, good for two days."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import requires

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_EXTENSIONS = """\
subjectAltName=DNS:localhost,IP:127.0.0.1
basicConstraints=CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


@dataclass(frozen=True)
class Pair:
    """Two PEM files: a certificate, and its private key."""

    cert: Path
    key: Path

    @property
    def setting(self) -> dict[str, str]:
        """As ``[ingest] tls`` names it."""
        return {"cert": str(self.cert), "key": str(self.key)}


@dataclass(frozen=True)
class Authority:
    """Who vouches for certificates. *folder* gets all files."""

    folder: Path
    name: str

    @property
    def cert(self) -> Path:
        """Its own certificate."""
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        """Its own key."""
        return self.folder / f"{self.name}.key"

    def issue(self, name: str, days: int = 2) -> Pair:
        """
        A certificate for this machine (``localhost``, ``127.0.0.1``); a further one of that *name* replaces it.

        It counts for so many *days*; 0: it ends in the second that it begins.
        """
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(_EXTENSIONS)
        _openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", str(days),
            "-extfile", extensions, "-out", pair.cert,
        )
        return pair


def authority(folder: Path, name: str = "authority") -> Authority:
    """A new authority with its files in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Authority(folder, name)
    _openssl(
        "req", "-x509", *_KEY, "-keyout", made.key, "-out", made.cert, "-subj", f"/CN={name}", "-days", "2",
        "-addext", "basicConstraints=critical,CA:TRUE",
    )
    return made


def _openssl(*words: str | Path) -> None:
    command = [requires("openssl"), *map(str, words)]
    subprocess.run(command, capture_output=True, timeout=20, check=True)
