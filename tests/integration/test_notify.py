"""Notifiers: what a webhook, a mail server and a program are given, and what is said when they refuse."""

from __future__ import annotations

import email
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbus.clock import SystemClock
from pbus.config.schema import Notify
from pbus.core.notices import trial
from pbus.scheduler.notify import Post
from tests.support.bus import free_port
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
        super().__init__(("127.0.0.1", 0), Letter)


class Letter(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            word = line.partition(" ")[0].upper()
            if word == "DATA":
                self.say("354 go on")
                lines = []
                while (text := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(text.decode())
                self.server.letters.append("".join(lines))  # type: ignore[attr-defined]
                self.say("250 taken")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("550 who?" if "nobody@" in line and word == "RCPT" else "250 yes")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
