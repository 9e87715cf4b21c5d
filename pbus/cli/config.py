"""``pbus config check|show|diff``: what is wrong, what is in effect, and what a reload would change."""

from __future__ import annotations

import dataclasses

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.output import output_option
from pbus.errors import NotFound


@click.group()
def config() -> None:
    """Check, show and compare the configuration."""


@config.command()
@pass_context
def check(context: Context) -> None:
    """Print every problem of the configuration (exit 78), or what it defines."""
    settings = context.settings()
    topics = [topic for queue in settings.queue.values() for topic in queue.topic.values()]
    counts = [
        (len(settings.queue), "queue"), (len(topics), "topic"), (len(settings.storage), "storage"),
        (len(settings.backend), "backend"),
    ]
    context.output.line("ok: " + ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts))


@config.command()
@click.argument("prefix", required=False, default="", metavar="[KEY]")
@output_option
@pass_context
def show(context: Context, prefix: str) -> None:
    """Show every key in effect (or those below KEY) and where it comes from; secrets are masked."""
    from pbus.config.effective import rows
    from pbus.config.load import load_with_origins

    found = [
        dataclasses.asdict(row) for row in rows(load_with_origins(context.config_dir))
        if not prefix or row.key == prefix or row.key.startswith(prefix + ".")
    ]
    if not found:
        raise NotFound(f"there is no key {prefix!r} in effect; 'pbus config show' lists all of them")
    context.output.rows("settings", ("key", "value", "origin"), found, directory=context.config_dir)


@config.command()
@output_option
@pass_context
def diff(context: Context) -> None:
    """
    Show what the files say and the running bus does not do yet; secrets are masked.

    A line a key: '+' is new, '~' has another value, '-' is gone. 'pbus reload' takes it over.
    """
    from pbus.cli.reload import ASK_S, tell
    from pbus.supervisor.control import call

    tell(context, call(context.run_dir(), "compare", ASK_S, reads=True))


@config.command()
def schema() -> None:
    """
    Print a JSON Schema of the configuration files, for editors.

    Taplo and "Even Better TOML" check and complete with it: pbus config schema > pbus.schema.json, and
    '#:schema ./pbus.schema.json' as the first line of a file.
    """
    import json

    from pbus.config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
