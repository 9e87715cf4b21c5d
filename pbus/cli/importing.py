"""
``pbus import pepperbus``: the configuration of a Pepperbus becomes TOML, its stored jobs become jobs here.

Rule: nothing is written before everything has been read and checked; what is interrupted is repeated by the same
command. Jobs are moved while no bus runs on their storage, and the old one has been stopped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pbus.cli.context import Context, pass_context
from pbus.errors import ConfigError, Exit, Problem, Unavailable

if TYPE_CHECKING:
    from pbus.cli.pepperbus_config import Converted, OldTopic
    from pbus.cli.pepperbus_jobs import Lists, Moved
    from pbus.config.schema import Settings
    from pbus.storage.driver import Driver

FILE: Final = "pepperbus.toml"
"""Below the configuration folder."""
_REDIS_S: Final = 5.0
_SQLITE: Final = "sqlite:"
_BAD_SHOWN: Final = 5
_BETWEEN_S: Final = 0.2


@click.group(name="import", help="Take over the configuration and the jobs of another bus.")
def importing() -> None:
    pass


@importing.command()
@click.option("--config", "file", required=True, metavar="FILE", help="A queue_config JSON, or gokeeper's queue.conf.")
@click.option("--storage", default="", metavar="URL", help="Write this as [storage.main]: sqlite:PATH, redis://..")
@click.option("--from", "source", default="", metavar="URL", help="The old Redis, instead of the addresses in FILE.")
@click.option("--into", default="", metavar="DIR", help="Configuration folder to write into (default: that of -c).")
@click.option("--config-only", is_flag=True, help="Leave the stored jobs where they are.")
@click.option("--dry-run", is_flag=True, help="Print the configuration and count the jobs; change nothing.")
@click.option("--yes", is_flag=True, help=f"Do not refuse to replace a {FILE} that says something else.")
@pass_context
def pepperbus(
    context: Context, file: str, storage: str, source: str, into: str, config_only: bool, dry_run: bool, yes: bool
) -> int:
    """
    Convert a Pepperbus configuration, and move its stored jobs.

    Handlers never run more often than they did: where is_retry was false, a job runs once. The jobs of
    QUEUE::TOPIC::list and ::list_retry become ready, with the attempts they have had; what was given up
    (::list_timeout) becomes dead letters. Stop Pepperbus and pbus before; an interrupted import is repeated.
    """
    from pbus.cli.pepperbus_config import convert, to_toml

    converted = convert(_text_of(file), os.path.basename(file))
    folder = os.path.abspath(into) if into else _folder(context)
    toml = to_toml(converted, os.path.basename(file), storage)
    settings = _checked(folder, toml)
    lists = _Redises(source or (storage if storage.startswith("redis") else ""), bool(source))
    waiting = {} if config_only else _lengths(converted, lists)
    if dry_run:
        context.output.line(toml.rstrip("\n"))
        _say_lengths(context, waiting)
        return Exit.DONE
    _write(context, folder, toml, yes)
    for note in converted.notes:
        context.output.say(f"note: {note}")
    if not any(waiting.values()):
        context.output.say("no stored jobs to move")
        return Exit.DONE
    _say_lengths(context, waiting)
    return _move(context, settings, converted, lists)


def _text_of(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file, "", f"is no UTF-8 text: {error}")]) from None
    except OSError as error:
        raise ConfigError([Problem(file, "", error.strerror or str(error))]) from None


def _folder(context: Context) -> str:
    try:
        return context.config_dir
    except ConfigError:
        return os.path.abspath("conf.d")


# -- the configuration ----------------------------------------------------------------------------


def _checked(folder: str, toml: str) -> Settings:
    """
    What the folder would mean with the new file in it.

    Raises:
        ConfigError: with every problem; nothing has been written then.
    """
    from pbus.config.load import load

    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pbus-import-", dir=parent) as trial:
        if os.path.isdir(folder):
            shutil.copytree(folder, trial, dirs_exist_ok=True)
        _put(os.path.join(trial, FILE), toml)
        try:
            return load(trial)
        except ConfigError as error:
            told = [Problem(each.file.replace(trial, folder), each.key, each.what) for each in error.problems]
            raise ConfigError(told) from None


def _write(context: Context, folder: str, toml: str, yes: bool) -> None:
    """
    Raises:
        Refused: there is such a file, and it says something else.
    """
    from pbus.cli.stores import Refused

    path = os.path.join(folder, FILE)
    with contextlib.suppress(FileNotFoundError):
        with open(path, encoding="utf-8", errors="replace") as known:
            said = known.read()
        if said == toml:
            context.output.say(f"{path} is there already")
            return
        if not yes:
            raise Refused(f"{path} is there and says something else: remove it, or say --yes")
    os.makedirs(folder, exist_ok=True)
    _put(path, toml)
    context.output.say(f"wrote {path}")


def _put(path: str, text: str) -> None:
    """Whole or not at all; it has passwords, so it is nobody else's to read."""
    handle, fresh = tempfile.mkstemp(prefix=".", suffix=".new", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.rename(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


# -- the old Redis --------------------------------------------------------------------------------


class _Redises:
    """Connections to the old Redis servers, one an address."""

    def __init__(self, url: str, always: bool) -> None:
        """*url*: for topics that name none, or (*always*) for all."""
        self._url = url
        self._always = always
        self._known: dict[tuple[str, str], Any] = {}

    def of(self, topic: OldTopic) -> Lists:
        """
        Raises:
            ConfigError: nobody said where its lists are.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        named = "" if self._always else topic.address
        where = named or self._url
        if not where:
            what = f"{topic.queue}/{topic.topic} names no storage: say --from redis://HOST:PORT, or --config-only"
            raise ConfigError([Problem("", "", what)])
        key = (where, topic.auth if named else "")
        if key not in self._known:
            limits: dict[str, Any] = {
                "socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S, "retry": Retry(NoBackoff(), 0),
            }
            if named:
                host, _, port = named.rpartition(":")
                number = int(port) if port.isdigit() else 6379
                self._known[key] = redis.Redis(host or named, number, password=topic.auth or None, **limits)
            else:
                self._known[key] = redis.Redis.from_url(self._url, **limits)
        lists: Lists = self._known[key]
        return lists


@contextlib.contextmanager
def _reaching(what: str) -> Iterator[None]:
    """Errors of the old Redis as ours."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"the old Redis {what}: {error}") from None


def _lengths(converted: Converted, lists: _Redises) -> dict[tuple[str, str, str], int]:
    """(queue, topic, list) -> jobs."""
    from pbus.cli.pepperbus_jobs import LISTS, key_of

    found = {}
    for topic in converted.topics:
        with _reaching(f"of {topic.queue}/{topic.topic} ({topic.address or '--from'})"):
            for suffix in LISTS:
                found[topic.queue, topic.topic, suffix] = int(lists.of(topic).llen(key_of(topic, suffix)))
    return found


def _say_lengths(context: Context, waiting: dict[tuple[str, str, str], int]) -> None:
    for (queue, topic, suffix), count in waiting.items():
        if count:
            context.output.say(f"{queue}::{topic}::{suffix}: {count} jobs")


# -- the jobs -------------------------------------------------------------------------------------


def _move(context: Context, settings: Settings, converted: Converted, lists: _Redises) -> int:
    """Queue by queue, while nobody else can start a bus here."""
    from pbus.clock import SystemClock
    from pbus.supervisor.lock import PidLock

    os.makedirs(settings.node.run_dir, mode=0o700, exist_ok=True)
    lock = PidLock(settings.node.run_dir, SystemClock())
    lock.take()
    try:
        bad = False
        for queue in dict.fromkeys(topic.queue for topic in converted.topics):
            topics = [topic for topic in converted.topics if topic.queue == queue]
            with _store(settings, settings.queue[queue].storage) as driver:
                bad |= _move_queue(context, settings, driver, topics, lists)
        return Exit.FAILED if bad else Exit.DONE
    finally:
        lock.give_back()


@contextlib.contextmanager
def _store(settings: Settings, storage: str) -> Iterator[Driver]:
    """The new store, made if it has never been there; nobody else is at work in it."""
    from pbus.app import stores
    from pbus.cli.stores import opened

    url = stores(settings)[storage].url
    if url.startswith(_SQLITE) and not os.path.exists(path := url.removeprefix(_SQLITE)):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        if settings.node.user:
            shutil.chown(path, settings.node.user)
            shutil.chown(os.path.dirname(path), settings.node.user)
    with opened(settings, storage) as driver:
        _nobody_else(settings, driver)
        yield driver


def _nobody_else(settings: Settings, driver: Driver) -> None:
    """
    Raises:
        Refused: a node's counter moves, so a bus runs on this storage.
    """
    from pbus.cli.stores import Refused
    from pbus.clock import SystemClock

    if not driver.capabilities.many_nodes:
        return
    clock = SystemClock()
    before, until_s = driver.beats(), clock.monotonic_s() + settings.node.heartbeat_s * 1.5
    while before and clock.monotonic_s() < until_s:
        clock.sleep(_BETWEEN_S)
        if driver.beats() != before:
            raise Refused("a bus runs on this storage: stop it on every node, then repeat the import")


def _move_queue(
    context: Context, settings: Settings, driver: Driver, topics: Sequence[OldTopic], lists: _Redises
) -> bool:
    """Whether something is left that a person must look at."""
    import dataclasses

    from pbus.cli.pepperbus_jobs import DEDUPE_S, Import
    from pbus.storage.open import queue_specs

    queue = topics[0].queue
    section = settings.queue[queue]
    (spec,) = queue_specs({queue: section}, section.storage)
    driver.declare([dataclasses.replace(spec, dedupe_window_s=DEDUPE_S)])
    names = sorted(topic for name, topic in driver.numbers() if name == queue)
    work = Import(driver, queue, names, settings.node.name, secrets.token_hex(6), _telling(context, queue))
    bad = False
    with _reaching(f"of {queue}"):
        first = lists.of(topics[0])
        work.pause(first)
        work.take_over()
        for topic in topics:
            for suffix, moved in work.move(topic, lists.of(topic)).items():
                bad |= _say_moved(context, f"{queue}::{topic.topic}::{suffix}", moved)
        work.resume(first)
    driver.declare([spec])
    return bad


def _telling(context: Context, queue: str) -> Any:
    def told(topic: str, suffix: str, count: int) -> None:
        context.output.say(f"{queue}::{topic}::{suffix}: {count} so far")

    return told


def _say_moved(context: Context, name: str, moved: Moved) -> bool:
    if moved.ready or moved.dead:
        known = f", {moved.known} of them found again" if moved.known else ""
        context.output.say(f"{name}: {moved.ready} ready, {moved.dead} dead letters{known}")
    for text in moved.bad[:_BAD_SHOWN]:
        context.output.say(f"{name}: left in the list: {text}")
    if len(moved.bad) > _BAD_SHOWN:
        context.output.say(f"{name}: left in the list: {len(moved.bad) - _BAD_SHOWN} more")
    if moved.gone:
        context.output.say(f"{name}: {moved.gone} jobs were taken by somebody else meanwhile: is Pepperbus stopped?")
    return bool(moved.bad or moved.gone)
