"""What doctor finds: every rule once, silence about what is in order or not known, the order of findings, the words."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import pytest

from pbus.core.doctor import RULES, SEVERITIES, Finding, findings, worst
from pbus.core.doctor_facts import (
    Certificate, Child, Door, Facts, Node, Pool, Queue, Store, Subject, Topic, size, span,
)

MIB = 1024**2
DAY = 86_400.0

SOUND: dict[type, dict[str, Any]] = {
    Node: {"log_dir": "/var/log/pbus", "log_free_bytes": 100 * MIB, "log_needs_bytes": 64 * MIB},
    Child: {"role": "ingest", "descriptors": 65_536, "wants": 10_064, "key": "ingest.limits.connections"},
    Store: {
        "storage": "main", "kind": "redis", "place": "redis://10.0.0.5:6379", "policy": "noeviction", "role": "master",
        "aof": True, "saves": True, "fsync": "always", "share": 0.2, "high_water": 0.85, "free_bytes": 800 * MIB,
        "min_free_bytes": 64 * MIB, "clock_ahead_s": 0.02,
    },
    Pool: {
        "backend": "live", "address": "unix:/run/php.sock", "topics": ["gift/credit"], "file": "/etc/php/www.conf",
        "terminate_s": 50, "control_s": 60, "max_children": 20, "post_bytes": 8 * MIB, "reads_post": True,
        "slowest_s": 12.0, "timeout_s": 60.0, "connections": 16, "reserve": 4, "max_post_bytes": 8 * MIB,
        "max_body_bytes": MIB,
    },
    Topic: {
        "path": "gift/credit", "timeout_s": 60.0, "ready": 5, "running": 1, "delayed": 0, "oldest_wait_s": 900.0,
    },
    Queue: {"queue": "gift", "topics": 2, "has_password": True, "pushed": 7, "backlog": 5, "max_backlog": 100},
    Door: {"address": "0.0.0.0:12018", "is_reached": True, "is_plain": False, "asks_passwords": True},
    Certificate: {"key": "cert", "path": "/etc/pbus/bus.pem", "left_s": 60 * DAY},
}  # fmt: skip
SQLITE = {
    "kind": "sqlite", "place": "/var/pbus/pbus.db", "policy": None, "role": None, "aof": None, "saves": None,
    "fsync": None, "clock_ahead_s": None,
}
NOWHERE = {"is_pulled": True, "running": 0}

CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "bus-silent": (Node, {"bus": "unknown", "problem": "no answer in time"}),
    "bus-stopped": (Node, {"bus": "stopped"}),
    "log-space": (Node, {"log_free_bytes": 63 * MIB}),
    "store-away": (Store, {"away": "Connection refused"}),
    "store-unfit": (Store, {"unfit": "no permission to use /var/pbus/pbus.db"}),
    "store-old": (Store, {"old": "Redis 5.0.1 is too old", "unfit": "Redis 5.0.1 is too old"}),
    "store-new": (Store, SQLITE | {"is_made": False, "share": None}),
    "eviction": (Store, {"policy": "allkeys-lru", "unfit": "maxmemory-policy is allkeys-lru"}),
    "replica": (Store, {"role": "slave"}),
    "not-durable": (Store, {"aof": False, "saves": False}),
    "snapshots": (Store, {"aof": False}),
    "fsync-never": (Store, {"fsync": "no"}),
    "fsync-everysec": (Store, {"fsync": "everysec"}),
    "store-writes": (Store, {"write_problem": "its last snapshot failed"}),
    "memory-unbound": (Store, {"unbound": True, "share": None, "free_bytes": None}),
    "store-full": (Store, {"share": 0.85}),
    "store-room": (Store, SQLITE | {"free_bytes": 64 * MIB - 1}),
    "store-filling": (Store, {"share": 0.77}),
    "network-disk": (Store, SQLITE | {"network": "nfs4"}),
    "clock": (Store, {"clock_ahead_s": -6.0}),
    "clock-drifts": (Store, {"clock_ahead_s": 1.5}),
    "store-unread": (Store, {"unread": ["appendfsync", "save"], "fsync": None, "saves": None}),
    "plain-door": (Door, {"is_plain": True}),
    "tls-expired": (Certificate, {"left_s": -3 * DAY}),
    "tls-expires": (Certificate, {"left_s": 13 * DAY}),
    "few-descriptors": (Child, {"descriptors": 128}),
    "descriptors": (Child, {"descriptors": 1024}),
    "no-topics": (Queue, {"topics": 0}),
    "backlog-full": (Queue, {"backlog": 100}),
    "backlog-high": (Queue, {"backlog": 80}),
    "no-password": (Queue, {"has_password": False, "is_reached": True}),
    "handler-missing": (Topic, {"missing": "/srv/gift/credit.php", "is_missing_for_sure": True}),
    "handler-unseen": (Topic, {"missing": "/srv/gift/credit.php"}),
    "orphaned": (Topic, {"is_configured": False}),
    "nobody-fetches": (Topic, NOWHERE),
    "paused-long": (Topic, {"paused_s": DAY}),
    "pull-endless": (Topic, {"is_pulled": True, "timeout_s": 0.0}),
    "pull-holds": (Topic, {"is_pulled": True, "holds": True}),
    "backend-away": (Pool, {"away": "No such file or directory"}),
    "post-unread": (Pool, {"reads_post": False}),
    "post-small": (Pool, {"post_bytes": 2 * MIB + 100}),
    "body-large": (Pool, {"max_body_bytes": 9 * MIB}),
    "terminate-none": (Pool, {"terminate_s": 0}),
    "terminate-late": (Pool, {"terminate_s": 60}),
    "control-none": (Pool, {"control_s": 0}),
    "control-short": (Pool, {"control_s": 10}),
    "few-children": (Pool, {"max_children": 19}),
    "pool-unread": (Pool, {"unread": ["request_terminate_timeout"], "terminate_s": None}),
}

IN_ORDER: list[tuple[type, dict[str, Any]]] = [
    *((kind, {}) for kind in SOUND),
    (Store, SQLITE),
    (Store, SQLITE | {"free_bytes": 128 * MIB}),
    (Store, {"free_bytes": MIB}),
    (Store, {"share": 0.764, "clock_ahead_s": 1.0}),
    (Queue, {"max_backlog": 0, "backlog": 10**9}),
    (Queue, {"has_password": False}),
    (Queue, {"backlog": 79}),
    (Door, {"is_plain": True, "is_reached": False}),
    (Door, {"is_plain": True, "asks_passwords": False}),
    (Certificate, {"left_s": 14 * DAY}),
    (Topic, NOWHERE | {"oldest_wait_s": 599.0}),
    (Topic, NOWHERE | {"paused_s": 60.0}),
    (Topic, {"is_pulled": True}),
    (Topic, {"holds": True}),
    (Topic, {"timeout_s": 0.0}),
    (Pool, {"post_bytes": 0}),
    (Pool, {"connections": 0, "max_children": 2}),
    (Pool, {"timeout_s": 0.0}),
    (Pool, {"is_php": False, "unread": ["all of it"], "max_body_bytes": 99 * MIB}),
]


def facts(kind: type, changes: dict[str, Any]) -> Facts:
    subject: Any = kind(**(SOUND[kind] | changes))
    fields = {
        Child: "children", Store: "stores", Pool: "pools", Topic: "topics", Queue: "queues", Door: "doors",
        Certificate: "certificates",
    }
    return Facts(node=subject) if kind is Node else Facts(node=Node(), **{fields[kind]: [subject]})


def found(check: str) -> Finding:
    (finding,) = findings(facts(*CASES[check]))
    return finding


def test_every_rule_has_its_case() -> None:
    assert [rule.check for rule in RULES] == list(CASES)


@pytest.mark.parametrize("check", list(CASES))
def test_rule_holds_alone_and_says_effect_and_fix(check: str) -> None:
    finding = found(check)
    told = finding.subject + finding.what + finding.effect + finding.fix

    assert finding.check == check
    assert finding.severity in SEVERITIES
    assert finding.what
    assert finding.effect
    assert finding.fix
    assert "None" not in told
    assert "{" not in told.replace("{ cert", "")


@pytest.mark.parametrize(("kind", "changes"), IN_ORDER, ids=[f"{kind.__name__} {row}" for kind, row in IN_ORDER])
def test_nothing_is_said_of_what_is_in_order(kind: type, changes: dict[str, Any]) -> None:
    assert findings(facts(kind, changes)) == []


UNKNOWN: list[Subject] = [
    Node(), Child(role="ingest", descriptors=None, wants=10_064, key="x"), Store(storage="main", kind="mine"),
    Pool(backend="", address="127.0.0.1:9000"), Topic(path="gift/credit", timeout_s=60.0), Queue(queue="gift"),
    Door(address="0.0.0.0:12018"), Certificate(key="cert", path="/etc/pbus/bus.pem"),
]  # fmt: skip


def test_nothing_is_concluded_from_what_is_not_known() -> None:
    node, child, store, pool, topic, queue, door, certificate = UNKNOWN
    everything: Any = {
        "node": node, "children": [child], "stores": [store], "pools": [pool], "topics": [topic], "queues": [queue],
        "doors": [door], "certificates": [certificate],
    }

    assert findings(Facts(**everything)) == []
    assert {type(subject) for subject in UNKNOWN} == {rule.of for rule in RULES} == set(SOUND)


def test_texts_name_attributes_that_there_are() -> None:
    for rule in RULES:
        known = {field.name for field in dataclasses.fields(rule.of)} | set(vars(rule.of))
        for text in (rule.what, rule.effect, rule.fix):
            named = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
            assert {name.removeprefix("it.") for name in named} <= known, rule.check


def test_worst_comes_first_then_the_order_of_the_subjects() -> None:
    both = Facts(
        node=Node(bus="stopped"), stores=[Store(**SOUND[Store] | {"fsync": "no"})],
        topics=[Topic(path="gift/credit", missing="/x.php", is_missing_for_sure=True), Topic(path="a/b", paused_s=DAY)],
    )

    assert [finding.check for finding in findings(both)] == [
        "handler-missing", "fsync-never", "paused-long", "bus-stopped",
    ]
    assert worst(findings(both)) == "error"
    assert worst(findings(Facts(node=Node(bus="stopped")))) == "note"
    assert worst([]) == ""


@pytest.mark.parametrize(("check", "what", "fix"), [
    ("eviction", "maxmemory-policy is allkeys-lru",
     "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"),
    ("clock", "its clock is 6 s behind ours", "keep both machines by NTP (timedatectl, chronyc tracking)"),
    ("clock-drifts", "its clock is 1.5 s ahead of ours", "keep both machines by NTP (timedatectl, chronyc tracking)"),
    ("terminate-none", "request_terminate_timeout is 0",
     "request_terminate_timeout = 54s in /etc/php/www.conf: shorter than the timeout of its topics"),
    ("control-short", "process_control_timeout is 10 s, calls take up to 12 s",
     "process_control_timeout = 24s in the global section of php-fpm"),
    ("few-children", "pm.max_children is 19, pbus may open 16 and 4 are for others",
     "[backend.live] max_connections = 15, or pm.max_children = 20 in /etc/php/www.conf"),
    ("post-small", "post_max_size is 2 MiB, pbus sends up to 8 MiB",
     "php_admin_value[post_max_size] = 8M in /etc/php/www.conf, or [backend.live] max_post = \"2048KiB\""),
    ("nobody-fetches", "5 jobs wait for consumers that fetch them, the oldest for 15 min",
     "start a consumer: XREADGROUP GROUP credit NAME STREAMS gift >; or remove the topic"),
    ("plain-door", "other machines reach it, without TLS",
     '[ingest] tls = { cert = "..", key = ".." }, or listen on 127.0.0.1 and unix sockets only'),
])
def test_sentence_says_what_is_so_and_what_to_write(check: str, what: str, fix: str) -> None:
    finding = found(check)

    assert (finding.what, finding.fix) == (what, fix)


def test_backend_without_a_name_says_where_its_limits_would_stand() -> None:
    (finding,) = findings(facts(Pool, {"backend": "", "max_children": 19, "file": ""}))

    assert finding.subject == "backend unix:/run/php.sock"
    assert finding.fix.startswith('a [backend.NAME] with "unix:/run/php.sock" max_connections = 15')
    assert finding.fix.endswith("in the pool's configuration")


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "0 s"), (0.25, "0.2 s"), (4, "4 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * DAY, "3 d"),
])
def test_span_is_one_number(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("count", "text"), [
    (None, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 * MIB, "8 MiB"), (3 * 1024**4, "3 TiB"),
])
def test_size_is_short(count: int | None, text: str) -> None:
    assert size(count) == text
