"""The embedded Redis, killed for real, and for a while kept from coming back."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from pathlib import Path

from redis_tiered.tiers.embedded import _server_program

__all__ = ["EmbeddedRedis"]


class EmbeddedRedis:
    """The server that the workers share, seen from outside: nothing here uses or starts it.

    Args:
        directory: of `Tiers.embedded`.
        stage: where a link to the server program is put. Workers start the server by that link
            (environment variable REDIS_TIERED_SERVER), so it can be taken away from them.
    """

    def __init__(self, directory: Path, stage: Path) -> None:
        self._directory = directory
        self._link = stage / "valkey-server"
        self._hidden = stage / "valkey-server.taken-away"
        self._link.symlink_to(_server_program())
        os.environ["REDIS_TIERED_SERVER"] = str(self._link)

    def kill(self) -> int:
        """SIGKILL the server; returns its pid."""
        pid = self._pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def take_away(self) -> None:
        """From now on nobody can start it: its program is not where it was."""
        self._link.rename(self._hidden)

    def put_back(self) -> None:
        self._hidden.rename(self._link)

    def wait_until_back(self, old: int, timeout: float = 15.0) -> float:
        """Seconds until a server answers that is not the `old` one; looks every millisecond.

        Raises:
            TimeoutError: there is none.
        """
        began = time.monotonic()
        while self._pid() in (old, None) or self._say("PING") != b"+PONG\r\n":
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"Redis did not come back within {timeout:.0f} s")
            time.sleep(0.001)
        return time.monotonic() - began

    def empty(self) -> None:
        """Delete all that Redis holds.

        Raises:
            RuntimeError: it does not do that.
        """
        if self._say("FLUSHALL") != b"+OK\r\n":
            raise RuntimeError("Redis could not be emptied")

    def wait_for_end(self, timeout: float = 15.0) -> bool:
        """Whether the server has ended, as it does by itself soon after its last user."""
        lock = self._directory / "warden.lock"
        deadline = time.monotonic() + timeout
        while lock.exists() and time.monotonic() < deadline:
            with lock.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.01)
                else:
                    return True
        return not lock.exists()

    def _pid(self) -> int | None:
        text = (self._directory / "server.lock").read_text().strip()
        return int(text) if text else None  # one is just starting

    def _say(self, word: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(2.0)
            try:
                link.connect(str(self._directory / "server.sock"))
                link.sendall(f"{word}\r\n".encode())
                return link.recv(64)
            except OSError:
                return b""
