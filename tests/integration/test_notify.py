"""Notifiers: what a webhook, a mail server and a program are given, and what is said when they refuse."""

from __future__ import annotations

import email
import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pbus.clock import SystemClock
from pbus.config.schema import Notify
from pbus.core.notices import trial
from pbus.scheduler.notify import Post
from tests.support.bus import free_port
from tests.support.certificates import authority
from tests.support.receiver import Receiver

MESSAGE = trial("m1", "team", 1_800_000_000.0, "ann")
TEXT = "TEST of notifier team: sent by ann at 2027-01-15 08:00:00 UTC. Nothing is wrong."


def attempt(notify: Notify) -> str:
    return Post({"team": notify}, SystemClock()).attempt(MESSAGE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


class MailServer(socketserver.ThreadingTCPServer):
    """Takes every letter but those to ``nobody@``; keeps them."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.context: ssl.SSLContext | None = None
        self.logins: list[str] = []
        super().__init__(("127.0.0.1", 0), Letter)


class Letter(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, MailServer)
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            word = line.partition(" ")[0].upper()
            if word == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(text.decode())
                server.letters.append("".join(lines))
                self.say("250 taken")
            elif word == "STARTTLS" and server.context is not None:
                self.say("220 go on")
                super().finish()
                try:
                    self.request = server.context.wrap_socket(self.request, server_side=True)
                except ssl.SSLError:             # who does not trust us says so, and goes
                    return
                self.setup()
            elif word == "EHLO":
                self.wfile.write(b"250-here\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n")
            elif word == "AUTH":
                server.logins.append(line.partition(" ")[2])
                self.say("235 yes")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("550 who?" if "nobody@" in line and word == "RCPT" else "250 yes")

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def mail(server: MailServer, *to: str) -> Notify:
    return Notify(mail=list(to), smtp=f"127.0.0.1:{server.server_address[1]}", sender="bus@here", timeout_s=5.0)


def test_webhook_gets_json_with_the_id_of_the_message(receiver: Receiver) -> None:
    assert attempt(Notify(webhook=receiver.url)) == ""

    (got,) = receiver.got
    assert (got.id, got.body["text"], got.body["status"]) == ("m1", TEXT, "test")


@pytest.mark.parametrize(("shape", "answer", "error"), [
    ("json", (500, b"x"), "answered 500 Internal Server Error"),
    ("dingtalk", (200, b'{"errcode":310000,"errmsg":"keywords not in content"}'),
     "answered errcode 310000: keywords not in content"),
    ("wecom", (200, b'{"errcode":0}'), ""), ("feishu", (200, b'{"code":0}'), ""), ("slack", (200, b"ok"), ""),
])
def test_answer_decides_whether_it_was_taken(
    receiver: Receiver, shape: str, answer: tuple[int, bytes], error: str
) -> None:
    receiver.answers = [answer]

    assert attempt(Notify(webhook=receiver.url, shape=shape)) == error


def test_webhook_that_is_away_or_silent_is_said_without_its_address() -> None:
    port = free_port()
    assert "refused" in attempt(Notify(webhook=f"http://127.0.0.1:{port}/secret"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}/secret"
        error = attempt(Notify(webhook=where, timeout_s=0.2))

    assert "timed out" in error
    assert "secret" not in error


def test_mail_has_subject_and_text(mails: MailServer) -> None:
    assert attempt(mail(mails, "a@b", "c@d")) == ""

    letter = email.message_from_string(mails.letters[0])
    assert (letter["Subject"], letter["To"]) == ("TEST of notifier team", "a@b, c@d")
    assert letter["Message-ID"] == "<m1.team@pbus>"
    assert letter.get_payload(decode=True).decode().strip() == TEXT


def test_mail_that_nobody_takes_is_said(mails: MailServer) -> None:
    assert "550" in attempt(mail(mails, "nobody@b"))
    assert "nobody@b" in attempt(mail(mails, "nobody@b", "a@b"))
    assert "refused" in attempt(Notify(mail=["a@b"], smtp=f"127.0.0.1:{free_port()}", timeout_s=2.0))


def test_program_gets_json_on_its_standard_input(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert attempt(Notify(command=["sh", "-c", f"cat > {kept}"])) == ""

    assert json.loads(kept.read_text())["text"] == TEXT


@pytest.mark.parametrize(("command", "error"), [
    (["sh", "-c", "echo first; echo why >&2; exit 3"], "sh ended with 3: why"),
    (["/no/such"], "/no/such: No such file or directory"), (["sleep", "20"], "not done after 0.3 s"),
])
def test_program_that_fails_is_said(command: list[str], error: str) -> None:
    assert attempt(Notify(command=command, timeout_s=0.3)) == error


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """File of an authority, and what a server has that it vouches for."""
    made = authority(tmp_path_factory.mktemp("tls"))
    pair = made.issue("receiver")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    return str(made.cert), context


class TestTls:
    """Whom it trusts, and what it says where it does not."""

    def test_webhook_is_sent_to_whom_the_authority_vouches_for(self, trusted: tuple[str, ssl.SSLContext]) -> None:
        with Receiver(context=trusted[1]) as receiver:
            assert attempt(Notify(webhook=receiver.url, ca=trusted[0])) == ""
            assert [one.id for one in receiver.got] == ["m1"]
            assert "certificate verify failed" in attempt(Notify(webhook=receiver.url))
            assert "/no/such: " in attempt(Notify(webhook=receiver.url, ca="/no/such"))
            assert len(receiver.got) == 1

    def test_mail_is_encrypted_before_the_password_is_told(
        self, mails: MailServer, trusted: tuple[str, ssl.SSLContext]
    ) -> None:
        mails.context = trusted[1]
        notify = replace(mail(mails, "a@b"), smtp_tls="starttls", user="bus", password="secret")
        assert "certificate verify failed" in attempt(notify)
        assert (mails.logins, mails.letters) == ([], [])

        assert attempt(replace(notify, ca=trusted[0])) == ""
        assert len(mails.logins) == len(mails.letters) == 1

    def test_mail_over_tls_from_the_first_byte(self, mails: MailServer, trusted: tuple[str, ssl.SSLContext]) -> None:
        mails.socket = trusted[1].wrap_socket(mails.socket, server_side=True)
        assert attempt(replace(mail(mails, "a@b"), smtp_tls="tls", ca=trusted[0])) == ""

        assert len(mails.letters) == 1


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, socket, sys, time
from pbus.clock import SystemClock
from pbus.config.schema import Notify
from pbus.core.notices import trial
from pbus.scheduler.notify import Post

silent = socket.create_server(("127.0.0.1", 0))
where = "127.0.0.1:%d" % silent.getsockname()[1]
post = Post({
    "mail": Notify(mail=["a@b"], smtp=where, timeout_s=0.5), "hook": Notify(webhook=f"http://{where}/", timeout_s=0.5),
    "program": Notify(command=["sleep", "20"], timeout_s=0.5),
}, SystemClock())
longest, last = 0.0, time.monotonic()
ended = []
for name in post.notifiers:
    post.send(trial("m", name, 0.0, "ann"), ended)
while len(ended) < 3:
    gevent.sleep(0.005)
    longest, last = max(longest, time.monotonic() - last), time.monotonic()
print(longest, [error for _, error in ended])
"""


@pytest.mark.alone
def test_receivers_that_are_silent_hold_up_nobody_else_in_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", PATCHED], capture_output=True, text=True, timeout=30, check=True)
    longest, _, errors = ended.stdout.partition(" ")

    assert errors.count("timed out") == 2
    assert "not done after 0.5 s" in errors
    assert float(longest) < 0.3
