"""
Sends messages about alarms: a webhook, a mail, a command. Each try in a greenlet of its own.

Rule: nothing here holds up a turn, and whatever goes wrong is one text. Who sends a message again and when is not
decided here. URLs and passwords are secrets, so no error shows them.
"""

from __future__ import annotations

import email.message
import email.utils
import http.client
import json
import smtplib
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

from pbus.clock import Clock
from pbus.config.schema import Notify
from pbus.config.values import address
from pbus.core import notices
from pbus.core.notices import FIRST_S, Message

AT_ONCE: Final = 8
_ANSWER_BYTES: Final = 4_096
_ERROR: Final = 200


class Post:
    """
    One owner: the scheduler. ``take`` and ``results`` are called by the duties of its stores.

    Args:
        notifiers: By name.
        retry_first_s: What was not taken is tried again after this, then after twice as long.
    """

    def __init__(self, notifiers: Mapping[str, Notify], clock: Clock, retry_first_s: float = FIRST_S) -> None:
        self.notifiers = notifiers
        self.retry_first_s = retry_first_s
        self._clock = clock
        self._busy: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Some tries have not ended."""
        return bool(self._busy)

    @property
    def has_room(self) -> bool:
        """Another try may begin."""
        return len(self._busy) < AT_ONCE

    def lease_s(self, message: Message) -> float:
        """A try of it has ended by then, one way or the other."""
        known = self.notifiers.get(message.notifier)
        return 3 * known.timeout_s + 5.0 if known else 0.0

    def send(self, message: Message, ended: list[tuple[Message, str]]) -> None:
        """Try it; the end comes into *ended*, with what went wrong."""
        if message.name in self._busy:
            return
        self._busy.add(message.name)

        def act() -> None:
            try:
                error = self.attempt(message)
            except Exception as problem:  # noqa: BLE001 - the text of a bug is as good as any: it is tried again
                error = f"{type(problem).__name__}: {problem}"
            self._busy.discard(message.name)
            ended.append((message, error[:_ERROR]))

        threading.Thread(target=act, daemon=True).start()

    def attempt(self, message: Message) -> str:
        """One try, as long as it takes; why it failed, or nothing."""
        notify = self.notifiers.get(message.notifier)
        if notify is None:
            return "there is no such notifier"
        if notify.webhook:
            return _webhook(notify, message, self._clock.wall_s())
        return _mail(notify, message) if notify.mail else _command(notify, message, self._clock.wall_s())


def _webhook(notify: Notify, message: Message, now_s: float) -> str:
    body = json.dumps(notices.body(notify.shape, message, now_s, notify.secret)).encode()
    where = notices.url(notify.shape, notify.webhook, now_s, notify.secret)
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Pbus-Message": message.id, "User-Agent": "pbus"}
    request = urllib.request.Request(where, body, headers)
    try:
        context = _trust(notify) if where.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=notify.timeout_s, context=context) as answer:
            return notices.refusal(notify.shape, answer.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return f"answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}".replace(where, "***")


def _mail(notify: Notify, message: Message) -> str:
    letter = email.message.EmailMessage()
    letter["Subject"] = " ".join(message.title.split())[:300]
    letter["From"] = notify.sender or f"pbus@{socket.gethostname()}"
    letter["To"] = ", ".join(notify.mail)
    letter["Date"] = email.utils.formatdate(message.made_s)
    letter["Message-ID"] = f"<{message.name}@pbus>"     # the same at each try, so a reader sees one
    letter.set_content(message.text + "\n")
    where = address(notify.smtp)
    try:
        context = _trust(notify) if notify.smtp_tls != "none" else None
        with _server(notify, where.host, where.port, context) as server:
            if notify.smtp_tls == "starttls":
                server.starttls(context=context)
            if notify.user:
                server.login(notify.user, notify.password)
            refused = server.send_message(letter)
    except (OSError, smtplib.SMTPException) as error:
        return f"{type(error).__name__}: {error}"
    return f"refused: {', '.join(refused)}" if refused else ""


def _trust(notify: Notify) -> ssl.SSLContext:
    """Raises OSError: the file cannot be read, or holds no certificate."""
    try:
        return ssl.create_default_context(cafile=notify.ca or None)
    except OSError as error:
        raise OSError(f"{notify.ca}: {error}") from None


def _server(notify: Notify, host: str, port: int, context: ssl.SSLContext | None) -> smtplib.SMTP:
    if notify.smtp_tls == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=notify.timeout_s, context=context)
    return smtplib.SMTP(host, port, timeout=notify.timeout_s)


def _command(notify: Notify, message: Message, now_s: float) -> str:
    told = json.dumps(notices.body("json", message, now_s), ensure_ascii=False).encode()
    try:
        done = subprocess.run(
            notify.command, input=told, capture_output=True, timeout=notify.timeout_s, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return f"not done after {notify.timeout_s:g} s"
    except OSError as error:
        return f"{notify.command[0]}: {error.strerror or error}"
    if not done.returncode:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"{notify.command[0]} ended with {done.returncode}" + (f": {said}" if said else "")
