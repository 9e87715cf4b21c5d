"""
Where a Redis is: the two URL forms and what they may carry.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]
    redis+unix://[USER[:PASSWORD]@]/PATH[?db=N]
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field

from pbus.errors import BootError, Exit


@dataclass(frozen=True, slots=True)
class Address:
    """One server and one of its databases. ``path`` is empty for TCP; the password is never shown."""

    host: str
    port: int
    path: str
    db: int
    username: str
    password: str = field(repr=False)

    def __str__(self) -> str:
        if self.path:
            return f"redis+unix://{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}" + (f"/{self.db}" if self.db else "")


def parse(url: str, password: str = "") -> Address:
    """
    The address that *url* names.

    Args:
        url: One of the two forms.
        password: Wins over one in the URL.

    Raises:
        BootError: (78) it is neither, or says something that has no meaning here.
    """
    try:
        return _parse(url, password)
    except ValueError as error:
        # The URL may hold a password: name what is wrong, not the URL.
        raise BootError(f"the url of a Redis storage is wrong: {error}", Exit.CONFIG) from None


def _parse(url: str, password: str) -> Address:
    parts = urllib.parse.urlsplit(url)
    unquote = urllib.parse.unquote
    username, secret = unquote(parts.username or ""), password or unquote(parts.password or "")
    if parts.fragment:
        raise ValueError("a part after '#' means nothing here")
    if parts.scheme == "redis+unix":
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        unknown = sorted(set(query) - {"db"})
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; redis+unix:// takes db")
        if parts.hostname or not parts.path.startswith("/"):
            raise ValueError("redis+unix:// takes an absolute path (three slashes)")
        return Address("", 0, unquote(parts.path), _database(query.get("db", ["0"])[-1]), username, secret)
    if parts.scheme != "redis":
        raise ValueError(f"it starts with redis:// or redis+unix://, not {parts.scheme}://")
    if parts.query:
        raise ValueError("redis:// takes no options; the database is its path (redis://HOST/2)")
    if not parts.hostname:
        raise ValueError("it names no host")
    return Address(parts.hostname, parts.port or 6379, "", _database(parts.path.strip("/") or "0"), username, secret)


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not the number of a database")
    return int(text)
