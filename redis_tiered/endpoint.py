"""Where Redis is and how to connect to it, read from a URL or from a client the caller made.

An `Endpoint` is a recipe, not a connection: picklable, comparable, and printed without
credentials. Our own connections are made from it with our own timeouts and always speak RESP2,
whatever protocol or decoding the caller's client uses; that client itself is never used or closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from redis_tiered.errors import ConfigurationError

__all__ = ["Address", "Endpoint"]

# (host, port), or (path of a unix socket, 0)
Address = tuple[str, int]
Topology = Literal["single", "sentinel", "cluster", "embedded"]

_SCHEMES = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster://"
# Options of a redis-py connection that say where and who; timeouts, retries, decoding and
# protocol are ours, so they are left behind.
_KEPT = frozenset(
    [
        "db",
        "username",
        "password",
        "credential_provider",
        "client_name",
        "socket_keepalive",
        "socket_keepalive_options",
    ]
)
_IGNORED = frozenset(
    [
        "protocol",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "socket_timeout",
        "socket_connect_timeout",
        "retry_on_timeout",
        "health_check_interval",
        "max_connections",
        "timeout",
        "legacy_responses",
        "socket_read_size",
    ]
)
_INTEGERS = frozenset({"db"})
_FLAGS = frozenset({"socket_keepalive", "ssl_check_hostname", "ssl_validate_ocsp"})


@dataclass(frozen=True)
class Endpoint:
    """How to reach one Redis deployment.

    Attributes:
        topology: a single server, Sentinel, Cluster, or our embedded server.
        addresses: the server; or the sentinels; or some nodes of the cluster.
        service: Sentinel's name of the primary.
        tls: encrypt connections (to the sentinels too).
        unix: the address is the path of a unix socket.
        options: further arguments of redis-py's connection classes; may hold credentials.
        sentinel_options: the same for connections to the sentinels.
        directory: where the embedded server keeps its data (None: the user's data directory).
    """

    topology: Topology
    addresses: tuple[Address, ...] = ()
    service: str = ""
    tls: bool = False
    unix: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)
    directory: Path | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.describe()!r})"

    def describe(self) -> str:
        """The deployment in one line, without credentials."""
        if self.topology == "embedded":
            return "embedded"
        if self.unix:
            return f"unix://{self.addresses[0][0]}"
        scheme = "rediss" if self.tls else "redis"
        if self.topology != "single":
            scheme += f"+{self.topology}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        tail = f"/{self.service}" if self.service else ""
        database = self.options.get("db", 0)
        return f"{scheme}://{hosts}{tail}" + (f"/{database}" if database else "")

    def identity(self) -> tuple[object, ...]:
        """What tells it from any other deployment, without credentials."""
        database = self.options.get("db", 0)
        return self.topology, self.addresses, self.service, self.unix, database, self.directory

    @classmethod
    def of(cls, source: object) -> Endpoint:
        """Read an endpoint from a URL or a redis-py client.

        Raises:
            ConfigurationError: the URL does not parse, or the client is of a kind whose
                connections cannot be made anew.
        """
        if isinstance(source, Endpoint):
            return source
        if isinstance(source, str):
            return _from_url(source)
        return _from_client(source)


def _from_url(url: str) -> Endpoint:
    # Messages name the part that is wrong, never the URL itself: it may hold a password.
    if "\0" in url or any(0xD800 <= ord(letter) <= 0xDFFF for letter in url):
        raise ConfigurationError("redis URL holds a NUL or a lone surrogate")
    if "#" in url:
        raise ConfigurationError("redis URL holds a '#'; percent-encode it in a password")
    try:
        split = urlsplit(url)
        query = dict(
            parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
        )
    except ValueError:
        raise ConfigurationError(
            f"redis URL does not parse; accepted schemes: {_SCHEMES}"
        ) from None
    scheme, _, topology = split.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or topology not in ("", "sentinel", "cluster"):
        raise ConfigurationError(
            f"redis URL has scheme {split.scheme or 'none'!r}; accepted: {_SCHEMES}"
        )
    if scheme == "unix" and topology:
        raise ConfigurationError(f"redis URL has scheme {split.scheme!r}; accepted: {_SCHEMES}")
    sentinel_options = {
        name.removeprefix("sentinel_"): query.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    options = _query_options(query)
    credentials, _, hosts = split.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if username:
        options["username"] = unquote(username)
    if password:
        options["password"] = unquote(password)
    if scheme == "unix":
        if credentials and "@" in split.path:
            # Most likely the end of a password that holds a "/": shown as a path it would leak.
            raise ConfigurationError(
                "redis URL has an '@' after its credentials: percent-encode the password"
            )
        path = unquote(split.path)
        if not path or hosts or "\0" in path:
            raise ConfigurationError(
                "redis URL needs the absolute path of a socket: unix:///path/to.sock?db=0"
            )
        return Endpoint("single", ((path, 0),), unix=True, options=options)
    addresses = tuple(
        _address(host, topology) for host in (hosts.split(",") if hosts else ["localhost"])
    )
    if "@" in split.path:  # a password with a bare '/'
        raise ConfigurationError(
            "redis URL has an '@' after its hosts; percent-encode it, and a '/' in a password"
        )
    parts = [unquote(piece) for piece in split.path.split("/") if piece]
    service = ""
    if topology == "sentinel":
        if not parts:
            raise ConfigurationError(
                "redis URL names no service: redis+sentinel://host:26379,host:26379/<service>[/<db>]"
            )
        service = parts.pop(0)
    elif topology == "" and len(addresses) > 1:
        raise ConfigurationError(
            "redis URL has several hosts; use redis+cluster:// or redis+sentinel://"
        )
    if len(parts) > 1:
        raise ConfigurationError("redis URL has more path parts than a database number")
    if parts:
        options.setdefault("db", _integer("database number", parts[0]))
    if options.get("db", 0) == 0:
        options.pop("db", None)
    elif topology == "cluster":
        raise ConfigurationError(
            f"redis URL asks for database {options['db']}; a cluster has only database 0"
        )
    kind: Topology = (
        "sentinel" if topology == "sentinel" else "cluster" if topology == "cluster" else "single"
    )
    return Endpoint(
        kind,
        addresses,
        service,
        scheme == "rediss",
        options=options,
        sentinel_options=sentinel_options,
    )


def _address(text: str, topology: str) -> Address:
    try:
        split = urlsplit(f"//{text}")
        host, port = unquote(split.hostname or ""), split.port
        host.encode("idna")  # as the resolver does, and fails: "a..b", labels of 64 letters
    except ValueError:
        raise ConfigurationError(
            "redis URL has a host or port that does not parse (host:port, [ipv6]:port)"
        ) from None
    if not host or "\0" in host:
        raise ConfigurationError("redis URL has a host that is empty or holds a NUL")
    if port == 0:
        raise ConfigurationError("redis URL has port 0; a port from 1 to 65535 is accepted")
    return host, port or (26379 if topology == "sentinel" else 6379)


def _integer(what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigurationError(f"redis URL has a {what} that is not a number")
    return int(text)


def _query_options(query: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in query.items():
        if name in _IGNORED:
            continue
        if name not in _KEPT and not name.startswith("ssl_"):
            # A password with a bare '?' ends up here: then nothing is repeated.
            whole = "".join((*query, *query.values()))
            shown = f" {name!r}" if name.isidentifier() and "@" not in whole else ""
            raise ConfigurationError(f"redis URL has an unknown option{shown}")
        if name in _INTEGERS:
            options[name] = _integer(name, text)
        elif name in _FLAGS:
            options[name] = text.lower() in ("1", "true", "yes", "on")
        else:
            options[name] = text
    return options


def _from_client(client: object) -> Endpoint:
    import redis
    import redis.asyncio
    import redis.asyncio.sentinel
    import redis.sentinel

    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return _from_cluster(client)
    if not isinstance(client, redis.Redis | redis.asyncio.Redis):
        raise ConfigurationError(
            f"redis must be a URL ({_SCHEMES}) or a redis-py client (Redis, RedisCluster, sync or asyncio), "
            f"got {type(client).__name__}"
        )
    pool: Any = client.connection_pool
    kwargs = pool.connection_kwargs
    if isinstance(
        pool, redis.sentinel.SentinelConnectionPool | redis.asyncio.sentinel.SentinelConnectionPool
    ):
        if not pool.is_master:
            raise ConfigurationError(
                "redis client reads from replicas; pass Sentinel.master_for(...)"
            )
        manager: Any = pool.sentinel_manager
        addresses = tuple(
            (
                str(s.connection_pool.connection_kwargs["host"]),
                int(s.connection_pool.connection_kwargs["port"]),
            )
            for s in manager.sentinels
        )
        tls = "SSL" in pool.connection_class.__name__
        return Endpoint(
            "sentinel",
            addresses,
            str(pool.service_name),
            tls,
            options=_client_options(kwargs),
            sentinel_options=_client_options(manager.sentinel_kwargs),
        )
    kind = pool.connection_class
    known = {
        redis.Connection: "tcp",
        redis.asyncio.Connection: "tcp",
        redis.SSLConnection: "tls",
        redis.asyncio.SSLConnection: "tls",
        redis.UnixDomainSocketConnection: "unix",
        redis.asyncio.UnixDomainSocketConnection: "unix",
    }.get(kind)
    if known is None:
        raise ConfigurationError(
            f"redis client uses connections of class {kind.__name__}, which cannot be made anew; "
            "pass a URL, or a client with redis-py's own connection classes"
        )
    address = (
        (str(kwargs["path"]), 0)
        if known == "unix"
        else (kwargs.get("host", "localhost"), kwargs.get("port", 6379))
    )
    return Endpoint(
        "single",
        (address,),
        tls=known == "tls",
        unix=known == "unix",
        options=_client_options(kwargs),
    )


def _from_cluster(client: Any) -> Endpoint:
    manager = client.nodes_manager
    kwargs = getattr(manager, "connection_kwargs", None) or client.connection_kwargs
    addresses = tuple((str(node.host), int(node.port)) for node in manager.startup_nodes.values())
    tls = bool(kwargs.get("ssl")) or "SSL" in getattr(
        kwargs.get("connection_class"), "__name__", ""
    )
    return Endpoint("cluster", addresses, tls=tls, options=_client_options(kwargs))


def _client_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in kwargs.items()
        if value is not None and (name in _KEPT or name.startswith("ssl_"))
    }
    if kept.get("db") == 0:
        del kept["db"]
    # Defaults that redis-py 8 fills in: a marker that means itself only in this process, and
    # flags that its asyncio connections do not take.
    if not isinstance(kept.get("socket_keepalive_options"), Mapping):
        kept.pop("socket_keepalive_options", None)
    for name in [name for name in kept if "ocsp" in name and not kept[name]]:
        del kept[name]
    return kept
