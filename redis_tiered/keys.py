"""The only maker of Redis keys and of SQL scopes.

Every key starts `namespace:tenant:`, or `namespace!:tenant:` if nobody is told of its writes. Each part is percent-encoded, so a part never holds `:`, `{`,
`}`, `*` or a space: no two (tenant, id) pairs can meet, no id can leave its scope or move a
cluster hash tag.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from urllib.parse import quote, unquote

from redis_tiered.errors import InvalidInput

__all__ = ["CollectionKeys", "Keyspace", "LLMKeys", "MapKeys", "SessionKeys", "part"]

_MAX_PART = 256
# With a message's id, of at most 1024 bytes, what an index of PostgreSQL takes (2704).
_MAX_SESSION = 1600  # likewise a map's scope, with what is stored of a name


def part(name: str, value: object) -> str:
    """Check one part of a key and encode it.

    Args:
        name: the argument's name, for the error.
        value: 1 to 256 characters of any text without lone surrogates.

    Raises:
        InvalidInput: another type, empty, too long, or not encodable as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a str, got {type(value).__name__}")
    if not 0 < len(value) <= _MAX_PART:
        raise InvalidInput(f"{name} must have 1 to {_MAX_PART} characters, got {len(value)}")
    try:
        return quote(value, safe="@+=")
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{name} holds a lone surrogate; any text that UTF-8 can encode is accepted"
        ) from None


class Keyspace:
    """The keys of one tenant in one namespace.

    Attributes:
        prefix: what every announced key of the namespace starts with: a write to one is told to
            all processes, so that they drop it from memory.
    """

    __slots__ = ("_namespace", "_tenant", "namespace", "prefix", "tenant")

    def __init__(self, namespace: str, tenant: str) -> None:
        self.namespace = namespace
        self.tenant = tenant
        self._namespace = part("namespace", namespace)
        self._tenant = part("tenant", tenant)
        self.prefix = f"{self._namespace}:".encode()

    def llm(self, cache: str) -> LLMKeys:
        rest = f"{self._tenant}:llm:{part('name', cache)}"
        return LLMKeys(f"{self._namespace}:{rest}", f"{self._namespace}!:{rest}")

    def session(self, session_id: str) -> SessionKeys:
        keys = SessionKeys(self._namespace, self._tenant, part("session_id", session_id))
        if len(keys.scope) + len(keys.session) > _MAX_SESSION:
            raise InvalidInput(
                "session_id, tenant and namespace together must have at most "
                f"{_MAX_SESSION} bytes when percent-encoded, "
                f"got {len(keys.scope) + len(keys.session)}"
            )
        return keys

    def session_of(self, encoded: str) -> SessionKeys:
        """Of a session whose id was encoded before."""
        return SessionKeys(self._namespace, self._tenant, encoded)

    def collection(self, name: str) -> CollectionKeys:
        return CollectionKeys(self._namespace, self._tenant, "vector", part("collection", name))

    def neighbours(self, name: str) -> CollectionKeys:
        """As of a collection that no name of a collection gives."""
        return CollectionKeys(self._namespace, self._tenant, "semantic", part("name", name))

    def map(self, name: str) -> MapKeys:
        keys = MapKeys(self._namespace, self._tenant, part("name", name))
        if len(keys.scope) > _MAX_SESSION:
            raise InvalidInput(
                f"name, tenant and namespace together must have at most {_MAX_SESSION} bytes when "
                f"percent-encoded, got {len(keys.scope)}"
            )
        return keys

    @property
    def sessions(self) -> SessionKeys:
        """Those that all sessions of the tenant have in common."""
        return SessionKeys(self._namespace, self._tenant, "")


class LLMKeys:
    """The keys of one LLM cache: `root:epoch:{digest}` and what belongs to it.

    An entry and its lease share the hash tag `{digest}`. The epoch is part of the key: a new
    epoch makes every older entry unreachable at once. What no process keeps in memory (leases,
    tags, counters) is under the namespace with a `!`, which no encoded part can hold: its writes
    are announced to nobody.

    Attributes:
        scope: the same scope as text, for SQL.
        epoch: key that holds the current epoch. No epoch is called "record".
        stats: key of the hash that totals the counters of all processes.
    """

    __slots__ = ("_quiet", "_root", "epoch", "scope", "stats")

    def __init__(self, scope: str, quiet: str) -> None:
        self.scope = scope
        self._root = scope.encode()
        self._quiet = quiet.encode()
        self.epoch = self._root + b":epoch"
        self.stats = self._quiet + b":stats"

    def entry(self, epoch: str, digest: str) -> bytes:
        return b"%b:%b:{%b}" % (self._root, epoch.encode(), digest.encode())

    def entries(self, epoch: str) -> bytes:
        """What the keys of entries begin with; a digest and `}` follow."""
        return b"%b:%b:{" % (self._root, epoch.encode())

    def lease(self, entry: bytes) -> bytes:
        return self._quiet + entry[len(self._root) :]

    def record(self, name: str) -> bytes:
        """What is known of the cache as a whole, by name."""
        return b"%b:record:%b" % (self._root, part("record", name).encode())

    def tag(self, epoch: str, tag: str) -> bytes:
        return b"%b:%b:tag:%b" % (self._quiet, epoch.encode(), part("tags", tag).encode())

    def pattern(self, epoch: str) -> bytes:
        """SCAN pattern of the entries written under one epoch."""
        return b"%b:%b:*" % (self._root, epoch.encode())


