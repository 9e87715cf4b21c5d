"""
What is not part of every installation: whether an extra of the package is there.

Rule: asked of the package's records, nothing is imported: the master stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Final

OTEL: Final = "otel"
_BRINGS: Final = {OTEL: "opentelemetry-exporter-otlp-proto-http"}
"""Of each extra the package that its users import; the others come with it."""


def missing(extra: str, find: Callable[[str], object] = metadata.distribution) -> str:
    """What to install for *extra*, a command; empty: it is there. *find* raises PackageNotFoundError."""
    try:
        find(_BRINGS[extra])
    except metadata.PackageNotFoundError:
        return f"pip install 'pbus[{extra}]'"
    return ""
