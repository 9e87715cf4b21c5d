"""
What the configuration says to the autoscaler: the rules of each topic that it decides about.

Rule: pure; a topic that is pulled has none, its consumers are not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from pbus.config.schema import Backend, PullHandler, Queue, System, Topic
from pbus.core.autoscale_terms import Kind, TopicRules


def rules_of(
    queues: Mapping[str, Queue], backends: Mapping[str, Backend], systems: Mapping[str, System]
) -> dict[str, TopicRules]:
    """``queue/topic`` -> its rules, of all topics whose handlers run here."""
    names = _names(backends)
    return {
        f"{queue}/{topic}": _rules(settings, section.system, systems, names)
        for queue, section in queues.items() for topic, settings in section.topic.items()
        if not isinstance(settings.handler, PullHandler)
    }


def _rules(settings: Topic, system: str, systems: Mapping[str, System], names: Mapping[str, str]) -> TopicRules:
    kind, backend = Kind.PROCESSES, ""
    if settings.fastcgi is not None:
        kind, backend = Kind.CALLS, settings.fastcgi.backend or names.get(settings.fastcgi.address, "")
    elif settings.http is not None:
        kind, backend = Kind.CALLS, names.get(_host(settings.http.url), "")
    least = settings.concurrency.min
    return TopicRules(
        least=max(1, least) if kind is Kind.CALLS else least,   # a call that is not made costs nothing
        most=settings.concurrency.max, catch_up_s=settings.catch_up_s, kind=kind, backend=backend,
        weight=settings.weight, system=system, system_weight=systems[system].weight if system in systems else 1,
        rate_per_s=settings.rate_per_s,
    )


def _names(backends: Mapping[str, Backend]) -> dict[str, str]:
    """Address -> name of the backend that has it: a topic that names the address itself uses the same one."""
    names: dict[str, str] = {}
    for name, backend in backends.items():
        for address in (*backend.fastcgi, *map(_host, backend.http)):
            names.setdefault(address, name)
    return names


def _host(url: str) -> str:
    """``HOST:PORT`` of an URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or 80}" if ":" in host else f"{host}:{parts.port or 80}"
