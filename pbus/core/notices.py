"""
What people are told about alarms: a message for one notifier, its words, and the shapes that chat services take. Pure.

    message   {v, id, notifier, status, title, text, count, alarms [..], made_s, tries, next_s, sent_s, error}

Rule: a message is a document, so it is bounded: it has the first LISTED alarms in full, and says how many more there
are. What a receiver is sent says everything that a person needs, without asking the bus.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pbus.core.alarms import FIRING, KINDS, OVER, TEST, Alarm, span

LISTED: Final = 50
"""Alarms of a message that are described for programs."""
_LISTED_BYTES: Final = 36_000
_TEXT_BYTES: Final = 24_000
_WORDED: Final = 15
"""Those that are described for people."""
_TEXT: Final = 300
_CHAT_BYTES: Final = 3_900
"""Of the text for a chat: the smallest bound of the services (WeCom, 4,096)."""
FIRST_S: Final = 2.0
_LONGEST_S: Final = 300.0
GIVE_UP_S: Final = 6 * 3_600.0
"""A message that could not be told for so long is not told any more."""

_STATUS: Final = {FIRING: "ALARM", OVER: "OVER", "escalated": "NOBODY ACKNOWLEDGED", TEST: "TEST"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    What one notifier is to send.

    Attributes:
        id: Of what is told; the same for all notifiers.
        count: Alarms that it is about; *alarms* has the first of them.
        tries: Begun so far; the next not before *next_s*.
        sent_s: When it was taken; 0: not yet. gave_up: it never will be.
        error: Why the last try failed.
    """

    id: str
    notifier: str
    status: str
    title: str
    text: str
    count: int
    alarms: tuple[Mapping[str, Any], ...]
    made_s: float
    tries: int = 0
    next_s: float = 0.0
    sent_s: float = 0.0
    gave_up: bool = False
    error: str = ""

    @property
    def name(self) -> str:
        """Of its document."""
        return f"{self.id}.{self.notifier}"

    @property
    def is_open(self) -> bool:
        """It is still to be sent."""
        return not self.sent_s and not self.gave_up

    def to_text(self) -> str:
        """For a document."""
        return json.dumps({"v": 1, **dataclasses.asdict(self)}, ensure_ascii=False)


def read(text: str) -> Message | None:
    """The message of ``to_text``; None: nobody can read it."""
    try:
        fields = json.loads(text)
        known = {one.name: fields[one.name] for one in dataclasses.fields(Message) if one.name in fields}
        return Message(**known | {"alarms": tuple(known["alarms"])})
    except (ValueError, TypeError, KeyError):
        return None


def composed(id: str, notifier: str, status: str, alarms: Sequence[Alarm], now_s: float, node: str = "") -> Message:
    """The message about *alarms* (at least one)."""
    listed: list[dict[str, Any]] = []
    room = _LISTED_BYTES
    for alarm in alarms[:LISTED]:
        each = described(alarm)
        room -= len(json.dumps(each, ensure_ascii=False).encode())
        if room < 0:
            break
        listed.append(each)
    return Message(
        id=id, notifier=notifier, status=status, title=_title(status, alarms), count=len(alarms), made_s=now_s,
        text=_cut(_text(status, alarms, now_s, node), _TEXT_BYTES), alarms=tuple(listed),
    )


def trial(id: str, notifier: str, now_s: float, by: str) -> Message:
    """What ``pbus alarm test`` sends."""
    title = f"{_STATUS[TEST]} of notifier {notifier}"
    return Message(
        id=id, notifier=notifier, status=TEST, title=title, count=0, alarms=(), made_s=now_s,
        text=f"{title}: sent by {by or 'somebody'} at {moment(now_s)}. Nothing is wrong.",
    )


def tried(message: Message, now_s: float, lease_s: float) -> Message:
    """A try begins; should whoever makes it die, the next one begins after *lease_s*."""
    return dataclasses.replace(message, tries=message.tries + 1, next_s=now_s + lease_s)


def ended(message: Message, now_s: float, error: str, first_s: float = FIRST_S) -> Message:
    """The try has ended; *error* empty: it was taken. *first_s*: the first wait, each later one is twice as long."""
    if not error:
        return dataclasses.replace(message, sent_s=now_s, error="")
    wait_s = min(_LONGEST_S, first_s * 2.0 ** min(message.tries - 1, 16))
    gave_up = now_s + wait_s - message.made_s > GIVE_UP_S
    return dataclasses.replace(message, next_s=now_s + wait_s, error=error[:_TEXT], gave_up=gave_up)


# -- words ----------------------------------------------------------------------------------------


def described(alarm: Alarm) -> dict[str, Any]:
    """An alarm for programs; infinity is None."""
    return {
        **alarm.fields(), "id": alarm.id, "unit": KINDS[alarm.kind].unit, "text": alarm.text[:_TEXT],
        "next": alarm.next[:_TEXT],
    }


