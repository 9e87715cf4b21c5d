"""The Redis driver's documents: a hash a kind, name -> ``version:word of the call:text``; its field ``''`` counts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pbus.storage import keys
from pbus.storage.documents import Document, check, too_many
from pbus.storage.redis_store import RedisStore


class RedisDocuments(RedisStore):
    """See ``documents.KeepsDocuments``."""

    def documents(self, kind: str, names: Sequence[str] | None = None) -> list[Document]:
        key = keys.documents(kind)
        if names is None:
            flat = self._calls.one(("HGETALL", key))
            found = {name.decode(): stored for name, stored in zip(flat[::2], flat[1::2], strict=True) if name}
        elif wanted := sorted(set(names) - {""}):
            found = dict(zip(wanted, self._calls.one(("HMGET", key, *wanted)), strict=True))
        else:
            return []
        return [_read(kind, name, found[name]) for name in sorted(found) if found[name] is not None]

    def write_document(self, kind: str, name: str, text: str, version: int) -> int:
        stored = check(kind, name, text)
        answer: int = self._calls.one(self._scripts.document(keys.documents(kind), name, version, _word(), stored))
        if answer < 0:
            raise too_many(kind)
        return answer

    def drop_document(self, kind: str, name: str, version: int) -> bool:
        check(kind, name, "")
        answer: int = self._calls.one(self._scripts.document(keys.documents(kind), name, version, _word(), None))
        return bool(answer)


def _word() -> str:
    """Of one call, however often it is sent."""
    return secrets.token_hex(8)


def _read(kind: str, name: str, stored: bytes) -> Document:
    version, _, rest = stored.partition(b":")
    return Document(kind, name, int(version), rest.partition(b":")[2].decode("utf-8", "replace"))
