"""
The way from a command to the bus: as a producer through the door, as a follower through the master.

Rule: a command uses what any producer uses, the Redis protocol with the password of the
configuration; only following goes another way. Replies become errors with exit statuses here.
"""

from __future__ import annotations

import queue as queues
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pbus.errors import Exit, NotFound, NotRunning, PbusError

if TYPE_CHECKING:
    import redis

    from pbus.config.schema import Settings

_REPLY_S: Final = 10.0
_REACH_S: Final = 5.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_EXITS: Final = {
    "NOQUEUE": Exit.NOT_FOUND, "NOTOPIC": Exit.NOT_FOUND, "NOAUTH": Exit.NO_PERMISSION, "NOPERM": Exit.NO_PERMISSION,
    "WRONGPASS": Exit.NO_PERMISSION, "UNAVAILABLE": Exit.UNAVAILABLE, "QUEUEFULL": Exit.TEMPORARY,
    "BADVALUE": Exit.USAGE,
}


class Refused(PbusError):
    """The bus said no; the text is its reply."""

    def __init__(self, reply: str) -> None:
        self.exit_status = _EXITS.get(reply.partition(" ")[0], Exit.FAILED)
        super().__init__(reply)


class Unreachable(PbusError):
    """Nobody answers at the address of the configuration."""

    exit_status = Exit.UNAVAILABLE


def queue_called(settings: Settings, name: str) -> str:
    """
    The queue that *name* (or alias) means.

    Raises:
        NotFound: none; says so when it is a topic.
    """
    if name in settings.queue:
        return name
    for queue, section in settings.queue.items():
        if name in section.alias:
            return queue
    queue, slash, topic = name.partition("/")
    if slash and queue in settings.queue and topic in settings.queue[queue].topic:
        raise NotFound(f"{name!r} is a topic; push to {queue!r}")
    raise NotFound(f"there is no queue {name!r}; there are: {', '.join(sorted(settings.queue)) or 'none'}")


class Pusher:
    """Pushes to one queue and answers job ids. A context manager; one owner."""

    def __init__(self, settings: Settings, queue: str) -> None:
        self._queue = queue
        self._address = settings.ingest.inner_door.address
        self._redis = _client(settings, queue)

    def push(self, bodies: Sequence[bytes], options: Mapping[str, str | int] | None = None) -> list[str | PbusError]:
        """
        Store *bodies*, in order, in one round trip; each with the same *options* of XADD.

        Returns:
            Per body its job id, or why it was refused.

        Raises:
            Unreachable: nobody answers (or not in time: some may be stored).
            Refused: the password.
        """
        import redis

        batch = self._redis.pipeline(transaction=False)
        words = [word for option in (options or {}).items() for word in option]
        for body in bodies:
            batch.execute_command("XADD", self._queue, "*", "body", body, *words)  # type: ignore[no-untyped-call]
        try:
            replies = batch.execute(raise_on_error=False)
        except redis.AuthenticationError as error:
            raise Refused(f"WRONGPASS {error}") from None
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise Unreachable(f"no bus answers at {self._address}: {error}") from None
        return [_understood(reply) for reply in replies]

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()


def _understood(reply: Any) -> str | PbusError:
    import redis

    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, redis.AuthenticationError):  # redis-py takes the first word away
        return Refused(f"NOAUTH {reply}")
    if isinstance(reply, redis.exceptions.NoPermissionError):
        return Refused(f"NOPERM {reply}")
    return Refused(str(reply))


def _client(settings: Settings, queue: str) -> redis.Redis:
    """redis-py for the first address that the bus listens on, with the password that the queue asks for."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    door = settings.ingest.inner_door
    where = door.address
    options: dict[str, Any] = {
        "socket_timeout": _REPLY_S, "socket_connect_timeout": _REPLY_S, "retry": Retry(NoBackoff(), 0), "protocol": 2,
    }
    section = settings.queue[queue]
    system = settings.system.get(section.system)
    if section.passwords:
        options |= {"username": queue, "password": section.passwords[0]}
    elif system is not None and system.passwords:
        options |= {"username": section.system, "password": system.passwords[0]}
    if where.path:
        return redis.Redis(unix_socket_path=where.path, **options)
    if not door.plain:
        options |= _tls_options(settings)
    return redis.Redis(host=_ANY.get(where.host, where.host), port=where.port, **options)


def _tls_options(settings: Settings) -> dict[str, Any]:
    """
    Raises:
        Unreachable: clients have to show certificates there, and we have none; or its own cannot be read.
    """
    from pbus.config.tls import Unfit, client_options

    if settings.ingest.tls.client_ca:
        todo = 'add "unix:PATH" or "plain:127.0.0.1:PORT" to ingest.listen'
        raise Unreachable(f"every address of ingest.listen asks for a certificate (ingest.tls.client_ca): {todo}")
    try:
        return client_options(settings.ingest.tls)
    except Unfit as error:
        raise Unreachable(f"ingest.tls: {error}") from None


class JobEvents:
    """
    What becomes of the jobs of a queue, from now on. A context manager.

    The bus drops events for who reads slowly, so a thread of its own reads them.
    """

    def __init__(self, run_dir: str, queue: str) -> None:
        self._arrived: queues.SimpleQueue[Mapping[str, Any] | None] = queues.SimpleQueue()
        self._frames = self._follow(run_dir, queue)
        self.lost = 0

    def _follow(self, run_dir: str, queue: str) -> Iterator[dict[str, Any]]:
        from pbus.supervisor.control import stream

        frames = stream(run_dir, "watch", _REACH_S, reads=True, queues=[queue])
        try:
            next(frames)
        except NotRunning as error:
            raise Unreachable(str(error)) from None
        return frames

    def __enter__(self) -> JobEvents:
        threading.Thread(target=self._read, name="job events", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """The thread ends with the process, or when the bus hangs up."""

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if frame["kind"] == "event":
                    self._arrived.put(frame["event"])
                elif frame["kind"] == "lost":
                    self.lost += frame["count"]
        finally:
            self._arrived.put(None)

    def next(self, timeout_s: float) -> Mapping[str, Any] | None:
        """
        The next event; None when none came in time.

        Raises:
            Unreachable: the bus hung up.
        """
        try:
            event = self._arrived.get(timeout=max(0.0, timeout_s))
        except queues.Empty:
            return None
        if event is None:
            raise Unreachable("the bus hung up; what was pushed is stored")
        return event
