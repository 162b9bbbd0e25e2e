"""The process that stands between the embedded server and everybody who uses it.

Run as `python -I -S -E _warden.py HOME SOCKET MEMORY PROGRAM` by `embedded.py`, never imported
by it. It is the server's parent, and ends it when no process holds `users.lock` any more. Only
kernel locks (flock) decide, so it does not matter how a user, a warden or a server ends:

    users.lock   shared: every user process.  Exclusive: the warden, once nobody uses the server
    warden.lock  exclusive: the warden.       Content while locked: its pid and the socket's path,
                 nothing as long as it waits for the server of an earlier warden to end
    server.lock  exclusive: the server, through an inherited descriptor: never two on one AOF

Standard error is the server's log file.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import signal
import sys
import time

ORPHAN_SECONDS = 8.0  # for a server whose warden was killed to shut down
SHUTDOWN_SECONDS = 10.0  # from SIGTERM to SIGKILL


def main(home: str, socket_path: str, memory: str, program: str) -> None:
    """Become the warden of `home`, start the server, and stay until it may end or has ended.

    Args:
        home: absolute path of the directory with the locks, the data and the log.
        socket_path: where the server is to listen.
        memory: bytes after which it evicts; "0": no limit.
        program: absolute path of valkey-server or redis-server.
    """
    # A thread of the user may have blocked or ignored signals; the server would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)

    watch = _open_lock(home, "warden.lock")
    if not _locked(watch, seconds=0.1):
        return  # another warden was faster
    before = os.fsdecode(os.read(watch, 4096)).partition("\n")[2].removesuffix("\n")
    os.ftruncate(watch, 0)
    if os.fork():
        os._exit(0)  # the user waits for this process only: the warden holds the lock already

    only = _open_lock(home, "server.lock")
    if not _locked(only, seconds=0):
        _stop_orphan(before or socket_path)
        if not _locked(only, seconds=ORPHAN_SECONDS):
            pid_text = os.read(only, 32).decode("ascii", "replace").strip()
            _log(f"another server (pid {pid_text}) still holds {home} and does not shut down")
            return
    # Not earlier: a user must not be sent to an orphan that is about to end.
    os.pwrite(watch, os.fsencode(f"{os.getpid()}\n{socket_path}\n"), 0)
    command = [program, "--port", "0", "--unixsocket", socket_path, "--unixsocketperm", "700"]
    command += ["--dir", home, "--logfile", os.path.join(home, "server.log")]
    command += ["--loglevel", "notice", "--daemonize", "no", "--save", "", "--appendonly", "yes"]
    command += ["--appendfsync", "everysec", "--aof-load-truncated", "yes"]
    command += ["--maxmemory", memory]
    if memory != "0":
        command += ["--maxmemory-policy", "allkeys-lru"]
    server = _start(only, command)
    os.close(only)  # the server's copy keeps the lock for exactly as long as the server lives
    signal.signal(signal.SIGTERM, lambda *_: os.kill(server, signal.SIGTERM))
    _thread.start_new_thread(_end_with, (server, home, socket_path))

    users = _open_lock(home, "users.lock")
    fcntl.flock(users, fcntl.LOCK_EX)
    # Nobody uses the server, and whoever wants to waits for this lock, which only the end of this
    # process gives back. So nobody can join a server that is shutting down.
    os.kill(server, signal.SIGTERM)
    time.sleep(SHUTDOWN_SECONDS)
    _log(f"server {server} ignored SIGTERM for {SHUTDOWN_SECONDS:.0f} s")
    os.kill(server, signal.SIGKILL)
    while True:
        time.sleep(SHUTDOWN_SECONDS)


def _start(only: int, command: list[str]) -> int:
    """Start the server, which keeps the lock `only` for its whole life; return its pid."""
    warden = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.ftruncate(only, 0)
        os.pwrite(only, b"%d\n" % os.getpid(), 0)
        os.set_inheritable(only, True)
        _end_with_parent(warden)
        # Redis 7 refuses to start under a locale that is not installed.
        os.execve(command[0], command, {**os.environ, "LC_ALL": "C"})
    except OSError as error:
        _log(f"{command[0]} cannot be run: {error}")
    finally:
        os._exit(127)


def _end_with_parent(parent: int) -> None:
    """On Linux, have the kernel send SIGTERM when the warden is killed; elsewhere do nothing.

    Without it the server outlives a killed warden until the next user's warden replaces it.
    """
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (ImportError, AttributeError, OSError) as error:
        _log(f"PR_SET_PDEATHSIG cannot be set: {error}")
    if os.getppid() != parent:
        os._exit(0)


def _end_with(server: int, home: str, socket_path: str) -> None:
    """Wait for the server, then end this process: that frees both locks in one stroke."""
    _, status = os.waitpid(server, 0)
    if status:
        _log(f"server {server} ended with status {os.waitstatus_to_exitcode(status)}")
    folder = os.path.dirname(socket_path)
    if folder != home:  # the private directory made because `home` is too deep for a socket
        try:
            if os.path.exists(socket_path):
                os.unlink(socket_path)
            os.rmdir(folder)
        except OSError as error:
            _log(f"{folder} cannot be removed: {error}")
    os._exit(0)


def _stop_orphan(socket_path: str) -> None:
    """Ask a server that lost its warden to save and end. By its socket: a pid may be reused."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(1.0)
            link.connect(socket_path)
            link.sendall(b"SHUTDOWN\r\n")
            link.recv(64)
    except OSError as error:
        _log(f"no answer from the server of an earlier warden: {error}")


def _open_lock(home: str, name: str) -> int:
    return os.open(os.path.join(home, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(descriptor: int, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        else:
            return True


def _log(text: str) -> None:
    os.write(2, f"warden {os.getpid()}: {text}\n".encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    main(*sys.argv[1:])
