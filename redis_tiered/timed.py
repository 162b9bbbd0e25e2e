"""Functions of the user's that may take too long, given up after a while."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

__all__ = ["timed"]

_IDLE = 1.0  # seconds that a thread waits for more

_lock = threading.Lock()
_idle: list[_Worker] = []


class _Worker:
    """A daemon thread; one that is stuck in a call is given up, and keeps nobody from exiting."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((future, function))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="redis-tiered timed call", daemon=True
            )
            self._thread.start()
        return future

    def _run(self) -> None:
        from queue import Empty

        while True:
            try:
                future, function = self._work.get(timeout=_IDLE)
            except Empty:
                with _lock:
                    if self not in _idle:
                        continue  # taken just now
                    _idle.remove(self)
                return
            try:
                result = function()
            except BaseException as error:
                _free(self)
                future.set_exception(error)
            else:
                _free(self)
                future.set_result(result)
            del future, function


def _free(worker: _Worker) -> None:
    with _lock:
        _idle.append(worker)


def timed(function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
    """Call a function in another thread, with this one's context, and wait for its result.

    Raises:
        TimeoutError: it took longer; it goes on, and its result is dropped.
        Exception: whatever the function raised.
    """
    context = contextvars.copy_context()
    with _lock:
        worker = _idle.pop() if _idle else _Worker()
    return worker.take(lambda: context.run(function, *arguments)).result(seconds)


def _forked() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
