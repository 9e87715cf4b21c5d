"""
What is kept about alarms, as the texts of documents: written by whoever decides and by people, read by both. Pure.

    kind "alarm"     {v, alarms [..]}                   SHARDS of them, an alarm is in the one of its id
    kind "ack"       {v, id, fired_s, by, note, at_s}   named like the alarm
    kind "silence"   {v, glob, kind, until_s, by, note}
    kind "message"   notices.Message

Rule: a text that cannot be read is none.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pbus.core import alarms as rule
from pbus.core.alarms import Ack, Alarm, Silence

ALARM: Final = "alarm"
ACK: Final = "ack"
SILENCE: Final = "silence"
MESSAGE: Final = "message"
SHARDS: Final = 64


def shard_of(name: str) -> str:
    """The document that holds the alarm of that id."""
    return str(zlib.crc32(name.encode()) % SHARDS)


def packed(alarms: Iterable[Alarm], most: int) -> str:
    """
    *alarms* as one text of at most *most* bytes.

    Where there are too many, they lose what is only said about them; then the newest are left out.
    """
    rows = [alarm.fields() for alarm in sorted(alarms, key=lambda alarm: alarm.fired_s)]
    text = _written(alarms=rows)
    if len(text) > most:
        rows = [{name: each for name, each in row.items() if name not in ("cause", "affected", "todo")} for row in rows]
        text = _written(alarms=rows)
    while len(text) > most:
        rows = rows[: len(rows) * 3 // 4]
        text = _written(alarms=rows)
    return text


def alarms_of(texts: Iterable[str]) -> list[Alarm]:
    """All alarms of these documents."""
    lists = [_read(text).get("alarms") for text in texts]
    rows = [row for each in lists if isinstance(each, list) for row in each if isinstance(row, dict)]
    return [alarm for alarm in map(rule.read, rows) if alarm is not None]


def ack_text(ack: Ack) -> str:
    """For its document."""
    return _written(**dataclasses.asdict(ack))


def ack_of(text: str) -> Ack | None:
    """The acknowledgement of that document."""
    said = _read(text)
    if not isinstance(said.get("id"), str) or not isinstance(said.get("fired_s"), int | float):
        return None
    return Ack(said["id"], said["fired_s"], str(said.get("by", "")), str(said.get("note", "")), said.get("at_s", 0.0))


def silence_text(silence: Silence) -> str:
    """For its document."""
    return _written(**dataclasses.asdict(silence))


def silence_of(text: str) -> Silence | None:
    """The silence of that document."""
    said = _read(text)
    if not isinstance(said.get("glob"), str) or not isinstance(said.get("until_s"), int | float):
        return None
    kind, by, note = (str(said.get(name, "")) for name in ("kind", "by", "note"))
    return Silence(said["glob"], said["until_s"], kind, by, note)


def _written(**fields: Any) -> str:
    return json.dumps({"v": 1, **fields})


def _read(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