def _title(status: str, alarms: Sequence[Alarm]) -> str:
    if len(alarms) == 1:
        return f"{_STATUS[status]} {alarms[0].text}"
    kinds = Counter(alarm.kind for alarm in alarms)
    return f"{_STATUS[status]} {len(alarms)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _text(status: str, alarms: Sequence[Alarm], now_s: float, node: str) -> str:
    """Each of the first in some lines: what - since - cause - who - next."""
    parts = [part for alarm in alarms[:_WORDED] for part in _lines(alarm, now_s)]
    if len(alarms) > 1:
        parts.insert(0, _title(status, alarms))
    more = len(alarms) - _WORDED
    if more > 0:
        parts.append(f".. and {more} more: 'pbus alarm ls'" + (f" on {node}" if node else ""))
    return "\n".join(parts)


def _lines(alarm: Alarm, now_s: float) -> list[str]:
    lasted = span(max(0.0, (alarm.over_s or now_s) - alarm.since_s))
    lines = [alarm.text, f"  since {moment(alarm.since_s)}, " + (f"over after {lasted}" if alarm.over_s else lasted)]
    if alarm.over_s:
        return lines
    if alarm.cause:
        lines.append(f"  cause: {alarm.cause}")
    if alarm.affected:
        lines.append(f"  affects: {alarm.affected}")
    return [*lines, f"  next: {alarm.next}", f"  'pbus alarm ack {alarm.id}' says that you have it in hand"]


def moment(wall_s: float) -> str:
    """Unix time as it is in UTC: ``2027-01-15 08:00:00 UTC``."""
    return datetime.datetime.fromtimestamp(wall_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# -- shapes ---------------------------------------------------------------------------------------


def body(shape: str, message: Message, now_s: float, secret: str = "") -> dict[str, Any]:
    """What the webhook of that *shape* is sent, as JSON."""
    return SHAPES[shape].body(message, now_s, secret)


def url(shape: str, address: str, now_s: float, secret: str = "") -> str:
    """Where to: DingTalk wants its signature there."""
    if shape != "dingtalk" or not secret:
        return address
    at_ms = str(int(now_s * 1000))
    signature = _signature(secret.encode(), f"{at_ms}\n{secret}".encode())
    return f"{address}{'&' if '?' in address else '?'}timestamp={at_ms}&sign={quote(signature, safe='')}"


def refusal(shape: str, answer: bytes) -> str:
    """Why a receiver that answered 200 has not taken it: these services say so in the body; empty: it has."""
    field = SHAPES[shape].refused
    if not field:
        return ""
    try:
        told = json.loads(answer)
        code = told.get(field, 0)
    except (ValueError, AttributeError):
        return f"answered {answer[:80].decode('utf-8', 'replace')!r}"
    return f"answered {field} {code}: {told.get('errmsg') or told.get('msg') or ''}" if code else ""


@dataclass(frozen=True, slots=True)
class Shape:
    """*refused*: the field of the answer that is not 0 when the message was not taken; empty: the status tells."""

    body: Callable[[Message, float, str], dict[str, Any]]
    refused: str = ""


def _json(message: Message, now_s: float, secret: str) -> dict[str, Any]:  # noqa: ARG001 - shapes have one signature
    return {
        "v": 1, "id": message.id, "status": message.status, "title": message.title, "text": message.text,
        "count": message.count, "alarms": list(message.alarms), "made_s": message.made_s,
    }


def _dingtalk(message: Message, now_s: float, secret: str) -> dict[str, Any]:  # noqa: ARG001 - as above
    return {"msgtype": "markdown", "markdown": {"title": _cut(message.title, 200), "text": _quoted(message)}}


def _wecom(message: Message, now_s: float, secret: str) -> dict[str, Any]:  # noqa: ARG001 - as above
    return {"msgtype": "markdown", "markdown": {"content": _quoted(message)}}


def _feishu(message: Message, now_s: float, secret: str) -> dict[str, Any]:
    told: dict[str, Any] = {"msg_type": "text", "content": {"text": _chat(message)}}
    if secret:
        at_s = str(int(now_s))
        told |= {"timestamp": at_s, "sign": _signature(f"{at_s}\n{secret}".encode(), b"")}
    return told


def _slack(message: Message, now_s: float, secret: str) -> dict[str, Any]:  # noqa: ARG001 - as above
    text = _chat(message)
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def _chat(message: Message) -> str:
    """Title and text, once each."""
    word = _STATUS[message.status]
    return _cut(message.text if message.text.startswith(word) else f"{word} {message.text}", _CHAT_BYTES)


def _quoted(message: Message) -> str:
    """As Markdown: lines stay lines, and nothing in them is obeyed."""
    text = _chat(message)
    for sign in "\\`*_#[]<>":
        text = text.replace(sign, f"\\{sign}")
    return _cut(text.replace("\n", "\n\n"), _CHAT_BYTES)


def _cut(text: str, most: int) -> str:
    """*text* in at most *most* bytes of UTF-8."""
    stored = text.encode()
    return text if len(stored) <= most else stored[: most - 2].decode("utf-8", "ignore") + ".."


def _signature(key: bytes, text: bytes) -> str:
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


SHAPES: Final[Mapping[str, Shape]] = {
    "json": Shape(_json), "dingtalk": Shape(_dingtalk, "errcode"), "wecom": Shape(_wecom, "errcode"),
    "feishu": Shape(_feishu, "code"), "slack": Shape(_slack),
}
