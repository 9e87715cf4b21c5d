"""
The configuration of a Pepperbus, as TOML for pbus: pure, no file, no store.

    {"QUEUE": {"queue_name", "password", "topic": {"TOPIC": {
        "name", "password", "run_type": 0 php-fpm | 1 HTTP | 2 command, "is_retry", "retry_time" (s), "retry_times",
        "max_queue_length", "num_of_workers", "script_entry", "cgi_config_key", "http_config",
        "script", "entry", "max_children", "max_task", "storage": {"type", "address", "auth"}}}}}

alone, or as ``queue_config`` beside ``cgi_config``, ``http_config`` and ``tags_mapping`` in one JSON object (objects,
or JSON in a text), or in a ``queue.conf`` of gokeeper (lines ``NAME string = JSON``). Durations are nanoseconds.

Rule: it never raises how often a handler may run. What has no counterpart is a note, what makes no sense a problem
that names its place; with one problem nothing is converted.
Source: huajiao-tv/pepperbus, setting.go and mux.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pbus.config.values import written_duration
from pbus.core.names import is_name
from pbus.errors import ConfigError, Problem

PHP_FPM: Final = "127.0.0.1:9000"
"""Where php-fpm listens unless it is told otherwise."""
RUN_TYPES: Final = ("fastcgi", "http", "command")
RETRY_STEP_S: Final = 30
"""Pepperbus waits so much longer before each further attempt, and takes that off the time a job has left."""
MOST_ATTEMPTS: Final = 1_000_000
_GOKEEPER: Final = re.compile(r"\s*(\w+)\s+(?:\[\])?\w+\s*=\s*(.*?)\s*\Z")
_PARTS: Final = ("queue_config", "cgi_config", "http_config", "tags_mapping")
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class OldTopic:
    """
    A topic of the old bus, as its stored jobs need it.

    Attributes:
        address, auth: Of the Redis that has its lists; empty: none was named.
        attempts: How often a job may run in all.
    """

    queue: str
    topic: str
    address: str
    auth: str
    attempts: int


@dataclass(slots=True)
class Converted:
    """
    What the old configuration means here.

    Attributes:
        tree: ``backend`` and ``queue`` tables, as TOML has them.
        notes: What a person should know, one line each.
        topics: Where stored jobs may be.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    topics: list[OldTopic] = field(default_factory=list)


def attempts_of(is_retry: bool, retry_time_s: int) -> int:
    """
    How often the old bus runs a job that always fails: once, and again at once, after 30 s, 60 s, 90 s ..; each wait
    is taken off *retry_time_s*, and while anything of it is left there is one more attempt.
    """
    runs, left_s = 1, retry_time_s if is_retry else 0
    while left_s > 0 and runs < MOST_ATTEMPTS:
        left_s -= (runs - 1) * RETRY_STEP_S
        runs += 1
    return runs


def convert(text: str, file: str) -> Converted:
    """
    Args:
        text: The old configuration.
        file: Its name, for problems.

    Raises:
        ConfigError: with every problem found; nothing is converted then.
    """
    reading = _Reading(file)
    parts = _parts(text, reading)
    converted = Converted()
    if not reading.problems:
        backends = reading.table(parts.get("cgi_config", {}), "cgi_config")
        http = reading.table(parts.get("http_config", {}), "http_config")
        for name, queue in reading.table(parts.get("queue_config"), "queue_config").items():
            _queue(name, queue, backends, http, converted, reading)
        if not converted.topics and not reading.problems:
            reading.problem("queue_config", "has no topic")
        _tags(parts.get("tags_mapping", {}), converted)
    if reading.problems:
        raise ConfigError(reading.problems)
    return converted


class _Reading:
    """Values of the old configuration, and what is wrong with them."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.problems: list[Problem] = []

    def problem(self, key: str, what: str) -> None:
        problem = Problem(self._file, key, what)
        if problem not in self.problems:              # some values are looked at twice
            self.problems.append(problem)

    def json(self, text: str, key: str) -> Any:
        """*text* as JSON; where it is none, the problem says in which line and column, or which key is there twice."""
        try:
            return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        except _Twice as twice:
            self.problem(key, f"has the key {twice.args[0]!r} twice in one object")
        except json.JSONDecodeError as error:
            place = f"line {error.lineno} column {error.colno}"
            near = error.doc[max(0, error.pos - 20): error.pos + 20].replace("\n", " ")
            self.problem(key, f"is no JSON: {error.msg} at {place}, near {near!r}")
        except (ValueError, RecursionError) as error:
            self.problem(key, f"is no JSON: {error}")
        return {}

    def table(self, value: Any, key: str) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        self.problem(key, f"takes an object, not {_shown(value)}")
        return {}

    def text(self, table: Mapping[str, Any], key: str, name: str) -> str:
        value = table.get(name, "")
        if isinstance(value, str):
            return value
        self.problem(f"{key}.{name}", f"takes a text, not {_shown(value)}")
        return ""

    def number(self, table: Mapping[str, Any], key: str, name: str) -> int:
        value = table.get(name, 0)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
            return value
        self.problem(f"{key}.{name}", f"takes a whole number from 0 on, not {_shown(value)}")
        return 0

    def switch(self, table: Mapping[str, Any], key: str, name: str) -> bool:
        value = table.get(name, False)
        if isinstance(value, bool):
            return value
        self.problem(f"{key}.{name}", f"takes true or false, not {_shown(value)}")
        return False


class _Twice(Exception):
    """A key is there twice in one JSON object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + ".."


