"""
What client libraries say by themselves: HELLO, AUTH, CLIENT, SELECT, COMMAND, CONFIG GET, INFO ..

Rule: answered as Redis does, no more than libraries need; what pbus does not have is refused in
Redis' own words, and the connection lives.
"""

# ruff: noqa: ARG001 - the functions of the table have one signature
from __future__ import annotations

import fnmatch
import itertools
import math
import resource
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import pbus
from pbus.codec.resp_reply import NULL, OK, Value, bulk, encode, error, integer, simple
from pbus.core.tokens import Token
from pbus.ingest.access import Access
from pbus.ingest.failures import Failure
from pbus.ingest.guesses import LONGEST_S
from pbus.ingest.words import shown

if TYPE_CHECKING:
    from pbus.ingest.connection import Connection

REDIS_VERSION: Final = "7.2.0"
"""What libraries read to learn which commands they may send."""
_WRONGPASS: Final = (
    "WRONGPASS invalid username-password pair or user is disabled: nothing is stored; AUTH takes the name and the "
    "password of a queue, of a QUEUE/TOPIC or of a system"
)
_VOID: Final = (
    "WRONGPASS invalid username-password pair or user is disabled: nothing is stored; the token counts for one "
    "process of this machine, and that one is gone"
)
_NOPROTO: Final = "NOPROTO unsupported protocol version"
_NO_NUMBER: Final = "ERR Protocol version is not an integer or out of range"
_NAME_BYTES: Final = 256
LISTED: Final = 128
"""Most lines of CLIENT LIST: those of the oldest connections."""
_NOT_KEPT: Final = (
    "idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 "
    "oll=0 omem=0 tot-mem=0 events=r cmd=NULL"
)
"""Of a line of CLIENT LIST: redis-py 4 and 5 raise when a number is missing."""
_CONFIG: Final = {
    "save": "", "appendonly": "yes", "appendfsync": "always", "databases": "1", "timeout": "0", "maxmemory": "0",
    "maxmemory-policy": "noeviction",
}


def ping(connection: Connection, arguments: list[bytes]) -> bytes:
    """``PING [message]``."""
    if len(arguments) > 2:
        return error("ERR wrong number of arguments for 'ping' command")
    return bulk(arguments[1]) if len(arguments) == 2 else b"+PONG\r\n"


def echo(connection: Connection, arguments: list[bytes]) -> bytes:
    """``ECHO message``."""
    return bulk(arguments[1])


def select(connection: Connection, arguments: list[bytes]) -> bytes:
    """``SELECT 0``: there is one."""
    if not arguments[1].isdigit():
        return error("ERR invalid DB index" if arguments[1][:1] != b"-" else "ERR DB index is out of range")
    return OK if not int(arguments[1][:9]) else error("ERR DB index is out of range")


def time(connection: Connection, arguments: list[bytes]) -> bytes:
    """``TIME``: seconds and microseconds."""
    seconds, rest = divmod(connection.server.clock.wall_s(), 1.0)
    return encode([str(int(seconds)), str(int(rest * 1e6))], connection.protocol)


def leave(connection: Connection, arguments: list[bytes]) -> bytes:
    """``QUIT``: OK, then the connection closes."""
    connection.shut()
    return OK


def reset(connection: Connection, arguments: list[bytes]) -> bytes:
    """``RESET``: as after connecting."""
    connection.become(connection.server.directory.nobody(connection.access.local))
    connection.protocol, connection.name = 2, b""
    return simple("RESET")


