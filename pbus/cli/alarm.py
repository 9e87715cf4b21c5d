"""``pbus alarm ls|ack|silence|test``: what is bad now, who has it in hand, and whether those on call can be reached."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.cli.grid import Cell, duration, plain, show
from pbus.cli.output import escape, output_option
from pbus.errors import Exit, NotFound, NotRunning, PbusError

if TYPE_CHECKING:
    from pbus.core.alarms import Alarm, Silence
    from pbus.storage.driver import Driver

_COLUMNS: Final = (
    "id", "state", "kind", "subject", "system", "text", "value", "limit", "unit", "since_s", "fired_s", "over_s",
    "cause", "affected", "next", "by", "note",
)
_HEADS: Final = (">since", "state", "alarm", "what")
_TOLD_S: Final = 30.0
_TRY_S: Final = 0.05


class NotTold(PbusError):
    """A notifier did not take the message."""


@click.group()
def alarm() -> None:
    """List, acknowledge and silence alarms, and try who is told of them."""


@alarm.command("ls")
@click.option("--all", "everything", is_flag=True, help="Those of the last hour that are over, too.")
@output_option
@pass_context
def list_alarms(context: Context, everything: bool) -> int:
    """
    List alarms, the newest first.

    STATE is firing, acked (somebody has it in hand), silenced (nobody is told) or over.
    """
    rows: list[dict[str, Any]] = []
    silences: list[Silence] = []
    now_s = _now_s()
    for driver in _stores(context):
        found, quiet = _rows(driver, now_s)
        rows += [row for row in found if everything or row["state"] != "over"]
        silences += quiet
        _tell_waiting(context, driver)
    rows.sort(key=lambda row: -row["fired_s"])
    show(context.output, "alarms", _COLUMNS, rows, _HEADS, lambda row: _cells(row, now_s))
    if context.output.form == "table":
        for row in rows[:3]:
            context.output.line(f"  next: {escape(row['next'])}  ({escape(row['id'])})")
        for silence in dict.fromkeys(silences):
            what = f"{silence.kind} of {silence.glob}" if silence.kind else silence.glob
            left = duration(silence.until_s - now_s)
            context.output.say(f"silenced for {left}: {what}, by {silence.by or '?'}" + _noted(silence.note))
        if not rows:
            context.output.say("no alarm")
    return Exit.DONE


@alarm.command("ack")
@click.argument("glob", metavar="ALARM|GLOB")
@click.option("--note", default="", help="What is being done about it.")
@pass_context
def ack_alarm(context: Context, glob: str, note: str) -> int:
    """
    Say that you have alarms in hand: they are not told further up.

    ALARM is an id ('oldest_wait:gift/credit'), or a glob of what it is about ('gift/*'). It ends with the alarm.
    """
    from pbus.core.alarm_texts import ACK, ack_text
    from pbus.core.alarms import Ack

    done = 0
    for driver in _stores(context):
        for each in _matching(driver, glob):
            ack = Ack(each.id, each.fired_s, _who(), note, _now_s())
            _put(driver, ACK, each.id, ack_text(ack))
            context.output.line(f"{escape(each.id)} acknowledged")
            done += 1
    if not done:
        raise NotFound(f"no alarm that fires is {glob!r}; 'pbus alarm ls' lists them")
    return Exit.DONE


@alarm.command("silence")
@click.argument("glob", metavar="GLOB")
@click.option("--for", "lasting", default="1h", metavar="DURATION", show_default=True, help="How long; 0s ends it.")
@click.option("--kind", default="", metavar="KIND", help="Only alarms of that kind, such as oldest_wait.")
@click.option("--note", default="", help="Why.")
@pass_context
def silence_alarms(context: Context, glob: str, lasting: str, kind: str, note: str) -> int:
    """
    Tell nobody of alarms about GLOB ('gift/*', 'gift/credit', '*') for a time.

    They are listed all the same; those that still fire when it ends are told then.
    """
    from pbus.core.alarm_texts import SILENCE, silence_text
    from pbus.core.alarms import KINDS, Silence

    if kind and kind not in KINDS:
        raise click.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}", param_hint="--kind")
    for_s, name, ended = _for_s(lasting), f"{kind}:{glob}", False
    for driver in _stores(context):
        if for_s:
            _put(driver, SILENCE, name, silence_text(Silence(glob, _now_s() + for_s, kind, _who(), note)))
        for one in () if for_s else driver.documents(SILENCE, [name]):
            ended = driver.drop_document(SILENCE, name, one.version) or ended
    if not for_s and not ended:
        raise NotFound(f"there is no such silence: {glob!r}{f' of kind {kind}' if kind else ''}")
    context.output.line(f"{escape(glob)} silenced for {duration(for_s)}" if for_s else f"{escape(glob)}: told again")
    return Exit.DONE


@alarm.command("test")
@click.argument("notifier", metavar="NOTIFIER")
@pass_context
def test_notifier(context: Context, notifier: str) -> int:
    """Have the running bus send a message by NOTIFIER, and say whether it was taken; exit status 1 if not."""
    import difflib

    from pbus.core.notices import trial

    settings = context.settings()
    if notifier not in settings.notify:
        names = sorted(settings.notify)
        near = difflib.get_close_matches(notifier, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise NotFound(f"there is no [notify.{notifier}]; {hint}")
    _must_run(settings.node.run_dir)
    now_s = _now_s()
    for driver in _stores(context, only_first=True):
        message = trial(f"{int(now_s * 1000)}-test", notifier, now_s, _who())
        took_s = _sent(driver, message)
        context.output.line(f"{notifier} took it after {took_s:.1f} s")
    return Exit.DONE


# -- what they share ------------------------------------------------------------------------------


def _stores(context: Context, only_first: bool = False) -> Sequence[Driver]:
    """Every store, open, until the command ends. Raises Unavailable: one is away."""
    from pbus.cli.stores import opened

    settings = context.settings()
    names = list(settings.storage)[: 1 if only_first else None]
    current = click.get_current_context()
    return [current.with_resource(opened(settings, name)) for name in names]


def _rows(driver: Driver, now_s: float) -> tuple[list[dict[str, Any]], list[Silence]]:
    """Alarms of a store, and the silences in force."""
    from pbus.core.alarm_texts import ACK, ALARM, SILENCE, ack_of, alarms_of, silence_of
    from pbus.core.alarms import Board, Policy
    from pbus.core.notices import described

    board = Board(Policy(), alarms_of(one.text for one in driver.documents(ALARM)))
    board.acks = {ack.id: ack for one in driver.documents(ACK) if (ack := ack_of(one.text))}
    said = [silence for one in driver.documents(SILENCE) if (silence := silence_of(one.text))]
    board.silences = silences = [silence for silence in said if silence.until_s > now_s]
    rows = []
    for each in board.alarms.values():
        ack = board.ack(each)
        empty = dict.fromkeys(_COLUMNS, "") | {"value": 0.0, "over_s": 0.0}
        rows.append(empty | described(each) | {
            "state": board.state(each, now_s), "by": ack.by if ack else "", "note": ack.note if ack else "",
        })
    return rows, silences


def _tell_waiting(context: Context, driver: Driver) -> None:
    """Messages that could not be told so far."""
    from pbus.core import notices
    from pbus.core.alarm_texts import MESSAGE

    for one in driver.documents(MESSAGE):
        message = notices.read(one.text)
        if message is not None and message.error and not message.sent_s:
            what = "gave up" if message.gave_up else f"tried {message.tries} times"
            context.output.say(f"{message.notifier} was not told ({what}): {message.error}")


def _matching(driver: Driver, glob: str) -> list[Alarm]:
    """Those that fire."""
    from pbus.core.alarm_texts import ALARM, alarms_of

    return [
        each for each in alarms_of(one.text for one in driver.documents(ALARM))
        if not each.over_s and (glob == each.id or fnmatch.fnmatchcase(each.subject, glob))
    ]


def _put(driver: Driver, kind: str, name: str, text: str) -> None:
    """What a person says last holds."""
    for _ in range(10):
        found = driver.documents(kind, [name])
        if driver.write_document(kind, name, text, found[0].version if found else 0):
            return
    raise NotTold(f"others write {kind} {name} all the time; try again")


def _sent(driver: Driver, message: Any) -> float:
    """Seconds until it was taken. Raises NotTold."""
    from pbus.clock import SystemClock
    from pbus.core import notices
    from pbus.core.alarm_texts import MESSAGE

    clock = SystemClock()
    driver.write_document(MESSAGE, message.name, message.to_text(), 0)
    begun_s = clock.monotonic_s()
    now = message
    while clock.monotonic_s() - begun_s < _TOLD_S:
        clock.sleep(_TRY_S)
        for one in driver.documents(MESSAGE, [message.name]):
            now = notices.read(one.text) or now
            if now.sent_s:
                return clock.monotonic_s() - begun_s
            if now.error:
                driver.drop_document(MESSAGE, one.name, one.version)
                raise NotTold(f"{message.notifier} did not take it: {now.error}")
    for one in driver.documents(MESSAGE, [message.name]):
        driver.drop_document(MESSAGE, one.name, one.version)
    raise NotTold(f"nobody sent it within {_TOLD_S:.0f} s; 'pbus status' says how the bus is")


def _must_run(run_dir: str) -> None:
    from pbus.supervisor.control import call

    if call(run_dir, "status", 5.0, reads=True)["status"]["state"] == "stopping":
        raise NotRunning("the bus is stopping")


def _for_s(text: str) -> float:
    from pbus.config.values import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not {error}", param_hint="--for") from None


def _now_s() -> float:
    from pbus.clock import SystemClock

    return SystemClock().wall_s()


def _who() -> str:
    from pbus.cli.pauses import person

    return person()


def _noted(note: str) -> str:
    return f": {escape(note)}" if note else ""


def _cells(row: Mapping[str, Any], now_s: float) -> Sequence[Cell]:
    colour = {"firing": "red", "over": "green"}.get(row["state"], "yellow")
    what = row["text"] + (f" ({row['by']}: {row['note'] or 'has it in hand'})" if row["by"] else "")
    return [
        plain(duration(max(0.0, now_s - row["since_s"]))), (row["state"], colour), plain(escape(row["id"])),
        plain(escape(what)),
    ]
