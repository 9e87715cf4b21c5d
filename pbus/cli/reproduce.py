"""``pbus job curl``: the call of a stored job as a line for a shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pbus.cli.attempts import attempt_of, calls
from pbus.clock import SystemClock
from pbus.errors import Exit, HandlerRejected, NotFound

if TYPE_CHECKING:
    from pbus.cli.context import Context
    from pbus.config.schema import Topic
    from pbus.storage.driver import JobRecord

_COLUMNS: Final = ("queue", "topic", "id", "line")


def curl(context: Context, record: JobRecord, topics: Sequence[str], secrets: bool) -> int:
    """Print a line a topic of *topics* (none: of all that the job goes to); 1 when there is none."""
    known = context.settings().queue[record.queue].topic if record.queue in context.settings().queue else {}
    named = list(topics) or [topic for topic in record.topics if topic in known]
    rows = []
    for topic in named:
        if topic not in known:
            raise NotFound(f"the configuration has no topic '{record.queue}/{topic}'")
        line = _line(context, record, topic, known[topic], secrets)
        if line:
            rows.append({"queue": record.queue, "topic": topic, "id": record.id, "line": line})
    if context.output.form != "table":
        context.output.rows("lines", _COLUMNS, rows)
        return Exit.DONE if rows else Exit.FAILED
    for row in rows:
        if len(named) > 1:
            context.output.line(f"# {row['queue']}/{row['topic']}")
        context.output.line(row["line"])
    if not named:
        context.output.say(f"no topic of the configuration gets {record.id}")
    return Exit.DONE if rows else Exit.FAILED


def _line(context: Context, record: JobRecord, topic: str, section: Topic, secrets: bool) -> str:
    """The line; empty, and why is said: there is nothing to call."""
    from pbus.core.shell import words

    path = f"{record.queue}/{topic}"
    if section.pull is not None:
        context.output.say(f"{path}: clients pull its jobs, nothing is called")
        return ""
    if section.python is not None or section.command is not None:
        return words(("pbus", "topic", "debug", path, "--job", record.id, "-c", context.config_dir))
    try:
        return _call(context, record, topic, section, secrets)
    except HandlerRejected as error:
        context.output.say(f"{path}: {error}")
        return ""


def _call(context: Context, record: JobRecord, topic: str, section: Topic, secrets: bool) -> str:
    from pbus.config.effective import is_credential
    from pbus.core.reproduction import cgi_line, curl_line
    from pbus.core.shell import variable

    job = attempt_of(record, topic, 0)
    request = calls().request_of(context.settings(), job, section, SystemClock())
    given = section.http.headers if section.http else section.fastcgi.params if section.fastcgi else {}
    hidden = [] if secrets else [name for name, value in given.items() if is_credential(name, value)]
    for name in hidden:
        text = f"set {variable(name)} to what the configuration says of {name}, or say --secrets"
        context.output.say(f"{record.queue}/{topic}: {text}")
    ascii_only = (getattr(context.output.stdout, "encoding", "") or "ascii").lower() not in ("utf-8", "utf8")
    if request.path:
        path: str = request.path
        return curl_line(request.address, path, request.fields, request.body, hidden=hidden, ascii_only=ascii_only)
    return cgi_line(request.address, request.fields, request.body, hidden=hidden, ascii_only=ascii_only)