class SessionKeys:
    """The keys of one session: `root:epoch:{id}:...`, none of them announced.

    What must change together shares a hash tag: a session's own, or, where appends go through a
    queue, the one of the queue that it shares with other sessions.

    Attributes:
        scope: the tenant's sessions, for SQL.
        trust: the scope whose epoch all sessions of the namespace share.
        session: the encoded id, for SQL.
        shard: which queue, `"00"` to `"15"`.
        index: sorted set of a tenant's sessions that are in Redis alone.
    """

    SHARDS = tuple(f"{number:02d}" for number in range(16))

    __slots__ = ("_root", "index", "scope", "session", "shard", "trust")

    def __init__(self, namespace: str, tenant: str, session: str) -> None:
        self.scope = f"{namespace}:{tenant}:session"
        self.trust = f"{namespace}!:session"
        self.session = session
        self._root = f"{namespace}!:{tenant}:session".encode()
        self.shard = self.SHARDS[zlib.crc32(session.encode()) % len(self.SHARDS)]
        self.index = self._root + b":index"

    @staticmethod
    def name(session: str) -> str:
        """The id that was encoded."""
        return unquote(session)

    def window(self, epoch: str, *, queued: bool) -> tuple[bytes, bytes, bytes]:
        """Hash of counts, list of messages, set of ids."""
        session = self.session.encode()
        place = b"{q%b}:%b" % (self.shard.encode(), session) if queued else b"{%b}" % session
        base = b"%b:%b:%b" % (self._root, epoch.encode(), place)
        return base + b":meta", base + b":window", base + b":ids"

    def queue(self, shard: str) -> tuple[bytes, bytes, bytes]:
        """Stream of accepted messages, stream of those set aside, lease of who drains."""
        base = b"%b:{q%b}" % (self._root, shard.encode())
        return base + b":queue", base + b":rejected", base + b":lease"


class CollectionKeys:
    """The keys of one collection of documents, none of them announced, all in one cluster slot.

    What holds documents is of one generation: `root:generation:...`.

    Attributes:
        scope: the same scope as text, for SQL.
        meta: hash of the generation that is read, its layout and up to where it is complete.
        build: hash of a generation that is being built.
        lease: of who builds it.
        generations: set of those that have keys.
        uses, used: hashes of how often, and when last, documents were found.
    """

    __slots__ = ("_root", "build", "generations", "lease", "meta", "scope", "used", "uses")

    def __init__(self, namespace: str, tenant: str, kind: str, collection: str) -> None:
        self.scope = f"{namespace}:{tenant}:{kind}:{collection}"
        self._root = f"{namespace}!:{tenant}:{kind}:{{{tenant}:{collection}}}".encode()
        self.meta = self._root + b":meta"
        self.build = self._root + b":build"
        self.lease = self._root + b":lease"
        self.generations = self._root + b":generations"
        self.uses = self._root + b":uses"
        self.used = self._root + b":used"

    def log(self, generation: str) -> tuple[bytes, bytes, bytes, bytes]:
        """Sorted sets: ranges of changes that came early, ids of documents by version, ids of
        removed ones by version, ids by when they expire."""
        base = b"%b:%b" % (self._root, generation.encode())
        return base + b":early", base + b":ids", base + b":gone", base + b":expiring"

    def local(self, generation: str) -> tuple[bytes, bytes, bytes]:
        """Hashes by id: vectors, metadata, contents."""
        base = b"%b:%b" % (self._root, generation.encode())
        return base + b":vectors", base + b":metadata", base + b":contents"

    def documents(self, generation: str) -> bytes:
        """What the keys of documents start with, where each is a hash of its own."""
        return b"%b:%b:d:" % (self._root, generation.encode())

    def index(self, generation: str) -> bytes:
        """The name of the search module's index."""
        return b"%b:%b" % (self._root, generation.encode())

    def content(self, generation: str, version: int) -> bytes:
        """What one version of a document holds, kept for a while."""
        return b"%b:%b:content:%d" % (self._root, generation.encode(), version)


class MapKeys:
    """The keys of one map: `root:epoch:{tenant:map:shard}:digest`, in sixteen slots of a cluster.

    The epoch is part of the key, as in `LLMKeys`.

    Attributes:
        scope: the same scope as text, for SQL.
        epoch: key that holds the current epoch.
    """

    SHARDS = "0123456789abcdef"

    __slots__ = ("_place", "_quiet", "_root", "epoch", "scope")

    def __init__(self, namespace: str, tenant: str, name: str) -> None:
        self.scope = f"{namespace}:{tenant}:map:{name}"
        self._root = self.scope.encode()
        self._quiet = f"{namespace}!:{tenant}:map:{name}".encode()
        self._place = f"{tenant}:{name}:".encode()
        self.epoch = self._root + b":epoch"

    def values(self, epoch: str, digests: Iterable[str]) -> list[bytes]:
        """Those of values, by hexadecimal digests; the first digit is the shard."""
        start = b"%b:%b:{%b" % (self._root, epoch.encode(), self._place)
        return [b"%b%b}:%b" % (start, digest[:1].encode(), digest.encode()) for digest in digests]

    def index(self, epoch: str, shard: str) -> bytes:
        """The sorted set of the names of one shard, where Redis is all there is; not announced."""
        place = self._place + shard.encode()
        return b"%b:%b:{%b}:names" % (self._quiet, epoch.encode(), place)
