"""A stored job as programs get it, in full or with what others must not see hidden."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pbus.core.mask import Mask
    from pbus.storage.driver import JobRecord


def exported(record: JobRecord, mask: Mask | None = None) -> dict[str, Any]:
    """A job for programs; what says nothing is left out. ``masked``: something of it is hidden by *mask*."""
    document: dict[str, Any] = {"id": record.id, "queue": record.queue}
    body = mask.body(record.body) if mask else record.body
    try:
        document["body"] = body.decode()
    except UnicodeDecodeError:
        document |= {"body": base64.b64encode(body).decode(), "encoding": "base64"}
    for key in ("traceparent", "content_type", "key", "expires_ms", "replay_of"):
        if value := getattr(record, key):
            document[key] = value
    document["topics"] = {
        topic: {key: value for key, value in dataclasses.asdict(place).items() if value or key == "state"}
        for topic, place in record.topics.items()
    }
    if mask:
        hidden = [_hide(part, mask) for part in (document, *document["topics"].values())]
        if any(hidden) or body != record.body:
            document["masked"] = True
    return document


def _hide(part: dict[str, Any], mask: Mask) -> bool:
    """What producers and handlers wrote beside the body; whether something is hidden now."""
    known = dict(part)
    for key in ("key", "content_type", "error", "reason"):
        if key in part:
            part[key] = mask.text(part[key])
    return part != known


def mask_options(function: Callable[..., int]) -> Callable[..., int]:
    """``--mask`` and ``--mask-path`` of a command, as ``masked`` and ``mask_paths``; see ``mask_of``."""
    for option in (
        click.option(
            "--mask-path", "mask_paths", multiple=True, metavar="PATH",
            help="Hide this field of JSON bodies, too: $.card, $.items[*].pin, $..phone.",
        ),
        click.option(
            "--mask", "masked", is_flag=True,
            help="Hide secrets (by name and by look), card and identity numbers, phones, mail addresses.",
        ),
    ):
        function = option(function)
    return function


def mask_of(masked: bool, mask_paths: tuple[str, ...]) -> Mask | None:
    """
    Raises:
        click.UsageError: something is no path.
    """
    from pbus.core.mask import Mask

    try:
        return Mask(mask_paths) if masked or mask_paths else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
