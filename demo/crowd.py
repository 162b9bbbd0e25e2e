"""The worker processes, as their parent sees them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from demo.messages import Answered, Batch, Ended, Look, Looked, Recall, Recalled, Setup
from demo.plan import Ask

__all__ = ["Crowd"]


class Crowd:
    """One process for each setup; all are gone after the `with` block."""

    def __init__(self, setups: Sequence[Setup]) -> None:
        self._setups = setups
        self._processes: list[BaseProcess] = []
        self._links: list[Connection] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches everybody in the terminal: workers are born deaf, their parent ends them.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for setup in self._setups:
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(setup, theirs), daemon=True)
                process.start()
                theirs.close()  # so that either side notices the end of the other
                self._processes.append(process)
                self._links.append(mine)
        finally:
            signal.signal(signal.SIGINT, heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        for link in self._links:
            link.close()

    def wait_until_ready(self) -> None:
        """Wait until all workers have imported what they need and have connected."""
        for link in self._links:
            self._receive(link)

    def serve(self, asks: Sequence[Ask], pause: float) -> Iterator[Answered]:
        """Have the requests made by all workers at once; gives each answer as it comes.

        Args:
            asks: the requests, dealt out to the workers in turn.
            pause: mean of a user's seconds of thought before each.
        """
        for i, link in enumerate(self._links):
            link.send(Batch(asks[i :: len(self._links)], pause))
        missing = len(asks)
        while missing:
            for ready in wait(self._links):
                assert isinstance(ready, Connection)
                yield self._receive(ready)
                missing -= 1

    def look(self, asks: Sequence[Ask]) -> list[Looked]:
        """Have each worker look up tickets for all these requests."""
        for link in self._links:
            link.send(Look(asks))
        return [looked for link in self._links for looked in self._receive(link)]

    def recall(self) -> Recalled:
        """Have the first worker read every conversation and ticket that there is."""
        self._links[0].send(Recall())
        recalled = self._receive(self._links[0])
        assert isinstance(recalled, Recalled)
        return recalled

    def end(self) -> list[Ended]:
        """Ask all workers to end; gives what each of them counted."""
        for link in self._links:
            link.send(None)
        return [self._receive(link) for link in self._links]

    def _receive(self, link: Connection) -> Any:
        try:
            return link.recv()
        except EOFError:
            raise RuntimeError(
                "a worker ended unasked; see what it said on standard error"
            ) from None


def _work(setup: Setup, parent: Connection) -> None:
    from demo.worker import run  # imports LangChain, which only workers need

    run(setup, parent)
