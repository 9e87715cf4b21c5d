"""
What needs more than one key to judge: references, clashes, orders, addresses used twice.

Rule: one function a subject, each adds every problem it finds to the tree and skips what is
already known to be broken, so that one mistake is one problem. Types and bounds are build.py's.
"""

from __future__ import annotations

import grp
import pwd
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pbus.config import values
from pbus.config.build import closest
from pbus.config.extras import OTEL, missing
from pbus.config.processes import check_process, check_program
from pbus.config.schema import (
    Backend, Brake, CommandHandler, Concurrency, FastcgiHandler, HttpHandler, Ingest, PythonHandler, Queue, Retry,
    Settings, Topic,
)
from pbus.config.shadows import check_shadows
from pbus.config.tree import KeyPath, Tree, dotted
from pbus.core.index import PATH

HANDLERS: Final = ("fastcgi", "http", "python", "command", "pull")
SCHEMES: Final = ("sqlite", "redis", "redis+unix")
DRIVERS: Final = "pbus.storage"
"""Entry points of further drivers; the name is the scheme."""
LATER_SCHEMES: Final = ("redis+sentinel", "redis+cluster", "lists+redis")
ALIAS_BYTES: Final = 256
MOST_INDEXED: Final = 8
DEFAULT_SYSTEM: Final = "default"

_CALL: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_EVERYWHERE: Final = ("0.0.0.0", "::", "*")


def check(settings: Settings, tree: Tree) -> None:
    """Add to *tree* what is wrong with *settings* beyond single keys."""
    for subject in (
        _node, _listen, _tls, _otel, _supervise, _storages, _systems, _backends, _names, _programs, _alarms,
    ):
        subject(settings, tree)
    for name, queue in settings.queue.items():
        _queue(settings, tree, ("queue", name), queue)
        for topic_name, topic in queue.topic.items():
            _topic(settings, tree, ("queue", name, "topic", topic_name), topic)
        check_shadows(tree, name, queue)


def _ordered(tree: Tree, path: KeyPath, small: str, large: str, pair: tuple[float, float], note: str) -> None:
    """*small* may not exceed *large*, both keys of the table at *path*."""
    first, second = (*path, small), (*path, large)
    if pair[0] > pair[1] and tree.is_sound(first, second):
        tree.add(second if second in tree.origin or first not in tree.origin else first, note)


def _node(settings: Settings, tree: Tree) -> None:
    node, path = settings.node, ("node",)
    if node.lost_after_s <= node.heartbeat_s and tree.is_sound((*path, "lost_after"), (*path, "heartbeat")):
        tree.add(
            (*path, "lost_after"),
            f"is {values.written_duration(node.lost_after_s)}, more than the heartbeat of"
            f" {values.written_duration(node.heartbeat_s)} is needed (three times as much is usual)",
        )
    if node.user and not _exists(pwd.getpwnam, node.user):
        tree.add((*path, "user"), f'there is no user "{node.user}" on this machine')
    if node.status_group and not _exists(grp.getgrnam, node.status_group):
        tree.add((*path, "status_group"), f'there is no group "{node.status_group}" on this machine')


def _exists(look_up: Callable[[str], object], name: str) -> bool:
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def _listen(settings: Settings, tree: Tree) -> None:
    """Each address once, over all that listen; a wildcard takes its port on every address."""
    taken: list[tuple[values.Address, KeyPath]] = []
    for path, text in _listeners(settings):
        if not tree.is_sound(path):
            continue
        address = values.door(text).address
        for other, where in taken:
            if _same_place(address, other):
                tree.add(path, f"{address} is taken by {other} of {dotted(where)}", of_an_item=True)
                break
        taken.append((address, path))
    if not settings.ingest.listen and tree.is_sound(("ingest", "listen")):
        tree.add(("ingest", "listen"), "is empty: producers need at least one address")


def _tls(settings: Settings, tree: Tree) -> None:
    """The certificate of the door: there, readable, with the key that belongs to it."""
    tls, path = settings.ingest.tls, ("ingest", "tls")
    files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
    if not any(files.values()) or not tree.is_sound(*((*path, key) for key in files)):
        return
    for key in ("cert", "key"):
        if not files[key]:
            tree.add((*path, key), "is missing: TLS needs a certificate (cert) and its private key (key)")
    if not (tls.cert and tls.key):
        return
    from pbus.config.tls import problems

    for key, text in problems(tls).items():
        tree.add((*path, key), text)
    pushes = any(topic.python is not None for queue in settings.queue.values() for topic in queue.topic.values())
    if tls.client_ca and pushes and settings.ingest.listen and not settings.ingest.inner_door.plain:
        what = "is asked of every client, and Python handlers have none to push with"
        tree.add((*path, "client_ca"), f'{what}: add "unix:PATH" or "plain:127.0.0.1:PORT" to ingest.listen')


