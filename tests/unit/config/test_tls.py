"""Certificates in the configuration: what is wrong with them is said before a start, by key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pbus.config.schema import Tls
from pbus.config.tls import Unfit, own_certificate, problems, server_context, signature
from pbus.config.values import Address
from tests.support.certificates import Authority, authority
from tests.support.programs import requires
from tests.unit.config import files

PYTHON = '[queue.gift.topic.credit]\npython = { call = "gift.jobs:credit" }\n'
PEPPER = '[queue.gift.topic.credit]\ncommand = { argv = ["sh"], protocol = "pepper" }\n'


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates"))


def test_pair_that_fits_is_no_problem(ours: Authority) -> None:
    pair = ours.issue("door")

    assert problems(Tls(**pair.setting)) == {}
    assert problems(Tls(**pair.setting, client_ca=str(ours.cert))) == {}


def test_key_of_another_certificate_is_named(ours: Authority, tmp_path: Path) -> None:
    door, other = ours.issue("door"), ours.issue("other")
    rsa = tmp_path / "rsa.key"
    subprocess.run([requires("openssl"), "genrsa", "-out", str(rsa), "2048"], capture_output=True, check=True)

    for key in (other.key, rsa):
        found = problems(Tls(cert=str(door.cert), key=str(key)))
        assert found == {"key": f"{key} is not the key of the certificate in cert"}


def test_key_with_a_passphrase_is_refused_and_nobody_is_asked(ours: Authority, tmp_path: Path) -> None:
    door, locked = ours.issue("door"), tmp_path / "locked.key"
    words = ["ec", "-in", str(door.key), "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run([requires("openssl"), *words], capture_output=True, check=True)

    assert problems(Tls(cert=str(door.cert), key=str(locked))) == {
        "key": f"{locked} asks for a passphrase; nobody is there to type it"
    }


def test_files_that_hold_something_else_are_named(ours: Authority, tmp_path: Path) -> None:
    door, text = ours.issue("door"), tmp_path / "text"
    text.write_text("no certificate\n")

    assert "cert" in problems(Tls(cert=str(door.key), key=str(door.key)))
    assert "holds no private key" in problems(Tls(cert=str(door.cert), key=str(door.cert)))["key"]
    assert "holds no certificate" in problems(Tls(**door.setting, client_ca=str(text)))["client_ca"]
    damaged = tmp_path / "damaged"
    damaged.write_text(door.cert.read_text()[:200])
    assert "cert" in problems(Tls(cert=str(damaged), key=str(door.key)))


def test_files_that_cannot_be_read_are_all_named() -> None:
    found = problems(Tls(cert="/no/cert", key="/no/key", client_ca="/no/ca"))

    assert found == {
        key: f"{path} cannot be read: No such file or directory"
        for key, path in (("cert", "/no/cert"), ("key", "/no/key"), ("client_ca", "/no/ca"))
    }
    with pytest.raises(Unfit):
        server_context(Tls(cert="/no/cert", key="/no/key"))


def test_own_certificate_is_the_first_of_a_chain(ours: Authority, tmp_path: Path) -> None:
    door, chain = ours.issue("door"), tmp_path / "chain.pem"
    chain.write_text(door.cert.read_text() + ours.cert.read_text())

    assert own_certificate(Tls(cert=str(chain))).strip() == door.cert.read_text().strip()


def test_signature_changes_with_each_file(ours: Authority, tmp_path: Path) -> None:
    door = ours.issue("door")
    tls = Tls(**door.setting, client_ca=str(tmp_path / "ca.pem"))
    seen = {signature(tls)}
    (tmp_path / "ca.pem").write_text("x")
    seen.add(signature(tls))
    ours.issue("door")
    seen.add(signature(tls))

    assert len(seen) == 3
    assert signature(tls) in seen


# -- in a configuration ---------------------------------------------------------------------------


def configured(ours: Authority, listen: str, client_ca: bool = False) -> str:
    door = ours.issue("door")
    authority = f', client_ca = "{ours.cert}"' if client_ca else ""
    return f'[ingest]\nlisten = [{listen}]\ntls = {{ cert = "{door.cert}", key = "{door.key}"{authority} }}\n'


def test_doors_speak_tls_except_plain_ones_and_unix_sockets(ours: Authority, tmp_path: Path) -> None:
    listen = '"0.0.0.0:12018", "plain:127.0.0.1:12019", "unix:a.sock"'
    ingest = files.load(tmp_path, configured(ours, listen)).settings.ingest

    assert [(str(door.address), door.plain) for door in ingest.doors] == [
        ("0.0.0.0:12018", False), ("127.0.0.1:12019", True), (f"unix:{tmp_path}/a.sock", True),
    ]
    assert ingest.inner_door.address == Address(host="127.0.0.1", port=12019)


def test_no_door_speaks_tls_without_a_certificate(tmp_path: Path) -> None:
    ingest = files.load(tmp_path, '[ingest]\nlisten = ["0.0.0.0:12018", "plain:[::1]:12019"]\n').settings.ingest

    assert [door.plain for door in ingest.doors] == [True, True]
    assert str(ingest.doors[1]) == "plain:[::1]:12019"


def test_client_certificates_leave_our_own_processes_a_way(ours: Authority, tmp_path: Path) -> None:
    (problem,) = files.problems(tmp_path, {"a.toml": configured(ours, '"127.0.0.1:12018"', True) + PYTHON})
    assert (problem.key, "Python handlers have none to push with" in problem.what) == ("ingest.tls.client_ca", True)
    for way in ('"unix:a.sock"', '"plain:127.0.0.1:12019"'):
        files.load(tmp_path, configured(ours, f'"127.0.0.1:12018", {way}', True) + PYTHON)
    files.load(tmp_path, configured(ours, '"127.0.0.1:12018"', False) + PYTHON)


def test_pepper_programs_need_a_port_without_tls(ours: Authority, tmp_path: Path) -> None:
    (problem,) = files.problems(tmp_path, {"a.toml": configured(ours, '"127.0.0.1:12018", "unix:a.sock"') + PEPPER})
    assert 'add "plain:127.0.0.1:PORT"' in problem.what
    files.load(tmp_path, configured(ours, '"127.0.0.1:12018", "plain:127.0.0.1:12019"') + PEPPER)
