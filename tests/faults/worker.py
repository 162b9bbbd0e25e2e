"""Another process with the same cache, told what to do line by line: `python -m tests.faults.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

REPOSITORY = Path(__file__).parent.parent.parent

__all__ = ["Worker", "run_script"]


class Worker:
    """The process, seen from the test.

    Args:
        redis, durable: URLs of its tiers; "embedded" and a path.
        options: of its cache.
    """

    MODULE: ClassVar = "tests.faults.worker"

    def __init__(self, redis: str, durable: str | None = None, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", self.MODULE],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self.send("open", redis, durable, options)

    def __enter__(self) -> Self:
        assert self.receive() is True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):  # killed, and not yet reaped
                self.send("end")
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.communicate()

    def send(self, *words: Any) -> None:
        """Begin something; `receive` waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The result of the oldest `send`.

        Raises:
            EOFError: the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def do(self, *words: Any) -> Any:
        self.send(*words)
        return self.receive()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait(10)

    def wait(self, timeout: float = 10) -> int:
        return self._process.wait(timeout)


def run_script(source: str, *arguments: str, timeout: float = 60) -> str:
    """Run Python source with every warning an error; return what it printed.

    Raises:
        AssertionError: it failed, or wrote to standard error.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


class _Served:
    """The process, seen from inside."""

    def open(self, redis: str, durable: str | None, options: dict[str, Any]) -> bool:
        from redis_tiered.tiers.tiers import Tiers
        from tests.faults.traffic import Caller

        tiers = Tiers.embedded(durable) if redis == "embedded" else Tiers(redis, durable)
        self._caller = Caller(tiers, **options)
        tiers.setup()
        return True

    def put(self, prompt: str, answer: str) -> bool:
        self._caller.put(prompt, answer)
        return True

    def get(self, prompt: str) -> str | None:
        return self._caller.get(prompt)

    def find(self, prompt: str) -> list[str] | None:
        found = self._caller.find(prompt)
        return None if found is None else [found.payload.decode(), found.tier]

    def delete(self, prompt: str) -> bool:
        self._caller.delete(prompt)
        return True

    def clear(self) -> bool:
        self._caller.clear()
        return True

    def die_when_sending(self, word: str) -> bool:
        """SIGKILL ourselves instead of sending Redis a command, or script, with this word."""
        from redis_tiered.flow import Redis
        from redis_tiered.tiers.redis import SyncRedis

        inner = SyncRedis.execute

        def execute(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
            if any(word in str(part) for command in step.commands for part in command):
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, step, fresh=fresh)

        SyncRedis.execute = execute  # type: ignore[method-assign]
        return True

    def count_versions(self, prompt: str, versions: int) -> float:
        """Write 1, 2, ... as fast as possible, announcing each one that is acknowledged."""
        begin = time.monotonic()
        for version in range(1, versions + 1):
            self._caller.put(prompt, str(version))
            print(json.dumps([version, time.monotonic()]), flush=True)
        return time.monotonic() - begin

    def ask_model(self, prompt: str, threads: int, counter: str, seconds: float) -> list[str]:
        """As many threads ask for the same answer; whoever is sent to the model adds a line."""
        answers: list[str] = []

        def ask() -> None:
            answer = self._caller.get(prompt)
            if answer is None:
                with open(counter, "a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(seconds)
                answer = "the answer"
                self._caller.put(prompt, answer)
            answers.append(answer)

        asking = [threading.Thread(target=ask) for _ in range(threads)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        return answers

    def end(self) -> None:
        self._caller.__exit__(None, None, None)
        sys.exit()


def _serve() -> None:
    served = _Served()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        result = getattr(served, name)(*arguments)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _serve()