def _otel(settings: Settings, tree: Tree) -> None:
    """The receiver can be one, and what sends to it is installed."""
    if settings.otel is None:
        return
    if install := missing(OTEL):
        tree.add(("otel",), f"needs packages that are not installed for {sys.executable}: {install}")
    path, url = ("otel", "endpoint"), settings.otel.endpoint
    if url and tree.is_sound(path) and not _is_web(url):
        tree.add(path, 'is no address of a receiver: write "http://HOST:4318" or "https://HOST[:PORT][/PATH]"')


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _listeners(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    for text in settings.ingest.listen:
        yield ("ingest", "listen"), text
    if settings.dashboard.listen:
        yield ("dashboard", "listen"), settings.dashboard.listen


def _same_place(one: values.Address, other: values.Address) -> bool:
    if one.path or other.path or one.port != other.port:
        return one == other and bool(one.path)
    return one.host == other.host or one.host in _EVERYWHERE or other.host in _EVERYWHERE


def _supervise(settings: Settings, tree: Tree) -> None:
    backoff = settings.supervise.backoff
    _ordered(
        tree, ("supervise", "backoff"), "first", "max", (backoff.first_s, backoff.max_s),
        "the first wait (first) is longer than the longest (max)",
    )


def _storages(settings: Settings, tree: Tree) -> None:
    places: dict[str, str] = {}
    for name, storage in settings.storage.items():
        path = ("storage", name, "url")
        if not tree.is_sound(path):
            continue
        wrong = storage_url_problem(storage.url)
        if wrong:
            tree.add(path, wrong)
        elif storage.url in places:
            tree.add(path, f"is the same place as storage.{places[storage.url]}")
        else:
            places[storage.url] = name


def storage_url_problem(url: str) -> str:
    """Why *url* cannot be a storage in this version; empty when it can."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme in LATER_SCHEMES:
        return f"{scheme}: is not part of this version of pbus; use one of {', '.join(SCHEMES)}"
    if colon and scheme not in SCHEMES and entry_points(group=DRIVERS, name=scheme):
        return ""  # an installed driver judges its own URLs
    if not colon or scheme not in SCHEMES:
        hint = closest(scheme, list(SCHEMES))
        return f'expected "sqlite:PATH", "redis://HOST:PORT/DB" or "redis+unix:///PATH?db=0"{hint}'
    if scheme == "sqlite":
        return _sqlite_problem(rest)
    parts, wrong = _split(url)
    if parts is None:
        return wrong
    if scheme == "redis+unix":
        return "" if rest.startswith("//") and parts.path.startswith("/") else 'expected "redis+unix:///PATH?db=0"'
    if not rest.startswith("//") or not parts.hostname:
        return 'expected "redis://HOST:PORT/DB"'
    return "" if re.fullmatch(r"(/\d*)?", parts.path) else f'the database is a number, as in "redis://{parts.hostname}/0"'


def _sqlite_problem(path: str) -> str:
    if path.endswith(":memory:") or "?" in path:
        return "names a file on disk: jobs must survive the process"
    return "" if path.strip("/") else 'expected "sqlite:PATH", for example "sqlite:pbus.db"'


def _split(url: str) -> tuple[SplitResult | None, str]:
    """The parts of *url*, or why it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return None, f"is not a URL: {error}"
    return (None, "port 0 cannot be connected to") if port == 0 else (parts, "")


def _systems(settings: Settings, tree: Tree) -> None:
    for name in settings.system:
        if name in settings.queue:
            tree.add(("system", name), f"a queue is called {name!r} too; AUTH could not tell them apart")


def _backends(settings: Settings, tree: Tree) -> None:
    for name, backend in settings.backend.items():
        path = ("backend", name)
        sound = tree.is_sound((*path, "fastcgi"), (*path, "http"))
        if sound and bool(backend.fastcgi) == bool(backend.http):
            tree.add(path, "needs addresses of one kind: either fastcgi = [..] or http = [..]")
        _backend_addresses(tree, path, backend)
        circuit = backend.circuit
        _ordered(
            tree, (*path, "circuit"), "probe_first", "probe_max", (circuit.probe_first_s, circuit.probe_max_s),
            "the first probe (probe_first) waits longer than the longest (probe_max)",
        )


def _backend_addresses(tree: Tree, path: KeyPath, backend: Backend) -> None:
    for url in backend.http:
        wrong = http_url_problem(url)
        if wrong:
            tree.add((*path, "http"), wrong, of_an_item=True)
    for key, addresses in (("fastcgi", backend.fastcgi), ("http", backend.http)):
        for address in sorted({item for item in addresses if addresses.count(item) > 1}):
            tree.add((*path, key), f"{address} is named twice", of_an_item=True)


def http_url_problem(url: str) -> str:
    """Why *url* cannot be called in this version; empty when it can."""
    parts, wrong = _split(url)
    if parts is None:
        return wrong
    if parts.scheme == "https":
        return "https:// is not part of this version of pbus; call an http:// address, such as a local TLS proxy"
    if parts.scheme != "http" or not parts.hostname or not url.isprintable() or " " in url:
        return f'expected a URL such as "http://127.0.0.1:8080/jobs", not "{url}"'
    if parts.username is not None:
        return "a user or password in a URL is not sent; use headers = { Authorization = \"..\" }"
    return "the part after # is never sent" if parts.fragment else ""


def _names(settings: Settings, tree: Tree) -> None:
    """What clients may call a queue: its name and its aliases, each leading to one queue."""
    paths = {f"{name}/{topic}" for name, queue in settings.queue.items() for topic in queue.topic}
    taken: dict[str, str] = {}
    for name, queue in settings.queue.items():
        for alias in queue.alias:
            wrong = ""
            if alias in settings.queue:
                wrong = "is the name of a queue"
            elif alias in paths:
                wrong = "is a topic"
            elif alias in taken:
                wrong = "is named twice" if taken[alias] == name else f"is an alias of queue {taken[alias]!r} too"
            elif not alias or not alias.isprintable() or len(alias.encode()) > ALIAS_BYTES:
                wrong = f"is no printable text of at most {ALIAS_BYTES} bytes"
            if wrong:
                tree.add(("queue", name, "alias"), f"{alias!r} {wrong}", of_an_item=True)
            taken.setdefault(alias, name)


def _queue(settings: Settings, tree: Tree, path: KeyPath, queue: Queue) -> None:
    _exists_in(tree, (*path, "storage"), queue.storage, settings.storage, "storage")
    _index(tree, (*path, "index"), queue)
    if queue.system != DEFAULT_SYSTEM:
        _exists_in(tree, (*path, "system"), queue.system, settings.system, "system")


def _index(tree: Tree, path: KeyPath, queue: Queue) -> None:
    for name in queue.index:
        if not PATH.match(name):
            tree.add(path, f"{name!r} is no value that can be indexed; write $.name or $.name.name", of_an_item=True)
    if len(queue.index) > MOST_INDEXED:
        tree.add(path, f"has {len(queue.index)} values; {MOST_INDEXED} are the most")


def _exists_in(tree: Tree, path: KeyPath, name: str, known: Mapping[str, object], table: str) -> None:
    """A name that is not found is no problem while a file is unread: it may be defined there."""
    if name not in known and tree.complete and tree.is_sound(path):
        tree.add(path, f"there is no [{table}.{name}]{closest(name, list(known))}")


def _topic(settings: Settings, tree: Tree, path: KeyPath, topic: Topic) -> None:
    raw = _at(tree, path)
    given = [kind for kind in HANDLERS if kind in raw]
    if not given:
        near = next((hint for key in raw if (hint := closest(key, list(HANDLERS)))), "")
        tree.add(path, f"has no handler: one of {', '.join(HANDLERS)} is needed{near}")
    elif len(given) > 1:
        tree.add(path, f"has {len(given)} handlers ({', '.join(given)}), exactly one is possible")
    if topic.fastcgi is not None:
        _fastcgi(settings, tree, (*path, "fastcgi"), topic.fastcgi)
    if topic.http is not None:
        _http(tree, (*path, "http"), topic.http)
    if topic.python is not None:
        _python(tree, (*path, "python"), topic.python)
    if topic.command is not None:
        _command(settings, tree, (*path, "command"), topic.command)
        if topic.command.protocol == "pepper" and topic.rate_per_s:
            tree.add((*path, "rate"), "is not kept for programs that take their jobs themselves (pepper)")
    _concurrency(tree, (*path, "concurrency"), topic.concurrency)
    _retry(tree, (*path, "retry"), topic.retry)
    _brake(tree, (*path, "brake"), topic.brake)


def _alarms(settings: Settings, tree: Tree) -> None:
    """Every notifier goes somewhere, and who is on call is one."""
    for name, notify in settings.notify.items():
        path = ("notify", name)
        given = [kind for kind in ("webhook", "mail", "command") if getattr(notify, kind)]
        if len(given) != 1 and tree.is_sound(*((*path, kind) for kind in ("webhook", "mail", "command"))):
            tree.add(path, f"needs exactly one of webhook, mail and command, not {len(given) or 'none'}")
        if notify.webhook:
            parts, wrong = _split(notify.webhook)
            if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
                tree.add((*path, "webhook"), wrong or 'expected a URL such as "https://host/path"')
        if notify.shape != "json" and not notify.webhook:
            tree.add((*path, "shape"), "is for a webhook only")
        if any("@" not in address or not address.isprintable() or " " in address for address in notify.mail):
            tree.add((*path, "mail"), 'expected addresses such as ["team@example.org"]')
    lists: list[tuple[KeyPath, list[str]]] = [
        (("alarm", "oncall"), settings.alarm.oncall), (("alarm", "escalate_to"), settings.alarm.escalate_to),
        *((("system", name, "oncall"), system.oncall) for name, system in settings.system.items()),
    ]
    for where, names in lists:
        for name in names:
            _exists_in(tree, where, name, settings.notify, "notify")


def _at(tree: Tree, path: KeyPath) -> Mapping[str, object]:
    """The table of the files at *path*."""
    node = tree.values
    for key in path:
        node = node[key]
    return node


def _fastcgi(settings: Settings, tree: Tree, path: KeyPath, handler: FastcgiHandler) -> None:
    if bool(handler.backend) == bool(handler.address):
        if tree.is_sound((*path, "backend"), (*path, "address")):
            what = 'needs either backend = "NAME" or address = "unix:PATH"'
            tree.add(path, f"{what}, not both" if handler.backend else what)
    elif handler.backend:
        _backend_is(settings, tree, (*path, "backend"), handler.backend)
    if not handler.script:
        tree.add((*path, "script"), "is empty: the path of the PHP script is needed")


def _backend_is(settings: Settings, tree: Tree, path: KeyPath, name: str) -> None:
    """The backend exists and speaks FastCGI."""
    _exists_in(tree, path, name, settings.backend, "backend")
    backend = settings.backend.get(name)
    if backend is not None and backend.http and not backend.fastcgi:
        tree.add(path, f"backend {name!r} is an http backend, a fastcgi one is needed")


def _http(tree: Tree, path: KeyPath, handler: HttpHandler) -> None:
    wrong = http_url_problem(handler.url)
    if wrong:
        tree.add((*path, "url"), wrong)
    for name, value in handler.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
            tree.add((*path, "headers", name), "is not an HTTP header")


def _python(tree: Tree, path: KeyPath, handler: PythonHandler) -> None:
    if not _CALL.match(handler.call):
        tree.add((*path, "call"), f'expected MODULE:FUNCTION such as "gift.jobs:credit", not "{handler.call}"')
    check_process(tree, path, handler)


def _command(settings: Settings, tree: Tree, path: KeyPath, handler: CommandHandler) -> None:
    check_process(tree, path, handler)
    check_program(tree, path, handler)
    if handler.protocol != "pepper":
        if handler.entry:
            tree.add((*path, "entry"), 'is for protocol = "pepper" only')
    elif tree.is_sound(("ingest", "listen")) and not _has_plain_port(settings.ingest):
        which = ' without TLS: add "plain:127.0.0.1:PORT"' if settings.ingest.tls.cert else ""
        tree.add((*path, "protocol"), f'"pepper" programs need an address with a port in ingest.listen{which}')


def _has_plain_port(ingest: Ingest) -> bool:
    return any(door.plain and door.address.port for door in ingest.doors)


def _programs(settings: Settings, tree: Tree) -> None:
    for name, program in settings.program.items():
        path = ("program", name)
        check_process(tree, path, program)
        check_program(tree, path, program)
        if program.system != DEFAULT_SYSTEM:
            _exists_in(tree, (*path, "system"), program.system, settings.system, "system")


def _concurrency(tree: Tree, path: KeyPath, concurrency: Concurrency) -> None:
    _ordered(
        tree, path, "min", "max", (concurrency.min, concurrency.max),
        f"min = {concurrency.min} is more than max = {concurrency.max}",
    )


def _retry(tree: Tree, path: KeyPath, retry: Retry) -> None:
    _ordered(
        tree, path, "first", "max", (retry.first_s, retry.max_s),
        f"the first wait ({values.written_duration(retry.first_s)}) is longer than the longest"
        f" (max = {values.written_duration(retry.max_s)})",
    )


def _brake(tree: Tree, path: KeyPath, brake: Brake) -> None:
    _ordered(
        tree, path, "probe_first", "probe_max", (brake.probe_first_s, brake.probe_max_s),
        "the first probe (probe_first) waits longer than the longest (probe_max)",
    )