def _parts(text: str, reading: _Reading) -> dict[str, Any]:
    """``queue_config`` and what else there is, however the file is written."""
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        found = reading.json(text.lstrip("\ufeff"), "")
        parts = dict(found) if "queue_config" in found else {"queue_config": found}
    else:
        parts = _gokeeper(text)
        if "queue_config" not in parts:
            reading.problem("", "is neither a JSON object nor a queue.conf with a line 'queue_config string = ..'")
    return {
        name: reading.json(value, name) if isinstance(value, str) else value
        for name, value in parts.items() if name in _PARTS and value not in ("", None)
    }


def _gokeeper(text: str) -> dict[str, Any]:
    """The lines of all nodes; sections of single nodes have nothing that is converted."""
    found: dict[str, Any] = {}
    for line in text.lstrip("\ufeff").splitlines():
        if line.lstrip().startswith("["):
            break
        match = _GOKEEPER.match(line)
        if match is not None and not line.lstrip().startswith("#"):
            found[match[1]] = match[2]
    return found


def _queue(
    name: str, value: Any, backends: Mapping[str, Any], http: Mapping[str, Any], converted: Converted,
    reading: _Reading,
) -> None:
    key = f"queue_config.{name}"
    queue = reading.table(value, key)
    if not is_name(name):
        reading.problem(key, "is no name for a queue here: letters, digits, '_', '.' and '-', at most 64")
    password = reading.text(queue, key, "password")
    section: dict[str, Any] = {"pepper": True}
    if password:
        section["password"] = password
    topics = reading.table(queue.get("topic", {}), f"{key}.topic")
    for topic, settings in topics.items():
        where = f"{key}.topic.{topic}"
        if not is_name(topic):
            reading.problem(where, "is no name for a topic here: letters, digits, '_', '.' and '-', at most 64")
        old = reading.table(settings, where)
        handler = _handler(old, where, backends, http, converted, reading)
        attempts = _retry(old, where, handler, reading)
        own = reading.text(old, where, "password")
        if own and own != password:
            handler["password"] = own
        section.setdefault("topic", {})[topic] = handler
        converted.topics.append(_stored(name, topic, old, where, attempts, reading))
        _notes(f"{name}/{topic}", old, where, converted, reading)
    converted.tree.setdefault("queue", {})[name] = section


def _stored(
    queue: str, topic: str, old: Mapping[str, Any], where: str, attempts: int, reading: _Reading
) -> OldTopic:
    storage = reading.table(old.get("storage") or {}, f"{where}.storage")
    kind = reading.text(storage, f"{where}.storage", "type")
    if kind not in ("", "redis"):
        reading.problem(f"{where}.storage.type", f"{kind!r} is unknown, jobs are read from redis only")
    address = reading.text(storage, f"{where}.storage", "address")
    return OldTopic(queue, topic, address, reading.text(storage, f"{where}.storage", "auth"), attempts)


def _handler(
    old: Mapping[str, Any], where: str, backends: Mapping[str, Any], http: Mapping[str, Any], converted: Converted,
    reading: _Reading,
) -> dict[str, Any]:
    """The topic's handler, its concurrency and its timeout."""
    run_type = reading.number(old, where, "run_type")
    if run_type >= len(RUN_TYPES):
        reading.problem(f"{where}.run_type", f"{run_type} is unknown: 0 is php-fpm, 1 HTTP, 2 a command")
        return {}
    if run_type == 0:
        return _fastcgi(old, where, backends, converted, reading)
    if run_type == 1:
        return _http(old, where, http, reading)
    return _command(old, where, reading)


def _fastcgi(
    old: Mapping[str, Any], where: str, backends: Mapping[str, Any], converted: Converted, reading: _Reading
) -> dict[str, Any]:
    name = reading.text(old, where, "cgi_config_key") or "php-fpm"
    if not is_name(name):
        reading.problem(f"{where}.cgi_config_key", f"{name!r} is no name for a backend here")
    script = _required(old, where, "script_entry", reading)
    read_s = _backend(name, backends, converted, reading)
    topic: dict[str, Any] = {"fastcgi": {"backend": name, "script": script}}
    return topic | _pace(reading.number(old, where, "num_of_workers"), read_s)