def auth(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``AUTH name pw``, ``AUTH name:pw``."""
    if len(arguments) > 3:
        return error("ERR syntax error")
    user = arguments[1] if len(arguments) == 3 else b""
    token = connection.server.tokens.read(user, arguments[-1])
    if token is not None:
        access = _of_token(connection, token)
        if access is None:
            return error(_VOID)
        connection.become(access)
        return OK
    said = _credentials(user, arguments[-1])

    def answer() -> bytes:
        access = _authenticate(connection, said)
        if access is None:
            return error(_WRONGPASS)
        connection.become(access)
        return OK

    return _in_its_time(connection, said, answer)


def _of_token(connection: Connection, token: Token) -> Access | None:
    """The identity of a genuine token; None: its process is gone, or runs on another machine."""
    server = connection.server
    if not server.tokens.lives(token.owner) or not connection.from_here:
        server.failures.note(Failure(connection.peer, token.path, False))
        return None
    lives = partial(server.tokens.lives, token.owner)
    return server.directory.of_token(token, connection.access.local, lives)


class _Said(NamedTuple):
    """What AUTH was given; *alone*: in one argument, so that what is taken for the name may be (part of) a password."""

    name: str
    password: bytes
    alone: bool


def _credentials(user: bytes, password: bytes) -> _Said:
    """Name and password; user ``default`` or none means that the password is written ``name:pw``."""
    alone = user in (b"", b"default")
    if alone:
        user, _, password = password.partition(b":")
    return _Said(user.decode("utf-8", "replace"), password, alone)


def _in_its_time(connection: Connection, said: _Said, answer: Callable[[], bytes]) -> bytes | None:
    """*answer* now, or after a while when somebody at that address guesses, or not at all."""
    server = connection.server
    wait_s = server.guesses.wait_s(connection.peer, _guessed(connection, said.name))
    if not wait_s:
        return answer()
    if wait_s > LONGEST_S:
        server.failures.note(Failure(connection.peer, said.name, said.alone))
        return error(f"NOAUTH too many wrong passwords from here: not looked at, try again in {math.ceil(wait_s)} s")
    server.after(connection, wait_s, answer)
    return None


def _guessed(connection: Connection, name: str) -> str:
    """Whose password is tried; names that nobody bears are one."""
    return name if connection.server.directory.is_identity(name) else ""


def _authenticate(connection: Connection, said: _Said) -> Access | None:
    """The identity; a failure is counted."""
    server = connection.server
    access = server.directory.authenticate(said.name, said.password, connection.access.local)
    if access is None:
        server.failures.note(Failure(connection.peer, said.name, said.alone))
        server.guesses.failed(connection.peer, _guessed(connection, said.name))
    return access


def hello(connection: Connection, arguments: list[bytes]) -> bytes | None:
    """``HELLO [2|3 [AUTH user password] [SETNAME name]]``: all of it, or nothing."""
    place = 2
    while place < len(arguments):                     # syntax is judged when its time has come
        if arguments[place].lower() == b"auth" and place + 2 < len(arguments):
            if connection.server.tokens.read(arguments[place + 1], arguments[place + 2]) is not None:
                break                                 # no guess: it does not wait
            said = _credentials(arguments[place + 1], arguments[place + 2])
            return _in_its_time(connection, said, lambda: _hello(connection, arguments))
        place += 2
    return _hello(connection, arguments)


def _hello(connection: Connection, arguments: list[bytes]) -> bytes:
    protocol, name = connection.protocol, connection.name
    access: Access | None = None
    if len(arguments) > 1:
        if arguments[1] not in (b"2", b"3"):
            return error(_NOPROTO if arguments[1].isdigit() else _NO_NUMBER)
        protocol = int(arguments[1])
    place = 2
    while place < len(arguments):
        option = arguments[place].lower()
        if option == b"auth" and place + 2 < len(arguments):
            token = connection.server.tokens.read(arguments[place + 1], arguments[place + 2])
            if token is not None:
                given = _of_token(connection, token)
            else:
                given = _authenticate(connection, _credentials(arguments[place + 1], arguments[place + 2]))
            if given is None:
                return error(_VOID if token is not None else _WRONGPASS)
            access = given
            place += 3
        elif option == b"setname" and place + 1 < len(arguments):
            name = arguments[place + 1]
            if not _is_name(name):
                return error("ERR Client names cannot contain spaces, newlines or special characters.")
            place += 2
        else:
            return error(f"ERR Syntax error in HELLO option '{shown(arguments[place])}'")
    connection.protocol, connection.name = protocol, name
    if access is not None:
        connection.become(access)
    greeting: dict[str, Value] = {
        "server": "pbus", "version": REDIS_VERSION, "proto": protocol, "id": connection.id, "mode": "standalone",
        "role": "master", "modules": [],
    }
    return encode(greeting, protocol)


def _is_name(name: bytes) -> bool:
    return len(name) <= _NAME_BYTES and all(0x21 <= byte <= 0x7E for byte in name)


# -- CLIENT ---------------------------------------------------------------------------------------


def client(connection: Connection, arguments: list[bytes]) -> bytes:
    """``CLIENT SETNAME|GETNAME|ID|INFO|LIST|SETINFO|REPLY|NO-EVICT|NO-TOUCH|TRACKING|..``."""
    name = arguments[1].lower()
    entry = _CLIENT.get(name)
    if entry is None:
        return error(f"ERR unknown subcommand '{shown(arguments[1])}'. Try CLIENT HELP.")
    function, least, most = entry
    if not least <= len(arguments) <= most:
        return error(f"ERR wrong number of arguments for 'client|{name.decode()}' command")
    return function(connection, arguments)


def _client_setname(connection: Connection, arguments: list[bytes]) -> bytes:
    if not _is_name(arguments[2]):
        return error("ERR Client names cannot contain spaces, newlines or special characters.")
    connection.name = arguments[2]
    return OK


def _client_getname(connection: Connection, arguments: list[bytes]) -> bytes:
    return bulk(connection.name) if connection.name else NULL[connection.protocol]


def _client_id(connection: Connection, arguments: list[bytes]) -> bytes:
    return integer(connection.id)


def _client_setinfo(connection: Connection, arguments: list[bytes]) -> bytes:
    attribute = arguments[2].lower().decode("latin-1")
    if attribute not in ("lib-name", "lib-ver"):
        return error(f"ERR Unrecognized option '{shown(arguments[2])}'")
    if not _is_name(arguments[3]):
        return error(f"ERR {attribute} cannot contain spaces, newlines or special characters.")
    connection.library = {**(connection.library or {}), attribute: arguments[3].decode("ascii")}
    return OK


def _client_info(connection: Connection, arguments: list[bytes]) -> bytes:
    return bulk(_line(connection).encode())


def _client_list(connection: Connection, arguments: list[bytes]) -> bytes:
    """The first connections of this process with the same identity: nobody sees who else is here."""
    if not connection.server.directory.known(connection.access):
        return error("NOAUTH Authentication required.")
    connection.spend()
    same = (other for other in connection.server.connections if other.access is connection.access)
    return bulk("".join([_line(other) for other in itertools.islice(same, LISTED)]).encode())


def _line(connection: Connection) -> str:
    library = connection.library or {}
    age_s = connection.server.clock.monotonic_s() - connection.began_s
    return (
        f"id={connection.id} addr={connection.peer} name={connection.name.decode('ascii')} age={int(age_s)} "
        f"{_NOT_KEPT} user={connection.access.name or 'default'} redir=-1 resp={connection.protocol} "
        f"lib-name={library.get('lib-name', '')} lib-ver={library.get('lib-ver', '')}\n"
    )


def _client_reply(connection: Connection, arguments: list[bytes]) -> bytes:
    if arguments[2].lower() == b"on":
        return OK
    return error("ERR CLIENT REPLY OFF and SKIP are not supported: every command has its reply")


def _client_switch(connection: Connection, arguments: list[bytes]) -> bytes:
    return OK if arguments[2].lower() in (b"on", b"off") else error("ERR syntax error")


def _client_tracking(connection: Connection, arguments: list[bytes]) -> bytes:
    if arguments[2].lower() == b"off":
        return OK
    return error("ERR client tracking is not supported: there are no keys to track")


def _client_unsupported(connection: Connection, arguments: list[bytes]) -> bytes:
    return error(f"ERR CLIENT {shown(arguments[1]).upper()} is not supported")


_CLIENT: Final[dict[bytes, tuple[Callable[[Connection, list[bytes]], bytes], int, int]]] = {
    b"setname": (_client_setname, 3, 3),
    b"getname": (_client_getname, 2, 2),
    b"id": (_client_id, 2, 2),
    b"setinfo": (_client_setinfo, 4, 4),
    b"info": (_client_info, 2, 2),
    b"list": (_client_list, 2, 99),
    b"reply": (_client_reply, 3, 3),
    b"no-evict": (_client_switch, 3, 3),
    b"no-touch": (_client_switch, 3, 3),
    b"tracking": (_client_tracking, 3, 99),
    b"maint_notifications": (_client_unsupported, 2, 99),
}


# -- CONFIG, INFO ------------------------------------------------------------------------


def config(connection: Connection, arguments: list[bytes]) -> bytes:
    """``CONFIG GET pattern ..``: what clients look at; the settings of pbus are in its files."""
    connection.spend()
    what = arguments[1].lower()
    if what != b"get":
        return error(f"ERR unknown subcommand '{shown(arguments[1])}'. Try CONFIG HELP.")
    if len(arguments) < 3:
        return error("ERR wrong number of arguments for 'config|get' command")
    values = {**_CONFIG, "maxclients": str(connection.server.most_connections)}
    patterns = [pattern.decode("latin-1").lower() for pattern in arguments[2:20]]
    found: dict[str, Value] = {
        name: value for name, value in values.items() if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return encode(found, connection.protocol)


def info(connection: Connection, arguments: list[bytes]) -> bytes:
    """``INFO [section ..]``."""
    connection.spend()
    server = connection.server
    errors = sum(server.tally.refused.values())
    sections: dict[str, dict[str, object]] = {
        "server": {
            "redis_version": REDIS_VERSION, "redis_mode": "standalone", "pbus_version": pbus.__version__,
            "process_id": server.pid, "run_id": server.owner, "uptime_in_seconds": int(server.uptime_s),
        },
        "clients": {
            "connected_clients": len(server.connections), "maxclients": server.most_connections,
            "blocked_clients": sum(other.pop is not None and other.pop.blocks for other in server.connections),
        },
        "memory": {"used_memory": _resident_bytes(), "maxmemory": 0},
        "stats": {
            "total_commands_processed": server.stored_total + errors,  # what is counted: a plain look is not
            "total_connections_received": server.accepted_total, "rejected_connections": server.rejected_total,
            "pushes_stored": server.stored_total, "pushes_refused": server.refused_total,
            "total_error_replies": errors,
            **{f"closed_{reason}": count for reason, count in sorted(server.tally.closed.items())},
            **{f"limited_{name}": count for name, count in sorted(server.tally.limited.items())},
        },
        "errorstats": {f"errorstat_{word}": f"count={n}" for word, n in sorted(server.tally.refused.items())},
        "persistence": {"loading": 0},
        "replication": {"role": "master", "connected_slaves": 0},
        "keyspace": {},
    }
    wanted = {argument.decode("latin-1").lower() for argument in arguments[1:]}
    if not wanted or wanted & {"all", "default", "everything"}:
        wanted = set(sections)
    blocks = [
        f"# {title.capitalize()}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
        for title, fields in sections.items() if title in wanted
    ]
    return bulk("\r\n".join(blocks).encode())


def _resident_bytes() -> int:
    """Memory of this process, which redis-cli --stat shows."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