def _backend(name: str, backends: Mapping[str, Any], converted: Converted, reading: _Reading) -> float:
    """Make sure of ``[backend.NAME]``; answers how long a call may take."""
    key = f"cgi_config.{name}"
    known = converted.tree.setdefault("backend", {})
    if name not in backends:
        if name not in known:
            converted.notes.append(f"cgi_config has no {name!r}: [backend.{name}] is php-fpm's default, {PHP_FPM}")
            known[name] = {"fastcgi": [PHP_FPM]}
        return 0.0
    old = reading.table(backends[name], key)
    address = _required(old, key, "address", reading)
    section: dict[str, Any] = {"fastcgi": [f"unix:{address}" if address.startswith("/") else address]}
    if most := reading.number(old, key, "max_conn_num"):
        section["max_connections"] = most
    if connect_s := reading.number(old, key, "connect_timeout") / _NS:
        section["connect_timeout"] = written_duration(connect_s)
    known[name] = section
    return reading.number(old, key, "read_timeout") / _NS


def _http(old: Mapping[str, Any], where: str, http: Mapping[str, Any], reading: _Reading) -> dict[str, Any]:
    handler: dict[str, Any] = {"url": _required(old, where, "script_entry", reading), "contract": "pepper"}
    own = reading.text(old, where, "http_config")
    if own:
        settings = reading.table(reading.json(own, f"{where}.http_config"), f"{where}.http_config")
        if host := reading.text(settings, f"{where}.http_config", "host"):
            handler["host"] = host
    timeout_s = reading.number(http, "http_config", "request_timeout") / _NS
    return {"http": handler} | _pace(reading.number(old, where, "num_of_workers"), timeout_s)


def _command(old: Mapping[str, Any], where: str, reading: _Reading) -> dict[str, Any]:
    handler: dict[str, Any] = {
        "argv": ["php", _required(old, where, "script", reading)], "protocol": "pepper", "stop_signal": "INT",
    }
    if entry := reading.text(old, where, "entry"):
        handler["entry"] = entry
    if most := reading.number(old, where, "max_task"):
        handler["max_jobs"] = most
    # The old bus never ended a command that took long.
    return {"command": handler} | _pace(reading.number(old, where, "max_children"), 0.0) | {"timeout": "0s"}


def _required(table: Mapping[str, Any], key: str, name: str, reading: _Reading) -> str:
    value = reading.text(table, key, name)
    if not value and isinstance(table.get(name, ""), str):
        reading.problem(f"{key}.{name}", "is missing")
    return value


def _pace(workers: int, timeout_s: float) -> dict[str, Any]:
    pace: dict[str, Any] = {"concurrency": {"min": 1, "max": max(1, workers)}}
    return pace | ({"timeout": written_duration(timeout_s)} if timeout_s else {})


def _retry(old: Mapping[str, Any], where: str, handler: dict[str, Any], reading: _Reading) -> int:
    """Put the topic's ``retry`` into *handler*; answers how often a job may run."""
    is_retry, time_s = reading.switch(old, where, "is_retry"), reading.number(old, where, "retry_time")
    attempts = attempts_of(is_retry, time_s)
    if attempts == 1:
        handler |= {"retry": {"attempts": 1}, "on_unknown": "hold"}
    else:
        handler["retry"] = {"attempts": attempts, "for": written_duration(time_s)}
    return attempts


def _notes(path: str, old: Mapping[str, Any], where: str, converted: Converted, reading: _Reading) -> None:
    if most := reading.number(old, where, "max_queue_length"):
        converted.notes.append(
            f"{path}: max_queue_length = {most} did not bound anything; max_backlog would refuse pushes above it"
        )
    if reading.number(old, where, "retry_times") and not reading.switch(old, where, "is_retry"):
        converted.notes.append(f"{path}: retry_times was not looked at, is_retry is false: a job runs once")
    workers = "max_children" if old.get("run_type") == 2 else "num_of_workers"
    if not old.get(workers):
        converted.notes.append(f"{path}: {workers} was 0, so nothing ran it: 'pbus topic pause {path}' keeps that")


def _tags(value: Any, converted: Converted) -> None:
    if value:
        converted.notes.append(f"tags_mapping is not taken over, every topic runs on this node: {_shown(value)}")


# -- TOML -----------------------------------------------------------------------------------------


def to_toml(converted: Converted, source: str, storage: str = "") -> str:
    """
    The file.

    Args:
        source: Where it came from, for its head.
        storage: URL of ``[storage.main]``; empty: it is configured elsewhere, or the embedded one.
    """
    lines = [f"# Made by 'pbus import pepperbus' of {_one_line(source)}."]
    lines += [f"# - {_one_line(note)}" for note in converted.notes]
    if storage:
        lines += ["", "[storage.main]", f"url = {toml_value(storage)}"]
    for name, backend in converted.tree.get("backend", {}).items():
        lines += ["", f"[backend.{_key(name)}]", *_lines(backend)]
    for name, queue in converted.tree.get("queue", {}).items():
        own = {key: value for key, value in queue.items() if key != "topic"}
        lines += ["", f"[queue.{_key(name)}]", *_lines(own)]
        for topic, settings in queue.get("topic", {}).items():
            lines += ["", f"[queue.{_key(name)}.topic.{_key(topic)}]", *_lines(settings)]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {toml_value(value)}" for key, value in table.items()]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_value(value: Any) -> str:
    """*value* in TOML on one line; in a text ``${..}`` stays what it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        text = json.dumps(value.replace("${", "$${"), ensure_ascii=False)
        return text.replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join([toml_value(each) for each in value]) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
